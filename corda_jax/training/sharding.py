"""The device mesh with its one named axis, and the sharding of arrays over it.

A single device is a mesh of one; no function below treats it specially.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from corda_jax.errors import UserError

BATCH_AXIS = "data"
PIXEL_AXIS = "pixels"  # second axis of `frame_mesh`

# Fields of a state that can be split over the devices: the student's pass reads neither.
_SPLIT_FIELDS = {"optimizer_state", "teacher_params"}


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of all devices (or of `devices`) along the batch axis, grouped by process.

  Not `jax.make_mesh`: it refuses several machines of GPUs, and on TPUs it follows the network
  topology, so the devices of a host, which hold neighbouring rows of a batch, would be separated.

  Raises:
    UserError: JAX finds no device for the platforms in JAX_PLATFORMS.
  """
  try:
    devices = jax.devices() if devices is None else devices
  except (AssertionError, RuntimeError) as error:  # the former if a plugin is missing
    reason = " ".join(str(error).split()) or "it has no such platform"
    raise UserError(
      f"JAX finds no device for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} ({reason}): "
      "install JAX for your accelerator, such as pip install 'jax[cuda13]', or unset the variable"
    ) from error
  devices = sorted(devices, key=lambda device: (device.process_index, device.id))
  # Auto axes: the compiler derives the sharding of operations from that of their inputs.
  return Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding in which every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def frame_mesh(mesh: Mesh, devices_per_frame: int) -> Mesh:
  """A mesh of the same devices in the same order, in which neighbours share each frame.

  Args:
    mesh: mesh of the run.
    devices_per_frame: number of neighbouring devices that share a frame.

  Raises:
    UserError: `devices_per_frame` does not divide the number of devices of a process.
  """
  local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
  if devices_per_frame < 1 or local % devices_per_frame:
    raise UserError(
      f"evaluation.devices_per_frame is {devices_per_frame}, expected a divisor of the {local} "
      "devices of a process"
    )
  devices = mesh.devices.reshape(-1, devices_per_frame)
  return Mesh(devices, (BATCH_AXIS, PIXEL_AXIS), axis_types=(AxisType.Auto,) * 2)


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The sharding in which the first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def with_shardings(mesh: Mesh, state: Any, *, split: bool) -> Any:
  """Shapes of a state with the sharding of each array.

  Args:
    mesh: mesh of the run.
    state: pytree of arrays or shapes whose fields are named as those of `TrainState`.
    split: whether optimiser and teacher are split over the devices, each kernel along the longest
      axis that the number of devices divides. All other arrays are replicated.

  Returns:
    The same pytree of ShapeDtypeStructs with shardings.
  """

  def describe(path, x):
    names = {getattr(key, "name", None) for key in path}
    spec = PartitionSpec()
    if split and names & _SPLIT_FIELDS:
      spec = _longest_axis(x.shape, mesh.size)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

  return jax.tree_util.tree_map_with_path(describe, state)


def _longest_axis(shape: tuple[int, ...], devices: int) -> PartitionSpec:
  axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
  if len(shape) < 2 or not axes:  # vectors: communication costs more than they save
    return PartitionSpec()
  longest = max(axes, key=lambda axis: shape[axis])
  return PartitionSpec(*(BATCH_AXIS if axis == longest else None for axis in range(len(shape))))


def shardings_of(shapes: Any) -> Any:
  """The sharding of each array, or of each shape from `with_shardings`."""
  return jax.tree.map(lambda x: x.sharding, shapes)


def check_divisible(mesh: Mesh, batch_size: int, field: str) -> None:
  """Raises UserError unless a batch of `batch_size` (config field `field`) can be split evenly."""
  parts = mesh.shape[BATCH_AXIS]
  if batch_size < 1 or batch_size % parts:
    groups = "devices" if parts == mesh.size else "groups of devices that share a frame"
    raise UserError(
      f"{field} is {batch_size}, expected a multiple of the {parts} {groups}; "
      f"set --config.{field}={max(1, -(-batch_size // parts)) * parts}"
    )


def check_training_batch(mesh: Mesh, batch_size: int, group: int) -> None:
  """Checks that a training batch can be split over the devices.

  Args:
    mesh: mesh of the run.
    batch_size: images of the global batch, data.batch_size.
    group: images that are normalised together, model.batch_norm_group; 0: all.

  Raises:
    UserError: the batch cannot be split evenly, or a group would be split over several devices.
  """
  check_divisible(mesh, batch_size, "data.batch_size")
  share = batch_size // mesh.size
  if group and mesh.size > 1 and share % group:
    raise UserError(
      f"model.batch_norm_group is {group}, but each of the {mesh.size} devices holds {share} of "
      f"{batch_size} images, expected a multiple of the group; set --config.data.batch_size="
      f"{mesh.size * group} or a multiple, or --config.model.batch_norm_group=0"
    )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Moves the share of a batch of this host to its devices, as global arrays."""
  sharding = batch_sharded(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()
  }


def replicated_key(mesh: Mesh, seed: int) -> jax.Array:
  """The random key of a seed, replicated on all devices of all processes."""
  return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))()


def local_rows(array: jax.Array) -> np.ndarray:
  """Rows of this process of an array whose first axis is split, in the order of `put_batch`."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])
