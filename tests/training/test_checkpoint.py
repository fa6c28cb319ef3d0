"""Checkpoints that disks and kills have harmed."""

import hashlib
import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from corda_jax.atomic_io import atomic_write
from corda_jax.errors import UserError
from corda_jax.retries import Retries
from corda_jax.training.checkpoint import Checkpoints, best_checkpoint
from corda_jax.training.history import History, read_history, scores_of
from corda_jax.training.run_files import (
  check_config,
  check_writable,
  record_config,
  whole_checkpoints,
)
from corda_jax.training.sharding import shardings_of
from tests import tiny
from tests.stub_network import stub_task


def state(step):
  random = np.random.RandomState(step)
  return {"weights": jnp.asarray(random.randn(64, 64), jnp.float32), "step": jnp.int32(step)}


@pytest.fixture
def workdir(tmp_path):
  """Two whole checkpoints, of steps 1 and 2."""
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2):
    checkpoints.save(step, state(step))
  checkpoints.close()
  return tmp_path


def files_of(workdir, step):
  folder = workdir / "checkpoints" / str(step)
  return {path for path in folder.rglob("*") if path.is_file()}


def restored(workdir):
  """The newest undamaged state."""
  checkpoints = Checkpoints(workdir)
  try:
    step = checkpoints.newest_undamaged()
    return step, checkpoints.restore(step, state(0))
  finally:
    checkpoints.close()


def assert_is(found, step):
  assert found[0] == step
  jax.tree.map(np.testing.assert_array_equal, found[1], state(step))


def test_whole_checkpoints_are_sealed_and_taken(workdir, capsys):
  seal = json.loads((workdir / "checkpoints/2/checksums.json").read_text())
  names = {path.relative_to(workdir / "checkpoints/2").as_posix() for path in files_of(workdir, 2)}
  assert seal.keys() == names - {"checksums.json"}
  assert_is(restored(workdir), 2)
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("harm", ["bit", "cut", "empty", "missing"])
def test_any_harmed_file_is_found_and_the_one_before_taken(workdir, capsys, harm):
  # The largest file holds the numbers: without the seal a turned bit in it is read as a number.
  path = max(files_of(workdir, 2), key=lambda path: path.stat().st_size)
  contents = bytearray(path.read_bytes())
  if harm == "missing":
    path.unlink()
  else:
    contents[len(contents) // 2] ^= 4
    path.write_bytes({"bit": contents, "cut": contents[:-1], "empty": b""}[harm])
  assert_is(restored(workdir), 1)
  output = capsys.readouterr().out
  name = path.relative_to(workdir / "checkpoints/2").as_posix()
  assert re.search(rf"step 2\b.*{re.escape(name)}.*{workdir}/damaged/2\b", output)
  assert (workdir / "damaged" / "2" / "checksums.json").exists()
  assert_is(restored(workdir), 1)
  assert capsys.readouterr().out == ""  # reported once
  checkpoints = Checkpoints(workdir)
  checkpoints.save(2, state(2))  # made again under its own name
  checkpoints.close()
  assert_is(restored(workdir), 2)


def test_a_checkpoint_that_was_killed_before_its_seal_is_read_to_see(workdir, capsys):
  seal = workdir / "checkpoints/2/checksums.json"
  seal.unlink()
  assert_is(restored(workdir), 2)
  assert seal.exists()
  seal.unlink()
  (workdir / "checkpoints/2/default/manifest.ocdbt").write_bytes(b"nothing")
  assert_is(restored(workdir), 1)
  assert re.search(rf"step 2\b.*{workdir}/damaged/2\b", capsys.readouterr().out)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "b"}'])
def test_a_harmed_seal_is_damage(workdir, text):
  (workdir / "checkpoints/2/checksums.json").write_text(text)
  assert_is(restored(workdir), 1)


def test_where_all_are_damaged_nothing_is_begun_again(workdir):
  for step in (1, 2):
    (workdir / f"checkpoints/{step}/default/manifest.ocdbt").write_bytes(b"nothing")
  folder = (
    workdir / "checkpoints"
  )  # to be deleted; of one checkpoint among others it is not reported
  with pytest.raises(UserError, match=rf"{folder}/1\b.*{folder}(?!/)"):
    restored(workdir)
  assert (workdir / "damaged/2").is_dir()
  assert (workdir / "checkpoints/1").is_dir()


