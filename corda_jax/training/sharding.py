"""One mesh, one named axis, and where arrays live on it.

A single device is a mesh of one; nothing below treats it apart.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from corda_jax.errors import UserError

BATCH_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of all devices (or of `devices`) along the batch axis."""
  devices = jax.devices() if devices is None else devices
  # Auto axes: the compiler chooses how operations are split, given how their inputs are.
  return jax.make_mesh((len(devices),), (BATCH_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def check_divisible(mesh: Mesh, batch_size: int, field: str) -> None:
  """Raises UserError unless a batch of `batch_size` (config field `field`) can be split evenly."""
  if batch_size < 1 or batch_size % mesh.size:
    raise UserError(
      f"{field} is {batch_size}, wanted a multiple of the {mesh.size} devices; "
      f"set --config.{field}={max(1, -(-batch_size // mesh.size)) * mesh.size}"
    )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Moves a host's share of a batch to its devices, as global arrays."""
  sharding = batch_sharded(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()
  }


def replicated_key(mesh: Mesh, seed: int) -> jax.Array:
  """The random key of a seed on every device, those of other processes among them."""
  return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))()


def local_rows(array: jax.Array) -> np.ndarray:
  """This process's part of an array whose first axis is split, in the order of `put_batch`."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def wait_for_all(name: str) -> None:
  """Returns when every process has come to the point of this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
