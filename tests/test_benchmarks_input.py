"""The input benchmark runs from nothing at a small size, and what it compares with is faithful."""

import dataclasses

import numpy as np
import pytest

from benchmarks import input_frames, input_pipeline, released_loaders
from benchmarks.released_loaders import Stopwatch, load_source, load_target
from corda_jax.errors import UserError
from tests.golden import files

ROOTS = {"gta5": "gta", "synthia": "RAND_CITYSCAPES", "cityscapes": "CityScapes"}
ENTRIES = [
  (path, *entry)
  for path in files("loaders")
  for entry in sorted({tuple(key.split("/")[:2]) for key in np.load(path).files})
  if entry[0] != "cityscapes_val"
]


@pytest.mark.parametrize(("path", "name", "index"), ENTRIES)
def test_the_restatement_gives_what_the_released_loaders_give(path, name, index):
  kind = input_pipeline.KINDS[name]
  with np.load(path) as file:
    image, label, depth, (x, y) = (
      file[f"{name}/{index}/{key}"] for key in ("image", "label", "depth", "crop_xy")
    )
  root = str(path.parent / "datasets" / ROOTS[kind.dataset])
  frame = input_frames.find_frames(kind, root)["train"][int(index)]
  load, argument = (load_source, kind.dataset) if kind.is_source else (load_target, kind.depth)
  crop, watch = image.shape[:2], Stopwatch()
  given = load(frame, argument, size=kind.size, crop=crop, corner=(int(y), int(x)), watch=watch)
  rgb = (given[0].transpose(1, 2, 0) + released_loaders._MEAN_BGR)[..., ::-1]
  np.testing.assert_array_equal(np.rint(rgb), image)
  np.testing.assert_array_equal(given[1], label)
  # Pillow's bilinear filter, which stands in for OpenCV's, differs from it only in GTA5.
  tolerance = 0.05 * np.ptp(depth) if name == "gta5" else 0
  np.testing.assert_allclose(given[2], depth, atol=tolerance, rtol=0)
  assert all(seconds > 0 for seconds in watch.seconds.values())


@pytest.mark.long
def test_times_every_kind_and_says_where_the_time_goes(tmp_path, monkeypatch, capsys):
  small = {
    name: dataclasses.replace(kind, files=(48, 80), size=(40, 64))
    for name, kind in input_pipeline.KINDS.items()
  }
  for module in (input_frames, input_pipeline):
    monkeypatch.setattr(module, "KINDS", small)
  default = input_pipeline.get_config

  def get_config():
    config = default()
    config.data.crop_height, config.data.crop_width = 32, 48
    return config

  monkeypatch.setattr(input_pipeline, "get_config", get_config)
  arguments = ["--frames=4", "--rendered=2", "--seconds=0.05", f"--workdir={tmp_path}"]
  input_pipeline.main(arguments)
  printed = capsys.readouterr().out
  for name in small:
    assert f"| {name} |" in printed
  for part in ("decode the image", "map the label", "read", "decode the inverse depth's crop"):
    assert f"| {part} |" in printed
  assert printed.count("By projection 16 cores feed") == 4
  assert "Memory: 5 batches of" in printed
  assert len(list((tmp_path / "gta5_2_4" / "images").iterdir())) == 4


def test_the_projection():
  fast = input_pipeline.Result(1.0, 1.0, {"a": 80.0}, {"b": 3.0, "c": 2.0})
  slow = input_pipeline.Result(1.0, 1.0, {"a": 120.0}, {"b": 13.0, "c": 2.0})
  results = {"gta5": fast, "cityscapes_mono": slow}
  told = input_pipeline.projection(results, "gta5", "cityscapes_mono")
  assert "100 samples a second a core (released: 10.0)" in told
  assert "16 cores feed 400 steps a second of batch 2 + 2; 100 steps want 25 %" in told
  assert "| gta5 | 1.0 | 1.0 | 80.0 | 5.00 | 16.0 |" in input_pipeline.table(results)


def test_mistakes_are_told():
  with pytest.raises(UserError, match="--frames is 0, wanted more than 0"):
    input_pipeline.main(["--frames=0"])
