"""Options, runners and tables of benchmarks."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import options
from benchmarks.speed import logging_cost, precision, step
from benchmarks.speed.runners import Reference, time_in_turn
from corda_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def test_options():
  assert options.setting("data.batch_size=4") == ("data.batch_size", 4)
  assert options.setting("model.dtype=bfloat16") == ("model.dtype", "bfloat16")
  config = options.load_config("gta2cs:as_published")
  assert config.model.decoder.dilations == (6, 12, 18, 24)
  for name in ("none_such", "gta2cs:none_such"):
    with pytest.raises(UserError, match=name):
      options.load_config(name)
  for name, value in (("data.none_such", 1), ("data.batch_size", "many")):
    with pytest.raises(UserError, match=name):
      options.apply_settings(config, {name: value})
  wrong = (
    "speed.step rounds 0, speed.logging_cost rounds 1, speed.logging_cost steps 201, "
    "speed.precision seeds 1, speed.precision steps 9, ablation.run seeds 0, "
    "ablation.run set seed=3, scaling.shared_frames devices 5"
  )
  for text in wrong.split(", "):
    command, option, value = text.split()
    with pytest.raises(UserError, match=f"{option}.*{value[:4]}"):
      importlib.import_module(f"benchmarks.{command}").main([f"--{option}", value])


def test_peers_are_timed_in_turn_and_one_that_fails_leaves_the_others():
  def reference(name, answer, ready="print('hello', flush=True)"):
    code = f"import sys; {ready}\nfor n in sys.stdin: {answer}"
    return Reference(*Reference.parts_of_option(f'{name}={sys.executable} -c "{code}"'))

  order, triple = [], reference("triple", "print(3 * int(n), flush=True)")

  def ours(steps):
    order.append(steps)
    return float(len(order))

  def large(steps):
    if len(order) == 3:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory\nmore")
    return 1.0

  runners = [SimpleNamespace(name=run.__name__, run=run) for run in (ours, large)]
  with (
    triple,
    reference("ends", "raise SystemExit(4)") as ends,
    reference("odd", "print('no')") as odd,
  ):
    runners += [triple, ends, odd]
    seconds, failed = time_in_turn(runners, rounds=2, steps=2)
    assert seconds == {"ours": [2 / 2, 3 / 2], "triple": [3.0, 3.0]}  # the first does not count
    assert failed.keys() == {"large", "ends", "odd"}
    assert failed["large"] == "RESOURCE_EXHAUSTED: memory"
    with pytest.raises(UserError, match="triple"):  # two of one name
      time_in_turn([triple, triple], rounds=1, steps=1)
  with pytest.raises(UserError, match=r"broken.*3"):
    reference("broken", "pass", ready="raise SystemExit(3)")
  for text in ("python", "=python", "name="):
    with pytest.raises(UserError, match=text):
      Reference.parts_of_option(text)


def test_the_report_compares_with_peers_and_with_the_peak(monkeypatch):
  def made_up(name, seconds, busy):  # what `measure` gives, of 12 TFLOP a step
    made = dict.fromkeys(("xla_operations", "bytes", "peak_memory"))
    made |= {"peak": "float32, default", "images": 8, "compile_seconds": 7.0, "collectives": {}}
    largest = [(part, "fusion", value) for part, value in busy.items()]
    made |= {"name": name, "seconds": seconds, "fastest": seconds / 2, "busy": busy}
    made["largest"] = largest
    return made | {"operations": {"source": 8e12, "mixed": 4e12}}

  monkeypatch.setattr(jax, "device_count", lambda: 2)
  results = [made_up("small", 2.0, {}), made_up("large", 4.0, {"source": 3.0, "mixed": 1.0})]
  references, peaks = {"reference": [9.0, 6.0, 5.0]}, {"float32, default": 12e12}
  lines = step.report(results, peaks, references, {"huge": "why"}).splitlines()
  # 6 s of the reference are 3 times our 2 s, and 1.5 times our 4 s.
  assert any(re.search(r"6000.0.*small: 3.00, large: 1.50", line) for line in lines)
  row = [cell.strip() for cell in next(x for x in lines if x.startswith("| small")).split("|")]
  # 6 of the 24 TFLOP/s of two devices.
  assert row[3:11] == ["–", "–", "–", "7", "2000.0 (1000.0)", "4.0", "6.00", "25%"]
  assert {"| huge | why |" + " |" * 8, "| small | – (8,000) | – (4,000) | – |"} < set(lines)
  assert "| large | 3000.0 (8,000) | 1000.0 (4,000) | 4000.0 |" in lines
  place = lines.index("| large: part | operations | busy, ms |")
  assert lines[place + 2 : place + 4] == [
    *("| source | fusion | 3000.00 |", "| mixed | fusion | 1000.00 |")
  ]


def test_what_seeds_and_rounds_come_to():
  # Shares 0.1 and 0.3: their mean's standard error is that of 0.1414 over the root of 2.
  assert logging_cost.difference([1.0, 2.0], [1.1, 2.6]) == "+20.0 ± 10.0 %"
  curves = {"wide": (1.0, 3.0), "narrow": (1.1, 2.8), "other": (1.5, 3.0)}
  for kind, values in curves.items():
    losses = [np.full(200, value) for value in values]
    curves[kind] = [dict.fromkeys(("total", "ce_src", "ce_mix"), each) for each in losses]
  row = precision.losses_table(curves).splitlines()[2]
  cells = "2.000 ± 1.414 | 1.950 ± 1.202 | 2.250 ± 1.061 | 0.200 | 0.500 |"
  assert row == f"| total, 1 to 50 | {cells}"
