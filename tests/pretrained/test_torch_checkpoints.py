import re

import jax
import numpy as np
import pytest

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.pretrained.names.corda import CORDA
from corda_jax.pretrained.safetensors_format import read_safetensors
from corda_jax.pretrained.torch_checkpoints import (
  export_torch,
  import_torch,
  initial_state,
  read_initial_weights,
)
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.evaluate import evaluate
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.sharding import make_mesh
from tests import runs, tiny

MESH = make_mesh(jax.devices()[:2])


def experiment(path="", **fields):
  config = tiny.get_config(initial_weights=str(path), **fields)
  return AdaptationTask.from_config(config, MESH)


def state_dict(seed):
  shapes = experiment().state_shapes
  random = np.random.RandomState(seed)
  variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
  variables = jax.tree.map(
    lambda x: random.uniform(0.1, 0.3, x.shape).astype(np.float32), variables
  )
  return CORDA.state_dict(variables, steps=0)


@pytest.fixture
def released(tmp_path):
  """A file like the released ones: path, student and teacher."""
  student, teacher = state_dict(1), state_dict(2)
  for seed, tensors in enumerate((student, teacher)):
    random = np.random.RandomState(seed)
    for name, tensor in tensors.items():
      if ".conv2d_list.2." in name or ".conv2d_list.3." in name:  # which the network here has not
        tensors[name] = random.uniform(size=tensor.shape).astype(np.float32)
      elif name.endswith("num_batches_tracked"):
        tensors[name] = np.array(500_000 + seed)
  path = tmp_path / "released.pth"
  write_torch_file(path, {"model": student, "ema_model": teacher, "iteration": 250_000})
  return path, student, teacher


def assert_same(got, expected):
  assert got.keys() == expected.keys()
  for name, tensor in expected.items():
    np.testing.assert_array_equal(got[name], tensor, err_msg=name)


def test_in_and_out_again(released, tmp_path, capsys):
  path, student, teacher = released
  run = experiment(path)
  import_torch(run, tmp_path / "run")
  printed = capsys.readouterr().out
  assert re.search(rf"{re.escape(str(path))}.*250000", printed)
  assert re.search(r"decoder\.dilations.*\(1, 2\)", printed)
  assert len(printed.splitlines()) < 8
  exported = export_torch(experiment(), tmp_path / "run")
  assert exported == tmp_path / "run" / "corda.pth"
  assert re.search(r"\(6, 12\).*\(1, 2\)", capsys.readouterr().out)
  tree = read_torch_file(exported)
  assert tree["iteration"] == 250_000
  assert_same(tree["model"], student)
  assert_same(tree["ema_model"], teacher)
  tensors = read_safetensors(exported.with_suffix(".safetensors"))
  assert tensors.keys() == tree["model"].keys()
  assert_same(tensors, student)
  with pytest.raises(UserError, match=r"checkpoints.*--workdir"):
    import_torch(run, tmp_path / "run")
  # The imported networks are those that are evaluated.
  for network in ("student", "teacher"):
    chosen = experiment(**{"evaluation.network": network})
    state, found = evaluate(chosen, tmp_path / "run", lambda: iter(()))
    assert int(state.step) == found.result["step"] == 0


def test_a_file_without_teacher_gives_a_copy(released, tmp_path, capsys):
  path, student, _ = released
  write_torch_file(path, {f"Scale.{n}": x for n, x in student.items() if not n.startswith("heads")})
  import_torch(experiment(path), tmp_path / "run")
  printed = capsys.readouterr().out
  assert "heads (12)" in printed
  assert re.search("teacher.*student", printed)
  assert re.search(r"warning: 12\b", printed)
  tree = read_torch_file(export_torch(experiment(), tmp_path / "run"))
  assert_same(tree["ema_model"], tree["model"])
  np.testing.assert_array_equal(tree["model"]["conv1.weight"], student["conv1.weight"])
  fresh = experiment().initial_state().params["final_S"]["kernel0"]
  got = tree["model"]["heads.S.conv2d_list.0.weight"]
  np.testing.assert_array_equal(got.transpose(2, 3, 1, 0), fresh)


def test_training_starts_from_the_file_and_the_teacher_from_the_student(released, tmp_path, capsys):
  path, student, _ = released
  run = experiment(path, num_steps=1, **{"optimizer.learning_rate": 0.0})
  state = initial_state(run)
  fresh = run.initial_state()
  assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, fresh)
  jax.tree.map(np.testing.assert_array_equal, state.optimizer_state, fresh.optimizer_state)
  jax.tree.map(np.testing.assert_array_equal, state.teacher_params, state.params)
  jax.tree.map(np.testing.assert_array_equal, state.teacher_batch_stats, state.batch_stats)

  def train_there(run):
    return runs.run(run, tmp_path, evaluated=lambda: iter(()))

  capsys.readouterr()
  trained, _ = train_there(run)
  assert str(path) in capsys.readouterr().out
  stem = student["conv1.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(trained.params["encoder"]["stem_conv"]["kernel"], stem)
  # A resumed run reads its checkpoint, not the file.
  path.unlink()
  train_there(run)
  assert str(path) not in capsys.readouterr().out


def test_a_run_may_go_on_where_the_file_has_another_path(tmp_path):
  record_config(tmp_path, experiment("here.pth").config.to_dict())
  check_config(tmp_path, experiment("there.pth").config.to_dict())


def test_mistakes_are_reported(released, tmp_path):
  with pytest.raises(UserError, match=r"initial_weights.*''"):
    read_initial_weights(experiment())
  with pytest.raises(UserError, match=r"none\.pth"):
    read_initial_weights(experiment(tmp_path / "none.pth"))
  write_torch_file(tmp_path / "vgg.pth", {"features.0.weight": np.zeros((4, 3, 3, 3), np.float32)})
  with pytest.raises(UserError, match=r"vgg\.pth.*features\.0\.weight"):
    read_initial_weights(experiment(tmp_path / "vgg.pth"))
  broken = released[1] | {"bn1.weight": np.full(4, np.nan, np.float32)}
  write_torch_file(tmp_path / "nan.pth", broken)
  with pytest.raises(UserError, match=r"nan\.pth.*bn1\.weight.*NaN"):
    read_initial_weights(experiment(tmp_path / "nan.pth"))
  other = experiment(released[0], **{"model.encoder.width": 8})
  with pytest.raises(UserError, match=r"released\.pth.*conv1\.weight.*\(8, "):
    read_initial_weights(other)
  with pytest.raises(UserError, match=r"checkpoints in .*test_mistakes"):
    export_torch(experiment(), tmp_path)


def test_the_count_of_steps_goes_out(tmp_path):
  run = experiment()
  state = run.initial_state()
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, state.replace(step=state.step + 5))
  checkpoints.close()
  tree = read_torch_file(export_torch(run, tmp_path))
  assert tree["iteration"] == 5
  assert int(tree["model"]["bn1.num_batches_tracked"]) == 5
