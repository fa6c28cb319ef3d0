"""The script of the GPU's rows, with a stand-in for Python: its commands are ones that run."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peer
from benchmarks.options import add_sweep_options, swept_configs
from benchmarks.runners import Peer
from corda_jax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"

STAND_IN = """
import json, os, sys
with open(os.environ["TOLD"], "a") as file:
  told = [os.environ.get("XLA_FLAGS", ""), os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]]
  file.write(json.dumps([sys.argv[1:], *told]) + chr(10))
sys.exit(int("--json" in sys.argv and "forms.json" in sys.argv[sys.argv.index("--json") + 1]))
"""


def run(tmp_path, *stages):
  stand_in = tmp_path / "python"
  stand_in.write_text(f"#!{sys.executable}\n{STAND_IN}")
  stand_in.chmod(0o755)
  told = tmp_path / "told"
  told.unlink(missing_ok=True)
  environment = os.environ | {"PYTHON": str(stand_in), "TOLD": str(told), "BATCHES": "4 32"}
  environment.pop("XLA_FLAGS", None)
  command = [str(SCRIPT), "the release", "out", *stages]  # of the folder that it is called from
  result = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
  )
  lines = told.read_text().splitlines() if told.exists() else []
  return result, [json.loads(line) for line in lines]


def parse_step(arguments):
  parser = argparse.ArgumentParser()
  add_sweep_options(parser)
  parser.add_argument("--peer", action="append", default=[])
  parser.add_argument("--rounds", type=int)
  parser.add_argument("--json")
  return parser.parse_args(arguments)


def test_all_stages_are_commands_that_run(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "forms.json").write_text("of an earlier time")
  result, calls = run(tmp_path)
  assert result.returncode == 1
  assert result.stderr == "error: failed: forms\n"  # and others went on
  assert not (tmp_path / "out" / "forms.json").exists()
  names, peers, rows = [], [], []
  for arguments, flags, preallocate in calls:
    assert arguments[0] == "-m"
    assert (SCRIPT.parents[1] / (arguments[1].replace(".", "/") + ".py")).exists()
    if arguments[1] == "benchmarks.step":
      options = parse_step(arguments[2:])
      names.append(Path(options.json).stem)
      peers += [(4, text) for text in options.peer]
      assert preallocate == str(not options.peer).lower()
      for _, config in swept_configs(options):  # fields and values that there are
        assert config.data.crop_height == config.data.crop_width == 512
        precision = config.model.dtype, config.compute.matmul_precision
        kept = not config.compute.rematerialize and not config.compute.one_student_pass
        if kept and names[-1] not in ("layout", "graphs", "forms"):
          rows.append((config.data.batch_size, *precision))
      assert ("nhwc" in flags) == (names[-1] == "layout")
    elif arguments[1] == "benchmarks.peer":
      parser = argparse.ArgumentParser()
      for name in ("--rounds", "--json"):
        parser.add_argument(name)
      parser.add_argument("peers", nargs="+")
      peers += [(32, text) for text in parser.parse_args(arguments[2:]).peers]
  assert names == [
    "small",
    "small_float32",
    "forms",
    "layout",
    "graphs",
    "large",
    "large_tf32",
    "large_float32",
    "between",
    "between_float32",
  ]
  # Each row of the open table in docs/benchmarks.md once; the two batches are others here.
  kinds = (("float32", "highest"), ("float32", "default"), ("bfloat16", "default"))
  text = (SCRIPT.parents[1] / "docs" / "benchmarks.md").read_text()
  open_rows = re.findall(r"^\| (\d+) \| (float32|TF32|bfloat16) \|", text, re.MULTILINE)
  batches = {"2": 4, "4": 4, "8": 8, "16": 32}
  names_of_kinds = dict(zip(("float32", "TF32", "bfloat16"), kinds, strict=True))
  wanted = [(batches[batch], *names_of_kinds[kind]) for batch, kind in open_rows]
  assert sorted(rows) == sorted(wanted)
  assert len(rows) == 12
  assert len(peers) == 4 + 3 + 3
  for batch, text in peers:
    _, command = Peer.parts_of_option(text)
    words = shlex.split(command)
    assert words[1] == "benchmarks/released_step.py"
    assert words[2] == str(tmp_path / "the release")
    assert words[words.index("--batch") + 1] == str(batch)
  assert (tmp_path / "out" / "kernels.txt").exists()


def test_one_stage_alone_and_mistakes(tmp_path):
  result, calls = run(tmp_path, "layout")
  assert (result.returncode, len(calls)) == (0, 1)
  result, calls = run(tmp_path, "none_such")
  assert result.returncode == 1
  assert "no stage none_such" in result.stdout
  assert not calls
  result = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert "wanted: gpu.sh" in result.stderr


def test_peers_by_themselves_one_after_the_other(tmp_path, capsys):
  def told(name, answer):
    code = f"print(1, flush=True)\nfor n in __import__('sys').stdin: print({answer}, flush=True)"
    return f'{name}={sys.executable} -c "{code}"'

  numbers = tmp_path / "numbers.json"
  with pytest.raises(UserError, match=r"lost: --peer lost ended with code 3"):
    peer.main(
      [
        *("--rounds", "2", "--steps", "4", "--json", str(numbers), told("slow", "2 * int(n)")),
        f'lost={sys.executable} -c "raise SystemExit(3)"',
        told("fast", "int(n) / 8"),
      ]
    )
  assert capsys.readouterr().out == "slow: 2000.0 ms (2000.0)\nfast: 125.0 ms (125.0)\n"
  found = json.loads(numbers.read_text())
  assert found["seconds"] == {"slow": [2.0, 2.0], "fast": [0.125, 0.125]}
  assert list(found["failed"]) == ["lost"]
