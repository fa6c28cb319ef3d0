"""The files of one checkpoint: read without its manager, and their checksums."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from corda_jax.console import errors_alone

SEAL = "checksums.json"  # beside the files of a checkpoint that is whole


def read_metadata(folder: Path) -> Any:
  """The tree of arrays in a folder, with their shapes in place of them.

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
  # Orbax warns of arrays read without shardings, which is intended here.
  with errors_alone(), _reader() as reader:
    return reader.restore(folder, restore_args=kinds)


def _reader() -> ocp.Checkpointer:
  """Reads by itself, without waiting for other processes, who may not be asked."""
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(),
    active_processes={jax.process_index()},
    barrier_sync_key_prefix=f"alone_{jax.process_index()}",
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def checksums(folder: Path) -> dict[str, str]:
  """SHA-256 by path of all files below a folder but the seal itself."""
  sums = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file() and path.name not in (SEAL, SEAL + ".partial"):
      with open(path, "rb") as file:
        sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
  return sums


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of a tree's arrays by their paths."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
