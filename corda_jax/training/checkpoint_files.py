"""Reads the files of one checkpoint without its manager, and computes their checksums."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from corda_jax.console import errors_alone

SEAL = "checksums.json"  # next to the files of a complete checkpoint


def read_metadata(folder: Path) -> Any:
  """The tree of arrays in a folder, with metadata (shape, type) in place of each array.

  Raises:
    ValueError: the list of arrays is missing.
  """
  with errors_alone(), _reader() as reader:
    found = reader.metadata(folder)
  if found is None or found.item_metadata is None:
    raise ValueError("its list of arrays is missing")
  return found.item_metadata.tree


def read_arrays(folder: Path) -> dict[str, Any]:
  """The arrays in a folder, as nested dictionaries of NumPy arrays."""
  kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), read_metadata(folder))
  # Orbax warns about arrays read without shardings, which is intended here.
  with errors_alone(), _reader() as reader:
    return reader.restore(folder, restore_args=kinds)


def _reader() -> ocp.Checkpointer:
  """A reader of this process alone: it does not wait for others, which may not be reading."""
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(),
    active_processes={jax.process_index()},
    barrier_sync_key_prefix=f"alone_{jax.process_index()}",
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def checksums(folder: Path) -> dict[str, str]:
  """SHA-256 of all files below a folder except the seal, by relative path."""
  sums = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file() and path.name not in (SEAL, SEAL + ".partial"):
      with open(path, "rb") as file:
        sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
  return sums


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of the arrays of a tree, by slash-separated path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
