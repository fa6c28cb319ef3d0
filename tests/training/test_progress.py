"""The live line of a run."""

import jax.numpy as jnp

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
