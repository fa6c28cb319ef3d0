"""What benchmarks count and split: operations of a trace, collectives, the time of a profile."""

import contextlib
import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.scaling.collectives import Messages, count_collectives
from benchmarks.speed.device_time import UNNAMED, split_time
from benchmarks.speed.operations import CONVOLUTION, OTHER, PRODUCT, REST, count_operations
from benchmarks.speed.runners import random_batch
from benchmarks.speed.step import PARTS
from corda_jax.training.sharding import batch_sharded, make_mesh, replicated
from tests import tiny
from tests.stub_network import stub_task

# As compilers for GPUs and TPUs write them: started here, done elsewhere.
ASYNCHRONOUS = """
  %all-reduce-start.1 = (f32[8,4]{1,0}, bf16[3]{0}) all-reduce-start(%a, %b), channel_id=1
  %all-reduce-done.1 = (f32[8,4]{1,0}, bf16[3]{0}) all-reduce-done(%all-reduce-start.1)
  %all-gather-start = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%c), dimensions={0}
  %collective-permute-start = (s32[5]{0}, s32[5]{0}, u32[], u32[]) collective-permute-start(%d)
  ROOT %reduce-scatter.7 = f32[]{:T(128)} reduce-scatter(%e), metadata={op_name="jit(f)/part/add"}
"""
# What the compiler added, c, belongs where its operands come from.
PROGRAM = """
  %a = f32[2] parameter(0), metadata={op_name="x"}
  %b.1 = f32[2] add(%a, %a), metadata={op_name="jit(f)/transpose(jvp(mixed))/add"}
  %c = f32[2] copy(%b.1), backend_config={}
  ROOT %d = f32[2] multiply(%c, %c), metadata={op_name="jit(f)/remixed/mul"}
"""


def convolve(x, kernel, stride, padding, dilation):
  options = {"rhs_dilation": (dilation,) * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, ((padding,) * 2,) * 2, **options)


@pytest.mark.parametrize("options", [(1, 1, 1), (2, 3, 2), (3, 0, 1)])
def test_convolutions_and_their_gradients_count_as_xla_counts_them(options):
  x, kernel = jnp.ones((2, 11, 14, 3)), jnp.ones((3, 3, 3, 5))
  forward = lambda x, kernel: convolve(x, kernel, *options)  # noqa: E731
  both = lambda x, kernel, y: jax.vjp(forward, x, kernel)[1](y)  # noqa: E731
  for function, arguments in ((forward, (x, kernel)), (both, (x, kernel, forward(x, kernel)))):
    expected = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    assert count_operations(function, *arguments)[OTHER, CONVOLUTION] == expected


def test_products_sums_and_what_is_not_arithmetic_or_not_needed():
  def function(x, y):
    x.sum()  # no result needs it
    z = jnp.einsum("bij,bjk->bik", x, y)
    return jnp.tanh(z).sum(), z.reshape(-1)[::2].astype(jnp.bfloat16)

  count = count_operations(function, jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4)))
  assert count == {(OTHER, PRODUCT): 2 * 5 * 2 * 3 * 4, (OTHER, REST): 2 * 5 * 2 * 4}


def test_loops_branches_and_inner_functions():
  x, inner = jnp.ones((4, 4)), jax.jit(lambda x: x @ x)

  def function(x):
    x, _ = jax.lax.scan(lambda x, _: (inner(x), None), x, length=7)
    return jax.lax.cond(x[0, 0] > 0, inner, lambda x: inner(inner(x)), x)

  assert count_operations(function, x)[OTHER, PRODUCT] == (7 + 2) * 2 * 4**3
  for own, other in (("cpu", "default"), ("default", "cuda"), ("cpu", "cuda")):
    branches = {own: inner, other: function}
    of_platform = lambda x, each=branches: jax.lax.platform_dependent(x, **each)  # noqa: E731
    assert count_operations(of_platform, x) == {(OTHER, PRODUCT): 2 * 4**3}


def test_the_outermost_scope_counts_also_for_gradients():
  def function(x):
    with jax.named_scope("mixed"):
      y = jax.jit(lambda x: x @ x)(x)
      with jax.named_scope("source"):
        y = y @ y
    with jax.named_scope("elsewhere"):
      return (y @ x).sum()

  count = count_operations(jax.grad(function), jnp.ones((4, 4)), parts=("source", "mixed"))
  # Elsewhere the gradient needs both factors' cotangents, and the value is needed by nobody.
  assert (count["mixed", PRODUCT], count[OTHER, PRODUCT]) == ((2 + 4) * 2 * 4**3, 2 * 2 * 4**3)
  assert ("source", PRODUCT) not in count


