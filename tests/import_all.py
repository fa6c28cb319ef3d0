"""Imports every module of the project, and prints which packages did it: for `tests.versions`."""

import importlib
import sys
from pathlib import Path

PACKAGES = ("corda_jax", "configs", "data_pipelines", "benchmarks")
# Of extras, and of the released code that a benchmark runs.
OPTIONAL = {"apache_beam", "torch"}


def main() -> None:
  """Prints one line; whatever cannot be imported is raised."""
  root = Path(__file__).parents[1]
  paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
  for path in paths:
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    try:
      importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name not in OPTIONAL:
        raise
  versions = [f"Python {sys.version.split()[0]}"]
  for name in ("jax", "flax", "optax", "orbax.checkpoint", "numpy", "tensorflow"):
    versions.append(f"{name.split('.')[0]} {importlib.import_module(name).__version__}")
  print(f"{len(paths)} modules; {', '.join(versions)}")


if __name__ == "__main__":
  main()
