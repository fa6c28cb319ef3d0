"""The same steps on 1 and 4 devices, and on two processes of 2 devices each."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.training.processes import join_processes
from corda_jax.training.sharding import frame_mesh, make_mesh


def start(path, *arguments, devices, **environment):
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    **environment,
  }
  command = [sys.executable, "-m", "tests.training.sharded_steps", str(path), *arguments]
  return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
  for process in processes:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]


def free_address():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{free.getsockname()[1]}"


def assert_same(given, expected):
  assert given["masks"] == expected["masks"]
  for ours, reference in zip(given["losses"], expected["losses"], strict=True):
    assert ours.keys() == reference.keys()
    assert 0 < ours["confident_fraction"] < 1
    for name, value in reference.items():
      assert ours[name] == pytest.approx(value, rel=1e-11), name
  for kind in ("statistics", "teacher"):
    for ours, reference in zip(given[kind], expected[kind], strict=True):
      np.testing.assert_allclose(ours, reference, rtol=1e-11, atol=1e-13)


def assert_split(split, whole):
  """Optimiser and teacher lie on four devices; the student is whole on each."""
  assert split["bytes"]["params"] == whole["bytes"]["params"]
  for name in ("optimizer_state", "teacher_params"):
    # Vectors, and kernels that four devices do not divide, stay whole.
    assert split["bytes"][name] < 0.6 * whole["bytes"][name]


# In one test: as a fixture of several, each worker that has one of them would compile it all.
def test_devices_and_processes_change_nothing(tmp_path):
  path = tmp_path / "one_process.json"
  finish(start(path, "1", "1g", "4gps", devices=4))
  one_process = json.loads(path.read_text())["results"]
  assert any(one_process["1"]["masks"])
  # Groups, one pass and a split state together.
  assert_same(one_process["4gps"], one_process["1g"])
  assert_split(one_process["4gps"], one_process["1g"])
  # Groups are another training than the whole batch.
  assert one_process["1g"]["losses"][0]["total"] != pytest.approx(
    one_process["1"]["losses"][0]["total"], rel=1e-6
  )

  address = free_address()
  path = tmp_path / "two_processes.json"
  finish(
    *(
      start(
        path,
        "4s",
        "--join",
        devices=2,
        JAX_COORDINATOR_ADDRESS=address,
        JAX_NUM_PROCESSES="2",
        JAX_PROCESS_ID=str(index),
      )
      for index in range(2)
    )
  )
  found = json.loads(path.read_text())
  assert found["processes"] == 2
  assert_same(found["results"]["4s"], one_process["1"])
  assert_split(found["results"]["4s"], one_process["1"])


def test_the_client_that_has_no_public_name_is_there():
  from jax._src import distributed

  assert hasattr(distributed.global_state, "client")


def take_turns(folder, *flags):
  """Exit codes and errors of two processes of `turns`."""
  command = [sys.executable, "-m", "tests.training.turns", str(folder), *flags]
  address = free_address()
  processes = [
    subprocess.Popen(
      command,
      env={
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
      },
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  errors = [process.communicate(timeout=100)[1] for process in processes]
  return [process.returncode for process in processes], errors


def test_the_first_process_is_done_before_others_begin_and_all_before_any_goes_on(tmp_path):
  codes, errors = take_turns(tmp_path)
  assert codes == [0, 0], errors
  for turn in (0, 1):
    times = [
      [float(x) for x in (tmp_path / f"{turn}_{index}").read_text().split()] for index in (0, 1)
    ]
    assert times[0][1] <= times[1][0]
    for index in (0, 1):
      assert float((tmp_path / f"{turn}_{index}_after").read_text()) >= times[1][1]


def test_where_the_first_process_fails_the_others_end_with_a_line(tmp_path):
  codes, (first, second) = take_turns(tmp_path, "--fail")
  assert codes == [1, 1]
  assert "error: it cannot be done" in first
  assert "error: process 0" in second
  assert "Traceback" not in first + second
  assert not list(tmp_path.iterdir())


@dataclasses.dataclass(frozen=True)
class Device:
  """What a mesh asks of a device."""

  id: int
  process_index: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "H100"


def test_devices_of_a_process_lie_together_and_several_machines_make_one_mesh():
  # Two machines of GPUs, as JAX distinguishes them, in an order that alternates.
  devices = [Device(number, number % 2, number % 2) for number in range(8)]
  mesh = make_mesh(devices)
  assert [device.process_index for device in mesh.devices] == [0] * 4 + [1] * 4
  shared = frame_mesh(mesh, 2)
  assert shared.devices.shape == (4, 2)
  assert all(a.process_index == b.process_index for a, b in shared.devices)


@pytest.mark.parametrize(
  ("environment", "message"),
  [
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES.*JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here:1234",
        "JAX_NUM_PROCESSES": "two",
        "JAX_PROCESS_ID": "0",
      },
      "JAX_NUM_PROCESSES.*'two'",
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "2",
      },
      "--multihost.*JAX_PROCESS_ID",
    ),
    ({}, "Slurm"),
  ],
)
def test_what_the_environment_lacks_is_reported(monkeypatch, environment, message):
  for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=message):
    join_processes()
