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
import tarfile
import time
import tomllib

import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.command import ROOT, arguments, run

SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")])

# srun for two processes on this machine, with the variables that Slurm sets for each.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
echo "$SRUN_CPUS_PER_TASK cores a task"
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" > {folder}/second.txt &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait -n
"""


def launch(script, *arguments, cwd=ROOT, **environment):
  return subprocess.run(
    [str(ROOT / "launch" / script), *map(str, arguments)],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
    cwd=cwd,
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


# Keys of jobset.x-k8s.io/v1alpha2, whose schema no package brings (api/jobset/v1alpha2 of
# https://github.com/kubernetes-sigs/jobset); None: what is below is not looked at here.
JOBSET_KEYS = {
  "apiVersion": None,
  "kind": None,
  "metadata": None,
  "spec": {
    "replicatedJobs": {
      "name": None,
      "groupName": None,
      "template": None,  # a Job
      "replicas": None,
      "dependsOn": {"name": None, "status": None},
    },
    "network": {"enableDNSHostnames": None, "subdomain": None, "publishNotReadyAddresses": None},
    "successPolicy": {"operator": None, "targetReplicatedJobs": None},
    "failurePolicy": {
      "maxRestarts": None,
      "restartStrategy": None,
      "rules": {
        "name": None,
        "action": None,
        "onJobFailureReasons": None,
        "onJobFailureMessagePatterns": None,
        "targetReplicatedJobs": None,
      },
    },
    "startupPolicy": {"startupPolicyOrder": None},
    "suspend": None,
    "coordinator": {"replicatedJob": None, "jobIndex": None, "podIndex": None},
    "managedBy": None,
    "ttlSecondsAfterFinished": None,
    "volumeClaimPolicies": None,
  },
}


def unknown_keys(value, known, path=""):
  """Paths of the keys of a tree that `known` lacks; the items of a list are alike."""
  if known is None:
    return []
  if isinstance(value, list):
    return [found for item in value for found in unknown_keys(item, known, path)]
  unknown = [f"{path}.{key}" for key in value if key not in known]
  for key in value.keys() & known.keys():
    unknown += unknown_keys(value[key], known[key], f"{path}.{key}")
  return unknown


def test_a_misspelt_key_of_a_jobset_is_found():
  spec = {
    "failurePolicy": {"maxRestart": 1},
    "replicatedJobs": [{"name": "a", "template": {"any": 1}}, {"replica": 1}],
  }
  assert sorted(unknown_keys({"kind": "JobSet", "spec": spec}, JOBSET_KEYS)) == [
    ".spec.failurePolicy.maxRestart",
    ".spec.replicatedJobs.replica",
  ]


def test_the_jobs_of_a_jobset_are_valid_and_find_each_other():
  jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert unknown_keys(jobset, JOBSET_KEYS) == []
  (jobs,) = jobset["spec"]["replicatedJobs"]
  assert isinstance(jobset["spec"]["failurePolicy"]["maxRestarts"], int)
  # The Jobs that a JobSet holds have a published schema.
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


@pytest.mark.slow
def test_the_pods_of_a_jobset_train_as_one(tmp_path):
  """Their command, arguments and variables, with the host, the folders and a tiny configuration."""
  jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
  (jobs,) = jobset["spec"]["replicatedJobs"]
  (container,) = jobs["template"]["spec"]["template"]["spec"]["containers"]
  (entry,) = re.findall(
    r"^ENTRYPOINT (.*)$", (ROOT / "launch" / "Dockerfile").read_text(), re.MULTILINE
  )
  names = [each["name"] for each in container["env"]]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  tiny = arguments(tmp_path)
  given = {flag.split("=")[0] for flag in tiny}
  kept = [flag for flag in container["args"] if flag.split("=")[0] not in given]
  assert kept == ["--multihost"]  # all other flags of the file are among the tiny ones
  python, *module = json.loads(entry)
  assert python == "python"
  pods = []
  for number in range(int(jobs["template"]["spec"]["completions"])):
    environment = {each["name"]: each.get("value", str(number)) for each in container["env"]}
    environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    assert environment.keys() == set(names)
    pods.append(
      subprocess.Popen(
        [sys.executable, *module, *kept, *tiny],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  output = [pod.communicate(timeout=300)[0] for pod in pods]
  assert [pod.returncode for pod in pods] == [0, 0], output
  assert "pixel accuracy" in output[0]
  assert "pixel accuracy" not in output[1]  # one process gives for both
  assert json.loads((tmp_path / "run" / "results.json").read_text())["frames"] == 3


def commands_on_tpu_hosts(action, *arguments):
  """What the shell of each host of a TPU slice is given, after checking what gcloud is."""
  result = launch("tpu_pod.sh", action, "my-tpu", "zone-a", *arguments, DRY_RUN="1")
  assert result.returncode == 0, result.stderr
  commands = []
  for line in result.stdout.splitlines():
    words = words_of(line)
    assert words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
    assert words[-2:] == ["--zone=zone-a", "--worker=all"]
    if words[4] == "ssh":
      assert words[5] == "my-tpu"
      assert len(words) == 9
      commands.append(words[6].removeprefix("--command="))
    else:
      assert (words[4], words[6]) == ("scp", "my-tpu:corda_jax.tar.gz")
  return commands


def words_of(line):
  command = ["bash", "-c", f"printf '%s\\0' {line}"]
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def on_a_host(command, home):
  """Runs a command as ssh would; it must come to its end while what it started goes on."""
  return subprocess.run(
    ["bash", "-c", command],
    cwd=home,
    env={"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"},
    capture_output=True,
    text=True,
    check=False,
    timeout=30,
  )


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)
  return path


def wait_for(condition):
  for _ in range(200):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError("it did not come")


@pytest.mark.parametrize(
  "flags", [(), ("""--config.data.target.views=("right",)""", "--workdir=/mnt/a b")]
)
def test_a_tpu_slice_runs_in_the_background_with_the_flags_as_they_were_given(tmp_path, flags):
  (there,) = commands_on_tpu_hosts("run", *flags)
  if not flags:
    assert "''" not in there
  checkout = tmp_path / "corda_jax"
  checkout.mkdir()
  result = on_a_host(there, tmp_path)
  assert (result.returncode, result.stderr) == (1, "error: install first\n")
  stub = """#!/bin/bash
