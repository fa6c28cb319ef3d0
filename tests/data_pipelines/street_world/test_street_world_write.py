"""Files: encodings, layouts, resuming, and the command line."""

import dataclasses
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow
from PIL import Image
from scipy import io as scipy_io

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines.street_world import __main__ as command
from data_pipelines.street_world import domains, encodings, formats, png, preview, write
from data_pipelines.street_world import scene as scene_lib

SIZE = {"seed": 3, "height": 24, "width": 48, "progress": False}
ONE = {**SIZE, "processes": 1}


def files_of(root):
  return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(path):
  return np.asarray(Image.open(path))


def expected(layout, index, *, split="train", domain=domains.SYNTHETIC):
  entropy = formats.entropy_of(SIZE["seed"], layout, split, index)
  return preview.make_frame(domain, entropy, height=SIZE["height"], width=SIZE["width"])


def depth_of(inverse):
  return 655.36 / inverse - 0.01


@pytest.mark.parametrize(
  ("dtype", "shape"),
  [
    (np.uint8, (5, 7)),
    (np.uint8, (5, 7, 3)),
    (np.uint16, (5, 7)),
    (np.uint16, (5, 7, 3)),
    (np.uint16, (1, 1, 3)),
  ],
)
def test_png_is_read_back_by_another_decoder(dtype, shape):
  array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
  decoded = tensorflow.io.decode_png(png.encode(array), dtype=tensorflow.as_dtype(dtype)).numpy()
  np.testing.assert_array_equal(decoded.reshape(shape), array)


def test_png_refuses_what_it_cannot_hold():
  with pytest.raises(ValueError, match="float64"):
    png.encode(np.zeros((2, 2)))
  with pytest.raises(ValueError, match=r"\(2, 2, 4\)"):
    png.encode(np.zeros((2, 2, 4), np.uint16))


def test_inverse_depth_decodes_within_its_quantisation():
  depth = np.geomspace(2.6, 600, 4000).astype(np.float32)[None]
  x = encodings.inverse_depth_file(encodings.inverse_depth(depth))
  decoded = x / 256 + 1
  np.testing.assert_allclose(decoded, 655.36 / (depth.astype(float) + 0.01), atol=0.501 / 256)
  near = depth < 50
  np.testing.assert_allclose(depth_of(decoded)[near], depth[near], rtol=2e-4)
  ends = encodings.inverse_depth_file(
    encodings.inverse_depth(np.array([[np.inf, 5000.0, 0.5]], np.float32))
  )
  assert ends.tolist() == [[0, 0, 65535]]


def test_centimetres_and_disparity_decode_within_their_quantisation():
  depth = np.array([[2.0, 5.123, 33.337, 655.0, 900.0, np.inf]], np.float32)
  found = encodings.centimetres_file(depth)
  np.testing.assert_allclose(found[0, :4] / 100, depth[0, :4], atol=0.00501)
  assert found[0, 4:].tolist() == [65535, 65535]
  found = encodings.disparity_file(depth, 140.0, 0.2)
  np.testing.assert_allclose((found[0, :5] - 1.0) / 256, 28 / depth[0, :5], atol=0.501 / 256)
  assert found[0, 5] == 0


def test_stereo_file_has_metres_and_no_time_of_day(monkeypatch):
  depth = np.array([[2.5, np.inf], [40.0, 7.0]], np.float32)
  first = encodings.stereo_depth_file(depth)
  monkeypatch.setattr(time, "asctime", lambda *a: "another day")
  assert encodings.stereo_depth_file(depth) == first
  found = scipy_io.loadmat(io.BytesIO(first))["depth_map"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, [[2.5, 0], [40.0, 7.0]])


def test_monocular_estimate_errs_as_stated():
  depth = np.full((40, 60), 20.0, np.float32)
  exact = encodings.monocular_estimate(depth, error=0.0, blur=0.0, rng=np.random.default_rng(0))
  np.testing.assert_allclose(exact, encodings.inverse_depth(depth))
  ratios = []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    estimate = encodings.monocular_estimate(depth, error=0.1, blur=1.0, rng=rng)
    ratios.append(np.log(estimate / exact)[0, 0])  # a corner of the coarse grid
    assert np.abs(np.diff(estimate / exact)).max() < 0.05  # smooth
  assert np.std(ratios) == pytest.approx(0.1, rel=0.3)
  depth[:, 30:] = 5.0
  blurred = encodings.monocular_estimate(depth, error=0.0, blur=2.0, rng=np.random.default_rng(0))
  assert exact[0, 0] < blurred[0, 29] < blurred[0, 30] < encodings.inverse_depth(depth)[0, 30]


