"""Splits the time that a device spends on a compiled program over its scopes and operations."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.speed.operations import OTHER, part_of

# %name = type operation(%operand, …), …, metadata={op_name="jit(f)/scope/…" …}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$", re.MULTILINE)
_OPERAND = re.compile(r"%([\w.\-]+)")
_SCOPES = re.compile(r'op_name="([^"]*)"')
# On a CPU: their time is that of the operations that they call, which have their own events.
_CALLERS = ("call", "conditional", "while")


# Suffixes that distinguish operations of one kind.
_NUMBER = re.compile(r"(\.\d+|_\d+|\.clone|\.remat\d*)+$")

# Operations that only the profile names: kernels of libraries, or graphs of kernels.
UNNAMED = "not named"


def split_time(
  compiled: jax.stages.Compiled, run: Callable[[], Any], parts: Sequence[str]
) -> dict[tuple[str, str], float]:
  """Seconds that the device was busy by scope and kind of operation, from a profile.

  Args:
    compiled: the program.
    run: runs it, a few times at least, and waits for its results.
    parts: names of scopes (`jax.named_scope`).

  Returns:
    (one of `parts`, "other" or "not named"; name of the operation without its number) → seconds, of
    all runs together; empty where the profile has none. Operations that run side by side count in
    full, each.
  """
  part = parts_of_instructions(compiled.as_text(), frozenset(parts))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    times = Counter()
    for path in Path(folder).glob("**/*.xplane.pb"):
      for operation, nanoseconds in _events(path):
        times[part.get(operation, UNNAMED), _NUMBER.sub("", operation)] += nanoseconds
  # None where profiling is not permitted: such a profile names no operations.
  return {key: nanoseconds / 1e9 for key, nanoseconds in times.items()}


def parts_of_instructions(program: str, parts: frozenset[str]) -> dict[str, str]:
  """The part that every instruction of a compiled program belongs to.

  What the compiler added, copies for the most part, names no scope: it belongs to the part of its
  operands.

  Args:
    program: text of its HLO.
    parts: names of scopes (`jax.named_scope`).
  """
  found = {}
  for name, text in _INSTRUCTION.findall(program):  # operands come before their users
    scopes = _SCOPES.search(text)
    part = part_of(scopes[1], parts) if scopes else OTHER
    if not scopes:
      operands = (found.get(operand, OTHER) for operand in _OPERAND.findall(text))
      part = next((each for each in operands if each != OTHER), OTHER)
    found[name] = part
  return found


def _events(path: Path) -> Iterator[tuple[str, float]]:
  """Operation and duration in nanoseconds of every event of a device program in a profile."""
  planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
  # Where devices have planes of their own, the host's name the same operations when it starts them.
  devices = [plane for plane in planes if plane.name.startswith("/device:")]
  for plane in devices:
    for event in _kernels(plane):
      yield dict(event.stats).get("hlo_op", event.name), event.duration_ns
  for plane in () if devices else planes:
    for line in plane.lines:
      for event in line.events:
        operation = dict(event.stats).get("hlo_op")
        if operation is None or event.name.startswith("end: "):
          continue
        if operation.split(".")[0] not in _CALLERS:
          yield operation, event.duration_ns


def _kernels(plane: Any) -> Iterator[Any]:
  """What a device was busy with, whether or not the program names it.

  A GPU has a line for each stream, a TPU one of "XLA Ops"; others, as "XLA Modules" and "Steps",
  take the same time again.
  """
  streams = [line for line in plane.lines if line.name.startswith("Stream")]
  operations = [line for line in plane.lines if line.name == "XLA Ops"]
  for line in streams or operations or plane.lines:
    yield from line.events
