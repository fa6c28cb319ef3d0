"""A network that sees depth, by the command: trained, evaluated, and given nothing but an image."""

import contextlib
import json

import numpy as np
import pytest
from absl import flags
from PIL import Image

from corda_jax import command_line, main
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.encodings import MANIFEST
from corda_jax.inference.bundle import read_bundle
from corda_jax.inference.depth_input import with_depth_network
from tests.command import ROOT, arguments, refused, run
from tests.depth.test_foundation import FILE
from tests.depth.test_foundation import arguments as label_arguments

CONFIG = """
from configs import default, demo
from corda_jax.models.encoders.resnet import ResNet


def get_config():
  config = demo.get_config("as_released")
  default.without_depth(config)
  encoder = demo.SMALL_ENCODER.clone(stage_sizes=(1,), strides=(2,), dilations=(1,), width=4)
  config.model.encoder.update({"stage_sizes": (1,), "strides": (2,), "dilations": (1,)})
  default.depth_as_input(config, encoder.clone(stem_kernel=3), dropout_block=16)
  config.data.source.depth = "disparity"
  return config
"""
SIZE = {
  f"data__street_world__target_{side}": n for side, n in (("height", 32), ("width", 64))
}  # the working resolution: prediction sees the same images as the files' network


def fields(folder):
  files = folder / "files"
  return {
    **SIZE,
    "config": str(folder / "seen.py"),
    "data__target__depth": "mono",
    "data__target__depth_root": files,
    "model__decoder__width": 0,
    "prediction__depth_weights": FILE,
    "prediction__write": "('label', 'inverse_depth')",
  }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with depth files of the target and a network that was trained on them."""
  folder = tmp_path_factory.mktemp("depth_input")
  (folder / "seen.py").write_text(CONFIG)
  size = SIZE | {"data__target__height": 32, "data__target__width": 64}
  size |= {"data__target__root": folder / "cityscapes"}
  size |= {"data__street_world__validation_frames": 3}
  run(label_arguments(folder, label_depth__encoding="raw", **size))
  run(arguments(folder, **fields(folder)))
  return folder


def disparity(path):
  return np.asarray(Image.open(path)).astype(np.float32) / 256 + 1


def test_it_is_scored_and_predicts_no_depth(trained):
  results = json.loads((trained / "run/results.json").read_text())
  assert results["frames"] == 3
  assert "depth" not in results


def test_an_image_alone_is_seen_with_the_depth_of_its_file(trained):
  values, line = flags.FlagValues(), ["main", *arguments(trained, **fields(trained))]
  command_line.define_flags(values, line)
  with contextlib.chdir(ROOT):
    task = AdaptationTask.from_config(main.parse(line, values).config)
  variables, read = with_depth_network(task, {})
  for image in (trained / "cityscapes/leftImg8bit").rglob("*.png"):
    pixels = np.asarray(Image.open(image))[None]
    file = trained / "files/disparity" / image.relative_to(trained / "cityscapes/leftImg8bit")
    depth = disparity(file)
    assert np.ptp(depth) > 1
    x = np.asarray(read(variables, pixels))[0]
    np.testing.assert_allclose(x[..., 3], np.log(depth) / 3, atol=1e-3)
    np.testing.assert_allclose(x[..., :3], task.normalization.normalize(pixels)[0], rtol=1e-5)


def test_an_image_gives_classes_and_depth_by_prediction_and_by_a_bundle(trained):
  image = min((trained / "cityscapes/leftImg8bit/val").rglob("*.png"))
  run(arguments(trained, mode="predict", **fields(trained), prediction__input=image))
  run(arguments(trained, mode="export", **fields(trained)))
  bundle = read_bundle(trained / "run/bundle")
  assert set(bundle.information["outputs"]) == {"label", "logits", "inverse_depth"}
  made_by = json.loads((trained / "files" / MANIFEST).read_text())
  assert bundle.information["depth_network"] == made_by
  assert made_by["licence"] == "see their page"  # of the first version
  found = bundle.predict(np.asarray(Image.open(image))[None])
  maps = trained / f"run/predictions/{image.stem}"
  label = np.asarray(Image.open(maps / f"{image.stem}_label.png"))
  np.testing.assert_array_equal(found["label"][0], label)
  seen = trained / "files/disparity" / image.relative_to(trained / "cityscapes/leftImg8bit")
  for depth in (disparity(maps / f"{image.stem}_inverse_depth.png"), found["inverse_depth"][0]):
    np.testing.assert_allclose(depth, disparity(seen), rtol=1e-3)


def test_an_image_is_predicted_again_when_its_depth_would_be_another(trained):
  image = min((trained / "cityscapes/leftImg8bit/val").rglob("*.png"))
  flags_given = arguments(trained, mode="predict", **fields(trained), prediction__input=image)
  run(flags_given)
  assert "already predicted" in run(flags_given).stdout
  manifest = trained / "files" / MANIFEST
  text = manifest.read_text()
  changed = json.loads(text)
  changed["computed"]["scale"]["largest"] *= 2
  manifest.write_text(json.dumps(changed))
  try:
    assert "already predicted" not in run(flags_given).stdout
  finally:
    manifest.write_text(text)


def test_what_is_missing_or_of_another_network_is_named(trained, tmp_path):
  image = min((trained / "cityscapes/leftImg8bit/val").rglob("*.png"))
  values = fields(trained) | {"prediction__input": image}

  def refuses(*words, **changed):
    refused(arguments(trained, mode="predict", **values | changed), *words)

  refuses("prediction.depth_weights", prediction__depth_weights="")
  refuses("network_depth.json", prediction__depth_files=tmp_path)
  other = tmp_path / "other.pth"
  other.write_bytes(FILE.read_bytes() + b"0")
  refuses("other.pth", FILE.name, prediction__depth_weights=other)
  refused(
    arguments(trained, "again", **fields(trained) | {"data__target__depth": "none"}),
    "data.target.depth",
  )