def test_gta5_layout(tmp_path):
  root = write.write_gta5(tmp_path / "gta", frames=2, **ONE)
  names = {f"{folder}/0000{k}.png" for folder in ("images", "labels", "disparity") for k in (1, 2)}
  assert set(files_of(root)) == names | {"street_world.json"}
  for k in (1, 2):
    frame = expected("gta5", k - 1)
    np.testing.assert_array_equal(read(root / f"images/0000{k}.png"), frame.image)
    ids = read(root / f"labels/0000{k}.png")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(labels.CITYSCAPES_TO_TRAIN[ids], frame.label)
    x = read(root / f"disparity/0000{k}.png")
    assert x.dtype == np.uint16
    sky = frame.label == 10
    assert (x[sky] == 0).all()
    near = (frame.depth > 2.6) & (frame.depth < 100)
    assert near.mean() > 0.5
    np.testing.assert_allclose(depth_of(x / 256 + 1)[near], frame.depth[near], rtol=5e-4)


def test_synthia_layout(tmp_path):
  root = write.write_synthia(tmp_path / "synthia", frames=1, **ONE)
  folders = ("RGB", "GT/LABELS", "synthia_mapped_to_cityscapes", "Depth/Depth")
  assert set(files_of(root)) == {f"{f}/0000000.png" for f in folders} | {"street_world.json"}
  frame = expected("synthia", 0)
  both = tensorflow.io.decode_png(
    (root / "GT/LABELS/0000000.png").read_bytes(), dtype=tensorflow.uint16
  ).numpy()
  np.testing.assert_array_equal(labels.SYNTHIA_TO_TRAIN[both[..., 0]], frame.label)
  np.testing.assert_array_equal(both[..., 1], frame.instance)
  mapped = read(root / "synthia_mapped_to_cityscapes/0000000.png")
  assert mapped.dtype == np.uint8
  np.testing.assert_array_equal(mapped, both[..., 0])
  np.testing.assert_array_equal(read(root / "RGB/0000000.png"), frame.image)
  depth = read(root / "Depth/Depth/0000000.png")
  assert depth.dtype == np.uint16
  known = frame.depth < 600
  np.testing.assert_allclose(depth[known] / 100, frame.depth[known], atol=0.0051)
  assert (depth[np.isinf(frame.depth)] == 65535).all()


