"""The evaluation benchmark runs from nothing, at a size where it takes seconds."""

import pytest

from benchmarks import evaluation
from corda_jax.errors import UserError
from tests import tiny


@pytest.mark.long
def test_times_every_part_and_says_what_bounds_it(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(evaluation, "HEIGHT", 32)
  monkeypatch.setattr(evaluation, "WIDTH", 64)
  small = tiny.get_config(**{"data.target.height": 20, "data.target.width": 32})
  monkeypatch.setattr(evaluation, "load_config", lambda name: small)
  arguments = ["--frames=6", "--network_frames=1", "--rendered=2", f"--workdir={tmp_path}"]
  evaluation.main(arguments)
  printed = capsys.readouterr().out
  for part in ("decode the image, 32x20", "decode the label, 64x32", "network", "class map, 64x32"):
    assert part in printed
  assert "| together: the whole evaluation | 4 |" in printed  # one frame on each of four devices
  assert "bounds the evaluation" in printed


def test_mistakes_are_told():
  with pytest.raises(UserError, match="--frames is 0, wanted 1 or more"):
    evaluation.main(["--frames=0"])
  with pytest.raises(UserError, match="--config is 'none', wanted the name of a file in configs"):
    evaluation.main(["--config=none"])


def test_the_slower_side_is_the_bound():
  part = evaluation.Part

  def told(device_milliseconds):
    device = [part("network", 1, device_milliseconds)]
    return evaluation.report([part("batches", 1, 20.0)], 2, 100.0, device, part("all", 1, 1.0))

  assert "The device bounds the evaluation: the device uses 50.0 %" in told(20.0)
  assert "The host bounds the evaluation: the device uses 100.0 %" in told(5.0)
