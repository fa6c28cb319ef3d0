"""Progress of a job over many items, one line per item, so that it can resume."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corda_jax.training.run_files import read_json_lines


class Journal:
  """The finished items, by name; discarded if they were made with other settings.

  Args:
    path: path of the file, one JSON object per line; the first is `made_by`.
    made_by: what all items are made with (inputs, settings), JSON-serialisable.
  """

  def __init__(self, path: Path, made_by: Mapping[str, Any]):
    """Reads existing entries; starts from scratch if `made_by` differs."""
    self._path = path
    self._entries: dict[str, dict[str, Any]] = {}
    header = json.loads(json.dumps(made_by))
    lines = read_json_lines(path)
    if lines[:1] == [header]:
      self._entries = {entry["name"]: entry for entry in lines[1:] if "name" in entry}
    else:
      path.unlink(missing_ok=True)
      self._append(header)

  def get(self, name: str, stamp: Any) -> dict[str, Any] | None:
    """The entry of an item if its `stamp` is the same, else None."""
    entry = self._entries.get(name)
    return entry if entry is not None and entry.get("stamp") == stamp else None

  def add(self, entry: dict[str, Any]) -> None:
    """Records a finished item, a JSON-serialisable entry with "name" and "stamp"."""
    self._entries[entry["name"]] = entry
    self._append(entry)

  def _append(self, value):
    with open(self._path, "a", encoding="utf-8") as file:
      # A newline before it, too: a line truncated by a kill must not spoil this one.
      file.write(("\n" if file.tell() else "") + json.dumps(value) + "\n")
      file.flush()
      os.fsync(file.fileno())
