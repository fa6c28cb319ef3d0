"""Depth files by Depth Anything, by the command: what is written, and what stops it."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.depth_anything import get_config
from corda_jax.depth import foundation
from corda_jax.depth.alignment import fit_affine
from corda_jax.depth.encodings import MANIFEST, to_disparity
from corda_jax.depth.estimator import load_depth_estimator
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.errors import UserError
from corda_jax.models.depth_anything import input_size
from corda_jax.pretrained.depth_anything_weights import read_depth_anything
from corda_jax.resize import resize_aligned, resize_centered, resize_cubic
from corda_jax.training.run_files import write_json
from corda_jax.training.sharding import make_mesh
from data_pipelines.raw_frames import RawFrame
from data_pipelines.readers import read_depth_png, read_rgb
from tests.command import refused, run
from tests.pretrained.test_depth_anything_weights import FOLDER, TINY

FILE = FOLDER / "files" / "depth_anything_v2.pth"
NETWORK = {
  "model.encoder.width": 8,
  "model.encoder.depth": 4,
  "model.encoder.heads": 2,
  "model.encoder.position_grid": 2,
  "model.encoder.levels": (0, 1, 2, 3),
  "model.width": 4,
  "model.level_widths": (4, 4, 4, 4),
}
DATA = {
  "data.target.height": 24,
  "data.target.width": 40,
  "data.street_world.enabled": True,
  "data.street_world.target_frames": 3,
  "data.street_world.validation_frames": 2,
  "data.street_world.target_height": 36,
  "data.street_world.target_width": 72,
  "data.prepare_processes": 1,
  "label_depth.input_size": 28,
}


def arguments(folder, config="configs/depth_anything.py", weights=FILE, **fields):
  fields = {
    **NETWORK,
    **DATA,
    "data.target.root": folder / "city",
    "label_depth.folder": folder / "files",
    "initial_weights": weights,
  } | {name.replace("__", "."): value for name, value in fields.items()}
  return [
    f"--config={config}",
    "--mode=label_depth",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


def predicted(path, network=TINY):
  """The network's map of an image, at the size of the files, in steps of their own."""
  params, _ = read_depth_anything(FILE, network)
  image = np.asarray(read_rgb(str(path)), np.float64)[None]
  x = (image / 255 - (0.485, 0.456, 0.406)) / np.array((0.229, 0.224, 0.225))
  size = input_size(image.shape[1:3], 28, 14)
  x = resize_cubic(jnp.asarray(x, jnp.float32), size)
  with jax.default_matmul_precision("highest"):
    y = network.apply({"params": params}, x)
  return np.asarray(resize_aligned(y[..., None], (24, 40)))[0, ..., 0]


@pytest.fixture(scope="module")
def city(tmp_path_factory):
  """A folder with the street world, and its raw files."""
  folder = tmp_path_factory.mktemp("foundation")
  output = run(arguments(folder, label_depth__encoding="raw"))
  assert "Assumed" in output.stdout
  assert "version 1" in output.stdout
  assert "--config.data.target.depth=mono" in output.stdout
  return folder


def images_and_files(folder, files):
  for image in sorted((folder / "city/leftImg8bit").rglob("*.png")):
    below = image.relative_to(folder / "city/leftImg8bit")
    yield image, folder / files / "disparity" / below


def test_raw_files_hold_the_predictions_over_one_quantile(city):
  pairs = list(images_and_files(city, "files"))
  assert len(pairs) == 5
  maps = {image: predicted(image) for image, _ in pairs}
  manifest = json.loads((city / "files/disparity/network_depth.json").read_text())
  largest = manifest["computed"]["scale"]["largest"]
  trained = np.stack([found for image, found in maps.items() if "train" in image.parts])
  assert largest == pytest.approx(np.quantile(trained, 0.999), rel=1e-5)
  for image, file in pairs:
    expected = np.rint(np.clip(maps[image] / largest, 0, 1) * 65535)
    assert np.abs(read_depth_png(str(file)).astype(int) - expected).max() <= 1
  assert_estimated(city / "city", city / "files")
  assert manifest["input_size"] == 28
  assert manifest["size"] == [24, 40]
  assert len(manifest["sha256"]) == 64


def test_a_stopped_job_goes_on_and_files_do_not_mix(city):
  files = [file for _, file in images_and_files(city, "files")]
  before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
  files[0].unlink()
  output = run(arguments(city, label_depth__encoding="raw", label_depth__fit_frames=1))
  assert files[0].read_bytes() == before[files[0]][0]  # by the scale that was kept
  assert {f: f.stat().st_mtime_ns for f in files[1:]} == {f: before[f][1] for f in files[1:]}
  assert "Scale" in output.stdout
  refused(
    arguments(city, label_depth__encoding="raw", label_depth__input_size=42), "input_size", 28, 42
  )
  renamed = city / "renamed.pth"
  renamed.write_bytes(FILE.read_bytes())
  run(arguments(city, weights=renamed, label_depth__encoding="raw"))
  (city / "other").symlink_to(city / "city")  # another data set would not have this scale
  other = arguments(city, label_depth__encoding="raw", data__target__root=city / "other")
  refused(other, "data set", "other")


