"""What devices send each other is counted as the compiled program has it."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import messages, options, shared_frames
from benchmarks.collectives import Messages, count_collectives
from benchmarks.operations import OTHER
from corda_jax.errors import UserError
from corda_jax.training.sharding import BATCH_AXIS, batch_sharded, make_mesh, replicated
from tests import tiny

# As compilers for GPUs and TPUs write them: started here, done elsewhere.
ASYNCHRONOUS = """
  %all-reduce-start.1 = (f32[8,4]{1,0}, bf16[3]{0}) all-reduce-start(%a, %b), channel_id=1
  %all-reduce-done.1 = (f32[8,4]{1,0}, bf16[3]{0}) all-reduce-done(%all-reduce-start.1)
  %all-gather-start = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%c), dimensions={0}
  %collective-permute-start = (s32[5]{0}, s32[5]{0}, u32[], u32[]) collective-permute-start(%d)
  ROOT %reduce-scatter.7 = f32[]{:T(128)} reduce-scatter(%e), metadata={op_name="jit(f)/part/add"}
"""


def compiled(function, *arguments, out=replicated):
  mesh = make_mesh(jax.devices()[:4])
  put = [jax.device_put(x, batch_sharded(mesh)) for x in arguments]
  return jax.jit(function, out_shardings=out(mesh)).lower(*put).compile().as_text()


def test_a_sum_over_devices_is_one_message_of_its_size():
  def function(x):
    with jax.named_scope("inner"):
      return x.sum(0)

  program = compiled(function, jnp.ones((8, 5, 3)))
  assert count_collectives(program) == {(OTHER, "all-reduce"): Messages(1, 5 * 3 * 4)}
  found = count_collectives(program, frozenset({"inner"}))
  assert found == {("inner", "all-reduce"): Messages(1, 5 * 3 * 4)}


def test_an_array_made_whole_counts_whole():
  program = compiled(lambda x: x * 2, jnp.ones((8, 5), jnp.float16))
  assert count_collectives(program) == {(OTHER, "all-gather"): Messages(1, 8 * 5 * 2)}


def test_where_every_device_works_for_itself_there_is_none():
  def along_batch(mesh):
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))

  assert count_collectives(compiled(jnp.sin, jnp.ones((8, 5)), out=along_batch)) == {}


def test_messages_that_overlap_with_work_count_once():
  assert count_collectives(ASYNCHRONOUS, frozenset({"part"})) == {
    (OTHER, "all-reduce"): Messages(1, 8 * 4 * 4 + 3 * 2),
    (OTHER, "all-gather"): Messages(1, 8 * 4 * 4),
    (OTHER, "collective-permute"): Messages(1, 5 * 4),
    ("part", "reduce-scatter"): Messages(1, 4),
  }


@pytest.mark.long
def test_the_messages_of_a_step_are_told_with_the_state_on_each_device(monkeypatch, capsys):
  devices = jax.device_count()
  fields = {"data.batch_size": devices, "compute.shard_state": True}
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config(**fields))
  with jax.numpy_dtype_promotion("standard"):
    messages.main(["--sweep", "model.batch_norm_group", "0", "1"])
  printed = capsys.readouterr().out
  assert "| messages (MB on each device) | batch_norm_group 0 | batch_norm_group 1 |" in printed
  counts = {
    row: [int(number) for number in numbers]
    for row, *numbers in re.findall(r"^\| (\w+: [\w-]+) \| (\d+) .*? \| (\d+) ", printed, re.M)
  }
  gathered = [row for row in counts if "all-gather" in row]
  assert gathered  # the teacher and the updates
  assert all(counts[row][0] == counts[row][1] for row in gathered)
  reduced = [sum(counts[row][i] for row in counts if "all-reduce" in row) for i in (0, 1)]
  assert reduced[0] > 20 * reduced[1] > 0  # none about the norm of each split gradient
  assert re.search(r"^\| state \| \d+ MB \| \d+ MB \|$", printed, re.M)


def test_what_each_device_does_for_a_shared_frame(monkeypatch, capsys):
  fields = {"data.target.height": 64, "data.target.width": 32}
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config(**fields))
  shared_frames.main(["--devices", "1", "4"])
  rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
  alone, shared = ([float(cell) for cell in row] for row in rows)
  assert (alone[0], shared[0]) == (1, 4)
  assert alone[3:] == [0, 0]
  assert shared[3] > 10
  with pytest.raises(UserError, match="set JAX_NUM_CPU_DEVICES"):
    shared_frames.main(["--devices", str(jax.device_count() + 1)])
