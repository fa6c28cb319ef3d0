"""The rows that docs/benchmarks.md leaves open, on a machine with a GPU, within a time limit.

    python -m benchmarks.gpu --out OUT --seconds 540 --released FOLDER
    python -m benchmarks.gpu --out OUT --seconds 300 --released FOLDER step forms

Runs stages in the order of their importance: does it work, how fast is a step, why is it no faster,
a training. Each is a program of its own and leaves OUT/STAGE.txt and, where it gives numbers,
OUT/STAGE.json; what is measured is on disk at once. A stage that is not expected to fit into the
remaining time is skipped, one that takes twice as long as expected is stopped, and one that fails
leaves the others; OUT/stages.json says which. benchmarks/gpu_requirements.txt lists what the
machine needs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from benchmarks.options import run_command
from corda_jax.errors import UserError

_ROOT = Path(__file__).parents[1]
_MINUTES_LEFT = "MINUTES_LEFT"  # in a command: what remains of the stage's time
_MINUTES_TO_END = 2.0  # of that: to save, evaluate and print

# Beside PyTorch JAX takes memory as it goes. That leaves holes where several variants come and go,
# so by itself it takes all at once.
_ALONE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"}
_BESIDE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".75"}

_RECIPES = (
  *("gta2cs_daformer", "gta2cs_mic_daformer", "gta2cs_hrda", "gta2cs_mic", "gta2cs_mic_corda"),
  "gta2cs_vfm_uda",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """Programs that run one after the other.

  Attributes:
    seconds: what they are expected to take on an H200, compilation included. Not measured.
    commands: modules and their arguments.
    environment: variables that they get.
    fills: whether the stage takes all the time that is left.
  """

  seconds: int
  commands: tuple[tuple[str, ...], ...]
  environment: Mapping[str, str]
  fills: bool = False


def main(arguments: list[str] | None = None) -> None:
  """Runs the stages.

  Raises:
    UserError: a stage is unknown, failed or was stopped.
  """
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all, in order")
  parser.add_argument("--out", type=Path, required=True, help="folder of the results")
  parser.add_argument("--seconds", type=int, default=24 * 3600, help="for all stages together")
  parser.add_argument("--released", type=Path, help="the released code; default: not timed")
  small = parser.add_argument_group("to try it elsewhere")
  small.add_argument("--platform", default="cuda", help="default: cuda")
  small.add_argument("--config", default="gta2cs", help="of the steps; default: gta2cs")
  small.add_argument("--height", type=int, default=512, help="of the crops; default: 512")
  small.add_argument("--batches", type=int, nargs=2, default=(2, 16), help="default: 2 16")
  small.add_argument("--rounds", type=int, default=5, help="timings; default: 5")
  small.add_argument("--steps", type=int, default=300, help="of stage `devices`; default: 300")
  options = parser.parse_args(arguments)
  if options.released and not (options.released / "model" / "deeplabv2_gta.py").exists():
    raise UserError(f"--released is {options.released}, expected a clone of the released code")
  known = stages(options)
  if unknown := [name for name in options.stages if name not in known]:
    raise UserError(f"STAGE is {unknown[0]!r}, expected some of {', '.join(known)}")
  options.out.mkdir(parents=True, exist_ok=True)
  deadline = time.monotonic() + options.seconds
  file = options.out / "stages.json"
  report = json.loads(file.read_text()) if file.exists() else {}  # of an earlier call
  bad = []
  for name in options.stages or known:
    left = deadline - time.monotonic()
    if left < known[name].seconds:
      report[name] = f"skipped: {left:.0f} s left, {known[name].seconds} expected"
    else:
      limit = left if known[name].fills else min(left, 2 * known[name].seconds)
      report[name] = run_stage(name, known[name], options.out, limit)
      bad += [] if report[name].startswith("done") else [name]
    print(f"== {name}: {report[name]}", flush=True)
    file.write_text(json.dumps(report, indent=1))
  if bad:
    raise UserError(f"not done: {', '.join(bad)}: see {options.out}/{bad[0]}.txt")


def stages(options: argparse.Namespace) -> dict[str, Stage]:
  """The stages by name, in the order in which they run.

  Args:
    options: options of the command.
  """
  small, large = options.batches
  alone, beside_torch = (
    each | {"JAX_PLATFORMS": options.platform}  # or a GPU that is not found would be a CPU
    for each in (_ALONE, _BESIDE)
  )
  json_of = lambda name: ("--json", str((options.out / f"{name}.json").absolute()))  # noqa: E731
  rounds = ("--rounds", str(options.rounds))

  def reference(name: str, batch: int, *more: str) -> str:
    command = [sys.executable, "benchmarks/reference/released_step.py"]
    command += [str(options.released.absolute()), "--device", options.platform, f"--batch={batch}"]
    command += [f"--height={options.height}", f"--width={options.height}", *more]
    return f"{name}={shlex.join(command)}"

  def references(batch: int) -> list[str]:
    if options.released is None:
      return []
    kinds = {
      "float32": (),
      "TF32": ("--tf32",),
      "autocast": ("--autocast",),
      "autocast, channels last": ("--autocast", "--channels_last"),
    }
    return [reference(name, batch, *more) for name, more in kinds.items()]

  def step(name: str, seconds: int, *more: str, beside: list[str] | None = None, flags: str = ""):
    given = [word for text in beside or () for word in ("--reference", text)]
    size = (f"data.crop_height={options.height}", f"data.crop_width={options.height}")
    command = ("benchmarks.speed.step", "--config", options.config, *rounds, *json_of(name), *given)
    xla = {"XLA_FLAGS": f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()} if flags else {}
    environment = (beside_torch if given else alone) | xla
    return Stage(seconds, ((*command, "--set", *size, *more),), environment)

  def settings(batch: int, dtype: str = "bfloat16") -> tuple[str, str]:
    return f"data.batch_size={batch}", f"model.dtype={dtype}"

  highest = "compute.matmul_precision=highest"
  golden = ("tests.golden", "--platform", options.platform)
  rematerialized = ("--sweep", "compute.rematerialize", "False", "True")
  both_types = ("--sweep", "model.dtype", "float32", "bfloat16")
  one_pass = ("--sweep", "compute.one_student_pass", "False", "True")
  found = {
    # Does it work?
    "devices": Stage(150, (("benchmarks.devices", "--steps", str(options.steps)),), alone),
    "values": Stage(
      150,
      (
        (*golden, "--dtypes", "float32", "bfloat16", "--step", "corda_gta.npz"),
        (*golden, "daformer/mit_b0.npz", "foundation/dinov2_S.npz"),
      ),
      alone,
    ),
    # How fast is a step? In turn with the released one.
    "step": step("step", 180, settings(small)[0], *both_types, beside=references(small)),
    "step_float32": step(
      "step_float32", 120, *settings(small, "float32"), highest, beside=references(small)
    ),
    # Why is it no faster?
    "no_graphs": step(  # kernels one by one: what graphs of them gain, and names in the profile
      "no_graphs", 100, *settings(small), flags="--xla_gpu_enable_command_buffer="
    ),
    "forms": step("forms", 250, *settings(small), *one_pass, *rematerialized),
    "layout": step("layout", 100, *settings(small), flags="--xla_gpu_force_conv_nhwc=true"),
    "training": Stage(
      240,
      (("benchmarks.ablation.run", "--size", "large", "--seeds", "1", "--minutes", _MINUTES_LEFT),),
      alone,
      fills=True,
    ),
    # The other rows.
    "recipes": Stage(  # with crops and batches of their own
      600,
      tuple(
        ("benchmarks.speed.step", "--config", name, *rounds, *json_of(f"recipes_{name}"))
        + ("--set", "model.dtype=bfloat16")
        for name in _RECIPES
      ),
      alone,
    ),
    "large": step("large", 200, *settings(large), *rematerialized),
    "between": step("between", 300, "--sweep", "data.batch_size", "4", "8", *both_types),
    "between_float32": step(
      "between_float32", 200, highest, "--sweep", "data.batch_size", "4", "8"
    ),
    "large_tf32": step("large_tf32", 200, *settings(large, "float32"), *rematerialized),
    "large_float32": step(
      "large_float32", 200, *settings(large, "float32"), highest, *rematerialized
    ),
    "large_released": Stage(  # one after the other: two programs may be too large for a GPU
      120,
      (("benchmarks.speed.references", *rounds, *json_of("large_released"), *references(large)),),
      {},
    ),
    "transformers": Stage(  # beside Hugging Face's
      300,
      (
        ("benchmarks.speed.encoders", "--python", sys.executable, "--networks")
        + ("B5", "L", "DA-L", "B0", "S", "DA-S", "--sizes", "512", "1024")
        + ("--dtype", "bfloat16", *rounds, "--steps", "10"),
      ),
      beside_torch,
    ),
    "kernels": Stage(
      120, (("benchmarks.speed.kernel_gradients",), ("benchmarks.speed.classifier",)), alone
    ),
  }
  if options.released is None:
    del found["large_released"]
  return found


def run_stage(name: str, stage: Stage, out: Path, seconds: float) -> str:
  """Runs the programs of a stage; what they print goes to OUT/NAME.txt, too.

  Args:
    name: name of the stage.
    stage: the stage.
    out: folder of the results.
    seconds: time after which the stage is stopped.

  Returns:
    Outcome: "done in 5 s", "failed …" or "stopped …".
  """
  started = time.monotonic()
  for path in (out / f"{name}.json", *(out / f"{name}_{recipe}.json" for recipe in _RECIPES)):
    path.unlink(missing_ok=True)  # of an earlier time
  codes: list[int] = []
  stopped = False
  with open(out / f"{name}.txt", "w", encoding="utf-8") as file:
    for command in stage.commands:
      left = started + seconds - time.monotonic()
      if stopped := left <= 0:
        break
      minutes = f"{max(0.5, left / 60 - _MINUTES_TO_END):.1f}"
      words = [minutes if word == _MINUTES_LEFT else word for word in command]
      code, stopped = _run(words, stage.environment, file, left)
      codes.append(code)
      if stopped:
        break
  took = f"{time.monotonic() - started:.0f} s"
  if stopped:
    return f"stopped after {took}"
  if any(codes):
    return f"failed with code {next(filter(None, codes))} in {took}"
  return f"done in {took}"


def _run(
  words: list[str], environment: Mapping[str, str], file: TextIO, seconds: float
) -> tuple[int, bool]:
  """Exit code of a module and whether it was killed for its time; prints and writes its output."""
  process = subprocess.Popen(
    [sys.executable, "-m", *words],
    cwd=_ROOT,
    env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    process_group=0,  # references, and all else that it starts, end with it
  )
  stopped = threading.Event()

  def kill() -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
      os.killpg(process.pid, signal.SIGKILL)
      stopped.set()

  timer = threading.Timer(seconds, kill)
  timer.start()
  try:
    for line in process.stdout:
      print(line, end="", flush=True)
      file.write(line)
      file.flush()
    return process.wait(), stopped.is_set()
  finally:
    timer.cancel()
    if process.poll() is None:
      kill()


if __name__ == "__main__":
  run_command(main)
