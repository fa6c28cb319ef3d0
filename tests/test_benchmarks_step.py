"""What the benchmark of the training step counts, splits and times."""

import json
import math
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import device_time, options, runners, step
from benchmarks.device_time import parts_of_instructions, split_time
from benchmarks.operations import CONVOLUTION, OTHER, PRODUCT, REST, count_operations
from benchmarks.options import apply_settings, load_config, setting
from benchmarks.runners import JaxStep, Peer, device_name, random_batch, time_in_turn
from corda_jax.errors import UserError
from corda_jax.jobs.train import step_inputs
from tests import tiny, tiny_joint

CONVOLUTIONS = (
  {"stride": 1, "padding": 1, "dilation": 1},
  {"stride": 2, "padding": 3, "dilation": 2},
  {"stride": 3, "padding": 0, "dilation": 1},
)


def convolve(x, kernel, stride, padding, dilation):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((padding, padding), (padding, padding)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_convolutions_and_their_gradients_count_as_xla_counts_them(options):
  x, kernel = jnp.ones((2, 11, 14, 3)), jnp.ones((3, 3, 3, 5))
  forward = lambda x, kernel: convolve(x, kernel, **options)  # noqa: E731
  both = lambda x, kernel, y: jax.vjp(forward, x, kernel)[1](y)  # noqa: E731
  for function, arguments in (
    (forward, (x, kernel)),
    (both, (x, kernel, forward(x, kernel))),
  ):
    expected = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    assert count_operations(function, *arguments)[OTHER, CONVOLUTION] == expected


def test_a_padded_convolution_counts_the_taps_on_the_image():
  # 4 places of 3 taps, of which the first and the last miss one: 10 pairs an axis.
  options = {"stride": 1, "padding": 1, "dilation": 1}
  count = count_operations(
    lambda x, kernel: convolve(x, kernel, **options),
    jnp.ones((1, 4, 4, 6)),
    jnp.ones((3, 3, 6, 7)),
  )
  assert count == {(OTHER, CONVOLUTION): 2 * 6 * 7 * 10 * 10}


def test_products_sums_and_what_is_not_arithmetic():
  def function(x, y):
    z = jnp.einsum("bij,bjk->bik", x, y)
    return jnp.tanh(z).sum(), z.reshape(-1)[::2].astype(jnp.bfloat16)

  count = count_operations(function, jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4)))
  assert count == {(OTHER, PRODUCT): 2 * 5 * 2 * 3 * 4, (OTHER, REST): 2 * 5 * 2 * 4}


def test_what_no_result_needs_does_not_count():
  def function(x):
    x @ x
    return x + 1

  assert count_operations(function, jnp.ones((4, 4))) == {(OTHER, REST): 16}


def test_loops_branches_and_inner_functions():
  inner = jax.jit(lambda x: x @ x)

  def function(x):
    x, _ = jax.lax.scan(lambda x, _: (inner(x), None), x, length=7)
    return jax.lax.cond(x[0, 0] > 0, lambda x: x, lambda x: inner(inner(x)), x)

  assert count_operations(function, jnp.ones((4, 4)))[OTHER, PRODUCT] == (7 + 2) * 2 * 4**3


def test_the_branch_of_this_platform_counts():
  def function(x, **branches):
    return jax.lax.platform_dependent(x, **branches)

  x, once, thrice = jnp.ones((4, 4)), (lambda x: x @ x), (lambda x: x @ x @ x @ x)
  for branches, products in (
    ({"cpu": once, "default": thrice}, 1),
    ({"cuda": once, "default": thrice}, 3),
    ({"cuda": thrice, "cpu": once}, 1),
  ):
    count = count_operations(lambda x, branches=branches: function(x, **branches), x)
    assert count == {(OTHER, PRODUCT): products * 2 * 4**3}


