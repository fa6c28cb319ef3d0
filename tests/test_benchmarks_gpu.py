"""The script of the GPU's rows, with a stand-in for Python: its commands are ones that run."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks.options import add_config_options, swept_configs
from benchmarks.runners import Peer

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"

STAND_IN = """
import json, os, sys
with open(os.environ["TOLD"], "a") as file:
  file.write(json.dumps([sys.argv[1:], os.environ.get("XLA_FLAGS", "")]) + chr(10))
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
  command = [str(SCRIPT), "the release", str(tmp_path / "out"), *stages]
  result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  lines = told.read_text().splitlines() if told.exists() else []
  return result, [json.loads(line) for line in lines]


def parse_step(arguments):
  parser = argparse.ArgumentParser()
  add_config_options(parser)
  parser.add_argument("--peer", action="append", default=[])
  parser.add_argument("--rounds", type=int)
  parser.add_argument("--json")
  return parser.parse_args(arguments)


def test_all_stages_are_commands_that_run(tmp_path):
  result, calls = run(tmp_path)
  assert result.returncode == 0, result.stderr
  names, peers, variants = [], [], 0
  for arguments, flags in calls:
    assert arguments[0] == "-m"
    assert (SCRIPT.parents[1] / (arguments[1].replace(".", "/") + ".py")).exists()
    if arguments[1] == "benchmarks.step":
      options = parse_step(arguments[2:])
      names.append(Path(options.json).stem)
      peers += [(4, text) for text in options.peer]
      for _, config in swept_configs(options):  # fields and values that there are
        assert config.data.crop_height == config.data.crop_width == 512
        variants += 1
      assert ("nhwc" in flags) == (names[-1] == "layout")
    elif arguments[1] == "benchmarks.peer":
      peers.append((32, arguments[-1]))
  assert names == [
    "small",
    "small_float32",
    "forms",
    "layout",
    "graphs",
    "large",
    "large_float32",
    "between",
  ]
  assert variants == 2 + 1 + 4 + 1 + 1 + 4 + 2 + 4
  assert len(peers) == 4 + 1 + 3
  for batch, text in peers:
    _, command = Peer.parts_of_option(text)
    words = shlex.split(command)
    assert words[1] == "benchmarks/released_step.py"
    assert words[words.index("--batch") + 1] == str(batch)
  assert "stage forms failed" in (tmp_path / "out" / "forms.txt").read_text()  # and others go on
  assert (tmp_path / "out" / "kernels.txt").exists()


def test_one_stage_alone_and_mistakes(tmp_path):
  _, calls = run(tmp_path, "layout")
  assert len(calls) == 1
  result, calls = run(tmp_path, "none_such")
  assert "no stage none_such" in result.stdout
  assert not calls
  result = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert "wanted: gpu.sh" in result.stderr
