"""Prints the largest relative error of every quantity of every file of reference values.

python -m tests.golden                     those in tests/golden
python -m tests.golden --folder DIR        others
python -m tests.golden corda_gta.npz ...   these of them; daformer/mit_b0.npz of a folder below
python -m tests.golden --platform cuda     on a GPU
"""

import argparse
import os
import sys
from pathlib import Path

import jax

from tests.golden import files, folder
from tests.golden.kinds import KINDS
from tests.golden.released_run import ReleasedRun


def main() -> None:
  """Prints one table a file; exit code 1 if an error is not below its bound."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.golden", description=__doc__.splitlines()[0]
  )
  parser.add_argument("--folder", type=Path, help="default: CORDA_GOLDEN_DIR, or tests/golden")
  parser.add_argument("--platform", default="cpu", help="where it is computed; default: cpu")
  parser.add_argument(
    "--dtypes",
    nargs="+",
    choices=("float64", "float32", "bfloat16"),
    default=("float64", "float32"),
    help="default: float64 and float32; bfloat16 has no bounds",
  )
  parser.add_argument(
    "--step", action="store_true", help="the losses of a released step in float32 and bfloat16, too"
  )
  parser.add_argument(
    "--outputs", action="store_true", help="of the released networks no steps, in float64 either"
  )
  parser.add_argument("files", nargs="*", metavar="FILE", help="default: all")
  options = parser.parse_args()
  if options.folder:
    os.environ["CORDA_GOLDEN_DIR"] = os.fspath(options.folder)
  found = [name_of(path) for kind in ("corda", *KINDS) for path in files(kind)]
  unknown = sorted(set(options.files) - set(found))
  if unknown or not found:
    parser.error(
      f"{folder()} does not hold {', '.join(unknown) or 'any reference values'}, expected "
      f"{', '.join(found or [f'{kind}*.npz' for kind in KINDS])}"
    )
  jax.config.update("jax_platforms", options.platform)
  jax.config.update("jax_default_matmul_precision", "highest")  # GPUs have others
  jax.config.update("jax_numpy_dtype_promotion", "strict")
  expected = options.files
  missed = 0
  runs = [
    (path, "float64", measures)
    for kind, functions in KINDS.items()
    for path in files(kind)
    for measures in functions
  ]
  runs += [
    (path, "float64", lambda p: ReleasedRun(p).measures(steps=not options.outputs))
    for path in files("corda")
  ]
  runs += [
    (path, dtype, lambda p, dtype=dtype: ReleasedRun(p, dtype).in_low_precision(step=options.step))
    for dtype in ("float32", "bfloat16")
    for path in files("corda")
  ]
  runs = [run for run in runs if run[1] in options.dtypes]
  if missing := sorted(set(expected) - {name_of(path) for path, *_ in runs}):
    parser.error(f"{missing[0]} is compared in float64 alone: leave out --dtypes")
  for path, dtype, measures in runs:
    if expected and name_of(path) not in expected:
      continue
    jax.config.update("jax_enable_x64", dtype == "float64")
    print(f"\n{name_of(path)}, {dtype}")
    print(f"  {'quantity':<30} {'compared':>9} {'largest error':>14} {'bound':>9}")
    for measure in measures(path):
      met = measure.error < measure.bound
      missed += not met
      # Bounds of what must be equal are the smallest number above zero.
      bound = f"{measure.bound:.0e}" if measure.bound > 1e-300 else "equal"
      bound = "none" if measure.bound == float("inf") else bound
      note = "" if met else "  ABOVE"
      print(
        f"  {measure.quantity:<30} {measure.compared:>9,} {measure.error:>14.1e} {bound:>9}{note}",
        flush=True,
      )
  sys.exit(1 if missed else 0)


def name_of(path: Path) -> str:
  """The name of a file below the folder of reference values."""
  return path.relative_to(folder()).as_posix()


if __name__ == "__main__":
  main()