def test_the_outermost_scope_counts_also_for_gradients():
  def function(x):
    with jax.named_scope("mixed"):
      y = jax.jit(lambda x: x @ x)(x)
      with jax.named_scope("source"):
        y = y @ y
    with jax.named_scope("elsewhere"):
      return (y @ x).sum()

  count = count_operations(jax.grad(function), jnp.ones((4, 4)), parts=("source", "mixed"))
  product = 2 * 4**3
  assert count["mixed", PRODUCT] == 2 * product + 4 * product
  # Its gradient needs both factors' cotangents, and its value is needed by nobody.
  assert count[OTHER, PRODUCT] == 2 * product
  assert ("source", PRODUCT) not in count


def test_instructions_belong_to_scopes_or_where_their_operands_come_from():
  program = """
  %a = f32[2] parameter(0), metadata={op_name="x"}
  %b.1 = f32[2] add(%a, %a), metadata={op_name="jit(f)/transpose(jvp(mixed))/add"}
  %c = f32[2] copy(%b.1), backend_config={}
  ROOT %d = f32[2] multiply(%c, %c), metadata={op_name="jit(f)/remixed/mul"}
"""
  assert parts_of_instructions(program, frozenset(("source", "mixed"))) == {
    "a": OTHER,
    "b.1": "mixed",
    "c": "mixed",
    "d": OTHER,
  }


def test_the_time_of_a_profile_goes_to_the_scopes():
  def function(x):
    with jax.named_scope("source"):
      y = x @ x
    with jax.named_scope("mixed"):
      for _ in range(6):
        y = y @ x
    return y

  x = jax.random.normal(jax.random.key(0), (300, 300))
  compiled = jax.jit(function).lower(x).compile()
  started = time.perf_counter()
  busy = split_time(compiled, lambda: compiled(x).block_until_ready(), ("source", "mixed"))
  assert busy["mixed"] > busy["source"] > 0
  assert sum(busy.values()) < 2 * (time.perf_counter() - started)  # on two cores at most


def test_what_a_profile_names_and_the_program_does_not_is_told(monkeypatch):
  events = iter((("dot.1", 3e9), ("kernel_of_a_library", 5e9)))
  monkeypatch.setattr(device_time, "_events", lambda path: events)
  monkeypatch.setattr(device_time, "parts_of_instructions", lambda *_: {"dot.1": "some"})
  compiled = jax.jit(jnp.sin).lower(jnp.ones(3)).compile()
  busy = split_time(compiled, lambda: compiled(jnp.ones(3)), ("some",))
  assert busy == {"some": 3, OTHER: 0, device_time.UNNAMED: 5}


def test_where_devices_have_planes_the_host_is_not_counted(monkeypatch):
  def line(name, *operations):
    events = [
      types.SimpleNamespace(
        name=o, stats=[] if o.startswith("kernel") else [("hlo_op", o)], duration_ns=2.0
      )
      for o in operations
    ]
    return types.SimpleNamespace(name=name, events=events)

  def plane(name, *lines):
    return types.SimpleNamespace(name=name, lines=lines)

  host = plane("/host:CPU", line("threads", "dot.1", "while.2", "kernel of nobody"))
  # Kernels of libraries and of graphs count, and nothing twice.
  gpu = plane("/device:GPU:0", line("Stream #1", "dot.3", "kernel"), line("XLA Modules", "dot.3"))
  tpu = plane("/device:TPU:0", line("Steps", "1"), line("XLA Ops", "dot.4"))
  for seen, found in (
    ([host, gpu], ["dot.3", "kernel"]),
    ([host, tpu], ["dot.4"]),
    ([host], ["dot.1"]),
  ):
    profile = types.SimpleNamespace(planes=seen)
    monkeypatch.setattr(
      jax.profiler, "ProfileData", types.SimpleNamespace(from_file=lambda _, p=profile: p)
    )
    assert [operation for operation, _ in device_time._events("")] == found


