"""Training checkpoints of DAFormer, HRDA and MIC: scores, pictures and a bundle by one command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.inference.bundle import read_bundle
from corda_jax.inference.views import as_evaluated
from corda_jax.pretrained.names.networks import table_of
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.sharding import make_mesh
from tests import tiny_recipes
from tests.command import run

FRAMES = {
  "data.street_world.enabled": True,
  "data.prepare_processes": 1,
  **dict.fromkeys((f"data.street_world.{kind}_frames" for kind in ("source", "target")), 1),
  "data.street_world.validation_frames": 2,
  **dict.fromkeys((f"data.street_world.{domain}_height" for domain in ("source", "target")), 96),
  **dict.fromkeys((f"data.street_world.{domain}_width" for domain in ("source", "target")), 192),
  "data.target.height": 96,
  "data.target.width": 192,
  "data.evaluation_batch_size": 4,  # of the tests' four devices
}


def drawn(shapes, random):
  """Random variables; variances are positive."""
  made = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32) / 2, shapes)
  return made | {"batch_stats": jax.tree.map(np.abs, made.get("batch_stats", {}))}


def write_checkpoint(path, recipe):
  """A file as mmsegmentation writes it in training; the task, and the student's and teacher's."""
  task = AdaptationTask.from_config(tiny_recipes.get_config(recipe), make_mesh(jax.devices()[:1]))
  network = task.model
  shapes = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, tiny_recipes.SIDE, tiny_recipes.SIDE, 3), np.float32),
  )
  parts = {
    part: drawn(shapes, np.random.RandomState(seed))
    for seed, part in enumerate(("model", "ema_model", "imnet_model"))
  }
  state = {
    f"{part}.{name}": x
    for part, variables in parts.items()
    for name, x in table_of(network).state_dict(variables, steps=0).items()
  }
  write_torch_file(path, {"meta": {"iter": 40_000}, "state_dict": state})
  return task, (parts["model"], parts["ema_model"])


@pytest.mark.parametrize(
  "recipe", ["gta2cs_daformer", pytest.param("gta2cs_mic", marks=pytest.mark.slow)]
)
def test_a_training_checkpoint_by_one_command(tmp_path, recipe):
  task, parts = write_checkpoint(tmp_path / "a.pth", recipe)

  def command(mode, **fields):
    fields = {
      "data.records_dir": tmp_path / "records",
      "data.source.root": tmp_path / "gta5",
      "data.target.root": tmp_path / "cityscapes",
      "initial_weights": tmp_path / "a.pth",
      **FRAMES,
      **fields,
    }
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    paths = [f"--config=tests/tiny_recipes.py:{recipe}", f"--workdir={tmp_path / mode}"]
    return run([*paths, f"--mode={mode}", *given])

  command("evaluate")
  scores = json.loads((tmp_path / "evaluate" / "evaluation.json").read_text())
  assert len(scores["iou"]) == 19
  assert 0 < scores["pixel_accuracy"] < 100
  image = next((tmp_path / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))
  command("predict", **{"prediction.input": image, "prediction.output": tmp_path / "seen"})
  command("export")
  pixels = np.asarray(Image.open(image).convert("RGB"))[None]
  (written,) = (tmp_path / "seen").rglob("*_label.png")
  written = np.asarray(Image.open(written))
  exported = read_bundle(tmp_path / "export" / "bundle").predict(pixels)["label"][0]
  assert (exported == written).mean() > 0.999  # sums in another order

  @jax.jit
  def classes(variables):
    sizing = {"method": task.model.resize_outputs}
    predict = as_evaluated(
      lambda x: task.model.apply(variables, x, train=False), task.config.evaluation, **sizing
    )
    return predict(task.normalization.normalize(jnp.asarray(pixels)))["S"][0].argmax(-1)

  student, teacher = (np.asarray(classes(variables)) for variables in parts)
  assert (student == written).mean() > 0.999
  assert (teacher == written).mean() < 0.9