def test_cityscapes_layout(tmp_path):
  root = write.write_cityscapes(
    tmp_path / "city", train_frames=6, validation_frames=1, neighbours=2, mono_error=0.0,
    mono_blur=0.0, **ONE,
  )  # fmt: skip
  frames = [("train", f"{c}/{c}_000000") for c in formats.CITIES["train"]]
  frames += [("train", "{0}/{0}_000001".format(formats.CITIES["train"][0]))]
  frames += [("val", "{0}/{0}_000000".format(formats.CITIES["val"][0]))]
  desired = {"street_world.json"}
  for split, name in frames:
    here = f"{split}/{name}"
    desired |= {
      f"leftImg8bit/{here}_000019_leftImg8bit.png",
      f"rightImg8bit/{here}_000019_rightImg8bit.png",
      f"gtFine/{here}_000019_gtFine_labelIds.png",
      f"camera/{here}_000019_camera.json",
      f"disparity/{here}_000019_disparity.png",
    }
    desired |= {f"leftImg8bit_sequence/{here}_{k:06d}_leftImg8bit.png" for k in range(17, 22)}
    if split == "train":
      desired |= {
        f"depth/{here}_000019_depth_stereoscopic.mat",
        f"disparity/{here}_000019_leftImg8bit.png",
      }
  found = files_of(root)
  assert set(found) == desired

  index = 5
  split, name = frames[index]
  frame = expected("cityscapes", index, domain=domains.REAL)

  def path(folder, ending, step=0):
    return root / f"{folder}/{split}/{name}_{19 + step:06d}_{ending}"

  ids = read(path("gtFine", "gtFine_labelIds.png"))
  np.testing.assert_array_equal(labels.CITYSCAPES_TO_TRAIN[ids], frame.label)
  assert (ids[frame.label == 255] == 1).all()
  left = read(path("leftImg8bit", "leftImg8bit.png"))
  np.testing.assert_array_equal(read(path("leftImg8bit_sequence", "leftImg8bit.png")), left)
  others = [read(path("leftImg8bit_sequence", "leftImg8bit.png", k)) for k in (-2, -1, 1, 2)]
  others.append(read(path("rightImg8bit", "rightImg8bit.png")))
  for other in others:
    assert other.shape == left.shape
    assert (other != left).any()

  camera = json.loads(path("camera", "camera.json").read_text())
  assert set(camera["extrinsic"]) == {"baseline", "pitch", "roll", "x", "y", "yaw", "z"}
  focal = camera["intrinsic"]["fx"]
  assert focal == camera["intrinsic"]["fy"] == pytest.approx(domains.REAL.focal * 48)
  assert camera["intrinsic"]["u0"] == pytest.approx(0.5356 * 48 - 0.5)
  assert camera["intrinsic"]["v0"] == pytest.approx(0.5011 * 24 - 0.5)
  scene = scene_lib.make_scene(domains.REAL, formats.entropy_of(3, "cityscapes", "train", index))
  assert camera["extrinsic"]["z"] == pytest.approx(scene.ego[4])
  assert camera["extrinsic"]["pitch"] == pytest.approx(scene.ego[5])

  known = np.isfinite(frame.depth)
  metres = scipy_io.loadmat(path("depth", "depth_stereoscopic.mat"))["depth_map"]
  np.testing.assert_array_equal(metres, np.where(known, frame.depth, 0))
  p = read(path("disparity", "disparity.png")).astype(float)
  np.testing.assert_array_equal(p > 0, known)
  expected_disparity = focal * camera["extrinsic"]["baseline"] / frame.depth[known]
  np.testing.assert_allclose((p[known] - 1) / 256, expected_disparity, atol=0.501 / 256)
  x = read(path("disparity", "leftImg8bit.png"))
  near = known & (frame.depth > 2.6) & (frame.depth < 100)
  np.testing.assert_allclose(depth_of(x / 256 + 1)[near], frame.depth[near], rtol=5e-4)
  assert (x[~known] == 0).all()


@pytest.mark.parametrize("domain", [domains.SYNTHETIC, domains.REAL], ids=lambda d: d.name)
def test_plain_folder(tmp_path, domain):
  root = write.write_folder(
    tmp_path / "mine", train_frames=1, validation_frames=1, domain=domain, **ONE
  )
  pictures = ("images", "labels", "depth", "right", "previous", "next")
  names = {f"{folder}/000000.png" for folder in pictures} | {"camera/000000.json"}
  desired = {f"{split}/{name}" for split in ("train", "val") for name in names}
  assert set(files_of(root)) == desired | {"street_world.json"}
  layout = "folder_real" if domain is domains.REAL else "folder_synthetic"
  frame = expected(layout, 0, split="val", domain=domain)
  found = {folder: read(root / f"val/{folder}/000000.png") for folder in pictures}
  np.testing.assert_array_equal(found["images"], frame.image)
  np.testing.assert_array_equal(found["labels"], np.where(frame.label == 255, 0, frame.label + 1))
  near = frame.depth < 600
  np.testing.assert_allclose(found["depth"][near] / 100, frame.depth[near], atol=0.0051)
  for view in ("right", "previous", "next"):
    assert (found[view] != frame.image).any()
  assert (found["previous"] != found["next"]).any()
  camera = json.loads((root / "val/camera/000000.json").read_text())
  assert camera["intrinsic"]["fx"] == pytest.approx(domain.focal * 48)


def test_monocular_file_has_no_depth_on_the_hood(tmp_path):
  root = write.write_cityscapes(
    tmp_path / "city", train_frames=1, validation_frames=0, neighbours=0, mono_blur=2.0, **ONE
  )
  frame = expected("cityscapes", 0, domain=domains.REAL)
  (path,) = root.glob("disparity/train/*/*_leftImg8bit.png")
  x = read(path)
  assert (x[frame.label == 255] == 0).all()
  assert (x[np.isfinite(frame.depth) & (frame.depth < 60)] > 0).all()
  assert (x[frame.label == 10] > 0).any()  # blur and error reach into the sky


