"""Stops preparations, and tells what they had finished."""

from pathlib import Path

import pytest
from tiny_trees import run

from data_pipelines import builder as builder_module


def partial(records: Path) -> Path:
  return records / "gta5/24x16_disparity/partial.2.0.0"


def finished(records: Path) -> dict[str, tuple[int, int]]:
  """Record file of each finished shard → what changes when it is written anew."""
  stats = {
    path.stem: path.with_suffix(".array_record").stat() for path in partial(records).glob("*.json")
  }
  return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def stop_after(monkeypatch, count):
  """Makes preparation fail, as a kill would, after so many frames; returns those it made."""
  made = []
  real = builder_module.prepare_item

  def prepare_item(item):
    if len(made) == count:
      raise KeyboardInterrupt
    made.append(item[0].name)
    return real(item)

  monkeypatch.setattr(builder_module, "prepare_item", prepare_item)
  return made


def interrupted(monkeypatch, config, records, frames, **options):
  with monkeypatch.context() as patch:
    made = stop_after(patch, frames)
    with pytest.raises(KeyboardInterrupt):
      run(config, records, **options)
  return made


def frames_made(monkeypatch, config, records, **options):
  with monkeypatch.context() as patch:
    made = stop_after(patch, -1)
    return run(config, records, **options), made
