"""Malformed files and settings are read right, or refused in one line; nothing else comes of them.

With `-m slow` each reader gets 10,000 inputs in place of 30.
"""

import ast
import hashlib
import io
import json
import math
import pickle
import struct
import zipfile
import zlib

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export
from PIL import Image

from corda_jax import command_line
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.configuration import flatten
from corda_jax.errors import UserError, shown
from corda_jax.inference import bundle
from corda_jax.inference.media import BadImageError, ImageFile
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from data_pipelines.cameras import read_camera
from data_pipelines.readers import BadFrameError, decode, read_depth_png

RANDOM = np.random.RandomState(0)
COUNTS = [30, pytest.param(10_000, marks=pytest.mark.slow)]


def each(strategy, read, errors, examples):
  """Reads so many inputs: each is refused in one line, or `read`, which judges, does not object."""

  @settings(
    max_examples=examples,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(strategy)
  def try_one(value):
    counts[0] += 1
    try:
      read(value)
    except errors as error:
      message = shown(error)
      assert message.strip()
      assert "\n" not in message
      assert len(message) < 2_000
      counts[1] += 1

  counts = [0, 0]  # all, and those that were refused
  try_one()
  assert 0 < counts[1] < counts[0]


@st.composite
def mutated(draw, contents: bytes) -> bytes:
  """Bytes with up to four bits turned, or parts exchanged, cut out or doubled."""
  for _ in range(draw(st.integers(0, 4))):
    if contents and draw(st.booleans()):
      place = draw(st.integers(0, len(contents) - 1))
      turned = contents[place] ^ 1 << draw(st.integers(0, 7))
      contents = contents[:place] + bytes([turned]) + contents[place + 1 :]
      continue
    start, end = sorted(draw(st.integers(0, len(contents))) for _ in range(2))
    end = min(end, start + draw(st.sampled_from((1, 4, 8, 64, 10**6))))
    part = contents[start:end]
    odd = (b"", part + part, b"\xff" * len(part), b"\0" * len(part), b"\x7f" * len(part))
    new = draw(st.one_of(st.sampled_from(odd), st.binary(min_size=1, max_size=64)))
    contents = contents[:start] + new + contents[end:]
  return contents


def equal(found, expected):
  if isinstance(expected, dict):
    return found.keys() == expected.keys() and all(equal(found[k], expected[k]) for k in expected)
  if isinstance(expected, np.ndarray):
    return found.dtype == expected.dtype and np.array_equal(found, expected)
  return type(found) is type(expected) and found == expected


def is_plain(value):
  if isinstance(value, dict):
    return all(map(is_plain, [*value.keys(), *value.values()]))
  if isinstance(value, list | tuple):
    return all(map(is_plain, value))
  return value is None or isinstance(value, int | float | str | bytes | np.ndarray | np.generic)


@pytest.mark.parametrize("examples", COUNTS)
def test_state_dicts(tmp_path, examples):
  """Both formats. What is read is what was written where a checksum says so, else plain values."""
  path = tmp_path / "state.pth"
  model = {
    "layer.weight": RANDOM.randn(4, 3, 1, 1).astype(np.float32),
    "layer.bias": RANDOM.randn(4).astype(np.float32),
    "count": np.array(7),
  }
  tree = {"model": model, "iteration": 250_000}
  write_torch_file(path, tree)
  good = path.read_bytes()
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})  # of the format before
  counts = struct.pack("<q", 12), struct.pack("<q", 4), struct.pack("<q", 1)
  legacy = b"".join(
    [
      *(pickle.dumps(value, protocol=2) for value in head),
      members["state/data.pkl"],
      pickle.dumps(["0", "1", "2"], protocol=2),
      *(count + members[f"state/data/{number}"] for number, count in enumerate(counts)),
    ]
  )

  @st.composite
  def resealed(draw):
    """An archive with one member changed, which then has the checksum of what it holds."""
    name = draw(st.sampled_from(sorted(members)))
    changed = members | {name: draw(mutated(members[name]))}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
      for each_name, contents in changed.items():
        archive.writestr(draw(st.sampled_from((each_name, each_name, f"../{each_name}"))), contents)
    return written.getvalue(), False

  def read(value):
    contents, sealed = value
    path.write_bytes(contents)
    found = read_torch_file(path)
    assert equal(found, tree) if sealed else is_plain(found)

  read((legacy, True))
  each(
    st.one_of(
      st.tuples(mutated(good), st.just(True)),
      st.tuples(mutated(legacy), st.just(False)),
      resealed(),
    ),
    read,
    UserError,
    examples,
  )


def chunks(contents):
  offset = 8
  while offset < len(contents):
    (length,) = struct.unpack_from(">I", contents, offset)
    yield contents[offset + 4 : offset + 8], contents[offset + 8 : offset + 8 + length]
    offset += length + 12


