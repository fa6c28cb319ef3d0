"""The command with a tiny configuration, in this process or in one of its own."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from absl import flags

from corda_jax import command_line, main
from corda_jax.errors import UserError

ROOT = Path(__file__).parents[1]
TINY = {
  "num_steps": 2,
  "evaluate_every": 2,
  "checkpoint_every": 2,
  "data.batch_size": 4,  # of the tests' four devices
  "data.evaluation_batch_size": 4,
  "data.crop_height": 24,
  "data.crop_width": 32,
  "data.source.height": 32,
  "data.source.width": 64,
  "data.target.height": 32,
  "data.target.width": 64,
  "data.prepare_processes": 1,
  "data.street_world.source_frames": 3,
  "data.street_world.target_frames": 3,
  "data.street_world.validation_frames": 3,
  "data.street_world.source_height": 32,
  "data.street_world.source_width": 64,
  "data.street_world.target_height": 32,
  "data.street_world.target_width": 64,
  "model.encoder.width": 4,
  "model.decoder.width": 4,
  "evaluation.pictures": 2,
}


def arguments(
  folder: Path,
  workdir: str = "run",
  mode: str = "train",
  config: str = "configs/demo.py:as_released",
  **fields: Any,
) -> list[str]:
  """Flags of a tiny job; fields of the configuration with "__" in place of their dots."""
  fields = {
    **TINY,
    "data.records_dir": folder / "records",
    "data.source.root": folder / "gta5",
    "data.target.root": folder / "cityscapes",
  } | {name.replace("__", "."): value for name, value in fields.items()}
  return [
    *(f"--config={config}", f"--workdir={folder / workdir}", f"--mode={mode}"),
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


class Output(NamedTuple):
  """What a job printed."""

  stdout: str
  stderr: str


def run(flags_given: list[str]) -> Output:
  """Runs the command in this process; its `UserError` is raised."""
  values, line = flags.FlagValues(), ["main", *flags_given]
  command_line.define_flags(values, line)
  printed = Output(*(io.StringIO() for _ in Output._fields))
  with (
    contextlib.redirect_stdout(printed.stdout),
    contextlib.redirect_stderr(printed.stderr),
    contextlib.chdir(ROOT),
    jax.numpy_dtype_promotion("standard"),  # Optax's AdamW is not strict
  ):
    command = main.parse(line, values)
    main.run(command.config, command.workdir, command.mode)
  return Output(*(stream.getvalue() for stream in printed))


def refused(flags_given: list[str], *expected: Any) -> None:
  """Asserts that the command ends with one line that holds `expected`, and numbers as such."""
  with pytest.raises(UserError) as caught:
    run(flags_given)
  line = str(caught.value)
  assert "\n" not in line
  for each in expected:
    pattern = re.escape(str(each))
    number = isinstance(each, int | float)
    assert re.search(rf"(?<![\w.]){pattern}(?!\w)" if number else pattern, line), line


def start(flags_given: list[str], **options: Any) -> subprocess.Popen:
  """Starts the command in a process of its own."""
  return subprocess.Popen(
    [sys.executable, "-m", "corda_jax.main", *flags_given],
    cwd=ROOT,
    text=True,
    **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
  )


def run_process(flags_given: list[str], *, code: int = 0) -> Output:
  """Runs the command in a process of its own, which must end with `code`."""
  process = start(flags_given)
  output = Output(*process.communicate(timeout=300))
  assert process.returncode == code, output.stderr
  return output
