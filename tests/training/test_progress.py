"""The live line of a run, and profiles of some of its steps."""

import os
import signal

import jax.numpy as jnp
from ml_collections import ConfigDict

from corda_jax.training.profile import Profile
from corda_jax.training.progress import Progress


def test_progress_averages_what_lies_between_reports(monkeypatch):
  now = [100.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  read = []
  progress = Progress(0, 10, images_per_step=6, on_read=lambda *each: read.append(each))
  done = [0]

  def steps(values, skipped=0.0):
    for value in values:
      done[0] += 1
      metrics = {"total": jnp.float32(value), "skipped": jnp.float32(skipped)}
      progress.update(done[0], metrics, waited=0.25)
      now[0] += 0.5

  steps([1, 2, 3, 100])
  # The first step starts the clock and has no rate; the last is left for the next report.
  means = progress.report(3)
  rate = {"images_per_second": 6 * 2 / 2.0, "data_wait": 0.25}
  assert means == {"total": 2.0, "skipped": 0.0, **rate}
  steps([float("nan")], skipped=1.0)
  steps([50])
  means = progress.report(6)
  assert (means["total"], means["skipped"]) == (75.0, 1.0)
  assert means["images_per_second"] == 6 * 3 / 1.0
  assert [step for step, _ in read] == [1, 2, 3, 4, 5, 6]
  assert progress.report(6) == {}
  progress.stop_clock()  # what takes time beside training
  now[0] += 100
  steps([9])
  assert "images_per_second" not in progress.report(7)
  progress.close()


def test_a_profile_that_cannot_be_written_is_told_and_the_next_one_is_made(tmp_path):
  told: list[str] = []
  config = ConfigDict({"at_step": 2, "steps": 1})
  profile = Profile(tmp_path, config, tell=told.append)
  (tmp_path / "tensorboard").mkdir()
  (tmp_path / "tensorboard" / "plugins").write_text("no folder")
  try:
    for step in (1, 2, 3):
      with profile.step(step):
        jnp.ones(3).block_until_ready()
    assert len(told) == 1
    assert "profile" in told[0]
    (tmp_path / "tensorboard" / "plugins").unlink()
    os.kill(os.getpid(), signal.SIGUSR1)
    with profile.step(4):
      jnp.ones(3).block_until_ready()
  finally:
    profile.close()
  assert str(tmp_path / "tensorboard") in told[1]
  assert list((tmp_path / "tensorboard" / "plugins").rglob("*.xplane.pb"))