def test_a_peer_is_timed_in_turn():
  code = "import sys; print('hello', flush=True)\nfor n in sys.stdin: print(3 * int(n), flush=True)"
  peer = Peer(*Peer.parts_of_option(f'slow={sys.executable} -c "{code}"'))
  order = []

  class Ours:
    name = "ours"

    def run(self, steps):
      order.append(steps)
      return float(len(order))

  with peer:
    seconds, failed = time_in_turn([Ours(), peer], rounds=2, steps=2)
  assert failed == {}
  assert seconds == {"ours": [2 / 2, 3 / 2], "slow": [3.0, 3.0]}  # the first round does not count


@pytest.mark.parametrize("good_runs", [0, 2])
@pytest.mark.parametrize(
  "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory\nmore"), UserError("ended")]
)
def test_a_runner_that_fails_leaves_the_others_timed(error, good_runs):
  class Ours:
    name = "ours"

    def run(self, steps):
      return 3.0 * steps

  class Large:
    name = "large"
    runs = 0

    def run(self, steps):
      assert self.runs <= good_runs  # is not asked again
      self.runs += 1
      if self.runs > good_runs:
        raise error
      return 1.0

  seconds, failed = time_in_turn([Large(), Ours()], rounds=3, steps=2)
  assert seconds == {"ours": [3.0] * 3}
  assert failed == {"large": str(error).splitlines()[0]}


def made_up(name, seconds, **fields):
  """What `measure` gives, of 12 TFLOP a step."""
  return {
    "name": name,
    "peak": "float32, default",
    "images": 8,
    "operations": dict.fromkeys((*step.PARTS, OTHER), 0) | {"source": 8e12, "mixed": 4e12},
    "xla_operations": 11e12,
    "bytes": 5e9,
    "peak_memory": 6e9,
    "compile_seconds": 7.0,
    "seconds": seconds,
    "fastest": seconds / 2,
    "collectives": {},
    "busy": {},
    **fields,
  }


def test_the_report_compares_with_peers_and_with_the_peak(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 2)
  busy = dict.fromkeys((*step.PARTS, OTHER), 0.0) | {"source": 3.0, "mixed": 1.0}
  untold = dict.fromkeys(("xla_operations", "bytes", "peak_memory"))
  printed = step.report(
    [made_up("small", 2.0, **untold), made_up("large", 4.0, busy=busy)],
    {"float32, default": 12e12},
    {"peer": [9.0, 6.0, 5.0]},
    {"huge": "no memory"},
  )
  lines = printed.splitlines()
  # 6 s of the peer are 3 times our 2 s, and 1.5 times our 4 s.
  assert "peer: 6000.0 ms (5000.0); times ours takes less: small: 3.00, large: 1.50" in lines
  row = [cell.strip() for cell in next(x for x in lines if x.startswith("| small")).split("|")]
  assert row[3:10] == ["–", "–", "–", "7", "2000.0 (1000.0)", "4.0", "6.00"]
  assert row[10] == "25%"  # 6 of the 24 TFLOP/s of two devices
  assert "| huge | no memory |" + " |" * 8 in lines
  assert "| large | 3000.0 (8,000) | 1000.0 (4,000) | 4000.0 |" in lines
  assert "| small | – (8,000) | – (4,000) | – |" in lines
  assert "JAX " + jax.__version__ + "; float32, default peak 12.00 TFLOP/s" in lines[1]


def test_a_cpu_is_named_by_its_model_where_the_system_tells_it(tmp_path):
  cpuinfo = tmp_path / "cpuinfo"
  assert device_name(cpuinfo) == "cpu (cpu)"
  cpuinfo.write_text("processor : 0\n")
  assert device_name(cpuinfo) == "cpu (cpu)"
  cpuinfo.write_text("vendor_id\t: X\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: other\n")
  assert device_name(cpuinfo) == "Fast CPU @ 3 GHz (cpu)"


def test_two_runners_of_one_name_are_refused():
  class Ours:
    name = "ours"

  with pytest.raises(UserError, match="two runners have one name: ours, ours"):
    time_in_turn([Ours(), Ours()], rounds=1, steps=1)


