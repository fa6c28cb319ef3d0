"""What reads no data runs where TensorFlow is missing, and needs little besides JAX."""

import subprocess
import sys
from pathlib import Path

import pytest

import corda_jax

SCRIPT = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {blocked}:
      raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
import importlib
for module in {modules}:
  importlib.import_module(module)
  print(module)
"""


def imported(modules, blocked):
  script = SCRIPT.format(blocked=blocked, modules=modules)
  return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_modules_import_without_tensorflow():
  root = Path(corda_jax.__file__).parent
  modules = sorted(
    ".".join(path.relative_to(root.parent).with_suffix("").parts)
    for path in root.rglob("*.py")
    if path.name != "__init__.py"
  )
  command = ["corda_jax.main", "corda_jax.command_line"]
  assert {*command, "corda_jax.training.train_loop"} <= set(modules)
  blocked = ("tensorflow", "tensorflow_datasets", "clu", "matplotlib")
  others = [name for name in modules if name not in command]
  for names, more in ((command, ("jax",)), (others, ())):
    result = imported(names, (*blocked, *more))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == names


@pytest.mark.parametrize(
  ("names", "more"),
  [
    (("speed.step", "speed.references", "speed.classifier", "speed.kernel_gradients"), ()),
    (("ablation.run", "ablation.world", "devices", "gpu", "speed.encoders"), ()),
  ],
)
def test_what_a_gpu_is_timed_by_needs_little_more(names, more):
  """Beside JAX, Flax, Optax and Orbax it is ml_collections and tqdm: docs/benchmarks.md."""
  modules = [f"benchmarks.{name}" for name in names]
  blocked = (
    *("tensorflow", "tensorflow_datasets", "clu", "matplotlib", "pyarrow", "tensorboard"),
    *("array_record", *more),
  )
  result = imported(modules, blocked)
  assert result.returncode == 0, result.stderr
  assert result.stdout.split() == modules
