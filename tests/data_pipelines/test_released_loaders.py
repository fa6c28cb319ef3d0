"""What the input benchmark compares with gives what the released loaders give."""

import numpy as np
import pytest

from benchmarks.reference.released_loaders import Stopwatch, load_source, load_target
from benchmarks.speed import input_frames, input_pipeline
from tests.golden import files


@pytest.mark.parametrize("name", list(input_pipeline.KINDS))
def test_the_restatement_gives_what_the_released_loaders_give(name):
  kind, tested = input_pipeline.KINDS[name], 0
  for path in files("loaders"):
    values = dict(np.load(path))
    roots = {"gta5": "gta", "synthia": "RAND_CITYSCAPES", "cityscapes": "CityScapes"}
    root = str(path.parent / "datasets" / roots[kind.dataset])
    for index in sorted({key.split("/")[1] for key in values if key.startswith(f"{name}/")}):
      image, label, depth, (x, y) = (
        values[f"{name}/{index}/{key}"] for key in ("image", "label", "depth", "crop_xy")
      )
      frame = input_frames.find_frames(kind, root)["train"][int(index)]
      load, what = (load_source, kind.dataset) if kind.is_source else (load_target, kind.depth)
      place = {"crop": image.shape[:2], "corner": (int(y), int(x)), "watch": Stopwatch()}
      given = load(frame, what, size=kind.size, **place)
      mean_rgb = (122.67891434, 116.66876762, 104.00698793)
      rgb = given[0].transpose(1, 2, 0)[..., ::-1] + np.float32(mean_rgb)
      np.testing.assert_array_equal(np.rint(rgb), image)
      np.testing.assert_array_equal(given[1], label)
      np.testing.assert_array_equal(given[2], depth)
      assert all(seconds > 0 for seconds in place["watch"].seconds.values())
      tested += 1
  assert tested
