"""What a run leaves in its folder beside checkpoints, and what a second one may change."""

import importlib.metadata
import json
import re

import jax
import pytest

from corda_jax.errors import UserError
from corda_jax.training.run_files import check_config, check_results, record_config, write_json
from tests import tiny


def test_results_without_numbers_are_json(tmp_path):
  write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.5, float("-inf")], "z": {"t": "nan"}})
  values = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
  assert values == {"x": None, "y": [1.5, None], "z": {"t": "nan"}}


def test_results_of_another_configuration_are_refused(tmp_path):
  record_config(tmp_path, tiny.get_config().to_dict())
  same = tiny.get_config(**{"log_every": 7, "prediction.batch_size": 3, "keep_best": 3})
  check_results(tmp_path, same.to_dict())  # without checkpoints
  for field, value in (
    ("evaluation.flip", True),
    ("optimizer.momentum", 0.5),
    ("initial_weights", "elsewhere.npz"),
    ("data.street_world.gap", 1.5),
  ):
    with pytest.raises(UserError, match=rf"{re.escape(field)} \(.*→.*{re.escape(str(value))}"):
      check_results(tmp_path, tiny.get_config(**{field: value}).to_dict())


def test_a_checkout_that_is_not_installed_has_no_version(tmp_path, monkeypatch):
  real = importlib.metadata.version

  def version(name):
    if name == "corda_jax":
      raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

  monkeypatch.setattr(importlib.metadata, "version", version)
  record_config(tmp_path, tiny.get_config().to_dict())
  (code,) = json.loads((tmp_path / "code.json").read_text())["code"]
  assert code["corda_jax"] is None
  assert code["jax"] == jax.__version__


def test_a_run_refuses_another_configuration(tmp_path):
  check_config(tmp_path, tiny.get_config().to_dict())  # nothing there yet
  record_config(tmp_path, tiny.get_config().to_dict())
  changed = tiny.get_config(**{"optimizer.momentum": 0.5}).to_dict()
  check_config(tmp_path, changed)  # nothing was made with the first one
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  free = {"log_every": 7, "evaluation.classes": "synthia_13", "data.source.root": "elsewhere"}
  free |= {"data.reader_threads": 3, "data.records_dir": "there"}
  free |= {"compute.rematerialize": True, "compute.shard_state": True}
  free |= {"data.source.depth_root": "there", "data.target.depth_root": "elsewhere"}
  check_config(tmp_path, tiny.get_config(**free).to_dict())
  changed = tiny.get_config(**{"optimizer.momentum": 0.5, "data.batch_size": 8}).to_dict()
  message = r"data\.batch_size.*4.*8.*optimizer\.momentum.*0\.9.*0\.5"
  with pytest.raises(UserError, match=message):
    check_config(tmp_path, changed)
  check_config(tmp_path, changed, parts=("model.",))
  changed = tiny.get_config(**{"model.decoder.dilations": (2, 5)}).to_dict()
  with pytest.raises(UserError, match=r"model\.decoder\.dilations"):
    check_config(tmp_path, changed, parts=("model.",))