def test_no_street_occurs_twice():
  seen = {
    expected(layout, index, split=split).label.tobytes()
    for layout in formats.LAYOUTS
    for split in formats.SPLITS
    for index in range(3)
  }
  assert len(seen) == 6 * len(formats.LAYOUTS)


def test_processes_do_not_change_a_byte(tmp_path):
  one = write.write_cityscapes(tmp_path / "a", train_frames=3, validation_frames=1, **ONE)
  two = write.write_cityscapes(
    tmp_path / "b", train_frames=3, validation_frames=1, **SIZE, processes=2
  )
  assert files_of(one) == files_of(two)


def test_more_frames_keep_the_first_ones(tmp_path):
  few = files_of(write.write_gta5(tmp_path / "a", frames=1, **ONE))
  many = files_of(write.write_gta5(tmp_path / "b", frames=2, **ONE))
  few.pop("street_world.json")
  assert few.items() <= many.items()


@pytest.mark.parametrize("puts", [0, 1, 3, 6])
def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, puts):
  whole = write.write_gta5(tmp_path / "whole", frames=3, **ONE)
  root, partial = tmp_path / "gta", tmp_path / "gta.partial"
  done = []
  replace = os.replace

  def stop_at_replace(source, target):
    if len(done) == puts:
      raise KeyboardInterrupt
    done.append(target)
    replace(source, target)

  monkeypatch.setattr(os, "replace", stop_at_replace)
  with pytest.raises(KeyboardInterrupt):
    write.write_gta5(root, frames=3, **ONE)
  monkeypatch.undo()
  assert not root.exists()
  before = {path: path.stat().st_mtime_ns for path in partial.rglob("*.png")}
  assert len(before) == max(puts - 1, 0)
  assert write.write_gta5(root, frames=3, **ONE) == root
  assert not partial.exists()
  assert files_of(root) == files_of(whole)
  for path, changed in before.items():
    assert (root / path.relative_to(partial)).stat().st_mtime_ns == changed


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_takes_its_workers_along_and_goes_on(tmp_path, how):
  root, partial = tmp_path / "gta", tmp_path / "gta.partial"
  frames = 200
  # A shell that runs tests in the background has them, and what they start, ignore this signal.
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  arguments = ["--layout", "gta5", "--frames", str(frames), "--size", "48x24", "--seed", "3"]
  run = subprocess.Popen(
    [
      *(sys.executable, "-m", "data_pipelines.street_world", *arguments),
      *("--processes", "2", "--root", str(root)),
    ],
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  signal.signal(signal.SIGINT, handler)
  deadline = time.monotonic() + 60
  while len(list(partial.glob("images/*.png"))) < 3:
    assert time.monotonic() < deadline
    assert run.poll() is None
    time.sleep(0.02)
  os.killpg(run.pid, how) if how == signal.SIGINT else run.kill()
  _, output = run.communicate(timeout=20)  # ends when the last worker has closed the pipe
  if how == signal.SIGINT:  # as Ctrl-C in a terminal, which all processes get
    assert run.returncode == 130
    assert "command" in output  # the same goes on
    assert "Traceback" not in output
  count = len(list(partial.rglob("*.png")))
  time.sleep(0.2)
  assert len(list(partial.rglob("*.png"))) == count < 3 * frames
  assert not root.exists()
  write.write_gta5(root, frames=frames, **SIZE, processes=2)
  assert len(list(root.rglob("*.png"))) == 3 * frames
  assert not list(root.rglob("*.partial"))
  np.testing.assert_array_equal(read(root / "images/00001.png"), expected("gta5", 0).image)


def test_a_complete_folder_is_left_alone(tmp_path, monkeypatch):
  root = write.write_gta5(tmp_path / "gta", frames=1, **ONE)

  def refuse(*_):
    raise AssertionError("rendered again")

  monkeypatch.setattr(write, "write_frame", refuse)
  assert write.write_gta5(root, frames=1, **ONE) == root


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 4}, r"\bseed\b.*3.*4"),
    ({"width": 50}, r"\bwidth\b.*48.*50"),
    ({"frames": 2}, r"\bframes\b.*1.*2"),
    ({"domain": dataclasses.replace(domains.SYNTHETIC, noise=0.5)}, r"\bdomain\b"),
  ],
)
def test_other_parameters_are_refused(tmp_path, monkeypatch, complete, change, message):
  if not complete:
    monkeypatch.setattr(write, "write_frame", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      write.write_gta5(tmp_path / "gta", frames=1, **ONE)
    monkeypatch.undo()
  else:
    write.write_gta5(tmp_path / "gta", frames=1, **ONE)

  def written():  # a lock says when it was taken
    return {name: value for name, value in files_of(tmp_path).items() if ".lock" not in name}

  before = written()
  with pytest.raises(UserError, match=message) as error:
    write.write_gta5(tmp_path / "gta", **{"frames": 1, **ONE, **change})
  assert "\n" not in str(error.value)
  assert written() == before


def test_a_foreign_folder_is_refused(tmp_path):
  (tmp_path / "gta").mkdir()
  with pytest.raises(UserError, match=rf"{tmp_path}/gta.*street_world\.json"):
    write.write_gta5(tmp_path / "gta", frames=1, **ONE)


def test_two_writers_do_not_meet(tmp_path):
  partial = tmp_path / "gta.partial"
  partial.mkdir()
  with open(partial / ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_SH)  # refuses exclusive locks only
    with pytest.raises(UserError, match=f"{partial}.*process"):
      write.write_gta5(tmp_path / "gta", frames=1, **ONE)
  write.write_gta5(tmp_path / "gta", frames=1, **ONE)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"frames": 0}, "(?i)frames.*0.*one"),
    ({"height": 8}, r"48x8\b.*16x16"),
    ({"seed": -1}, r"seed\D*-1\b"),
    ({"processes": -1}, r"processes\D*-1\b"),
  ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
  with pytest.raises(UserError, match=message):
    write.write_gta5(tmp_path / "gta", **{"frames": 1, **ONE, **change})
  assert not list(tmp_path.iterdir())


