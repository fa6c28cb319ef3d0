"""How fast is a training step, how much does it compute, and where does its time go?

    python -m benchmarks.speed.step --set data.crop_height=128 data.crop_width=128
    python -m benchmarks.speed.step --sweep data.batch_size 1 2 --sweep model.dtype float32 bfloat16
    python -m benchmarks.speed.step --reference "released=python …/released_step.py …"

Times the step of a configuration on random batches in memory, every combination of the values
swept, and references that are other programs (`benchmarks.speed.runners.Reference` documents
the protocol), all in turn; a failure, for example for lack of memory, is reported in its own row.
Floating-point operations are counted from the trace and, to check, by XLA; recomputed ones count
again. The peak is that of a large matrix product in the type and at the
precision that the network computes in, measured in the same run. Where there are several devices,
their communication is counted, too; `benchmarks.scaling.communication` counts it without running
anything. The parts' times are those in which the device was busy, by a profile: less than a step
takes where it waits for the host, more where operations run side by side. The kinds of operations
that take longest are listed.
"""

import argparse
import contextlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.options import add_sweep_options, run_command, swept_configs
from benchmarks.scaling.collectives import by_name, collectives_table, count_collectives
from benchmarks.speed.device_time import UNNAMED, split_time
from benchmarks.speed.operations import OTHER, count_operations
from benchmarks.speed.runners import (
  FAILURES,
  JaxStep,
  Reference,
  device_name,
  measured_peak,
  random_batch,
  time_in_turn,
)
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError, first_line
from corda_jax.models.operations import at_matmul_precision

# Scopes of `corda_jax.adaptation.step`; "student": where one pass takes source and mixed images.
PARTS = ("source", "teacher", "mixed", "masked", "student", "optimizer")
_PEAK_SIZES = {"cpu": 3072}  # rows of the matrices whose product gives the peak
_PEAK_SIZE = 8192  # the same on other platforms
_PROFILED_STEPS = 3
_LARGEST = 10  # kinds of operations that are listed by time