def png(parts):
  """A PNG of (kind, data), with their checksums."""
  sealed = (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in parts
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


@pytest.mark.parametrize("examples", COUNTS)
def test_depth_pngs(tmp_path, examples):
  """16-bit files of one channel and of three, of which the first counts."""
  path = tmp_path / "depth.png"
  values = RANDOM.randint(0, 65536, (9, 14)).astype(np.uint16)
  written = io.BytesIO()
  Image.fromarray(values).save(written, format="PNG")
  rows = np.stack([values, values[::-1], values // 3], -1)
  raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
  header = struct.pack(">IIBBBBB", 14, 9, 16, 2, 0, 0, 0)
  color = png([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])
  good = st.sampled_from((written.getvalue(), color))

  @st.composite
  def resealed(draw):
    parts = list(chunks(draw(good)))
    number = draw(st.integers(0, len(parts) - 1))
    parts[number] = parts[number][0], draw(mutated(parts[number][1]))
    return png(draw(st.permutations(parts)) if draw(st.booleans()) else parts), False

  def read(value):
    contents, sealed = value
    path.write_bytes(contents)
    found = decode(read_depth_png, str(path))
    assert found.dtype == np.uint16
    assert np.array_equal(found, values) if sealed else found.ndim == 2

  each(
    st.one_of(st.tuples(good.flatmap(mutated), st.just(True)), resealed()),
    read,
    BadFrameError,
    examples,
  )


NUMBERS = ("0", "-1", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "9" * 5_000, "0x10", "01")
JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
  max_leaves=5,
)


@pytest.mark.parametrize("examples", COUNTS)
def test_cameras(tmp_path, examples):
  """Calibrations as JSON: what is read are the numbers of the file, of a camera that can be."""
  path = tmp_path / "camera.json"
  good = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
  }

  @st.composite
  def changed(draw):
    part = draw(st.sampled_from(sorted(good)))
    name = draw(st.sampled_from(sorted(good[part])))
    before, number = json.dumps(good[part][name]), draw(st.sampled_from(NUMBERS))
    values = good | {part: draw(JSON)}
    inside = good | {part: good[part] | {name: draw(JSON)}}
    without = good | {part: {key: x for key, x in good[part].items() if key != name}}
    text = json.dumps(draw(st.sampled_from((good, good, values, inside, without))))
    kind = draw(st.sampled_from(("as it is", "number", "twice", "deep")))
    if kind == "deep":
      text = draw(st.sampled_from(("[", '{"a":'))) * draw(st.sampled_from((10, 100_000)))
    if kind == "number":
      text = text.replace(before, number, 1)
    if kind == "twice":
      text = text.replace(f'"{name}"', f'"{name}": {number}, "{name}"', 1)
    return text.encode("utf-8", "surrogatepass")

  def read(contents):
    path.write_bytes(contents)
    camera = decode(lambda path: read_camera(path, image="", right=""), str(path))
    held = json.loads(contents)
    numbers = [*camera.focal, *camera.center, camera.baseline]
    assert numbers == [
      *(held["intrinsic"][name] for name in ("fx", "fy", "u0", "v0")),
      held["extrinsic"]["baseline"],
    ]
    assert all(map(math.isfinite, numbers))
    assert min(*camera.focal, camera.baseline) > 0

  each(st.one_of(mutated(json.dumps(good).encode()), changed()), read, BadFrameError, examples)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", COUNTS)
def test_images(tmp_path, examples):
  """Images to predict, in the formats of cameras and people; of most nothing says what is right."""
  pixels = RANDOM.randint(0, 256, (9, 14, 3)).astype(np.uint8)
  picture, exif = Image.fromarray(pixels), Image.Exif()
  exif[0x0112], exif[0x010F] = 6, "a camera"  # turned, and by whom
  files = []
  for kind, image, options in (
    ("JPEG", picture, {"exif": exif}),
    ("PNG", picture, {"exif": exif}),
    ("PNG", picture.quantize(7), {}),
    ("WEBP", picture, {"exif": exif, "lossless": True}),
    ("TIFF", picture, {"compression": "tiff_lzw"}),
    ("TIFF", picture.convert("L"), {}),
    ("GIF", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
    ("BMP", picture, {}),
    ("PPM", picture, {}),
  ):
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    files.append(written.getvalue())

  def read(contents):
    (tmp_path / "image").write_bytes(contents)
    found = ImageFile("image", tmp_path / "image").read().rgb
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3

  each(st.sampled_from(files).flatmap(mutated), read, BadImageError, examples)


def parsed(arguments):
  values, line = flags.FlagValues(), ["main", "--config=configs/demo.py", *arguments]
  command_line.define_flags(values, line)
  positional = command_line.parse_flags(line, values)
  if len(positional) > 1:
    raise UserError(f"unknown argument {positional[1]!r}: flags begin with --")
  return values["config"].value


def means(texts, value):
  """Whether a value of the configuration is what its texts on the command line say, the last."""
  if isinstance(value, tuple | list):  # which take in all of them
    items = []
    for text in texts:
      try:
        literal = ast.literal_eval(text)
      except (ValueError, SyntaxError):
        literal = text
      items += literal if isinstance(literal, tuple | list | dict | set) else [literal]
    return list(value) == items
  text = texts[-1]
  if isinstance(value, str):
    return value == text
  if isinstance(value, bool):
    return text.lower() in (("true", "t", "1") if value else ("false", "f", "0"))
  if isinstance(value, int):
    return value == int(text, 0 if text.strip().lower().startswith(("0x", "0o")) else 10)
  return value == float(text)


def check_overrides(arguments, before, config):
  """Every field is as its last override says, or as it was, and of the type that it had."""
  given: dict[str, list[str]] = {}
  for argument in arguments:
    name, text = argument.removeprefix("--config.").split("=", 1)
    given.setdefault(name, []).append(text)
  after = flatten(config.to_dict())
  assert after.keys() == before.keys()
  for name, value in before.items():
    kinds = (tuple, list) if isinstance(value, tuple | list) else (type(value),)
    kinds += (int,) * isinstance(value, float)
    assert isinstance(after[name], kinds)
    assert isinstance(after[name], bool) == isinstance(value, bool)
    if name in given:
      assert means(given[name], after[name]), (name, given[name], after[name])
    elif not any(each_name.startswith(f"{name}[") for each_name in given):
      assert after[name] == value


@pytest.mark.parametrize("examples", COUNTS)
def test_overrides(unchecked_shapes, tmp_path, examples):
  """--config.FIELD=VALUE, and the checks of a configuration."""
  before = flatten(parsed([]).to_dict())
  run = f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"
  odd = ("1", "-1", "0.5", "1e400", "nan", "True", "None", "", "()", "(1.0,)", "(1, (2, 3))", "{}")
  odd += ("road", "7" * 400, "(" * 3_000, run)

  @st.composite
  def override(draw):
    field = draw(st.sampled_from(sorted(before)))
    value = draw(st.just(str(before[field])) | st.sampled_from(odd) | st.text(max_size=6))
    if draw(st.integers(0, 9)) == 0:
      field = draw(st.sampled_from((field[:-1], f"{field}s", f"{field}#s", f"{field}[0]", "é")))
    return f"--config.{field}={value}"

  def read(arguments):
    config = parsed(arguments)
    AdaptationTask.from_config(config)
    check_overrides(arguments, before, config)
    assert not (tmp_path / "run").exists()

  each(st.lists(override(), min_size=1, max_size=3), read, UserError, examples)


@pytest.mark.parametrize("examples", COUNTS)
def test_bundles(tmp_path, examples):
  """Bundles whose list of checksums matches, as a stranger's would."""
  shape = export.symbolic_shape("b, h, w, 3")
  program = export.export(jax.jit(lambda v, x: {"label": x[..., 0] + v["bias"]}))(
    {"bias": jax.ShapeDtypeStruct((1,), np.uint8)}, jax.ShapeDtypeStruct(shape, np.uint8)
  )
  written = io.BytesIO()
  np.savez(written, bias=np.ones(1, np.uint8))
  information = {"format": bundle.FORMAT, "smallest_size": 1, "trained_height": 1}
  good = {
    bundle.PROGRAM: bytes(program.serialize()),
    bundle.VARIABLES: written.getvalue(),
    bundle.INFORMATION: json.dumps(information | {"classes": {"names": ["road"]}}).encode(),
  }

  @st.composite
  def changed(draw):
    # JAX's own reader ends the process at some programs (docs/exporting.md), so one is changed
    # only where its checksum says so.
    files = dict(good)
    sums = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    name = draw(st.sampled_from((*good, bundle.CHECKSUMS)))
    if name in files:
      files[name] = draw(mutated(files[name]))
      if name != bundle.PROGRAM and draw(st.booleans()):
        sums[name] = hashlib.sha256(files[name]).hexdigest()
    files[bundle.CHECKSUMS] = json.dumps(sums).encode()
    if name == bundle.CHECKSUMS:
      files[name] = draw(mutated(files[name]))
    return files, name != bundle.VARIABLES

  def read(value):
    files, sealed = value
    for name, contents in files.items():
      (tmp_path / name).write_bytes(contents)
    found = bundle.read_bundle(tmp_path)
    bias, side = found.variables["bias"], found.information["smallest_size"]
    assert (bias.dtype, bias.shape) == (np.uint8, (1,))
    assert bias[0] == 1 or not sealed
    if side <= 64:  # which the file says
      label = found.predict(np.zeros((1, side, side, 3), np.uint8))["label"]
      assert label.shape == (1, side, side)
      assert (label == bias).all()

  each(changed(), read, UserError, examples)


def test_an_override_that_means_something_else_is_seen():
  before = flatten(parsed([]).to_dict())
  for arguments, right in (
    ([], True),
    (["seed=3"], False),  # which was dropped
    (["seed=3", "seed=0"], True),
    (["evaluation.flip=true"], False),
    (["evaluation.scales=(2.0,)"], False),
  ):
    arguments = [f"--config.{argument}" for argument in arguments]
    if right:
      check_overrides(arguments, before, parsed([]))
    else:
      with pytest.raises(AssertionError):
        check_overrides(arguments, before, parsed([]))
