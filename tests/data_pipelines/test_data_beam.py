"""Preparation by TFDS's Beam path with the direct runner; the extra `beam` installs it."""

import pytest
from tiny_trees import dataset_config, run, write_gta5

from corda_jax.errors import UserError

pytest.importorskip("apache_beam")

BEAM = ("--runner=DirectRunner", "--direct_num_workers=1")


@pytest.mark.parametrize("bad", [False, True])
def test_records_and_report_are_those_of_one_process(tmp_path, bad):
  root = write_gta5(tmp_path / "files", frames=7)
  if bad:
    (root / "labels/00004.png").unlink()
  config, options = dataset_config("gta5", root, "disparity"), {"bad_frames": "skip"}
  alone = run(config, tmp_path / "alone", shard_frames=2, **options)
  beam = run(config, tmp_path / "beam", shard_frames=2, beam=BEAM, **options)
  assert beam.report == alone.report
  assert files(beam) == files(alone)
  assert len(files(beam)) == 4


def files(builder):
  return {path.name: path.read_bytes() for path in builder.data_path.glob("*.array_record*")}


def test_a_bad_frame_stops_it(tmp_path):
  root = write_gta5(tmp_path / "files", frames=7)
  (root / "labels/00004.png").write_bytes(b"")
  with pytest.raises(UserError, match=r"labels/00004\.png"):
    run(dataset_config("gta5", root, "disparity"), tmp_path / "beam", beam=BEAM)
