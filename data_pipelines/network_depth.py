"""Where a data set has the depth files of a depth network."""

import abc
from typing import Any, ClassVar

from data_pipelines.frames import NAME


class NetworkDepth(abc.ABC):
  """The part of the builders that says where their files of a network's inverse depth lie."""

  NETWORK_DEPTH: ClassVar[str]  # the depth kind that such files are read as

  @classmethod
  @abc.abstractmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """Split → pattern, below the depth root, of the files of the kind `NETWORK_DEPTH`."""

  @classmethod
  def network_depth_file(cls, dataset_config: Any, split: str, name: str) -> str:
    """Path below the depth root of a frame's file of the kind `NETWORK_DEPTH`.

    Args:
      dataset_config: the part of a configuration that describes the data set.
      split: of the records.
      name: of the frame, as its record has it.

    Raises:
      ValueError: the data set has no such split.
      UserError: the frame is not named as the data set's are.
    """
    patterns = cls.network_depth_patterns(dataset_config)
    if split not in patterns:
      raise ValueError(f"split is {split!r}, wanted one of {', '.join(patterns)}")
    return patterns[split].replace(NAME, name)
