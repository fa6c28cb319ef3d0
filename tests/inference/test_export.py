"""Bundles: their outputs are the network's, their reader refuses what it should."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax import export as jax_export

from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference import bundle
from corda_jax.inference import export as export_job
from corda_jax.inference.bundle import read_bundle
from corda_jax.inference.depth_input import with_depth_network
from corda_jax.inference.export import export, export_program, smallest_size
from corda_jax.labels import NAMES
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.sharding import make_mesh
from tests import tiny, tiny_recipes
from tests.stub_network import stub_task


def experiment(**overrides):
  return stub_task(tiny.get_config(**overrides))


@pytest.fixture(scope="module")
def state():
  return experiment().initial_state()


@pytest.fixture(scope="module")
def written(tmp_path_factory, state):
  workdir = tmp_path_factory.mktemp("run")
  checkpoints = Checkpoints(workdir)
  checkpoints.save(7, state.replace(step=jnp.int32(7)))
  checkpoints.close()
  return export(experiment(), workdir)


@pytest.fixture
def copied(written, tmp_path):
  subprocess.run(["cp", "-r", written, tmp_path / "bundle"], check=True)
  return tmp_path / "bundle"


def reseal(folder):
  sums = bundle.checksums_of(folder)
  (folder / "checksums.json").write_text(json.dumps(sums))


# As a whole, without windows or tiles.
WHOLE = {"evaluation.window": (0, 0), "prediction.tile_height": 0, "prediction.tile_width": 0}


@pytest.mark.parametrize(
  ("recipe", "plain", "overrides"),
  [
    ("gta2cs_vfm_uda", False, WHOLE),
    ("gta2cs_mic_corda", True, {}),
  ],
)
def test_networks_that_depend_on_the_size_take_one(tmp_path, random, recipe, plain, overrides):
  config = tiny_recipes.get_config(recipe, plain=plain, **overrides)
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
  state = task.initial_state()
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(0, state)
  checkpoints.close()
  read = read_bundle(export(task, tmp_path))
  size = (config.data.target.height, config.data.target.width)
  assert read.information["size"] == list(size)
  images = random.randint(0, 256, (2, *size, 3)).astype(np.uint8)
  got = read.predict(images)
  batch = {"image": images, "label": images[..., 0], "valid": np.ones(2, bool)}
  expected = Evaluator(task).pictures(state, [batch], 2)
  assert (got["label"] == expected["prediction"]).mean() > 0.999  # sums in another order
  assert ("logits" in got) == bool(overrides)  # in windows they would have the image's size
  assert read.information["outputs"].keys() == got.keys()
  for name in expected.keys() & {"inverse_depth", "difficulty"}:
    np.testing.assert_allclose(got[name], expected[name], atol=1e-4)
  with pytest.raises(ValueError, match=r"\(2, 64, 127, 3\).*128x64"):
    read.predict(images[:, :, 1:])


@pytest.mark.parametrize("size", [(1, 17, 25), (3, 40, 33), (2, 128, 65)])
def test_the_bundle_predicts_what_the_network_does(written, state, random, size):
  images = random.randint(0, 256, (*size, 3)).astype(np.uint8)
  got = bundle.read_bundle(written).predict(images)
  batch = {"image": images, "label": images[..., 0], "valid": np.ones(len(images), bool)}
  expected = Evaluator(experiment()).pictures(state, [batch], len(images))
  np.testing.assert_array_equal(got["label"], expected["prediction"])
  np.testing.assert_allclose(got["inverse_depth"], expected["inverse_depth"], atol=1e-5)
  np.testing.assert_allclose(got["difficulty"], expected["difficulty"], atol=1e-5)
  assert got["logits"].shape[3] == 19
  assert len(np.unique(got["label"])) > 1


def test_parameters_of_half_the_bits(tmp_path, random):
  made = experiment(**{"model.param_dtype": "bfloat16", "model.dtype": "bfloat16"})
  state = made.initial_state()
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  checkpoints.close()
  images = random.randint(0, 256, (1, 33, 40, 3)).astype(np.uint8)
  got = bundle.read_bundle(export(made, tmp_path)).predict(images)
  batch = {"image": images, "label": images[..., 0], "valid": np.ones(1, bool)}
  expected = Evaluator(made).pictures(state, [batch], 1)
  assert (got["label"] == expected["prediction"]).mean() > 0.99  # sums of 8 bits in another order


def test_what_lies_in_a_bundle(written, state):
  information = json.loads((written / "bundle.json").read_text())
  assert (information["step"], information["network"]) == (7, "student")
  assert information["classes"]["names"] == list(NAMES)
  assert information["classes"]["cityscapes_ids"][0] == 7
  assert information["written_by"]["jax"] == jax.__version__
  assert information["config"]["model"]["encoder"]["width"] == 4
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  with ocp.StandardCheckpointer() as reader:
    restored = reader.restore(written.absolute() / "orbax", variables)
  jax.tree.map(np.testing.assert_array_equal, restored, variables)
  program = jax_export.deserialize(bytearray((written / "model.stablehlo").read_bytes()))
  assert set(program.platforms) == {"cpu", "cuda", "tpu"}
  assert not list(written.parent.glob("*.partial"))


def test_the_example_needs_jax_and_numpy_and_what_they_read_programs_by(written, tmp_path, random):
  code = (written / "example.py").read_text()
  assert 15 <= len(code.splitlines()) <= 25
  image = random.randint(0, 256, (40, 50, 3)).astype(np.uint8)
  np.save(tmp_path / "image.npy", image)
  # As where nothing is installed but JAX, what JAX depends on, and flatbuffers.
  known = {"jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers"}
  others = {
    name
    for name, distributions in importlib.metadata.packages_distributions().items()
    if not known.intersection(each.replace("-", "_") for each in distributions)
  }
  assert {"flax", "optax", "orbax", "ml_collections", "PIL"} <= others
  guard = f"""
