"""Preparation by Apache Beam's direct runner; the extra `beam` installs it."""

import argparse
import re

import pytest
from tiny_trees import write_gta5

from data_pipelines import prepare

beam = pytest.importorskip("apache_beam")


def arguments(root, records, *others):
  size = ["--height=16", "--width=24", "--shard_frames=2"]
  return ["--dataset=gta5", f"--root={root}", f"--records_dir={records}", *size, *others]


def files(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file() and not path.name.startswith(".")
  }


def test_records_are_those_of_one_process(tmp_path, capsys):
  from data_pipelines import prepare_beam

  root = write_gta5(tmp_path / "files", frames=7)
  depth = "--depth=disparity"
  assert prepare.main(arguments(root, tmp_path / "alone", depth, "--processes=1")) == 0
  assert prepare_beam.main(arguments(root, tmp_path / "beam", depth, "--workers=3")) == 0
  assert re.search(r"train.*\b7\b.*\b7\b", capsys.readouterr().out)
  assert files(tmp_path / "beam") == files(tmp_path / "alone")


def test_parts_are_prepared_apart(tmp_path):
  from data_pipelines import prepare_beam

  root = write_gta5(tmp_path / "files", frames=7)
  given = arguments(root, tmp_path / "beam", "--depth=disparity", "--workers=3")
  options = prepare.make_parser().parse_args(given)
  prepare_beam.prepare_part(1, options)
  builder = prepare.prepare_as_asked(
    argparse.Namespace(**{**vars(options), "worker": 0}), progress=False
  )
  assert not builder.is_prepared()
  assert len(builder.missing_shards()) == 1  # of four: parts 0 and 1 have made three


def test_a_bad_frame_is_told_once(tmp_path, capsys):
  from data_pipelines import prepare_beam

  root = write_gta5(tmp_path / "files", frames=7)
  (tmp_path / "files" / "labels" / "00004.png").unlink()
  given = arguments(root, tmp_path / "beam", "--depth=disparity", "--workers=3")
  assert prepare_beam.main(given) == 1
  assert "labels/00004.png" in capsys.readouterr().err
