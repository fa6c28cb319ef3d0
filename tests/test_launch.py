"""The launch scripts, run with stand-ins for the schedulers that they call."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time

import kubernetes_validate
import pytest
import yaml

from tests.test_main import ROOT, command, run

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))

# srun for two processes on this machine, with the variables that Slurm sets for each.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
echo "$SRUN_CPUS_PER_TASK cores a task"
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" > {folder}/second.txt &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait -n
"""


def launch(script, *arguments, **environment):
  return subprocess.run(
    [str(ROOT / "launch" / script), *map(str, arguments)],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environment,
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )


def tool(name):
  """A program that was installed with the tests."""
  path = shutil.which(name, path=sysconfig.get_path("scripts"))
  if path is None and name == "hadolint":
    pytest.skip("there is none for this platform")
  return path


@pytest.mark.parametrize(
  ("name", "files"), [("shellcheck", SCRIPTS), ("hadolint", [ROOT / "launch" / "Dockerfile"])]
)
def test_scripts_and_the_container_file_pass_their_linters(name, files):
  command = [tool(name), *map(str, files)]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stdout


def test_the_jobs_of_a_jobset_are_valid_and_find_each_other():
  jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
  (jobs,) = jobset["spec"]["replicatedJobs"]
  # A JobSet holds Jobs, whose schema is published; of its own it has little more.
  job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, **jobs["template"]}
  kubernetes_validate.validate(job, "1.33", strict=True)
  spec = job["spec"]
  (container,) = spec["template"]["spec"]["containers"]
  environment = {each["name"]: each.get("value") for each in container["env"]}
  assert int(environment["JAX_NUM_PROCESSES"]) == spec["completions"] == spec["parallelism"]
  # JobSet names a pod JOBSET-JOBS-JOB-POD, in a domain named like the JobSet.
  name = jobset["metadata"]["name"]
  host, port = environment["JAX_COORDINATOR_ADDRESS"].split(":")
  assert host == f"{name}-{jobs['name']}-0-0.{name}"
  assert {"containerPort": int(port)} in container["ports"]
  assert "--multihost" in container["args"]


def test_a_tpu_slice_gets_the_flags_as_they_were_given():
  views = """--config.data.target.views=("right",)"""
  result = launch("tpu_pod.sh", "run", "my-tpu", "zone-a", views, "--workdir=/mnt/a b", DRY_RUN="1")
  assert result.returncode == 0, result.stderr
  # What gcloud gets, and what the shell on each host makes of it.
  words = subprocess.run(
    ["bash", "-c", f'for word in {result.stdout.strip()}; do echo "$word"; done'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-tpu"]
  assert words[-2:] == ["--zone=zone-a", "--worker=all"]
  (there,) = (word.removeprefix("--command=") for word in words if word.startswith("--command="))
  there = there.replace("cd corda_jax &&", "").replace(".venv/bin/python", "printf '%s\\n'")
  flags = subprocess.run(["bash", "-c", there], capture_output=True, text=True, check=True).stdout
  assert flags.splitlines() == ["-m", "corda_jax.main", "--multihost", views, "--workdir=/mnt/a b"]


@pytest.mark.parametrize("arguments", [(), ("run", "my-tpu"), ("stop", "my-tpu", "zone-a")])
def test_a_wrong_call_prints_how_to_call(arguments):
  result = launch("tpu_pod.sh", *arguments, DRY_RUN="1")
  assert result.returncode == 2
  assert "usage: " in result.stderr


def free_job_number():
  """A number of a Slurm job whose coordinator's port, which it says, is free: 61440 + 0..4095."""
  for number in range(os.getpid() % 4096, 4096 + os.getpid() % 4096):
    with socket.socket() as wanted, contextlib.suppress(OSError):
      wanted.bind(("127.0.0.1", 61440 + number % 4096))
      return number
  raise AssertionError("no port is free")


@pytest.mark.long
def test_slurm_runs_two_processes_that_train_as_one(tmp_path):
  srun = tmp_path / "bin" / "srun"
  srun.parent.mkdir()
  srun.write_text(SRUN.format(folder=tmp_path))
  srun.chmod(0o755)
  number = free_job_number()
  fields = {"data__target__depth": "official"}  # which validation frames have, too
  flags = command(tmp_path, **fields)[3:]
  result = launch(
    "slurm.sh",
    *flags,
    PATH=f"{srun.parent}:{os.environ['PATH']}",
    PYTHON=sys.executable,
    SLURM_SUBMIT_DIR=str(ROOT),
    SLURM_JOB_ID=str(number),
    SLURM_CPUS_PER_TASK="6",
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  )
  assert result.returncode == 0, result.stderr[-3000:]
  second = (tmp_path / "second.txt").read_text()
  assert "pixel accuracy" not in second  # one process tells for both
  assert "Results: " not in second
  assert "pixel accuracy" in result.stdout
  assert "6 cores a task" in result.stdout
  together = json.loads((tmp_path / "run" / "results.json").read_text())
  assert together["frames"] == 3
  # Alone, with the same data, it comes to the same.
  assert_succeeds(run(command(tmp_path, "alone", **fields)))
  alone = json.loads((tmp_path / "alone" / "results.json").read_text())
  assert together["iou"] == pytest.approx(alone["iou"], abs=0.5)
  assert together["depth"]["abs_rel"] == pytest.approx(alone["depth"]["abs_rel"], rel=1e-3)


def assert_succeeds(result):
  assert result.returncode == 0, result.stderr


def test_slurm_says_what_it_lacks():
  result = launch("slurm.sh", SLURM_SUBMIT_DIR="")
  assert result.returncode != 0
  assert "submit this file with sbatch" in result.stderr


def test_one_machine_runs_in_the_background(tmp_path):
  stub = tmp_path / "python"
  stub.write_text('#!/bin/bash\necho "ran $*"\n')
  stub.chmod(0o755)
  result = launch("gpu.sh", tmp_path / "run", "--config=configs/demo.py", PYTHON=str(stub))
  assert result.returncode == 0, result.stderr
  assert re.match(rf"process \d+; tail -f {re.escape(str(tmp_path))}/run/output.txt", result.stdout)
  output = tmp_path / "run" / "output.txt"
  for _ in range(100):
    if output.read_text():
      break
    time.sleep(0.05)
  expected = f"ran -m corda_jax.main --workdir={tmp_path / 'run'} --config=configs/demo.py\n"
  assert output.read_text() == expected
  assert "name the folder of the run" in launch("gpu.sh").stderr