@pytest.mark.parametrize("sealed", [True, False])
def test_a_disk_that_does_not_answer_is_no_damage(workdir, monkeypatch, capsys, sealed):
  failures = []

  def fails(real, times):
    def function(*arguments, **options):
      failures.append(1)
      if len(failures) <= times:
        raise OSError(116, "Stale file handle")
      return real(*arguments, **options)

    return function

  # What reads the files of a checkpoint: to compare them with its seal, or without one to see.
  place = (hashlib, "file_digest") if sealed else (ocp.Checkpointer, "metadata")
  before = files_of(workdir, 2)
  for times, message in ((2, None), (9, r"checkpoints/2\b.*Stale file handle")):
    failures.clear()
    if not sealed:
      (workdir / "checkpoints/2/checksums.json").unlink()
    with monkeypatch.context() as patch:
      patch.setattr(*place, fails(getattr(*place), times))
      checkpoints = Checkpoints(workdir, retries=Retries(2))
      if message is None:
        assert checkpoints.newest_undamaged() == 2
      else:
        with pytest.raises(UserError, match=message):
          checkpoints.newest_undamaged()
      checkpoints.close()
    assert capsys.readouterr().out.count("Stale file handle") == 2  # and tried again
    assert not (workdir / "damaged").exists()
    assert before - files_of(workdir, 2) <= {workdir / "checkpoints/2/checksums.json"}


def test_what_is_missing_is_damage_and_no_disk_that_does_not_answer(workdir, monkeypatch):
  (workdir / "checkpoints/2/checksums.json").unlink()

  def missing(self, path):
    raise FileNotFoundError(2, "No such file", "manifest")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.Checkpointer, "metadata", missing)
    checkpoints = Checkpoints(workdir, read_only=True)
    assert "No such file" in checkpoints.damage(2)
    checkpoints.close()


def test_a_history_that_a_kill_cut_short(tmp_path):
  history = History(tmp_path)
  history.add_curves(1, {"loss": 2.0})
  history.add_evaluation(2, 40.0, {"miou": 40.0}, {"target/miou": 40.0})
  history.add_evaluation(4, float("nan"), {"miou": float("nan")}, {})
  history.add_curves(5, {"loss": 1.0})
  with open(tmp_path / "history.jsonl", "a") as file:
    file.write('{"step": 6, "cur')
  again = History(tmp_path)
  assert [entry["step"] for entry in again.entries] == [1, 2, 4, 5]
  assert again.evaluated(2)
  assert again.evaluated(4)
  assert not again.evaluated(5)
  again.rewind(4)
  again.add_curves(5, {"loss": 3.0})
  steps = [
    json.loads(line)["step"] for line in (tmp_path / "history.jsonl").read_text().splitlines()
  ]
  assert steps == [1, 2, 4, 5]
  assert scores_of(read_history(tmp_path)) == {2: 40.0}
  checkpoints = Checkpoints(tmp_path, keep_best=1, keep_newest=1)
  for step in (2, 4, 5):
    checkpoints.save(step, state(step))
  checkpoints.close()
  assert whole_checkpoints(tmp_path) == [2, 5]  # the best and the newest


def test_a_reader_leaves_what_is_being_written(workdir):
  unfinished = workdir / "checkpoints" / "3.orbax-checkpoint-tmp"
  unfinished.mkdir()
  (unfinished / "part").write_text("half")
  (workdir / "checkpoints/2/checksums.json").unlink()
  before = files_of(workdir, 2)
  reader = Checkpoints(workdir, read_only=True)
  assert reader.damage(2) is None
  jax.tree.map(np.testing.assert_array_equal, reader.restore(2, state(0)), state(2))
  reader.close()
  assert (unfinished / "part").exists()
  assert files_of(workdir, 2) == before  # no seal either
  run = Checkpoints(workdir)  # which has the folder to itself
  until = time.monotonic() + 20
  while unfinished.exists():  # cleared away in the background
    assert time.monotonic() < until
    time.sleep(0.01)
  run.close()


