"""Runs the program on each supported Python of this machine, with the packages that it allows.

    python -m tests.versions [--python 3.12 --with jax==0.11.2]

Each Python that is found, on the PATH or in pyenv, gets an environment with the newest packages
that pyproject.toml allows, and the oldest Python one more with the oldest. The newest packages on
the Python that runs this are left out: they are what the tests run on. In each environment every
module is imported, and a tiny network is trained, evaluated and used to predict. Environments are
kept in `.versions`, by the contents of pyproject.toml.
"""

import argparse
import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from tests.command import ROOT, arguments

ENVIRONMENTS = ROOT / ".versions"


class VersionError(Exception):
  """A command failed in an environment."""


def supported_versions(project: dict) -> list[str]:
  """The Python versions of a project's classifiers, such as "3.11", oldest first."""
  found = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
  return sorted(found, key=lambda version: int(version.split(".")[1]))


def find_python(version: str) -> str | None:
  """Path of a Python of this version: of one on the PATH, else of pyenv's newest."""
  pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
  releases = sorted(
    pyenv.glob(f"{version}.*/bin/python"), key=lambda path: int(path.parts[-3].split(".")[2])
  )
  candidates = [
    *(shutil.which(f"python{version}"), shutil.which("python3")),
    *map(str, reversed(releases)),
    f"{sys.base_prefix}/bin/python3",  # of the environment that this runs in
  ]
  for candidate in filter(None, candidates):
    # A shim of pyenv is on the PATH whether or not its Python is chosen.
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
    if answer.stdout.strip() == version:
      return candidate
  return None


def run(command: list[str]) -> str:
  """Runs a command on CPUs; what it prints.

  Raises:
    VersionError: it fails.
  """
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # uv leaves thousands of modules to be compiled when imported
  }
  try:
    result = subprocess.run(
      command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
  except subprocess.TimeoutExpired as error:
    raise VersionError(f"{' '.join(command)} did not end") from error
  if result.returncode:
    raise VersionError(f"{' '.join(command)}\n{result.stdout[-1000:]}{result.stderr[-3000:]}")
  return result.stdout


def _digest() -> str:
  return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:12]


def make_environment(python: str, resolution: str, extra: list[str]) -> Path:
  """The Python of an environment with the project's packages; made unless it is there.

  Args:
    python: the interpreter.
    resolution: of uv: "highest" or "lowest-direct".
    extra: further requirements.
  """
  kind = hashlib.sha256(repr((os.path.realpath(python), resolution, extra)).encode()).hexdigest()
  folder = ENVIRONMENTS / f"{_digest()}-{kind[:12]}"
  interpreter = folder / "bin" / "python"
  if not (folder / "ready").exists():
    uv = [sys.executable, "-m", "uv"]
    run([*uv, "venv", "--quiet", "--clear", "--python", python, str(folder)])
    options = ("--quiet", "--resolution", resolution, "--python", str(interpreter))
    run([*uv, "pip", "install", *options, "--requirements", "pyproject.toml", *extra])
    (folder / "ready").touch()
  return interpreter


def check(python: str, resolution: str, extra: list[str]) -> str:
  """Checks one environment; a line about it.

  Raises:
    VersionError: something fails in it.
  """
  started = time.monotonic()
  interpreter = str(make_environment(python, resolution, extra))
  versions = run([interpreter, "-m", "tests.import_all"]).splitlines()[-1]
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    for mode in ("train", "evaluate", "predict"):
      images = {"prediction__input": folder / "cityscapes" / "leftImg8bit" / "val"}
      flags = arguments(folder, mode=mode, **images if mode == "predict" else {})
      run([interpreter, "-m", "corda_jax.main", *flags])
    predicted = list((folder / "run" / "predictions").rglob("*_label.png"))
    if not (folder / "run" / "evaluation.json").exists() or len(predicted) != 3:
      raise VersionError(f"no evaluation, or {len(predicted)} predictions, expected 3")
  return f"{resolution}: {versions}; {time.monotonic() - started:.0f} s"


def main() -> None:
  """Prints a line for each environment; exit code 1 if something fails in one of them."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.versions", description=__doc__.splitlines()[0]
  )
  parser.add_argument(
    "--with", dest="extra", action="append", default=[], help="a further requirement"
  )
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  versions = supported_versions(project)
  parser.add_argument(
    "--python",
    action="append",
    choices=versions,
    help="this version alone; default: all but the one that runs this",
  )
  options = parser.parse_args()
  pythons = {version: find_python(version) for version in options.python or versions}
  for version, python in pythons.items():
    if python is None:
      print(f"Python {version}: not found")
  found = {version: python for version, python in pythons.items() if python}
  if not found:
    sys.exit(f"error: none of Python {', '.join(pythons)} is on the PATH or in pyenv")
  tested = [] if options.python else [".".join(map(str, sys.version_info[:2]))]
  jobs = [(python, "highest") for version, python in found.items() if version not in tested]
  if not options.extra:
    jobs.append((next(iter(found.values())), "lowest-direct"))
  digest = _digest()
  for old in ENVIRONMENTS.glob("*"):  # of another pyproject.toml
    if not old.name.startswith(digest):
      shutil.rmtree(old)
  failed = 0
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
    for job in [pool.submit(check, *job, options.extra) for job in jobs]:
      try:
        print(job.result(), flush=True)
      except VersionError as error:
        failed += 1
        print(f"error: {error}", flush=True)
  sys.exit(1 if failed else 0)


if __name__ == "__main__":
  main()