printf '%s\\n' "$@"
ps -o sid= -p $$ >session
until [[ -e end ]]; do sleep 0.05; done
echo ended
"""
  executable(checkout / ".venv" / "bin" / "python", stub)
  result = on_a_host(there, tmp_path)
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
  output, process = checkout / "output.txt", int((checkout / "process").read_text())
  wait_for(lambda: (checkout / "session").exists() and (checkout / "session").read_text())
  os.kill(process, 0)  # it runs, in a session of its own: a line that is cut does not end it
  assert int((checkout / "session").read_text()) == process
  expected = ["-m", "corda_jax.main", "--multihost", *flags]
  assert output.read_text().splitlines() == expected
  (checkout / "end").touch()
  wait_for(lambda: output.read_text().splitlines() == [*expected, "ended"])


def test_hosts_of_a_tpu_slice_get_a_python_that_is_new_enough(tmp_path):
  (there,) = commands_on_tpu_hosts("install")
  (tmp_path / "pyproject.toml").write_text("")
  with tarfile.open(tmp_path / "corda_jax.tar.gz", "w:gz") as archive:
    archive.add(tmp_path / "pyproject.toml", "pyproject.toml")
  # The installer of uv, which gives a stand-in that writes down how it is called.
  executable(
    tmp_path / "bin" / "curl",
    """#!/bin/bash
echo "$*" >~/asked
cat <<'END'
mkdir -p ~/.local/bin
printf '%s\\n' '#!/bin/bash' 'echo "$PWD: $*" >>~/called' >~/.local/bin/uv
chmod +x ~/.local/bin/uv
END
""",
  )
  result = on_a_host(there, tmp_path)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / "asked").read_text() == "-LsSf https://astral.sh/uv/install.sh\n"
  environment, installation = (tmp_path / "called").read_text().splitlines()
  checkout = tmp_path / "corda_jax"
  assert (checkout / "pyproject.toml").exists()
  assert environment == f"{checkout}: venv --quiet --allow-existing --python 3.12 .venv"
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert SpecifierSet(project["requires-python"]).contains("3.12")
  assert "tpu" in project["optional-dependencies"]
  assert installation == (
    f"{checkout}: pip install --quiet --python .venv/bin/python --editable .[tpu]"
  )


def test_what_is_not_committed_is_reported_to_stay_behind(tmp_path):
  script = tmp_path / "launch" / "tpu_pod.sh"
  executable(script, (ROOT / "launch" / "tpu_pod.sh").read_text())
  identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
  for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "a")):
    subprocess.run(["git", "-C", tmp_path, *words], check=True)
  environment = os.environ | {"DRY_RUN": "1"}

  def install():
    command = [script, "install", "my-tpu", "zone-a"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "tpu-vm scp" in result.stdout
    return result.stderr

  assert install() == ""
  (tmp_path / "edited.py").touch()
  assert install() == ("warning: the hosts get the last commit: what is not committed stays here\n")


@pytest.mark.parametrize("arguments", [(), ("run", "my-tpu"), ("stop", "my-tpu", "zone-a")])
def test_a_wrong_call_prints_how_to_call(arguments):
  result = launch("tpu_pod.sh", *arguments, DRY_RUN="1")
  assert result.returncode == 2
  assert "usage: " in result.stderr


def free_job_number():
  """A number of a Slurm job whose coordinator's port, which it says, is free: 61440 + 0..4095."""
  for number in range(os.getpid() % 4096, 4096 + os.getpid() % 4096):
    with socket.socket() as expected, contextlib.suppress(OSError):
      expected.bind(("127.0.0.1", 61440 + number % 4096))
      return number
  raise AssertionError("no port is free")