def test_a_write_that_fails_is_noticed_without_waiting_and_reported_once(workdir, monkeypatch):
  checkpoints = Checkpoints(workdir)
  real = ocp.StandardCheckpointHandler.async_save

  async def fails(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(ocp.StandardCheckpointHandler, "async_save", fails)

  def save_and_wait():
    checkpoints.save(4, state(4))
    checkpoints.wait()

  with pytest.raises(UserError, match=rf"step 4\b.*{workdir}/checkpoints.*No space left"):
    save_and_wait()
  monkeypatch.setattr(ocp.StandardCheckpointHandler, "async_save", real)
  checkpoints.check()
  checkpoints.save(5, state(5))
  checkpoints.close()
  assert_is(restored(workdir), 5)
  assert not list((workdir / "checkpoints").glob("*tmp*"))


def test_checkpoints_without_a_configuration_are_refused(workdir):
  with pytest.raises(UserError, match=rf"{workdir}/config\.json.*No such file"):
    check_config(workdir, {"seed": 1})
  record_config(workdir, {"seed": 1})
  check_config(workdir, {"seed": 1})
  assert json.loads((workdir / "code.json").read_text())["code"][0]["from_step"] == 2


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
  def write():
    with atomic_write(tmp_path / "file") as partial:
      partial.write_text("half")
      raise OSError("full")

  with pytest.raises(OSError, match="full"):
    write()
  assert not list(tmp_path.iterdir())


def test_a_history_on_a_full_disk_is_whole_again_when_there_is_room(tmp_path, monkeypatch):
  history = History(tmp_path)
  history.add_curves(1, {"loss": 1.0})

  def full(_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr("os.fsync", full)
    for step in (2, 3):
      with pytest.raises(OSError, match="No space"):
        history.add_curves(step, {"loss": 1.0})
  history.add_curves(4, {"loss": 1.0})
  assert [entry["step"] for entry in History(tmp_path).entries] == [1, 2, 3, 4]


def test_checkpoints_on_a_disk_that_is_not_mounted(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run/checkpoints").symlink_to(tmp_path / "gone")
  for ask in (whole_checkpoints, check_writable):
    with pytest.raises(UserError, match=rf"{tmp_path}/run/checkpoints.*{tmp_path}/gone.*mount"):
      ask(tmp_path / "run")


def steps_in(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_newest_and_best_checkpoints_stay(tmp_path):
  history, checkpoints = History(tmp_path), Checkpoints(tmp_path, keep_best=1)
  for step, miou in ((1, 10.0), (2, 30.0), (3, 20.0), (4, None), (5, 15.0), (6, None)):
    checkpoints.save(step, state(step))
    if miou is not None:
      checkpoints.add_score(step, miou)
      history.add_evaluation(step, miou, {}, {})
  checkpoints.close()
  assert steps_in(tmp_path / "checkpoints") == [2, 5, 6]
  checkpoints = Checkpoints(tmp_path)
  assert (checkpoints.newest_undamaged(), best_checkpoint(tmp_path)) == (6, 2)
  with pytest.raises(UserError, match=r"another network: 1 arrays"):
    checkpoints.restore(6, state(6) | {"weights": jnp.zeros((3, 3))})
  checkpoints.close()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_never_the_best(tmp_path, score):
  checkpoints = Checkpoints(tmp_path, keep_best=1, keep_newest=1)
  for step, each in ((1, -0.5), (2, -0.3), (3, score), (4, score)):
    checkpoints.save(step, state(step))
    checkpoints.add_score(step, each)
  checkpoints.close()
  assert steps_in(tmp_path / "checkpoints") == [2, 4]


def test_a_checkpoint_is_restored_on_other_devices(tmp_path):
  split = tiny.get_config(**{"compute.shard_state": True})
  written, read, again = (
    stub_task(*arguments) for arguments in ((split, 4), (tiny.get_config(), 1), (split, 4))
  )
  state = written.initial_state()
  assert not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.optimizer_state))
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  for reader in (read, again):
    shapes = reader.state_shapes
    found = checkpoints.restore(1, shapes)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.map(lambda x: x.sharding, found) == shardings_of(shapes)
  checkpoints.close()


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)

  def full(*_, **__):
    raise OSError(28, "No space left on device", str(tmp_path))

  monkeypatch.setattr(ocp.CheckpointManager, "save", full)
  with pytest.raises(UserError, match=r"checkpoints.*No space left on device"):
    checkpoints.save(1, state(1))
  checkpoints.close()


def test_a_reader_prints_no_warning_of_the_library(workdir, caplog, capfd):
  Checkpoints(workdir, read_only=True).close()
  assert not [record for record in caplog.records if record.levelname == "WARNING"]
  assert "read_only" not in capfd.readouterr().err
