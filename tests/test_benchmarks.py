"""Options, runners and tables of benchmarks, and the script of the GPU's rows."""

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
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
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
STAND_IN = """
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
  values = [os.environ.get("XLA_FLAGS", ""), os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]]
  file.write(json.dumps([sys.argv[1:], *values]) + chr(10))
sys.exit(int("--json" in sys.argv and "forms.json" in sys.argv[sys.argv.index("--json") + 1]))
"""


def test_all_stages_for_a_gpu_are_commands_that_run(tmp_path):
  stand_in, calls_file = tmp_path / "python", tmp_path / "calls_file"
  stand_in.write_text(f"#!{sys.executable}\n{STAND_IN}")
  stand_in.chmod(0o755)
  environment = os.environ | {"PYTHON": str(stand_in), "CALLS": str(calls_file)}
  environment |= {"BATCHES": "4 32", "XLA_FLAGS": ""}
  given = {"env": environment, "capture_output": True, "text": True, "cwd": tmp_path}
  result = subprocess.run([SCRIPT, "the release", "out"], check=False, **given)
  assert result.returncode == 1
  assert result.stderr.rpartition(":")[2].split() == ["forms"]  # and others went on
  calls = [json.loads(line) for line in calls_file.read_text().splitlines()]
  parser = argparse.ArgumentParser()
  options.add_sweep_options(parser)
  parser.add_argument("--reference", action="append", default=[])
  parser.add_argument("--rounds", type=int)
  parser.add_argument("--json", type=Path)
  references, rows = [], []
  for arguments, flags, preallocate in calls:
    assert arguments[0] == "-m"
    assert (ROOT / (arguments[1].replace(".", "/") + ".py")).exists()
    if arguments[1] == "benchmarks.speed.step":
      given = parser.parse_args(arguments[2:])
      name = given.json.stem
      references += [(4, text) for text in given.reference]
      assert preallocate == str(not given.reference).lower()
      for _, config in options.swept_configs(given):  # fields and values that there are
        if name.startswith("recipes"):
          assert config.model.dtype == "bfloat16"
          continue
        assert config.data.crop_height == config.data.crop_width == 512
        precision = f"{config.model.dtype} {config.compute.matmul_precision}"
        kept = not config.compute.rematerialize and not config.compute.one_student_pass
        if kept and name not in ("layout", "graphs", "forms"):
          rows.append((config.data.batch_size, precision))
      assert ("nhwc" in flags) == (name == "layout")
    elif arguments[1] == "benchmarks.speed.references":
      references += [(32, text) for text in arguments[2:] if "=" in text]
  # Each row of the open table in docs/benchmarks.md once; the two batches are others here.
  kinds = {"float32": "float32 highest", "TF32": "float32 default", "bfloat16": "bfloat16 default"}
  text = (ROOT / "docs" / "benchmarks.md").read_text()
  found = re.findall(r"^\| (\d+) \| (float32|TF32|bfloat16) \|", text, re.MULTILINE)
  batches = {"2": 4, "4": 4, "8": 8, "16": 32}
  assert sorted(rows) == sorted((batches[batch], kinds[kind]) for batch, kind in found)
  assert (len(calls), len(rows), len(references)) == (18, 12, 4 + 3 + 3)
  for batch, text in references:
    words = shlex.split(Reference.parts_of_option(text)[1])
    assert words[1:3] == ["benchmarks/reference/released_step.py", str(tmp_path / "the release")]
    assert words[words.index("--batch") + 1] == str(batch)


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
    made |= {"name": name, "seconds": seconds, "fastest": seconds / 2, "busy": busy}
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
