"""Preparation by TFDS's Beam path with the direct runner; the extra `beam` installs it."""

import pytest
from tiny_trees import write_gta5

from data_pipelines import prepare

pytest.importorskip("apache_beam")


def arguments(root, records, *others):
  options = ["--dataset=gta5", f"--root={root}", f"--records_dir={records}", "--depth=disparity"]
  return [*options, "--height=16", "--width=24", *others]


@pytest.mark.parametrize("bad", [False, True])
def test_records_and_report_are_those_of_one_process(tmp_path, bad, monkeypatch):
  monkeypatch.setattr("data_pipelines.datasets.base.SHARD_FRAMES", 2)
  root = write_gta5(tmp_path / "files", frames=7)
  if bad:
    (root / "labels/00004.png").unlink()
  options = ["--bad_frames=skip"]
  assert prepare.main(arguments(root, tmp_path / "alone", *options, "--processes=1")) == 0
  beam = "--beam_options=--runner=DirectRunner,--direct_num_workers=1"
  assert prepare.main(arguments(root, tmp_path / "beam", *options, beam)) == 0
  assert files(tmp_path / "beam") == files(tmp_path / "alone")


def files(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*.*")
    if (path.is_file() and "array_record" in path.name) or path.name == "metadata.json"
  }


def test_a_bad_frame_stops_it(tmp_path, capsys):
  root = write_gta5(tmp_path / "files", frames=7)
  (root / "labels/00004.png").write_bytes(b"")
  given = arguments(root, tmp_path / "beam", "--beam_options=--runner=DirectRunner")
  assert prepare.main(given) == 1
  assert "labels/00004.png" in capsys.readouterr().err