@pytest.mark.slow  # several processes by themselves: tests/training/test_processes.py
def test_slurm_runs_two_processes_that_train_and_score(tmp_path):
  srun = tmp_path / "bin" / "srun"
  srun.parent.mkdir()
  srun.write_text(SRUN.format(folder=tmp_path))
  srun.chmod(0o755)
  number = free_job_number()
  fields = {"data__target__depth": "official"}  # which validation frames have, too
  result = launch(
    "slurm.sh",
    *arguments(tmp_path, **fields),
    PATH=f"{srun.parent}:{os.environ['PATH']}",
    PYTHON=sys.executable,
    SLURM_SUBMIT_DIR=str(ROOT),
    SLURM_JOB_ID=str(number),
    SLURM_CPUS_PER_TASK="6",
  )
  assert result.returncode == 0, result.stderr[-3000:]
  second = (tmp_path / "second.txt").read_text()
  assert "pixel accuracy" not in second  # one process gives for both
  assert "Results: " not in second
  assert "pixel accuracy" in result.stdout
  assert "6 cores a task" in result.stdout
  together = json.loads((tmp_path / "run" / "results.json").read_text())
  assert together["frames"] == 3
  # Alone, what they trained has the same scores.
  run(arguments(tmp_path, mode="evaluate", **fields))
  alone = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert together["iou"] == pytest.approx(alone["iou"], abs=0.5)
  assert together["depth"]["abs_rel"] == pytest.approx(alone["depth"]["abs_rel"], rel=1e-3)


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (1, False), (0, False)])
def test_slurm_puts_a_stopped_run_back_into_the_queue(tmp_path, code, requeued):
  executable(tmp_path / "bin" / "srun", f"#!/bin/bash\nexit {code}\n")
  executable(tmp_path / "bin" / "scontrol", f'#!/bin/bash\necho "$*" >{tmp_path}/asked\n')
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
  result = launch("slurm.sh", PATH=path, SLURM_SUBMIT_DIR=str(ROOT), SLURM_JOB_ID="17")
  assert result.returncode == code
  asked = tmp_path / "asked"
  assert (asked.read_text() == "requeue 17\n") if requeued else not asked.exists()


def test_slurm_says_what_it_lacks():
  result = launch("slurm.sh", SLURM_SUBMIT_DIR="")
  assert result.returncode != 0
  assert "submit this file with sbatch" in result.stderr


PRINTS = '#!/bin/bash\necho "ran $*"\n'


def test_one_machine_runs_in_the_background(tmp_path):
  stub = executable(tmp_path / "python", PRINTS)
  result = launch("gpu.sh", tmp_path / "run", "--config=configs/demo.py", PYTHON=str(stub))
  assert result.returncode == 0, result.stderr
  assert re.match(rf"process \d+; tail -f {re.escape(str(tmp_path))}/run/output.txt", result.stdout)
  output = tmp_path / "run" / "output.txt"
  wait_for(output.read_text)
  expected = f"ran -m corda_jax.main --workdir={tmp_path / 'run'} --config=configs/demo.py\n"
  assert output.read_text() == expected
  assert "name the folder of the run" in launch("gpu.sh").stderr


def test_the_folder_of_a_run_is_that_of_the_caller(tmp_path):
  stub = executable(tmp_path / "python", PRINTS)
  result = launch("gpu.sh", "runs/one", PYTHON=str(stub), cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  output = tmp_path / "runs" / "one" / "output.txt"
  wait_for(output.read_text)
  assert output.read_text() == f"ran -m corda_jax.main --workdir={tmp_path}/runs/one\n"


def test_one_folder_has_one_run_at_a_time(tmp_path):
  stub = executable(
    tmp_path / "python",
    f"#!/bin/bash\necho ran\nuntil [[ -e {tmp_path}/end ]]; do sleep 0.05; done\n",
  )
  folder, output = tmp_path / "run", tmp_path / "run" / "output.txt"
  assert launch("gpu.sh", folder, PYTHON=str(stub)).returncode == 0
  second = launch("gpu.sh", folder, PYTHON=str(stub))
  assert second.returncode == 1
  assert second.stderr.startswith(f"error: a run in {folder} is under way")
  assert launch("gpu.sh", tmp_path / "other", PYTHON=str(stub)).returncode == 0
  (tmp_path / "end").touch()
  # Once it has ended, the same command goes on.
  wait_for(lambda: launch("gpu.sh", folder, PYTHON=str(stub)).returncode == 0)
  wait_for(lambda: output.read_text() == "ran\nran\n")


def test_without_python_nothing_is_started(tmp_path):
  result = launch("gpu.sh", tmp_path / "run", PYTHON="/no/such/python")
  assert result.returncode == 1
  assert result.stderr == (
    "error: there is no /no/such/python: install the project, or set PYTHON\n"
  )
  assert not (tmp_path / "run" / "output.txt").exists()
