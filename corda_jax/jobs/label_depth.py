"""Predicts the depth of whole data sets."""

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from corda_jax.console import progress_bar
from corda_jax.depth.step import DepthState
from corda_jax.errors import UserError
from corda_jax.jobs.depth_evaluate import predict_disparity
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.sharding import batch_sharded, local_rows, put_batch, replicated

_WRITERS = 4  # threads: to compress a file takes longer than to predict it on an accelerator


def label_depth(
  experiment: DepthExperiment,
  state: DepthState,
  batches: Iterable[Mapping[str, Any]],
  write: Callable[[str, np.ndarray], None],
  *,
  total: int,
  done: int,
  title: str,
) -> None:
  """Predicts frames and hands them to `write`, while the next ones are predicted.

  Args:
    experiment: networks, mesh and configuration.
    state: of a checkpoint.
    batches: host batches with "image" uint8 [B, H, W, 3], "name" and "valid"; the frames that are
      still to be done, of this process.
    write: (name, disparity float32 [H, W], 0..1); called by several threads.
    total: frames of this process in all.
    done: of them, those that are done already.
    title: of the progress bar.

  Raises:
    Exception: whatever `write` raises; what was written stays.
  """
  everywhere, split = replicated(experiment.mesh), batch_sharded(experiment.mesh)
  predict = jax.jit(
    at_matmul_precision(
      lambda variables, images: predict_disparity(experiment, variables, images),
      experiment.config.compute.matmul_precision,
    ),
    in_shardings=(everywhere, split),
    out_shardings=split,
  )
  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}
  waiting: list[concurrent.futures.Future] = []
  with (
    progress_bar(total=total, initial=done, desc=title, unit="frame") as bar,
    concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers,
  ):

    def finish(keep):
      while len(waiting) > keep:
        waiting.pop(0).result()
        bar.update()

    for batch in batches:
      put = put_batch(experiment.mesh, {"image": batch["image"]})
      disparities = local_rows(predict(variables, put["image"]))
      for name, disparity, valid in zip(batch["name"], disparities, batch["valid"], strict=True):
        if valid:
          if not np.isfinite(disparity).all():
            raise UserError(
              f"the network of step {int(state.step)} predicts numbers that are not finite, first "
              f"for {name}: its training went astray; lower the learning rate and train anew"
            )
          waiting.append(writers.submit(write, str(name), disparity))
      finish(keep=2 * _WRITERS)
    finish(keep=0)