def test_a_profile_without_operations_gives_no_shares(monkeypatch):
  monkeypatch.setattr(device_time, "_events", lambda path: iter(()))
  compiled = jax.jit(jnp.sin).lower(jnp.ones(3)).compile()
  assert split_time(compiled, lambda: compiled(jnp.ones(3)), ("some",)) == {}


@pytest.mark.parametrize(
  ("command", "message"),
  [
    (f"{sys.executable} -c 'raise SystemExit(3)'", "ended with code 3"),
    ("/no/such/program", "cannot be started"),
  ],
)
def test_a_peer_that_fails(command, message):
  with pytest.raises(UserError, match=message):
    Peer("broken", command)


@pytest.mark.parametrize(
  ("answer", "message"), [("raise SystemExit(4)", "code 4"), ("print('no', flush=True)", "'no")]
)
def test_a_peer_that_fails_later(answer, message):
  code = f"import sys; print(1, flush=True)\nfor n in sys.stdin: {answer}"
  with (
    Peer("odd", f'{sys.executable} -c "{code}"') as peer,
    pytest.raises(UserError, match=message),
  ):
    peer.run(1)


@pytest.mark.parametrize("text", ["python", "=python", "name="])
def test_a_peer_has_a_name_and_a_command(text):
  with pytest.raises(UserError, match="wanted NAME=COMMAND"):
    Peer.parts_of_option(text)


def test_what_compiling_takes_is_not_read_from_a_cache(tmp_path):
  def compiled(text):
    before = len(list(tmp_path.iterdir()))
    jax.jit(lambda x: x * float(text)).lower(jnp.ones(3)).compile()
    return len(list(tmp_path.iterdir())) - before

  settings = {
    "jax_compilation_cache_dir": str(tmp_path),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  old = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    assert compiled("1.5") > 0
    with runners._no_compilation_cache():
      assert compiled("2.5") == 0
    assert compiled("3.5") > 0
  finally:
    for name, value in old.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_random_batches_are_what_the_step_reads():
  for joint in (None, tiny_joint.build(tiny_joint.EVERYTHING).joint):
    made = random_batch(tiny.get_config().data, 19, 0, joint)
    real = step_inputs(tiny_joint.get_batch(), joint)
    assert {k: (v.shape, v.dtype) for k, v in made.items()} == {
      k: (v.shape, v.dtype) for k, v in real.items()
    }
  assert made["source_label"].max() < 19


def test_options(monkeypatch):
  assert setting("data.batch_size=4") == ("data.batch_size", 4)
  assert setting("model.dtype=bfloat16") == ("model.dtype", "bfloat16")
  config = load_config("gta2cs:as_published")
  assert config.model.classifier_dilations == (6, 12, 18, 24)
  monkeypatch.setitem(sys.modules, "ml_collections", None)  # as where it is not installed
  monkeypatch.delitem(sys.modules, "configs.gta2cs_dacs", raising=False)
  monkeypatch.delitem(sys.modules, "configs.default", raising=False)
  with pytest.raises(UserError, match=r"configs/gta2cs_dacs.py needs ml_collections"):
    load_config("gta2cs_dacs")
  monkeypatch.undo()
  for name in ("none_such", "gta2cs:none_such"):
    with pytest.raises(UserError, match=name):
      load_config(name)
  for settings in ({"data.none_such": 1}, {"data.batch_size": "many"}):
    with pytest.raises(UserError, match=next(iter(settings))):
      apply_settings(config, settings)


@pytest.mark.long
def test_the_benchmark_reports_every_variant(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config())
  monkeypatch.setattr(step, "_PEAK_SIZES", {"cpu": 64})
  with pytest.raises(UserError, match=r"--sweep model.dtype names no value"):
    step.main(["--sweep", "model.dtype"])
  with pytest.raises(UserError, match=r"data.batch_size is 3, wanted a multiple"):
    step.main(["--set", "data.batch_size=3"])
  arguments = ["--sweep", "model.dtype", "float32", "bfloat16", "--rounds", "1", "--steps", "1"]
  ends = f'ends={sys.executable} -c "print(1)"'  # before it is timed
  fails = f'fails={sys.executable} -c "raise SystemExit(3)"'  # before it is ready
  numbers = tmp_path / "numbers.json"
  with jax.numpy_dtype_promotion("standard"):
    step.main([*arguments, "--peer", ends, "--peer", fails, "--json", str(numbers)])
  printed = capsys.readouterr().out
  assert "| ends | --peer ends ended with code 0 |" in printed
  assert "| fails | --peer fails ended with code 3 |" in printed
  assert "times ours" not in printed
  assert "| dtype float32 |" in printed
  assert "| dtype bfloat16 |" in printed
  assert "float32, default peak" in printed
  assert "| busy, ms (GFLOP) | source | teacher | mixed | optimizer |" in printed
  told = json.loads(numbers.read_text())
  assert set(told["failed"]) == {"ends", "fails"}
  for variant in told["steps"]:
    assert variant["busy"]["optimizer"] > 0


def test_operations_are_counted_without_compiling(monkeypatch, capsys):
  def compiles(*_, **__):
    raise AssertionError("nothing is to be compiled")

  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config())
  monkeypatch.setattr(JaxStep, "build", compiles)
  monkeypatch.setattr(jax.stages.Lowered, "compile", compiles)
  step.main(["--count", "--sweep", "data.batch_size", "4", "400"])
  small, large = (
    [float(cell.replace(",", "")) for cell in line.split("|")[2:-1]]
    for line in capsys.readouterr().out.splitlines()[2:]
  )
  assert len(large) == len(step.PARTS) + 2
  assert abs(large[-1] - sum(large[:-1])) < len(large)  # of rounded numbers
  source, teacher = (large[step.PARTS.index(part)] for part in ("source", "teacher"))
  assert source > teacher > small[-1]


