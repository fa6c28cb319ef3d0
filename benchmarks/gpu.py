"""The rows that docs/benchmarks.md leaves open, on a machine with a GPU, in the time there is.

    python -m benchmarks.gpu --out OUT --seconds 540 --released FOLDER
    python -m benchmarks.gpu --out OUT --seconds 300 --released FOLDER step forms

Runs stages in the order of their importance: does it work, how fast is a step, why is it no faster,
a training. Each is a program of its own and leaves OUT/STAGE.txt and, where it gives numbers,
OUT/STAGE.json; what is measured is on disk at once. A stage that is not expected to fit into the
remaining time is skipped, one that takes longer is stopped, and one that fails leaves the others;
OUT/stages.json says which. benchmarks/gpu_requirements.txt lists what the machine needs.
"""

import argparse
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

from benchmarks.options import run_command
from corda_jax.errors import UserError

_ROOT = Path(__file__).parents[1]
_LEFT = "MINUTES_LEFT"  # in a command: the minutes that a stage has, but for one to end in

# Beside PyTorch JAX takes memory as it goes. That leaves holes where several variants come and go,
# so by itself it takes all at once.
_ALONE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"}
_BESIDE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".75"}


@dataclasses.dataclass(frozen=True)
class Stage:
  """Programs that run one after the other.

  Attributes:
    seconds: what they are expected to take on an H200, compilation included. Not measured.
    commands: modules and their arguments.
    environment: variables that they get.
  """

  seconds: int
  commands: tuple[tuple[str, ...], ...]
  environment: Mapping[str, str]


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
  known = stages(options)
  if unknown := [name for name in options.stages if name not in known]:
    raise UserError(f"there is no stage {unknown[0]}, expected some of {', '.join(known)}")
  options.out.mkdir(parents=True, exist_ok=True)
  ends = time.monotonic() + options.seconds
  report: dict[str, str] = {}
  for name in options.stages or known:
    left = ends - time.monotonic()
    if left < known[name].seconds:
      report[name] = f"skipped: {left:.0f} s left, {known[name].seconds} expected"
    else:
      report[name] = run_stage(name, known[name], options.out, left)
    print(f"== {name}: {report[name]}", flush=True)
    (options.out / "stages.json").write_text(json.dumps(report, indent=1))
  if bad := [name for name, state in report.items() if not state.startswith(("done", "skipped"))]:
    raise UserError(f"not done: {', '.join(bad)}: see {options.out}/{bad[0]}.txt")


def stages(options: argparse.Namespace) -> dict[str, Stage]:
  """The stages by name, in the order in which they run.

  Args:
    options: options of the command.
  """
  few, many = options.batches
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
    environment = (_BESIDE if given else _ALONE) | xla
    return Stage(seconds, ((*command, "--set", *size, *more),), environment)

  def of(batch: int, dtype: str = "bfloat16") -> tuple[str, str]:
    return f"data.batch_size={batch}", f"model.dtype={dtype}"

  in_float32 = "compute.matmul_precision=highest"
  golden = ("tests.golden", "--platform", options.platform)
  again = ("--sweep", "compute.rematerialize", "False", "True")
  types = ("--sweep", "model.dtype", "float32", "bfloat16")
  one_pass = ("--sweep", "compute.one_student_pass", "False", "True")
  found = {
    # Does it work?
    "devices": Stage(150, (("benchmarks.devices", "--steps", str(options.steps)),), _ALONE),
    "values": Stage(
      150,
      (
        (*golden, "--dtypes", "float32", "bfloat16", "--step", "corda_gta.npz"),
        (*golden, "daformer/mit_b0.npz", "foundation/dinov2_S.npz"),
      ),
      _ALONE,
    ),
    # How fast is a step? In turn with the released one.
    "step": step("step", 180, of(few)[0], *types, beside=references(few)),
    "step_float32": step(
      "step_float32", 120, *of(few, "float32"), in_float32, beside=references(few)
    ),
    # Why is it no faster?
    "no_graphs": step(  # kernels one by one: what graphs of them gain, and names in the profile
      "no_graphs", 100, *of(few), flags="--xla_gpu_enable_command_buffer="
    ),
    "forms": step("forms", 250, *of(few), *one_pass, *again),
    "layout": step("layout", 100, *of(few), flags="--xla_gpu_force_conv_nhwc=true"),
    "large": step("large", 200, *of(many), *again),
    "between": step("between", 300, "--sweep", "data.batch_size", "4", "8", *types),
    "between_float32": step(
      "between_float32", 200, in_float32, "--sweep", "data.batch_size", "4", "8"
    ),
    "large_tf32": step("large_tf32", 200, *of(many, "float32"), *again),
    "large_float32": step("large_float32", 200, *of(many, "float32"), in_float32, *again),
    "large_released": Stage(  # one after the other: two programs may be too large for a GPU
      120,
      (("benchmarks.speed.references", *rounds, *json_of("large_released"), *references(many)),),
      {},
    ),
    "recipes": Stage(  # with crops of their own
      400,
      tuple(
        ("benchmarks.speed.step", "--config", name, *rounds, *json_of(f"recipes_{name}"))
        + ("--set", *of(few))
        for name in ("gta2cs_daformer", "gta2cs_hrda", "gta2cs_mic", "gta2cs_vfm_uda")
      ),
      _ALONE,
    ),
    "transformers": Stage(  # beside Hugging Face's
      300,
      (
        ("benchmarks.speed.encoders", "--python", sys.executable, "--networks")
        + ("B0", "B5", "S", "L", "DA-S", "DA-L", "--sizes", "512", "1024")
        + ("--dtype", "bfloat16", *rounds, "--steps", "10"),
      ),
      _BESIDE,
    ),
    "kernels": Stage(
      120, (("benchmarks.speed.kernel_gradients",), ("benchmarks.speed.classifier",)), _ALONE
    ),
    "training": Stage(
      240,
      (("benchmarks.ablation.run", "--size", "large", "--seeds", "1", "--minutes", _LEFT),),
      _ALONE,
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
    seconds: after which the stage is stopped.

  Returns:
    What became of it: "done in 5 s", "failed …" or "stopped …".
  """
  started = time.monotonic()
  stopped = threading.Event()
  (out / f"{name}.json").unlink(missing_ok=True)  # of an earlier time
  codes = []
  with open(out / f"{name}.txt", "w", encoding="utf-8") as file:
    for command in stage.commands:
      minutes = f"{max(0.5, (started + seconds - time.monotonic()) / 60 - 1):.1f}"
      words = [sys.executable, "-m", *(minutes if word == _LEFT else word for word in command)]
      process = subprocess.Popen(
        words,
        cwd=_ROOT,
        env=os.environ | stage.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # references end with it
      )

      def stop(process: subprocess.Popen[str] = process) -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

      timer = threading.Timer(max(0.0, started + seconds - time.monotonic()), stop)
      timer.start()
      for line in process.stdout:
        print(line, end="", flush=True)
        file.write(line)
        file.flush()
      codes.append(process.wait())
      timer.cancel()
      if stopped.is_set():
        break
  took = f"{time.monotonic() - started:.0f} s"
  if stopped.is_set():
    return f"stopped after {took}"
  if any(codes):
    return f"failed with code {next(filter(None, codes))} in {took}"
  return f"done in {took}"


if __name__ == "__main__":
  run_command(main)