def test_the_scale_is_of_some_frames_of_the_first_split_and_kept_for_others(city, tmp_path):
  fields = {"label_depth__encoding": "raw", "data__target__root": city / "city"}
  first = {"label_depth__fit_frames": 1, "label_depth__splits": "('validation',)"}
  run(arguments(tmp_path, **fields, **first))
  manifest = json.loads((tmp_path / "files" / MANIFEST).read_text())
  images = sorted((city / "city/leftImg8bit/val").rglob("*.png"))
  largest = np.quantile(predicted(images[0]), 0.999)
  assert manifest["computed"]["scale"]["largest"] == pytest.approx(largest, rel=1e-5)
  run(arguments(tmp_path, **fields))
  assert len(list((tmp_path / "files").rglob("*.png"))) == 5
  assert json.loads((tmp_path / "files" / MANIFEST).read_text()) == manifest


def align(city, folder, known, **fields):
  """Labels with known inverse depth of the frames; (file, prediction, known) of each."""
  found = []
  for number, (image, file) in enumerate(images_and_files(city, "files")):
    below = file.relative_to(city / "files")
    depth = known(number, predicted(image))
    path = folder / "known" / below
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_disparity(depth)).save(path)
    found.append((folder / "files" / below, predicted(image), depth))
  output = run(
    arguments(
      folder,
      data__target__root=city / "city",
      data__target__depth="mono",
      data__target__depth_root=folder / "known",
      **fields,
    )
  )
  return found, output


def read(file):
  return read_depth_png(str(file)) / 256 + 1


@pytest.mark.parametrize("fit", ["dataset", "frame"])
def test_aligned_files_have_the_scale_of_known_depth(city, tmp_path, fit, monkeypatch):
  monkeypatch.setattr(foundation, "_FIT_PIXELS", 300)
  monkeypatch.setattr(
    foundation, "fit_affine", lambda x, y: used.append(len(x)) or fit_affine(x, y)
  )
  used = []

  def known(number, found):
    depth = 20 * found + 10 + number
    wrong = np.random.RandomState(number).uniform(size=depth.shape) < 0.1
    depth[wrong] = 250
    depth[::2] = 1  # half is unknown
    return depth

  files, output = align(city, tmp_path, known, label_depth__fit=fit)
  assert "Aligned with 900 pixels" in output.stdout
  assert used == [900] if fit == "dataset" else [900] + 5 * [300]
  for number, (file, found, _) in enumerate(files):
    # The map for all is that of the second of three training frames.
    offset = 11 if fit == "dataset" else 10 + number
    np.testing.assert_allclose(read(file), 20 * found + offset, atol=0.03)
  if fit == "dataset":
    assert_estimated(city / "city", tmp_path / "files")
  else:
    with pytest.raises(UserError, match="fit='dataset'"):
      load_depth_estimator(str(tmp_path / "files"), str(FILE))


def test_a_frame_whose_known_depth_is_reversed_or_little_gets_the_map_of_all(city, tmp_path):
  def known(number, found):
    depth = (20 if number != 1 else -20) * found + 100
    if number == 4:  # fewer than 100 pixels, of another scale
      depth[:] = np.where(np.arange(found.size).reshape(found.shape) % 16 == 0, depth + 50, 1)
    return depth

  files, _ = align(city, tmp_path, known, label_depth__fit="frame")
  for file, found, _ in files:
    np.testing.assert_allclose(read(file), 20 * found + 100, atol=0.03)


def assert_estimated(folder_of_city, files):
  """Images get the depth of their files, which are smaller here."""
  images = {image.name: image for image in folder_of_city.rglob("leftImg8bit/*/*/*.png")}
  estimator = load_depth_estimator(str(files), str(FILE))
  found = sorted(files.rglob("*.png"))
  assert found
  for file in found:
    pixels = np.asarray(read_rgb(str(images[file.name])))[None]
    depth = np.asarray(estimator.inverse_depth(estimator.variables, pixels))[0]
    expected = resize_centered(jnp.asarray(read(file))[None, ..., None], pixels.shape[1:3])
    np.testing.assert_allclose(depth, expected[0, ..., 0], atol=1 / 256 + 1e-5)