def test_what_was_timed_is_kept_where_a_closer_look_fails(monkeypatch, tmp_path, capsys):
  class Made:
    name, compile_seconds = "made", 3.0

    def run(self, steps):
      found.append(json.loads(numbers.read_text()))
      return 2.0 * steps

  def fails(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory")

  def build(options, save):
    save({"made": 3.0})
    return [Made()], {}

  found, numbers = [], tmp_path / "numbers.json"
  monkeypatch.setattr(step, "build_variants", build)
  monkeypatch.setattr(step, "measure", fails)
  step.main(["--rounds", "2", "--json", str(numbers)])
  assert found[0]["compile_seconds"] == {"made": 3.0}
  assert found[2]["seconds"] == {"made": [2.0]}  # after the first round that counts
  told = json.loads(numbers.read_text())
  assert told["seconds"] == {"made": [2.0, 2.0]}
  assert told["failed"] == {"made, measured closer": "RESOURCE_EXHAUSTED: memory"}
  assert "made: 2000.0 ms" in capsys.readouterr().out


def test_a_device_that_counts_nothing_is_no_obstacle(monkeypatch):
  monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda self: None)
  monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self: None)
  monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
  made = JaxStep.build("tiny", tiny.get_config())
  found = step.measure(made, [made.run(1)])
  assert found["xla_operations"] is found["bytes"] is found["peak_memory"] is None


@pytest.mark.long
def test_the_count_of_a_step_agrees_with_xla():
  made = JaxStep.build("tiny", tiny.get_config())
  counted = count_operations(*made.traced(), parts=step.PARTS)
  # Products and convolutions agree; how the rest is counted is a matter of taste.
  assert math.isclose(counted.total(), made.xla_operations, rel_tol=0.1)
  by_part = {part: counted[part, CONVOLUTION] for part in step.PARTS}
  assert by_part["source"] == by_part["mixed"] > by_part["teacher"] > by_part["optimizer"] == 0
