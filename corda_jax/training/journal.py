"""What a job over many items has done: a file with a line for each, in which it goes on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corda_jax.training.run_files import read_json_lines


class Journal:
  """The items that were done, by name; forgotten where they were done by other means.

  Args:
    path: of the file, one JSON object a line, the first of them `made_by`.
    made_by: JSON-ready; what all items were made by.
  """

  def __init__(self, path: Path, made_by: Mapping[str, Any]):
    """Reads what is there; starts over where it was made by something else."""
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
    """The entry of an item, if it was made from what bears the same `stamp`."""
    entry = self._entries.get(name)
    return entry if entry is not None and entry.get("stamp") == stamp else None

  def add(self, entry: dict[str, Any]) -> None:
    """Takes in an item that is done: JSON-ready, with "name" and "stamp"."""
    self._entries[entry["name"]] = entry
    self._append(entry)

  def _append(self, value):
    with open(self._path, "a", encoding="utf-8") as file:
      # Before it, too: a line that a kill cut short must not take this one with it.
      file.write(("\n" if file.tell() else "") + json.dumps(value) + "\n")
      file.flush()
      os.fsync(file.fileno())
