"""Writes a trained network as an inference bundle, which `corda_jax.inference.bundle` reads."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import export as jax_export

from corda_jax.adaptation.evaluate import network_variables
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.atomic_io import check_links
from corda_jax.depth.encodings import MANIFEST
from corda_jax.errors import UserError, first_line
from corda_jax.inference import bundle
from corda_jax.inference.depth_input import (
  depth_files_folder,
  depth_names,
  network_alone,
  with_depth_network,
)
from corda_jax.inference.views import as_evaluated, class_map, depth_maps
from corda_jax.labels import CITYSCAPES_IDS
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.depth_guided import sees_depth
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.hrda import Hrda
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import code_version, read_json, write_json

PLATFORMS = ("cpu", "cuda", "tpu")

_OUTPUTS = {
  "label": "uint8 [batch, height, width], indices into the class list",
  "logits": "float32 [batch, h, w, classes], at the network's output stride",
  "inverse_depth": "float32 [batch, height, width], 655.36 / (metres + 0.01) if metric",
  "difficulty": "float32 [batch, height, width], 0..1",
}

_EXAMPLE = '''"""Predicts uint8 [H, W, 3] by JAX and NumPy: python example.py IMAGE.npy"""

import json
import sys
from pathlib import Path

import numpy as np
from jax import export, jit

if len(sys.argv) != 2 or not sys.argv[1].endswith(".npy"):
  sys.exit(__doc__)
folder = Path(__file__).parent
information = json.loads((folder / "bundle.json").read_text())
variables = dict(np.load(folder / "variables.npz"))
network = jit(export.deserialize(bytearray((folder / "model.stablehlo").read_bytes())).call)

image = np.load(sys.argv[1])
maps = {name: np.asarray(x[0]) for name, x in network(variables, image[None]).items()}
for number, name in enumerate(information["classes"]["names"]):
  print(f"{name:<16}{(maps['label'] == number).mean():7.1%}")
colors = np.asarray(information["classes"]["colors"], np.uint8)[maps["label"]]
np.savez("prediction.npz", colors=colors, **maps)
print("prediction.npz:", ", ".join(["colors", *maps]))
'''


def export(task: AdaptationTask, workdir: Path) -> Path:
  """Writes `workdir/bundle` atomically, replacing an existing bundle.

  Args:
    task: network, mesh and configuration; `evaluation` names the checkpoint and the network.
    workdir: folder of the run.

  Returns:
    Folder of the bundle.

  Raises:
    UserError: there is no such checkpoint, or the folder cannot be written.
  """
  state = restore_state(task, workdir)
  variables = jax.device_get(network_variables(state, task.config.evaluation.network))
  whole, read = with_depth_network(task, variables)
  flat = flat_variables(whole)
  check_links(Path(workdir) / "bundle")
  folder = (Path(workdir) / "bundle").resolve()  # it may be a link to another disk
  partial = folder.with_name(folder.name + ".partial")
  program = export_program(task, whole, read).serialize()
  try:
    _put_back(folder)
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir(parents=True)
    (partial / bundle.PROGRAM).write_bytes(program)
    np.savez(partial / bundle.VARIABLES, **flat)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((partial / bundle.CHECKPOINT).absolute(), variables)
    (partial / bundle.EXAMPLE).write_text(_EXAMPLE, encoding="utf-8")
    write_json(partial / bundle.INFORMATION, _information(task, int(state.step)))
    write_json(partial / bundle.CHECKSUMS, bundle.checksums_of(partial))
    _replace(folder, partial)
  except (OSError, ValueError, RuntimeError) as error:  # Orbax raises the latter two on a full disk
    shutil.rmtree(partial, ignore_errors=True)
    reason = first_line(error)
    raise UserError(f"{folder} cannot be written ({reason}): free some space") from error
  size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
  what = f"the {task.config.evaluation.network} of step {int(state.step)}"
  print(f"Bundle: {folder} ({what}, {size / 1e6:.1f} MB)")
  return folder


def _replace(folder: Path, new: Path) -> None:
  """Renames `new` to `folder`; an existing folder is deleted only after that."""
  if folder.exists():
    shutil.rmtree(_before(folder), ignore_errors=True)
    folder.rename(_before(folder))
  try:
    new.rename(folder)
  except OSError:
    _put_back(folder)
    raise
  shutil.rmtree(_before(folder), ignore_errors=True)


def _put_back(folder: Path) -> None:
  """Restores the previous folder if `_replace` was interrupted before the new one had its name."""
  if _before(folder).exists() and not folder.exists():
    _before(folder).rename(folder)


def _before(folder: Path) -> Path:
  return folder.with_name(folder.name + ".before")


def named(variables: Any) -> dict[str, Any]:
  """Parameters and batch statistics by name, such as "params/encoder/…"."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): x
    for path, x in jax.tree_util.tree_leaves_with_path(variables)
  }