@pytest.mark.parametrize("computed", [None, {"weights": FILE.name}])
def test_a_manifest_without_the_scale_is_named(city, tmp_path, computed):
  manifest = json.loads((city / "files" / MANIFEST).read_text())
  write_json(tmp_path / MANIFEST, manifest | {"computed": computed})
  with pytest.raises(UserError, match=r"network_depth\.json lacks .*scale"):
    load_depth_estimator(str(tmp_path), str(FILE))


def test_what_falls_where_inverse_depth_rises_is_refused(city, tmp_path):
  with pytest.raises(UserError, match="metric network"):
    align(city, tmp_path, lambda number, found: 100 - 20 * found)
  assert not list((tmp_path / "files").rglob("*.png"))
  for same in (1, 200):  # no depth, and one depth
    with pytest.raises(UserError, match="has depth to align with"):
      align(city, tmp_path, lambda number, found, same=same: np.full_like(found, same))
  assert not list((tmp_path / "files").rglob("*.png"))


def test_a_metric_network_writes_metres(city, tmp_path):
  run(
    arguments(
      tmp_path,
      "configs/depth_anything.py:S,metric",
      data__target__root=city / "city",
      label_depth__splits="('validation',)",
    )
  )
  network = TINY.clone(max_depth=80.0)
  files = sorted((tmp_path / "files").rglob("*.png"))
  assert len(files) == 2
  for image, file in images_and_files(city, "files"):
    own = tmp_path / "files" / file.relative_to(city / "files")
    if own in files:
      np.testing.assert_allclose(
        read(own), from_metres(predicted(image, network).astype(float)), atol=0.01
      )
  assert_estimated(city / "city", tmp_path / "files")


def test_images_of_several_sizes_and_bad_ones(tmp_path, random):
  (tmp_path / "images").mkdir()
  sizes = {"a": (30, 40), "b": (50, 20), "c": (30, 40)}
  for name, size in sizes.items():
    Image.fromarray(random.randint(0, 256, (*size, 3), np.uint8)).save(
      tmp_path / f"images/{name}.png"
    )
  (tmp_path / "images/broken.png").write_bytes(b"no image")
  fields = {
    "data__street_world__enabled": False,
    "data__target__dataset": "folder",
    "data__target__root": tmp_path,
    "data__target__depth": "none",
    "data__target__folder__train__images": "images/{name}.png",
    "label_depth__splits": "('train',)",
    "label_depth__encoding": "raw",
  }
  refused(arguments(tmp_path, **fields), "broken.png", "data.bad_frames")
  alone = {"data__target__folder__train__images": "images/br{name}.png", "data__bad_frames": "skip"}
  refused(arguments(tmp_path, **fields | alone), "none of 1 frames of train")
  run(arguments(tmp_path, **fields, data__bad_frames="skip"))
  files = sorted((tmp_path / "files").rglob("*.png"))
  assert [file.stem for file in files] == ["a", "b", "c"]
  largest = np.quantile(
    np.stack([predicted(tmp_path / f"images/{name}.png") for name in sizes]), 0.999
  )
  for file in files:
    expected = np.clip(predicted(tmp_path / f"images/{file.name}") / largest, 0, 1) * 65535
    assert np.abs(read_depth_png(str(file)) - expected).max() <= 1


def test_images_of_many_sizes_do_not_wait_for_the_last():
  task = SimpleNamespace(
    mesh=make_mesh(jax.devices()),
    options=SimpleNamespace(batch_size=4),
    predict=lambda _, images: images.mean(-1),
  )
  left = iter([RawFrame(str(n), np.full((1 + n, 8, 3), n, np.uint8)) for n in range(50)])
  predicted = foundation._predicted(task, None, left)
  first = next(predicted)
  assert len(list(left)) == 50 - 33
  assert {name: found[0, 0] for name, found in (first, *predicted)} == {
    str(n): n for n in range(33)
  }


def test_values_that_cannot_work_are_named(tmp_path):
  refused(arguments(tmp_path, weights=""), "initial_weights")
  refused(arguments(tmp_path, weights=tmp_path / "none.pth"), "none.pth")
  refused(arguments(tmp_path, label_depth__encoding="metric"), "max_depth", "'aligned'")
  refused(arguments(tmp_path, label_depth__encoding="sigmoid"), "label_depth.encoding", "aligned")
  refused(arguments(tmp_path, data__target__depth="none"), "data.target.depth", "'raw'")
  refused(arguments(tmp_path, label_depth__splits="()"), "label_depth.splits")
  refused(arguments(tmp_path, label_depth__batch_size=3), "label_depth.batch_size", 3, 4)
  refused(
    [*arguments(tmp_path, label_depth__encoding="raw", model__encoder__width=16)],
    "8 channels",
    "16",
  )
  with pytest.raises(ValueError, match="expected S, B or L"):
    get_config("XL")
  assert get_config("L,v1").model.encoder.levels == (20, 21, 22, 23)
