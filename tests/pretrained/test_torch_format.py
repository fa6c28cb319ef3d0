"""PyTorch's files without PyTorch: both formats, and everything that is none of them."""

import io
import json
import os
import pickle
import pickletools
import tarfile
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from tests.pretrained import torch_pickles
from tests.pretrained.torch_pickles import Call, Tensor, contiguous, legacy_file, zip_file

DATA = Path(__file__).parent / "data"
FORMATS = {"zip": zip_file, "legacy": legacy_file}


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
  torch_pickles.stand_in(monkeypatch)


@pytest.fixture
def read(tmp_path):
  def write_and_read(data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_torch_file(path)

  return write_and_read


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_pytorch_itself(name):
  tree = read_torch_file(DATA / f"{name}.pth")
  model = tree.pop("model")
  shapes = {"0.weight": (3, 2, 1, 1), "0.bias": (3,), "1.weight": (3,), "1.bias": (3,)}
  shapes |= {"1.running_mean": (3,), "1.running_var": (3,), "1.num_batches_tracked": ()}
  assert list(model) == list(shapes)
  for i, (key, shape) in enumerate(shapes.items()):
    expected = (np.arange(np.prod(shape)).reshape(shape) + 10 * i).astype(np.float32)
    assert_same(model[key], expected if shape else np.int64(60))
  base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  views = [base, base[1], base.transpose(2, 1, 0), base[:, ::2, 1:3], base[0, 0, :1].repeat(5)]
  for got, expected in zip(tree.pop("views"), views, strict=True):
    assert_same(got, expected)
  assert_same(tree.pop("parameter"), np.float32([1.5, -2.5]))
  for kind, got in tree.pop("types").items():
    assert_same(got, np.array([0, 1, 3]).astype(jnp.dtype(kind)))
  assert_same(tree.pop("scalar"), np.float32(7.25))
  assert_same(tree.pop("empty"), np.zeros((0, 3), np.float32))
  assert tree == {
    "ordered": {"b": 1, "a": None},
    "config": {
      "learning_rate": 2.5e-4,
      "ignore": [250, -1, 2**40],
      "name": "gta → city",
      "on": True,
    },
    "iteration": 12,
    "miou": 53.5,
    "count": -3,
    "size": (2, 3),
    "device": "cpu",
  }


def assert_same(got, expected):
  expected = np.asarray(expected)
  assert isinstance(got, np.ndarray)
  assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
  np.testing.assert_array_equal(got, expected)
  assert not got.flags.writeable or not got.size


@pytest.mark.parametrize("name", FORMATS)
def test_views_share_their_storage(read, name):
  storage = np.arange(12, dtype=np.float64)
  tree = {
    "whole": Tensor(storage, 0, (12,), (1,)),
    "columns": Tensor(storage, 1, (4, 2), (3, 1)),
    "old": Tensor(storage, 11, (), (), kind="v1"),
    "bool": contiguous(np.array([True, False])),
  }
  tree = read(FORMATS[name](tree))
  assert_same(tree["columns"], storage.reshape(4, 3)[:, 1:])
  assert_same(tree["old"], 11.0)
  assert_same(tree["bool"], [True, False])
  assert np.shares_memory(tree["whole"], tree["columns"])


def test_byte_order_and_folder_of_the_archive(read):
  array = np.array([[1.5, -2.0], [3.0, 1e-30]], np.float32)
  for order in ("little", "big"):
    for folder in ("archive", "checkpoint-iter250000", "a b"):
      assert_same(read(zip_file(contiguous(array), byte_order=order, folder=folder)), array)
  without = zip_file(
    contiguous(array), change=lambda x: {k: v for k, v in x.items() if k[0] != "b"}
  )
  assert_same(read(without), array)
  with pytest.raises(UserError, match=r"weights\.pth.*damage"):
    read(zip_file(contiguous(array), change=lambda x: x | {"byteorder": b"middle"}))


def test_view_metadata_of_the_oldest_files(read):
  storage = np.arange(10, dtype=np.float32)
  assert_same(read(legacy_file(Tensor(storage, 1, (2,), (1,), view=("7", 4, 3)))), storage[5:7])
  for view in (("7", 8, 3), ("7", -1, 3), ("7", 2, -1), ("7", 4, 1), "view"):
    with pytest.raises(UserError, match=r"weights\.pth.*damage"):
      read(legacy_file(Tensor(storage, 1, (2,), (1,), view=view)))


def test_a_bool_is_never_another_byte(read):
  tensor = contiguous(np.array([True, False, True]))
  got = read(zip_file(tensor, change=lambda x: x | {"data/0": b"\x02\x00\xff"}))
  assert_same(got, [True, False, True])
  assert got.view(np.uint8).max() == 1


def test_what_is_written_is_read(tmp_path):
  tree = {
    "model": {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float32(3)[...], "e": np.zeros((0, 2))},
    "many": [np.ones(3, jnp.bfloat16), np.array([True, False]), np.int64([-1])],
    "rest": (1, -5, 2**70, 0, 255, 1.5, None, True, False, "ä", [], {}, ()),
  }
  path = tmp_path / "weights.pth"
  write_torch_file(path, tree)
  got = read_torch_file(path)
  for key, array in tree["model"].items():
    assert_same(got["model"][key], array)
  for a, b in zip(got["many"], tree["many"], strict=True):
    assert_same(a, b)
  assert got["rest"] == tree["rest"]
  assert [type(x) for x in got["rest"]] == [type(x) for x in tree["rest"]]
  first = path.read_bytes()
  write_torch_file(path, tree)
  assert path.read_bytes() == first
  with pytest.raises(TypeError, match=r"\bset\b"):
    write_torch_file(path, {"a": {1}})
  assert path.read_bytes() == first
  assert list(tmp_path.iterdir()) == [path]


def test_the_pickle_is_plain(tmp_path):
  """It names nothing that `torch.load(weights_only=True)` would refuse."""
  write_torch_file(tmp_path / "a.pth", {"a": np.ones((2, 3), np.float32), "n": 3})
  with zipfile.ZipFile(tmp_path / "a.pth") as archive:
    assert archive.testzip() is None
    assert archive.namelist() == ["a/data/0", "a/data.pkl", "a/byteorder", "a/version"]
    assert archive.read("a/data/0") == np.ones(6, "<f4").tobytes()
    pickled = archive.read("a/data.pkl")
  names = {argument for op, argument, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
  assert names == {
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "collections OrderedDict",
  }


MALICIOUS = {
  "command": (lambda path: Call(os.system, f"touch {path}"), r"\w+\.system"),
  "eval": (lambda path: Call(eval, f"open({path!r}, 'w')"), r"\w+\.eval"),
  "attributes": (lambda path: Call(Call(getattr, Call(open, path, "w"), "close")), r"\w+\.getattr"),
  "in a list": (lambda path: [1, {"model": Call(exec, f"open({path!r}, 'w')")}], r"\w+\.exec"),
  "in a tensor": (lambda path: Tensor(np.ones(3), 0, Call(open, path, "w"), (1,)), r"\w+\.open"),
}


@pytest.mark.parametrize("kind", MALICIOUS)
@pytest.mark.parametrize("name", FORMATS)
def test_malicious_pickles_are_named_and_not_run(read, tmp_path, name, kind):
  make, message = MALICIOUS[kind]
  witness = tmp_path / "witness"
  with pytest.raises(UserError, match=rf"weights\.pth.*'{message}'"):
    read(FORMATS[name](make(str(witness))))
  assert not witness.exists()


def test_the_pickles_above_would_run():
  """They are what they seem: the standard library runs them."""
  assert pickle.loads(pickle.dumps(Call(eval, "6 * 7"), protocol=2)) == 42


def raw(*opcodes):
  """A zip file whose pickle is given by its bytes."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("archive/data.pkl", b"\x80\x02" + b"".join(opcodes) + b".")
    archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
  return file.getvalue()


def text(value):
  return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(offset=b"K\x00", size=b"K\x02\x85", stride=b"K\x01\x85", storage=None):
  storage = storage or (
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
  )
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89}tR"


MINUS = b"J\xff\xff\xff\xff"
LAUGHS = (
  b"((lp0\n" + b"".join(b"(lp%d\ng%d\nag%d\na" % (i + 1, i, i) for i in range(60)) + b"1g60\n"
)
DEEP = b")" + b"\x85" * 300_000
CRAFTED = {
  "state of an allowed class": b"ccollections\nOrderedDict\n}" + text("x") + b"K\x01sb",
  "state of a tensor": tensor() + b"}b",
  "call of a tensor": tensor() + b")R",
  "call of text": text("os.system") + b")R",
  "new object": b"ctorch\nFloatStorage\n)\x81",
  "registered extension": b"\x82\x01",
  "old instance": b"(ios\nsystem\n",
  "reads past its end": tensor(size=b"K\x05\x85"),
  "offset past its end": tensor(offset=b"K\x04"),
  "strides past its end": tensor(stride=b"K\x04\x85"),
  "negative size": tensor(size=MINUS + b"\x85"),
  "negative stride": tensor(stride=MINUS + b"\x85", offset=b"K\x03"),
  "negative offset": tensor(offset=MINUS),
  "other number of strides": tensor(stride=b")"),
  "size that is text": tensor(size=text("ab")),
  "size of a tensor": tensor(size=tensor()),
  "a tensor as storage": tensor(storage=tensor(size=b"J\x00\x00\x00\x7f\x85", stride=b"K\x00\x85")),
  "dimensions without end": tensor(
    size=b"(" + b"K\x01" * 200 + b"t", stride=b"(" + b"K\x01" * 200 + b"t"
  ),
  "empty and endless": tensor(
    size=b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86", stride=b"K\x01K\x01\x86"
  ),
  "a size of exabytes": b"("
  + text("storage")
  + b"ctorch\nFloatStorage\n"
  + text("0")
  + text("cpu")
  + b"\x8a\x08"
  + b"\xff" * 7
  + b"\x1ftQ",
  "a storage that is not there": b"("
  + text("storage")
  + b"ctorch\nFloatStorage\n"
  + text("../0")
  + text("cpu")
  + b"K\x01tQ",
  "a size that laughs": tensor(size=LAUGHS),
  "an id that laughs": LAUGHS + b"Q",
  "a device that laughs": b"ctorch\ndevice\n" + LAUGHS + b"\x85R",
  "a byte order without bottom": b"cnumpy\ndtype\n" + text("f8") + b"\x85R(K\x03" + DEEP + b"tb",
  "an object": b"cnumpy\ndtype\n" + text("O8") + b"\x85R",
  "a NumPy number cut off": b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n"
  + text("f8")
  + b"\x85RC\x02ab\x86R",
  "an encoding": b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R",
  "an odd dict": b"(K\x01d",
  "a missing mark": b"K\x01t",
  "an empty stack": b"",
  "an unknown memo": b"h\x07",
  "a line without end": b"cos",
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_pickles_are_refused(read, kind):
  with pytest.raises(UserError) as message:
    print(read(raw(CRAFTED[kind])))
  assert "\n" not in str(message.value)
  assert len(str(message.value)) < 600


def test_a_memo_index_beyond_the_pickle_gets_no_memory(read):
  with pytest.raises(UserError, match="a place that is not the next"):
    read(raw(b"K\x07r\xff\xff\xff\xff"))


def test_storages_are_never_larger_than_the_file(read):
  def announced(count):
    opcode = b"J" + count.to_bytes(4, "little")
    return (
      b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + opcode + b"tQ"
    )

  with pytest.raises(UserError, match=r"10000.*float32"):
    read(raw(tensor(storage=announced(10_000))))
  with pytest.raises(UserError, match=r"storage.*sizes"):
    read(raw(tensor(), tensor(storage=announced(3))))


def test_deep_and_shared_values_that_nobody_looks_at_are_only_data(read):
  assert isinstance(read(raw(LAUGHS)), list)
  assert isinstance(read(raw(DEEP)), tuple)
  assert_same(read(raw(tensor())), np.float32([0, 1]))


def test_announced_lengths_must_be_those_of_the_file(read):
  tree = [contiguous(np.arange(3.0)), contiguous(np.arange(4.0))]
  for broken in (
    legacy_file(tree, keys=["0"]),
    legacy_file(tree, keys=["0", "0"]),
    legacy_file(tree, keys=["0", "1", "2"]),
    legacy_file(tree, keys={"0": 1}),
    legacy_file(tree, counts=[3, 5]),
    legacy_file(tree, counts=[-3, 4]),
    legacy_file(tree).replace(b"K\x04", b"K\x05", 1),
    zip_file(tree, change=lambda x: x | {"data/0": x["data/0"][:8]}),
    zip_file(tree, change=lambda x: x | {"data/0": x["data/0"] * 2}),
    zip_file(tree, change=lambda x: {k: v for k, v in x.items() if k != "data/1"}),
    zip_file(tree, change=lambda x: {k: v for k, v in x.items() if k != "data.pkl"}),
    zip_file(tree, change=lambda x: x | {"more/data.pkl": x["data.pkl"]}),
    # One that unpacks to far more than its size.
    zip_file(tree, change=lambda x: x | {"more": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED),
  ):
    with pytest.raises(UserError, match=r"weights\.pth.*damage"):
      read(broken)


@pytest.fixture(scope="module", params=FORMATS)
def small(request):
  """A small file, and what it holds."""
  with pytest.MonkeyPatch.context() as patch:
    torch_pickles.stand_in(patch)
    storage = np.arange(6, dtype=np.float32)
    tree = {
      "a": Tensor(storage, 0, (2, 3), (3, 1)),
      "b": Tensor(storage, 1, (2,), (2,)),
      "n": [1.5],
    }
    return FORMATS[request.param](tree | {"flag": contiguous(np.array([True]))})


def test_a_file_cut_anywhere_is_reported(read, small):
  read(small)
  for length in range(len(small)):
    with pytest.raises(UserError):
      read(small[:length])


def test_damage_anywhere_is_reported_or_harmless(read, small):
  random = np.random.RandomState(3)
  found = 0
  for _ in range(1500):
    data = bytearray(small)
    for position in random.randint(0, len(data), random.randint(1, 4)):
      data[position] = random.randint(0, 256)
    try:
      read(bytes(data))
    except UserError:
      found += 1
  assert found > 500


def tar():
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("storages"))
  return file.getvalue()


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "empty"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "image"),
    (b"<!DOCTYPE html><html>Google Drive</html>", "web page"),
    (b"\n <html>", "web page"),
    (tar(), r"\btar\b"),
    (json.dumps({"a": [1]}).encode(), "JSON"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    (pickle.dumps({"a": 1}), "damage"),
    (pickle.dumps(np.arange(3)), "'numpy"),
    (b"some notes of mine", "damage"),
  ],
)
def test_wrong_files_are_reported(read, data, message):
  with pytest.raises(UserError, match=rf"weights\.pth.*{message}") as error:
    read(data)
  assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_reported(tmp_path):
  with pytest.raises(UserError, match=r"none\.pth.*No such file"):
    read_torch_file(tmp_path / "none.pth")
  with pytest.raises(UserError, match=rf"{tmp_path}.*Is a directory"):
    read_torch_file(tmp_path)