def flat_variables(variables: Any) -> dict[str, np.ndarray]:
  """Parameters and batch statistics by name, as arrays that NumPy files support."""
  return {name: np.asarray(x, _numpy_type(x.dtype)) for name, x in named(variables).items()}


def _numpy_type(dtype: np.dtype) -> np.dtype:
  """float32 if NumPy files do not support a type (bfloat16), else the same."""
  return np.dtype(np.float32) if dtype.kind == "V" else dtype


def export_program(
  task: AdaptationTask, variables: Any, read: Callable[[Any, jax.Array], jax.Array]
) -> jax_export.Exported:
  """The network as StableHLO: (variables by name, uint8 RGB [B, H, W, 3]) → maps by name.

  The batch is symbolic, and so is the size of the images unless `fixed_size` names one;
  `bundle.Bundle.predict` describes the maps.

  Args:
    task: network and configuration.
    variables: all variables, or their shapes, as `with_depth_network` gives them.
    read: what it gives beside these.
  """
  model, evaluation = task.model, task.config.evaluation
  wide = accumulation_dtype(jnp.dtype(task.config.model.param_dtype))
  types = {name: x.dtype for name, x in named(variables).items()}

  def predict(flat, images):
    tree: dict[str, Any] = {}
    for name, value in flat.items():
      *folders, last = name.split("/")
      place = tree
      for each in folders:
        place = place.setdefault(each, {})
      place[last] = value.astype(types[name])
    size, sizing = images.shape[1:3], {"method": model.resize_outputs}

    def outputs_of(x):
      outputs = model.apply(network_alone(tree), x, train=False)
      return {name: value.astype(wide) for name, value in outputs.items()}

    x = read(tree, images)
    outputs = as_evaluated(outputs_of, evaluation, **sizing)(x)
    maps = {"label": class_map([(outputs["S"],)], size, **sizing)}
    if not any(evaluation.window):  # else they have the size of the image, and many of them
      maps["logits"] = outputs_of(x)["S"]
    return maps | depth_maps(outputs, x, size, **sizing)

  if size := fixed_size(task):
    shape = jax_export.symbolic_shape("batch, {}, {}, 3".format(*size))
  else:
    smallest = smallest_size(task)
    shape = jax_export.symbolic_shape(
      "batch, height, width, 3", constraints=[f"height >= {smallest}", f"width >= {smallest}"]
    )
  predict = at_matmul_precision(predict, task.config.compute.matmul_precision)
  return jax_export.export(jax.jit(predict), platforms=PLATFORMS)(
    {
      name: jax.ShapeDtypeStruct(x.shape, _numpy_type(x.dtype))
      for name, x in named(variables).items()
    },
    jax.ShapeDtypeStruct(shape, jnp.uint8),
  )


def fixed_size(task: AdaptationTask) -> tuple[int, int] | None:
  """The only size in pixels that an exported program takes, that of the target; None: any.

  What a network computes depends on the size if it is a Vision Transformer, by its positions, works
  in windows, or sees depth.
  """
  model, target = task.model, task.config.data.target
  windows = isinstance(model, Hrda) or any(task.config.evaluation.window)
  depends = windows or sees_depth(model) or isinstance(model.encoder, VisionTransformer)
  return (target.height, target.width) if depends else None


def smallest_size(task: AdaptationTask) -> int:
  """Smallest side in pixels that an exported program takes; all taps of the decoder fit in it."""
  if size := fixed_size(task):
    return min(size)
  decoder = task.model.decoder
  dilations = decoder.dilations if isinstance(decoder, DeepLabDecoder) else (1,)
  return task.stride * (max(dilations) + 2)


def _information(task: AdaptationTask, step: int) -> dict[str, Any]:
  config, classes = task.config, task.classes
  ids = [CITYSCAPES_IDS.get(name) for name in classes.names]
  outputs = ["label", *([] if any(config.evaluation.window) else ["logits"])]
  outputs += depth_names(task.model)
  made_by = sees_depth(task.model) and read_json(Path(depth_files_folder(task)) / MANIFEST)
  return {
    "format": bundle.FORMAT,
    "step": step,
    "network": config.evaluation.network,
    "classes": {"names": classes.names, "colors": classes.colors, "cityscapes_ids": ids},
    "trained_height": config.data.target.height,
    "smallest_size": smallest_size(task),
    "size": fixed_size(task),
    "input": "uint8 RGB [batch, height, width, 3]",
    "outputs": {name: _OUTPUTS[name] for name in outputs},
    "platforms": PLATFORMS,
    **({"depth_network": made_by} if made_by else {}),
    "written_by": code_version(),
    "config": config.to_dict(),
  }
