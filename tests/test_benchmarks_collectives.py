"""What devices send each other is counted as the compiled program has it."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.collectives import Messages, count_collectives
from benchmarks.operations import OTHER
from corda_jax.training.sharding import BATCH_AXIS, batch_sharded, make_mesh, replicated

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
