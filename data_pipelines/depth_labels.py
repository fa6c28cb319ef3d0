"""Writes the inverse depth of a depth network as files that the builders read.

A manifest beside the files identifies their network, so that files of two networks never mix and an
interrupted run continues where it stopped.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from corda_jax.atomic_io import atomic_write
from corda_jax.configuration import flatten
from corda_jax.depth.encodings import COMPUTED, MANIFEST
from corda_jax.errors import UserError
from data_pipelines.archives import DataFiles
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.patterns import Pattern


class DepthFiles:
  """The files of one network's inverse depth.

  Several processes may write at once, each its own frames.
  """

  def __init__(self, dataset_config: Any, *, folder: str, meta: Mapping[str, Any]):
    """Checks what exists; writes nothing yet.

    Args:
      dataset_config: the part of a configuration that describes the data set.
      folder: where to write; "" is the data set's own root.
      meta: everything that determines the files' contents, but for what `kept` gets;
        JSON-serialisable.

    Raises:
      UserError: the folder holds files of another network, or of unknown origin.
    """
    self.folder = os.path.expanduser(folder or dataset_config.root)
    self._apart = bool(folder)
    self._config = dataset_config
    self._builder = BUILDERS[dataset_config.dataset]
    self._meta = json.loads(json.dumps(dict(meta)))  # tuples are lists in files
    self._kept: dict[str, Any] = {}
    self._begun = self._check()

  def kept(self, name: str, compute: Callable[[], Any]) -> Any:
    """A value that the first run computes and the manifest keeps, for those that continue.

    Args:
      name: name of the value, not one of `meta`.
      compute: returns it; JSON-serialisable, lists and not tuples.
    """
    if name not in self._kept:
      self._kept[name] = compute()
    return self._kept[name]

  def missing(self, split: str, name: str) -> bool:
    """Whether a frame's file is yet to be written.

    Args:
      split: split of the records.
      name: name of the frame, as in its record.
    """
    return not os.path.exists(self.path(split, name))

  def path(self, split: str, name: str) -> str:
    """Where a frame's file is, or will be."""
    below = self._builder.network_depth_file(self._config, split, name)
    return os.path.join(self.folder, below)

  def write(self, split: str, name: str, values: np.ndarray) -> None:
    """Writes a frame's file atomically, and the manifest before the first one.

    Args:
      split: split of the records.
      name: name of the frame, as in its record.
      values: uint16 [H, W], x of the inverse depth Y = x / 256 + 1; 0 where there is no depth. Any
        size is allowed.

    Raises:
      ValueError: the values have another type or shape.
      UserError: files of another network appeared, or the file cannot be written.
    """
    if values.dtype != np.uint16 or values.ndim != 2 or not values.size:
      raise ValueError(f"values are {values.dtype}{values.shape}, expected uint16 [H, W]")
    if not self._begun:
      if not self._check():
        text = json.dumps(self._meta | {COMPUTED: self._kept}, indent=2) + "\n"
        with _written(os.path.join(self.folder, MANIFEST)) as partial:
          partial.write_text(text, encoding="utf-8")
      self._begun = True
    image = Image.fromarray(values)
    with _written(self.path(split, name)) as partial:
      image.save(partial, format="PNG")

  def hint(self, domain: str = "target") -> str:
    """Command-line options with which adaptation reads the files.

    Args:
      domain: the data set's role there, "source" or "target".
    """
    prefix, kind = f"--config.data.{domain}.", self._builder.NETWORK_DEPTH
    options = [f"{prefix}depth={kind}"]
    if self._apart or getattr(self._config, "depth_root", ""):
      options.append(f"{prefix}depth_root={self.folder if self._apart else ''}")
    if self._config.dataset == "folder":
      for split, pattern in self._builder.network_depth_patterns(self._config).items():
        if pattern != self._config.folder[split].depth:
          options.append(f"{prefix}folder.{split}.depth={pattern}")
    return shlex.join(options)

  def _check(self) -> bool:
    """Whether there is a manifest; raises UserError where the files must not be mixed."""
    path = os.path.join(self.folder, MANIFEST)
    try:
      with open(path, encoding="utf-8") as file:
        found = json.load(file)
    except FileNotFoundError:
      existing = self._existing()
      if existing is None:
        return False
      if os.path.exists(path):  # another process has begun meanwhile
        return self._check()
      raise UserError(
        f"{self.folder!r} holds depth files already, such as {existing!r}, and no {MANIFEST} that "
        "identifies their network: choose another folder, or delete these files"
      ) from None
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", error)
      raise UserError(
        f"{path!r} cannot be read ({reason}): choose another folder, or delete the files there"
      ) from error
    found = found if isinstance(found, dict) else {}
    self._kept = found.pop(COMPUTED, None) or {}
    there, now = flatten(found), flatten(self._meta)
    differing = [
      f"{key} ({there.get(key)!r} there, {now.get(key)!r} now)"
      for key in dict.fromkeys((*now, *there))
      if there.get(key) != now.get(key)
    ]
    if differing:
      raise UserError(
        f"the depth files in {self.folder!r} are of another network or data set, see {path!r}: "
        f"{', '.join(differing)}; choose another folder, or delete these files"
      )
    return True

  def _existing(self) -> str | None:
    """Location of a depth file that exists, or None."""
    if not os.path.isdir(self.folder) and self._apart:
      return None
    files = DataFiles(self.folder)
    for pattern in self._builder.network_depth_patterns(self._config).values():
      if found := Pattern(pattern).find(files):
        return min(found.values())
    return None


@contextlib.contextmanager
def _written(path: str) -> Iterator[Path]:
  """`atomic_write` that raises UserError."""
  try:
    with atomic_write(Path(path), unique=True) as partial:
      yield partial
  except OSError as error:
    raise UserError(
      f"{path!r} cannot be written ({error.strerror or error}): fix that, or choose another folder"
    ) from error