def test_bad_neighbours_are_named(tmp_path):
  with pytest.raises(UserError, match=r"neighbours.*11.*0.*10"):
    write.write_cityscapes(
      tmp_path / "city", train_frames=1, validation_frames=1, neighbours=11, **ONE
    )


def test_command_line(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  common = ["--size", "48x24", "--seed", "3", "--processes", "1"]
  gta = ["--layout", "gta5", "--frames", "1", "--root", "~/gta", *common]
  assert command.main(gta) == 0
  np.testing.assert_array_equal(read(tmp_path / "gta/images/00001.png"), expected("gta5", 0).image)
  gta[gta.index("3")] = "4"
  assert command.main(gta) == 1
  assert re.search(r"\bseed\b.*3.*4", capsys.readouterr().err)
  city = ["--layout", "cityscapes", "--frames", "1", "--validation_frames", "1", *common]
  assert command.main([*city, "--neighbours", "0", "--root", str(tmp_path / "city")]) == 0
  assert not (tmp_path / "city/leftImg8bit_sequence").exists()
  assert command.main(["--sheet", str(tmp_path / "sheet.png"), *common]) == 0
  assert read(tmp_path / "sheet.png").shape == (2 * 3 * 24, 8 * 48, 3)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--layout", "gta5"], "--layout.*--root"),
    (["--layout", "gta5", "--root", "x", "--size", "128"], "128.*WIDTHxHEIGHT"),
    ([], "--layout.*--sheet"),
    (["--layout", "gta5", "--root", "x", "--gap", "1.5"], "--gap.*--layout.*gta5"),
    (["--sheet", "x.png", "--gap", "3"], "--gap.*3.*0.*2"),
  ],
)
def test_command_line_errors(arguments, message, capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(arguments)
  assert stop.value.code == 2
  assert re.search(message, capsys.readouterr().err.splitlines()[-1])  # after the usage


def test_neither_tensorflow_nor_jax_is_imported():
  code = (
    "import sys; import data_pipelines.street_world.__main__; "
    "sys.exit(any(name in sys.modules for name in ('tensorflow', 'jax')))"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
