"""Set-up of all tests: four virtual devices, strict promotion, one compilation cache."""

import os
import resource
import tempfile
from pathlib import Path

# One cache of compiled programs for all tests, workers and the processes that tests start; it
# outlives a run, so a second run compiles nothing.
_CACHE = Path(tempfile.gettempdir()) / f"corda_jax_tests_{os.getuid()}" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile many programs and run each of them once or twice.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# What an array held is given back when it is freed: workers stay small.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1000000")
# Processes that tests start find the tests' own modules, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
  filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
)

import jaxtyping

# Shapes in signatures are checked wherever tests call these.
_CHECKED = {
  "corda_jax": ("color_jitter", "losses", "metrics", "resize"),
  "corda_jax.adaptation": (
    *("class_mix", "depth_heads", "mixing", "pseudo_labels", "color_augmentation"),
  ),
  "corda_jax.depth": ("camera", "encodings", "motion", "photometric"),
  "corda_jax.inference": ("views", "windows"),
  "corda_jax.models": ("depthwise", "layers", "normalization", "operations", "transformer"),
  "corda_jax.models.encoders": ("mix_transformer", "positions", "vision_transformer"),
  "data_pipelines": ("inverse_depth",),
}
jaxtyping.install_import_hook(
  [f"{package}.{module}" for package, modules in _CHECKED.items() for module in modules],
  "beartype.beartype",
)

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module", autouse=True)
def _forget_what_was_compiled():
  """Programs that a module compiled are dropped with it: a worker would grow to many gigabytes."""
  yield
  jax.clear_caches()


@pytest.fixture
def float64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def unchecked_shapes():
  """For tests of the functions' own errors, which come after those of their signatures."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def random() -> np.random.RandomState:
  return np.random.RandomState(7)


def _usage() -> tuple[float, float, float]:
  """Processor seconds of this process and those that it started, and the largest GB of both."""
  kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  own, children = (resource.getrusage(kind) for kind in kinds)
  seconds = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
  return seconds, own.ru_maxrss / 1e6, children.ru_maxrss / 1e6


_workers: list[tuple[float, float, float]] = []


def pytest_collection_modifyitems(items):
  """The longest tests come first: at the end one worker would run them alone."""
  items.sort(key=lambda item: item.path.stem != "test_reference_values")


def pytest_sessionfinish(session):
  if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist
    session.config.workeroutput["usage"] = _usage()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  if usage := getattr(node, "workeroutput", {}).get("usage"):
    _workers.append(usage)


def pytest_terminal_summary(terminalreporter):
  seconds, own, started = zip(*(_workers or [_usage()]), strict=True)
  terminalreporter.write_line(
    f"{sum(seconds):.0f} s of processor time; the largest worker had {max(own):.1f} GB, "
    f"the largest process that a test started {max(started):.1f} GB"
  )
