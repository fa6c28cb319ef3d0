"""The pose network of an adaptation run begins with one that the depth stage trained."""

import re

import jax
import numpy as np
import pytest

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.pretrained.initial_pose import read_initial_pose, with_initial_pose
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.run_files import record_config
from corda_jax.training.sharding import make_mesh
from tests import tiny_depth, tiny_joint
from tests.tiny import turn_a_bit

VIDEO = (("files", ()), ("views", ("previous", "next")))


def depth_run(folder, views=("previous",), **fields):
  """A run of the depth stage with one checkpoint; its state."""
  config = tiny_depth.get_config(views)
  config.model.pose.update(tiny_joint.get_config(*VIDEO).terms.photometric.pose)
  config.update_from_flattened_dict(fields)
  experiment = DepthTask.from_config(config, make_mesh(jax.devices()[:1]))
  state = experiment.initial_state()
  state = jax.tree.map(lambda x: x if x.dtype.kind == "i" else x + 1, state)
  checkpoints = Checkpoints(folder)
  checkpoints.save(3, state)
  checkpoints.close()
  record_config(folder, config.to_dict())
  return state


def adaptation(folder, case=VIDEO, **fields):
  fields["terms.photometric.initial_pose"] = str(folder)
  config = tiny_joint.get_config(*case, **fields)
  return AdaptationTask.from_config(config, make_mesh(jax.devices()[:2]))


def test_a_run_begins_with_the_pose_network_of_another(tmp_path):
  trained = depth_run(tmp_path)
  experiment = adaptation(tmp_path)
  fresh = experiment.initial_state()
  state = with_initial_pose(experiment, fresh)
  for kind in ("params", "batch_stats"):
    ours, theirs = getattr(state.terms["photometric"], kind), getattr(trained, kind)["pose"]
    assert jax.tree.structure(ours) == jax.tree.structure(getattr(fresh.terms["photometric"], kind))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  jax.tree.map(np.testing.assert_array_equal, state.params, fresh.params)
  assert jax.tree.leaves(state.terms["photometric"].params)[0].sharding.is_fully_replicated
  # None named: as it was.
  assert with_initial_pose(adaptation(""), fresh) is fresh


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
  trained = depth_run(tmp_path)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(6, jax.tree.map(lambda x: x * 2, trained))
  checkpoints.close()
  experiment = adaptation(tmp_path)

  def first_leaf():
    return jax.tree.leaves(read_initial_pose(experiment)["params"])[0]

  first = jax.tree.leaves(trained.params["pose"])[0]
  np.testing.assert_array_equal(first_leaf(), 2 * first)
  turn_a_bit(tmp_path / "checkpoints/6")
  np.testing.assert_array_equal(first_leaf(), first)
  assert re.search(r"step 6\b.*damaged", capsys.readouterr().out)
  turn_a_bit(tmp_path / "checkpoints/3")
  with pytest.raises(UserError, match=r"step 3\b.*damaged"):
    first_leaf()


def test_what_does_not_fit_is_reported(tmp_path):
  depth_run(tmp_path / "video")
  depth_run(tmp_path / "stereo", ("right",))
  depth_run(tmp_path / "bgr", **{"model.normalization.bgr": True})
  depth_run(tmp_path / "adaptation")
  record_config(tmp_path / "adaptation", tiny_joint.get_config(*VIDEO).to_dict())
  for folder, case, fields, message in (
    ("adaptation", VIDEO, {}, r"adaptation.*depth stage"),
    ("video", tiny_joint.TARGET, {}, "initial_pose.*video"),
    ("stereo", VIDEO, {}, "stereo.*pose"),
    ("bgr", VIDEO, {}, r"photometric\.normalization"),
    ("video", VIDEO, {"terms.photometric.pose.decoder_width": 8}, r"video.*photometric\.pose"),
    ("absent", VIDEO, {}, r"absent"),
  ):
    with pytest.raises(UserError, match=message):
      read_initial_pose(adaptation(tmp_path / folder, case, **fields))
