"""The batches of a task, from records that are prepared when first needed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from corda_jax.errors import UserError
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.depth_labels import DepthFiles
from data_pipelines.input_pipeline import (
  as_numpy,
  evaluation_dataset,
  record_names,
  train_dataset,
)
from data_pipelines.prepare import provide
from data_pipelines.raw_frames import RawFrames


class Feed:
  """Batches of this process's share.

  Args:
    config: the whole configuration.
    domains: data sets that training reads.
    process_index: number of this process.
    process_count: processes that share each batch.
  """

  def __init__(
    self, config: Any, domains: Sequence[str], process_index: int = 0, process_count: int = 1
  ):
    """Opens nothing yet."""
    self._config, self._domains = config, domains
    self._share = {"process_index": process_index, "process_count": process_count}

  def provide(self, needs: Sequence[Any]) -> list[FramesBuilder]:
    """Renders and prepares what is missing.

    Args:
      needs: instances of `corda_jax.training.task.Need`: domain, split, contents, measured.

    Raises:
      UserError: the data cannot be used, or depth is to be measured and no frame has any.
    """
    builders = provide(self._config.data, [need[:3] for need in needs])
    for need, builder in zip(needs, builders, strict=True):
      if need.measured and not builder.report.depth_share[need.split]:
        depth = self._config.data[need.domain].depth
        raise UserError(
          f"data.{need.domain}.depth is {depth!r}, but no frame of split {need.split!r} has a "
          f"depth file: name them (folder.validation.depth), or set data.{need.domain}.depth='none'"
        )
    return builders

  def train(self, start: int) -> Iterator[Mapping[str, Any]]:
    """Batches for the step after `start` and all after it, without end; see `train_dataset`."""
    return as_numpy(
      train_dataset(
        self._config.data,
        seed=self._config.seed,
        start_step=start,
        domains=self._domains,
        **self._share,
      )
    )

  def frames(
    self, need: Any, spread: int = 0, names: Collection[str] | None = None
  ) -> Iterator[Mapping[str, Any]]:
    """Whole frames in a fixed order, once through; see `evaluation_dataset`.

    Args:
      need: one of those given to `provide`.
      spread: number of frames, at equal distances; 0: `evaluation.max_frames`.
      names: names of the frames that are read; None: all.
    """
    return as_numpy(
      evaluation_dataset(
        self._config.data,
        domain=need.domain,
        split=need.split,
        contents=need.contents,
        names=names,
        spread=spread or (self._config.evaluation.max_frames if names is None else 0) or None,
        **self._share,
      )
    )

  def names(self, need: Any) -> list[str]:
    """Names of the frames of a split, in the order of its records."""
    return record_names(self._config.data, domain=need.domain, split=need.split)

  def raw_frames(self, need: Any) -> RawFrames:
    """The frames of a split as their files have them; see `RawFrames`."""
    return RawFrames(self._config.data, need.domain, need.split)

  def depth_files(self, domain: str, folder: str, meta: Mapping[str, Any]) -> DepthFiles:
    """Where the depth of a data set is written; see `DepthFiles`."""
    return DepthFiles(self._config.data[domain], folder=folder, meta=meta)
