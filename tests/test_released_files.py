"""Training checkpoints of DAFormer, HRDA and MIC: scores, pictures and a bundle by one command."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.inference.bundle import read_bundle
from corda_jax.pretrained.names.networks import table_of
from corda_jax.pretrained.torch_write import write_torch_file
from tests import tiny_recipes
from tests.command import run

FRAMES = {
  "data.street_world.enabled": True,
  "data.prepare_processes": 1,
  **dict.fromkeys((f"data.street_world.{kind}_frames" for kind in ("source", "target")), 1),
  "data.street_world.validation_frames": 2,
  **dict.fromkeys((f"data.street_world.{domain}_height" for domain in ("source", "target")), 64),
  **dict.fromkeys((f"data.street_world.{domain}_width" for domain in ("source", "target")), 128),
  "data.evaluation_batch_size": 4,  # of the tests' four devices
}


def drawn(shapes, random):
  """Random variables; variances are positive."""
  made = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32) / 2, shapes)
  return made | {"batch_stats": jax.tree.map(np.abs, made.get("batch_stats", {}))}


def write_checkpoint(path, recipe):
  """A file as mmsegmentation writes it in training, of random weights; and the student's."""
  network = AdaptationTask.from_config(tiny_recipes.get_config(recipe)).model
  shapes = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, tiny_recipes.SIDE, tiny_recipes.SIDE, 3), np.float32),
  )
  state = {}
  for seed, part in enumerate(("model", "ema_model", "imnet_model")):
    tensors = table_of(network).state_dict(drawn(shapes, np.random.RandomState(seed)), steps=0)
    state |= {f"{part}.{name}": x for name, x in tensors.items()}
  write_torch_file(path, {"meta": {"iter": 40_000}, "state_dict": state})


@pytest.mark.parametrize(
  "recipe", ["gta2cs_mic", pytest.param("gta2cs_daformer", marks=pytest.mark.slow)]
)
def test_a_training_checkpoint_by_one_command(tmp_path, recipe):
  write_checkpoint(tmp_path / "a.pth", recipe)

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
  expected = read_bundle(tmp_path / "export" / "bundle").predict(pixels)["label"][0]
  (written,) = (tmp_path / "seen").rglob("*_label.png")
  assert len(np.unique(expected)) > 1
  np.testing.assert_array_equal(np.asarray(Image.open(written)), expected)