def main(arguments: list[str] | None = None) -> None:
  """Compiles, times and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_sweep_options(parser)
  parser.add_argument(
    "--reference", action="append", default=[], metavar="NAME=COMMAND", help="timed in turn"
  )
  parser.add_argument("--rounds", type=int, default=5, help="timings of each")
  parser.add_argument("--steps", type=int, default=2, help="of a timing")
  parser.add_argument("--json", type=Path, default=None, help="file for all numbers")
  parser.add_argument("--count", action="store_true", help="operations alone; nothing is compiled")
  options = parser.parse_args(arguments)
  for name in ("rounds", "steps"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name} is {getattr(options, name)}, expected 1 or more")
  if options.count:
    print(operations_table(options))
    return
  results: list[dict[str, Any]] = []
  peaks: dict[str, float] = {}
  summary: dict[str, Any] = {"device": device_name(), "steps": results, "peaks": peaks}

  def save(**found: Any) -> None:
    """Writes the results so far, whatever happens to the rest."""
    summary.update(found)
    if options.json:
      options.json.write_text(json.dumps(summary, indent=1))

  with contextlib.ExitStack() as stack:
    references, failed = start_references(options.reference, stack)
    save(failed=failed)
    steps, without = build_variants(options, lambda each: save(compile_seconds=each))
    failed |= without
    seconds, stopped = time_in_turn(
      [*steps, *references],
      rounds=options.rounds,
      steps=options.steps,
      after_round=lambda each: save(seconds=each),
    )
  failed |= stopped
  of_references = {
    reference.name: seconds[reference.name] for reference in references if reference.name in seconds
  }
  for name, each in seconds.items():
    print(f"{name}: {1e3 * statistics.median(each):.1f} ms", flush=True)
  size = _PEAK_SIZES.get(jax.devices()[0].platform, _PEAK_SIZE)
  for step in steps:
    if step.name not in seconds:
      continue
    try:
      result = measure(step, seconds[step.name])
      kind = result["peak"]
      if kind not in peaks:
        dtype, precision = kind.split(", ")
        peaks[kind] = at_matmul_precision(measured_peak, precision)(dtype, size)
      results.append(result)
    except (*FAILURES, OSError, RuntimeError, ValueError) as error:  # its time is reported anyway
      failed[f"{step.name}, measured closer"] = first_line(error)
    save()
  print(report(results, peaks, of_references, failed))


def operations_table(options: argparse.Namespace) -> str:
  """GFLOP of a step by part, of every variant, without running one; Markdown."""
  lines = [
    f"| GFLOP a step | {' | '.join((*PARTS, OTHER))} | all |",
    "|---" * (len(PARTS) + 3) + "|",
  ]
  for name, config in swept_configs(options):
    task = AdaptationTask.from_config(config)
    batch = {
      name: jax.ShapeDtypeStruct(value.shape, value.dtype)
      for name, value in random_batch(config.data, len(task.classes), 0).items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = _by_part(count_operations(task.make_step(), task.state_shapes, batch, key, parts=PARTS))
    cells = [f"{count / 1e9:,.0f}" for count in (*found.values(), sum(found.values()))]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _by_part(operations: Mapping[tuple[str, str], int]) -> dict[str, int]:
  found = dict.fromkeys((*PARTS, OTHER), 0)
  for (part, _), count in operations.items():
    found[part] += count
  return found


def start_references(
  texts: list[str], stack: contextlib.ExitStack
) -> tuple[list[Reference], dict[str, str]]:
  """Starts the references of `texts`, which end with `stack`; those that do not start → why."""
  references, failed = [], {}
  for text in texts:
    name, command = Reference.parts_of_option(text)
    try:
      references.append(stack.enter_context(Reference(name, command)))
    except UserError as error:
      failed[name] = first_line(error)
  return references, failed


def build_variants(
  options: argparse.Namespace, save: Callable[[dict[str, float]], None] = lambda seconds: None
) -> tuple[list[JaxStep], dict[str, str]]:
  """Compiles a step for every combination of the swept values; those that do not fit → why.

  Args:
    options: options of the command.
    save: function that gets the compile times after each: name → seconds.
  """
  steps, failed = [], {}
  for name, config in swept_configs(options):
    try:
      step = JaxStep.build(name, config)
      step.run(1)
    except FAILURES as error:
      failed[name] = first_line(error)
      print(f"{name}: {failed[name]}", flush=True)
      continue
    print(f"{name}: compiled in {step.compile_seconds:.0f} s", flush=True)
    steps.append(step)
    save({each.name: each.compile_seconds for each in steps})
  if not steps:
    raise UserError("; ".join(f"{name}: {why}" for name, why in failed.items()))
  return steps, failed


def measure(step: JaxStep, seconds: list[float]) -> dict[str, Any]:
  """Everything that the tables show of one variant; None where the device reports nothing."""
  config = step.task.config
  by_part = _by_part(count_operations(*step.traced(), parts=PARTS))
  memory = step.compiled.memory_analysis()
  times = split_time(step.compiled, lambda: step.run(_PROFILED_STEPS), PARTS)
  busy: Counter[str] = Counter()
  for (part, _), value in times.items():
    busy[part] += value / _PROFILED_STEPS
  largest = sorted(times.items(), key=lambda item: -item[1])[:_LARGEST]
  return {
    "name": step.name,
    "peak": f"{config.model.dtype}, {config.compute.matmul_precision}",
    "images": 2 * config.data.batch_size,
    "operations": by_part,
    "xla_operations": step.xla_operations,
    "bytes": (step.compiled.cost_analysis() or {}).get("bytes accessed"),
    "peak_memory": memory
    and memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes,
    "compile_seconds": step.compile_seconds,
    "seconds": statistics.median(seconds),
    "fastest": min(seconds),
    "collectives": by_name(count_collectives(step.compiled.as_text(), frozenset(PARTS))),
    "busy": busy,
    "largest": [(*names, value / _PROFILED_STEPS) for names, value in largest],
  }


def report(
  results: list[dict[str, Any]],
  peaks: dict[str, float],
  references: dict[str, list[float]],
  failed: dict[str, str],
) -> str:
  """The tables, as Markdown.

  Args:
    results: results of `measure`.
    peaks: "type, precision" → operations a second, of one device.
    references: name → seconds a step, of every round.
    failed: variants and references that could not run → why.
  """
  lines = [
    "",
    f"{jax.device_count()} x {device_name()}, JAX {jax.__version__}; "
    + ", ".join(f"{d} peak {p / 1e12:.2f} TFLOP/s" for d, p in sorted(peaks.items())),
    "",
    "| | GFLOP a step | by XLA | a device: GB accessed | memory, GB | compiled in, s "
    "| ms, median (fastest) | images/s | TFLOP/s | of the peak |",
    "|---" * 10 + "|",
  ]
  for r in results:
    operations = sum(r["operations"].values())
    rate = operations / r["seconds"]
    share = rate / peaks[r["peak"]] / jax.device_count()
    lines.append(
      f"| {r['name']} | {operations / 1e9:,.0f} | {_cell(r['xla_operations'], 1e9, ',.0f')} | "
      f"{_cell(r['bytes'], 1e9, '.1f')} | {_cell(r['peak_memory'], 1e9, '.2f')} | "
      f"{r['compile_seconds']:.0f} | {1e3 * r['seconds']:.1f} ({1e3 * r['fastest']:.1f}) | "
      f"{r['images'] / r['seconds']:.1f} | {rate / 1e12:.2f} | {share:.0%} |"
    )
  lines += [f"| {name} | {why} |" + " |" * 8 for name, why in failed.items()]
  for name, seconds in references.items():
    ours = [f"{r['name']}: {statistics.median(seconds) / r['seconds']:.2f}" for r in results]
    lines += [
      "",
      f"{name}: {1e3 * statistics.median(seconds):.1f} ms ({1e3 * min(seconds):.1f}); times ours "
      f"takes less: {', '.join(ours)}",
    ]
  lines += ["", *_parts_table(results)]
  for r in results:
    rows = [f"| {part} | {kind} | {1e3 * value:.2f} |" for part, kind, value in r["largest"]]
    lines += ["", f"| {r['name']}: part | operations | busy, ms |", "|---|---|---|", *rows]
  if any(r["collectives"] for r in results):
    lines += ["", *collectives_table({r["name"]: r["collectives"] for r in results})]
  return "\n".join(lines)


def _cell(value: float | None, unit: float, form: str) -> str:
  return "–" if value is None else format(value / unit, form)


def _parts_table(results: list[dict[str, Any]]) -> list[str]:
  """Milliseconds that the device was busy a step, and operations, by part."""
  parts = [
    part
    for part in (*PARTS, OTHER, UNNAMED)
    if any(r["operations"].get(part) or r["busy"].get(part) for r in results)
  ]
  lines = [f"| busy, ms (GFLOP) | {' | '.join(parts)} | all |", "|---" * (len(parts) + 2) + "|"]
  for r in results:
    cells = []
    for part in parts:
      count = r["operations"].get(part, 0)
      time = _cell(r["busy"].get(part), 1e-3, ".1f")
      cells.append(f"{time} ({count / 1e9:,.0f})")
    cells.append(_cell(sum(r["busy"].values()) if r["busy"] else None, 1e-3, ".1f"))
    lines.append(f"| {r['name']} | {' | '.join(cells)} |")
  return lines


if __name__ == "__main__":
  run_command(main)