import importlib.abc, runpy, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {others | {"corda_jax"}}:
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.argv = ["example.py", {str(tmp_path / "image.npy")!r}]
runpy.run_path({str(written / "example.py")!r}, run_name="__main__")
"""
  result = subprocess.run(
    [sys.executable, "-c", guard],
    cwd=tmp_path,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert "prediction.npz: colors, " in result.stdout
  found = np.load(tmp_path / "prediction.npz")
  np.testing.assert_array_equal(
    found["label"], bundle.read_bundle(written).predict(image[None])["label"][0]
  )
  colors = json.loads((written / "bundle.json").read_text())["classes"]["colors"]
  np.testing.assert_array_equal(found["colors"][0, 0], colors[found["label"][0, 0]])


def test_images_that_a_bundle_does_not_take(written):
  read = bundle.read_bundle(written)
  smallest = smallest_size(experiment())
  for images in (
    np.zeros((1, 40, 40, 3), np.float32),
    np.zeros((40, 40, 3), np.uint8),
    np.zeros((0, 40, 40, 3), np.uint8),
    np.zeros((1, 40, smallest - 1, 3), np.uint8),
  ):
    with pytest.raises(ValueError, match=re.escape(str(images.shape))):
      read.predict(images)
  read.predict(np.zeros((1, smallest, smallest, 3), np.uint8))


@pytest.mark.parametrize("name", ["model.stablehlo", "variables.npz", "bundle.json", "example.py"])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_harmed_file_is_named(copied, name, harm):
  if harm == "missing":
    (copied / name).unlink()
  else:
    contents = bytearray((copied / name).read_bytes())
    contents[-2] ^= 1
    (copied / name).write_bytes(contents)
  with pytest.raises(UserError, match=re.escape(str(copied) if name == "bundle.json" else name)):
    bundle.read_bundle(copied)


def test_arrays_of_objects_are_not_read(copied):
  class Runs:
    def __reduce__(self):
      return os.mkdir, (str(copied / "was_run"),)

  np.savez(copied / "variables.npz", x=np.array([Runs()], object))
  reseal(copied)
  with pytest.raises(UserError, match=r"variables\.npz"):
    bundle.read_bundle(copied)
  assert not (copied / "was_run").exists()


def test_other_arrays_than_the_program_needs_are_refused(copied):
  with np.load(copied / "variables.npz") as arrays:
    fewer = {name: arrays[name] for name in arrays.files[1:]}
  np.savez(copied / "variables.npz", **fewer)
  reseal(copied)
  with pytest.raises(UserError, match=r"variables\.npz|arrays"):
    bundle.read_bundle(copied)


def test_a_program_that_calls_out_of_itself_is_refused(copied):
  shape = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
  checks = [jax_export.DisabledSafetyCheck.custom_call("somebodys_code")]
  program = jax_export.export(
    jax.jit(lambda v, x: {"label": jax.ffi.ffi_call("somebodys_code", shape)(x)}),
    disabled_checks=checks,
  )({"x": jax.ShapeDtypeStruct((1,), np.float32)}, shape)
  (copied / "model.stablehlo").write_bytes(program.serialize())
  np.savez(copied / "variables.npz", x=np.zeros(1, np.float32))
  reseal(copied)
  with pytest.raises(UserError, match="somebodys_code"):
    bundle.read_bundle(copied)


def test_another_format_and_no_bundle(copied, tmp_path):
  information = json.loads((copied / "bundle.json").read_text())
  (copied / "bundle.json").write_text(json.dumps(information | {"format": 99}))
  with pytest.raises(UserError, match=r"format.*99.*1"):
    bundle.read_bundle(copied)
  with pytest.raises(UserError, match=str(tmp_path)):
    bundle.read_bundle(tmp_path)


@pytest.mark.parametrize("preset", ["as_released", "as_published"])
def test_the_recipes_network_is_exported_for_any_size(preset):
  from configs import gta2cs

  made = AdaptationTask.from_config(gta2cs.get_config(preset), make_mesh(jax.devices()[:1]))
  shapes = made.state_shapes
  variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
  program = export_program(made, *with_depth_network(made, variables))
  assert [str(x) for x in program.in_avals[-1].shape] == ["batch", "height", "width", "3"]
  assert smallest_size(made) == 8 * (26 if preset == "as_published" else 14)


def test_an_older_bundle_is_there_until_the_new_one_is(tmp_path):
  folder, new = tmp_path / "bundle", tmp_path / "bundle.partial"
  folder.mkdir()
  (folder / "old").touch()
  with pytest.raises(FileNotFoundError):
    export_job._replace(folder, new)  # which is not there
  assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
  folder.rename(tmp_path / "bundle.before")  # where a kill may come
  export_job._put_back(folder)
  assert [path.name for path in folder.iterdir()] == ["old"]
  new.mkdir()
  (new / "new").touch()
  export_job._replace(folder, new)
  assert [path.name for path in folder.iterdir()] == ["new"]
  assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_may_be_a_link_to_another_disk(tmp_path, state):
  checkpoints = Checkpoints(tmp_path / "run")
  checkpoints.save(7, state.replace(step=jnp.int32(7)))
  checkpoints.close()
  (tmp_path / "elsewhere/bundle").mkdir(parents=True)
  (tmp_path / "run/bundle").symlink_to(tmp_path / "elsewhere/bundle")
  export(experiment(), tmp_path / "run")
  assert (tmp_path / "run/bundle").is_symlink()
  assert read_bundle(tmp_path / "elsewhere/bundle").information["step"] == 7
  assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["bundle"]
  (tmp_path / "elsewhere").rename(tmp_path / "gone")
  with pytest.raises(UserError, match=r"run/bundle.*elsewhere.*mount"):
    export(experiment(), tmp_path / "run")
  assert not (tmp_path / "elsewhere").exists()
