"""--mode=label_depth: predicts the depth of whole data sets, as files that the adaptation reads."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.console import progress_bar
from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.encodings import from_sigmoid, to_disparity
from corda_jax.depth.evaluate import predict_disparity
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.depth.step import DepthState
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.locks import only_writer
from corda_jax.pretrained.depth_weights import weights_digest
from corda_jax.training.processes import wait_for_all
from corda_jax.training.restore import restore_state
from corda_jax.training.sharding import batch_sharded, local_rows, put_batch, replicated
from corda_jax.training.task import HostBatch

_WRITERS = 4  # threads: to compress a file takes longer than to predict it on an accelerator


def label_depth(task: DepthTask, workdir: Path, feed: Any) -> None:
  """Writes the depth files of a data set; goes on where it was stopped.

  Args:
    task: task of a configuration whose data set is labelled, which may be another than the
      training's.
    workdir: folder of the run.
    feed: `data_pipelines.feed.Feed` of the same configuration; prepared.

  Raises:
    UserError: there is no such checkpoint, the files cannot be written, or the network predicts
      numbers that are not finite.
  """
  state, options = restore_state(task, workdir), task.config.label_depth
  files = feed.depth_files("target", options.folder, _meta(task, state))
  needs = {need.split: need for need in task.needs("label_depth")}
  predict = _predictor(task, state)
  with only_writer_of(files):
    write_missing(
      files,
      {split: feed.names(need) for split, need in needs.items()},
      lambda split, left: predict(feed.frames(needs[split], names=left)),
      lambda split, name, disparity: _encode(task, disparity),
    )
  print_hint(files, task.config.data.target)


def write_missing(
  files: Any,
  names: Mapping[str, Sequence[str]],
  predict: Callable[[str, set[str]], Iterator[tuple[str, np.ndarray]]],
  encode: Callable[[str, str, np.ndarray], np.ndarray],
) -> None:
  """Predicts and writes what is missing, with a progress bar a split; what was written stays.

  Args:
    files: `data_pipelines.depth_labels.DepthFiles`.
    names: split → names of its frames.
    predict: (split, names) → names of this process's share, and maps.
    encode: (split, name, map) → values of the file, uint16; called by several threads.
  """
  missing = {
    split: {name for name in found if files.missing(split, name)} for split, found in names.items()
  }
  wait_for_all("the names of the frames")  # nothing is written before all processes have looked
  for split, left in missing.items():
    mine = -(-len(left) // jax.process_count())
    done = len(names[split]) - len(left)
    with progress_bar(
      total=done + mine, initial=done, desc=f"depth of {split}", unit="frame"
    ) as bar:

      def write(name, values, split=split):
        files.write(split, name, encode(split, name, values))

      _write(predict(split, left), write, bar)


def print_hint(files: Any, dataset: Any) -> None:
  """Prints where the files are, and the options with which the adaptation reads them.

  Args:
    files: `data_pipelines.depth_labels.DepthFiles`.
    dataset: the part of the configuration that describes the data set.
  """
  domain = "source" if dataset.dataset in ("gta5", "synthia") else "target"
  print(f"Depth files: {files.folder}")
  print(f"The adaptation reads them with {files.hint(domain)}")


def _meta(task: DepthTask, state: DepthState) -> dict[str, Any]:
  """What the files are of: all that decides their contents."""
  target, options = task.config.data.target, task.config.label_depth
  meta = {
    "step": int(state.step),
    "weights": weights_digest(state),
    "encoding": options.encoding,
    "size": [target.height, target.width],
  }
  if options.encoding == "metric":
    meta["metres_per_unit"] = task.step.config.metres_per_unit
  return meta


def only_writer_of(files: Any) -> contextlib.AbstractContextManager[None]:
  """Keeps other runs from writing the same files; of several processes the first one does."""
  if jax.process_index() > 0:
    return contextlib.nullcontext()
  lock = Path(files.folder) / "disparity" / ".lock"
  return only_writer(lock, otherwise="choose another label_depth.folder")


def _encode(task: DepthTask, disparity: np.ndarray) -> np.ndarray:
  """The values of a file, uint16, of disparities 0..1."""
  if task.config.label_depth.encoding == "sigmoid":
    return from_sigmoid(disparity)
  options = task.step.config
  depth = disparity_to_depth(
    disparity.astype(np.float64), min_depth=options.min_depth, max_depth=options.max_depth
  )
  return to_disparity(from_metres(depth * options.metres_per_unit))


def _predictor(
  task: DepthTask, state: DepthState
) -> Callable[[Iterator[HostBatch]], Iterator[tuple[str, np.ndarray]]]:
  """Maps batches of frames to their names and disparities float32 [H, W], 0..1."""
  everywhere, split = replicated(task.mesh), batch_sharded(task.mesh)
  compiled = jax.jit(
    task.at_precision(lambda variables, images: predict_disparity(task, variables, images)),
    in_shardings=(everywhere, split),
    out_shardings=split,
  )
  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}

  def predict(batches):
    for batch in batches:
      images = put_batch(task.mesh, {"image": batch["image"]})["image"]
      disparities = local_rows(compiled(variables, images))
      for name, disparity, valid in zip(batch["name"], disparities, batch["valid"], strict=True):
        if valid and not np.isfinite(disparity).all():
          raise UserError(
            f"the network of step {int(state.step)} predicts numbers that are not finite, first "
            f"for {name}: its training diverged; lower the learning rate and train again"
          )
        if valid:
          yield str(name), disparity

  return predict


def _write(
  frames: Iterator[tuple[str, np.ndarray]], write: Callable[[str, np.ndarray], None], bar: Any
) -> None:
  """Writes frames by threads, while the next ones are predicted; what was written stays."""
  waiting: list[concurrent.futures.Future] = []
  with concurrent.futures.ThreadPoolExecutor(_WRITERS) as writers:

    def finish(keep):
      while len(waiting) > keep:
        waiting.pop(0).result()
        bar.update()

    for name, disparity in frames:
      waiting.append(writers.submit(write, name, disparity))
      finish(keep=2 * _WRITERS)
    finish(keep=0)