def test_the_teacher_of_a_step_takes_no_gradients():
  experiment = stub_task(tiny.get_config())
  given = (experiment.state_shapes, random_batch(experiment.config.data, 19, 0))
  count = count_operations(experiment.make_step(), *given, jax.random.key(0), parts=PARTS)
  source, teacher, mixed, _, _, optimizer = (count[part, CONVOLUTION] for part in PARTS)
  assert source == mixed > teacher > optimizer == 0


def test_collectives_are_counted_by_part_with_their_sizes():
  def collectives(function, x, part=OTHER, out=replicated):
    mesh = make_mesh(jax.devices()[:4])
    given = jax.device_put(x, batch_sharded(mesh))
    compiled = jax.jit(function, out_shardings=out(mesh)).lower(given).compile()
    return count_collectives(compiled.as_text(), frozenset([part]))

  def total(x):
    with jax.named_scope("inner"):
      return x.sum(0)

  x = jnp.ones((8, 5), jnp.float16)
  assert collectives(total, jnp.int32(x)) == {(OTHER, "all-reduce"): Messages(1, 5 * 4)}
  assert collectives(total, jnp.int32(x), "inner") == {("inner", "all-reduce"): Messages(1, 5 * 4)}
  assert collectives(lambda x: x * 2, x) == {(OTHER, "all-gather"): Messages(1, 8 * 5 * 2)}
  assert collectives(jnp.sin, x, out=batch_sharded) == {}
  # Asynchronous ones, which overlap with work, count once.
  assert count_collectives(ASYNCHRONOUS, frozenset({"part"})) == {
    (OTHER, "all-reduce"): Messages(1, 8 * 4 * 4 + 3 * 2),
    (OTHER, "all-gather"): Messages(1, 8 * 4 * 4),
    (OTHER, "collective-permute"): Messages(1, 5 * 4),
    ("part", "reduce-scatter"): Messages(1, 4),
  }


def test_the_time_of_a_profile_goes_to_the_scopes():
  def function(x):
    with jax.named_scope("source"):
      x = x @ x
    with jax.named_scope("mixed"):
      return functools.reduce(jnp.matmul, [x] * 12)

  x = jnp.eye(200)
  compiled = jax.jit(function).lower(x).compile()
  runs = lambda: [compiled(x).block_until_ready() for _ in range(10)]  # noqa: E731
  busy = split_time(compiled, runs, ("source", "mixed"))
  assert {part for part, _ in busy} <= {"source", "mixed", OTHER, UNNAMED}
  of_part = lambda name: sum(seconds for (part, _), seconds in busy.items() if part == name)  # noqa: E731
  assert of_part("mixed") > of_part("source") > 0
  assert not any(kind[-1].isdigit() for _, kind in busy)  # all products are of one kind


def test_the_devices_planes_are_read_where_there_are_any(monkeypatch):
  def line(name, *operations):
    stats = {o: [] if o.startswith("kernel") else [("hlo_op", o)] for o in operations}
    events = [SimpleNamespace(name=o, stats=stats[o], duration_ns=1e9) for o in operations]
    return SimpleNamespace(name=name, events=events)

  @contextlib.contextmanager
  def trace(folder):
    yield
    (Path(folder) / "made.xplane.pb").touch()

  cpu = SimpleNamespace(name="/host:CPU", lines=[line("", "b.1", "while.2", "kernel of nobody")])
  # Kernels of libraries and of graphs count, and nothing twice.
  gpu = SimpleNamespace(name="/device:GPU:0", lines=[line("Stream #1", "c", "kernel")])
  gpu.lines.append(line("XLA Modules", "c"))
  tpu = SimpleNamespace(name="/device:TPU:0", lines=[line("XLA Ops", "a", "b.1", "c", "d")])
  tpu.lines.append(line("Steps", "1"))
  planes, compiled = [], SimpleNamespace(as_text=lambda: PROGRAM)
  read = SimpleNamespace(from_file=lambda path: SimpleNamespace(planes=planes))
  monkeypatch.setattr(jax.profiler, "trace", trace)
  monkeypatch.setattr(jax.profiler, "ProfileData", read)
  assert split_time(compiled, lambda: None, ["mixed"]) == {}  # where profiling is not permitted
  a, b, c, d = (OTHER, "a"), ("mixed", "b"), ("mixed", "c"), (OTHER, "d")
  for found, names in (
    ([cpu, gpu], (c, (UNNAMED, "kernel"))),
    ([cpu, tpu], (a, b, c, d)),
    ([cpu], (b,)),
  ):
    planes[:] = found
    assert split_time(compiled, lambda: None, ["mixed"]) == dict.fromkeys(names, 1.0)
