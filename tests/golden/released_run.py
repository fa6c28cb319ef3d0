"""Runs one file of reference values and measures how far the program is from it.

`corda_*.npz` hold what the released code computed; everything that says what it computed is read
from the file: seed, shape, learning rate, iterations, the source of pseudo-labels, and, as
`switch/FIELD` entries, fields of the configuration.
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import gta2cs, synthia2cs
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.pretrained.matching import find_state_dicts, match
from corda_jax.pretrained.names.corda import CORDA
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.sharding import make_mesh
from corda_jax.training.state import TrainState
from tests.golden import golden, released_shapes

CONFIGS = {"gta": gta2cs, "synthia": synthia2cs}

# What files call fields of the configuration → what they are called.
FIELDS = {
  "model.classifier_dilations": "model.decoder.dilations",
  "model.task_width": "model.decoder.width",
  "method.depth_weight": "terms.mixed.depth_weight",
  "method.mixed_mean_over": "terms.mixed.mean_over",
  "method.source_depth_loss_weight": "terms.depth_files.source_weight",
  "method.mixed_depth_loss_weight": "terms.depth_files.mixed_weight",
  "method.strong_augmentation": "mixing.augmentation",
  "method.mix_ignored": "mixing.paste_ignored",
  "method.teacher_": "teacher.",
  "method.confident_fraction_over": "teacher.fraction_over",
  "method.initial_pseudo_label_steps": "teacher.initial_label_steps",
  "method.confidence_threshold": "teacher.confidence_threshold",
}

STORED = 1e-7  # relative error of arrays that are stored as float32
EXACT = 1e-9  # of values that are stored as float64
CHANGES = 1e-8  # of changes of parameters, relative to the norm of the change
# Of float32 outputs, relative to the largest minus the smallest value. With these weights a gate of
# the correlation is sigmoid(x), x of 3e8 and its rounding of some hundreds: where x is near 0 the
# order of sums, thus the machine, decides whether it opens. One of 226,304 did so on one machine
# and moved 5 of 442 places of the semantic output by 2 %, all others by 1e-6. So all but a
# fiftieth of the values are held to SPREAD, and every one to FLIPPED.
SPREAD = 1e-3
FLIPPED = 0.1
LOSSES = 1e-3  # of the first step's losses in float32


class Measure(NamedTuple):
  """How far one quantity is from its reference.

  Attributes:
    quantity: name of the file's entry, or of a group of them.
    error: largest relative error.
    bound: what it must stay below.
    compared: how many numbers or arrays were compared.
  """

  quantity: str
  error: float
  bound: float
  compared: int


def variant(reference: Any) -> str:
  """Which of the released networks a file is of: "gta" or "synthia"."""
  # The GTA network alone has a dilated classifier for its initial semantics.
  dilated = any("conv_out.S.conv2d_list" in str(name) for name in reference["param_names"])
  return "gta" if dilated else "synthia"


def configuration(reference: Any, dtype: str) -> Any:
  """The released configuration with what the file sets."""
  config = CONFIGS[variant(reference)].get_config()
  config.model.dtype = dtype
  config.model.param_dtype = "float64" if dtype == "float64" else "float32"
  config.optimizer.learning_rate = float(reference["learning_rate"])
  config.teacher.initial_label_steps = 10**9 if reference["use_initial"] else 0
  for name in (n for n in reference.files if n.startswith("switch/")):
    value = reference[name].tolist()
    value = tuple(value) if isinstance(value, list) else value
    field = name.removeprefix("switch/")
    for old, new in FIELDS.items():
      field = field.replace(old, new)
    config.update_from_flattened_dict({field: value})
  return config


def relative(got: Any, expected: np.ndarray) -> float:
  """Largest error relative to the largest value."""
  got = np.asarray(got, np.float64)
  if got.shape != expected.shape:
    raise AssertionError(f"shape {got.shape}, expected {expected.shape}")
  return float(np.abs(got - expected).max() / np.abs(expected).max())


def worst(quantity: str, errors: list[float], bound: float) -> Measure:
  """One measure of many errors; NaN is the worst."""
  return Measure(quantity, float(np.max(errors)), bound, len(errors))


class ReleasedRun:
  """One `corda_*.npz` file.

  Args:
    path: of the file.
    dtype: "float64", which takes `jax_enable_x64`; or, without that, "float32" or "bfloat16", for
      `in_low_precision` alone.
  """

  def __init__(self, path: Path, dtype: str = "float64"):
    """Reads the file and builds the task."""
    self.reference = np.load(path)
    self.shapes = released_shapes(variant(self.reference))
    self.seed = int(self.reference["seed"])
    self.shape = tuple(int(n) for n in self.reference["batch_shape"])
    self.dtype = dtype
    self.config = configuration(self.reference, dtype)
    self.task = AdaptationTask.from_config(self.config, make_mesh(jax.devices()[:1]))
    self.branches = len(self.config.model.decoder.dilations)
    self.image = jnp.asarray(golden.forward_image(self.seed, self.shape))
    model = self.task.model
    self.evaluate = jax.jit(lambda variables, x: model.apply(variables, x, train=False))

  def start(self) -> dict[str, np.ndarray]:
    """The state dict that every run starts from, float64; rebuilt, since it takes 400 MB."""
    return {name: golden.parameter(name, shape) for name, shape in self.shapes.items()}

  def variables(self) -> dict[str, Any]:
    """The same as variables of the network."""
    return jax.tree.map(jnp.array, self.convert(self.start()))

  def convert(self, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The tensors of a released checkpoint as variables of the network; not one may be missing."""
    shapes = self.task.state_shapes
    variables, report = match(
      tensors,
      {"params": shapes.params, "batch_stats": shapes.batch_stats},
      CORDA,
      classifier_dilations=tuple(self.config.model.decoder.dilations),
    )
    assert not report.missing
    return variables

  def measures(self, *, steps: bool = True) -> Iterator[Measure]:
    """Everything that the file holds, in float64; or without the steps."""
    yield from self.outputs()
    yield from self.converted()
    if not steps:
      return
    state, measures = self.steps()
    yield from measures
    yield from self.changes(state.params, "")
    yield from self.changes(state.teacher_params, "ema_")
    yield from self.statistics(state.batch_stats)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    error = relative(self.evaluate(variables, self.image)["S"], self.reference["final_eval/S"])
    yield Measure("final_eval/S", error, STORED, 1)

  def in_low_precision(self, *, step: bool) -> Iterator[Measure]:
    """The outputs, and the losses of the first step; measured without a bound in bfloat16."""

    def losses() -> Iterator[Measure]:
      _, measures = self.steps(1)
      yield measures[0]

    for measure in itertools.chain(self.outputs(), losses() if step else ()):
      yield measure if self.dtype == "float32" else measure._replace(bound=np.inf)

  def outputs(self) -> Iterator[Measure]:
    """The six outputs in evaluation and in training mode, and the statistics after the latter."""
    model = self.task.model
    train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    variables = self.variables()
    outputs, updated = train(variables, self.image)
    modes = {"eval": self.evaluate(variables, self.image), "train": outputs}
    for mode, outputs in modes.items():
      assert len(outputs) == 6
      for name, got in outputs.items():
        expected = self.reference[f"{mode}/{name}"]
        if self.dtype == "float64":
          yield Measure(f"{mode}/{name}", relative(got, expected), STORED, 1)
        else:
          errors = np.abs(np.asarray(got, np.float64) - expected) / np.ptp(expected)
          yield Measure(f"{mode}/{name}", float(np.quantile(errors, 0.98)), SPREAD, 1)
          yield Measure(f"{mode}/{name}, largest", float(errors.max()), FLIPPED, 1)
    entries = [n for n in self.reference.files if n.startswith("after_train_forward/")]
    tensors = [CORDA.tensor(updated, n.removeprefix("after_train_forward/")) for n in entries]
    errors = [relative(t, self.reference[n]) for t, n in zip(tensors, entries, strict=True)]
    bound = EXACT if self.dtype == "float64" else SPREAD
    yield worst("after_train_forward/*", errors, bound)

  def converted(self) -> Iterator[Measure]:
    """Outputs in evaluation mode of weights that went through a file of PyTorch."""
    start = self.start()
    tracked = {f"{n.removesuffix('running_var')}num_batches_tracked" for n in start if "_var" in n}
    model = start | dict.fromkeys(tracked, np.array(5, np.int64))
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "checkpoint.pth"
      write_torch_file(path, {"iteration": 5, "model": model, "ema_model": {}})
      variables = self.convert(find_state_dicts(read_torch_file(path)).student)
    outputs = self.evaluate(jax.tree.map(jnp.asarray, variables), self.image)
    errors = [relative(got, self.reference[f"eval/{name}"]) for name, got in outputs.items()]
    yield worst("eval/* of a converted file", errors, STORED)

  def steps(self, count: int | None = None) -> tuple[TrainState, list[Measure]]:
    """Runs the file's iterations, or so many; the last state, how losses and first step compare."""
    step, state = self._compile_step(), None
    losses, measures = [], []
    names = [str(name) for name in self.reference["loss_names"]]
    for index, iteration in enumerate(self.reference["iterations"][:count]):
      batch = golden.step_batch(self.seed + index, self.shape)
      mask = batch.pop("mix_mask")
      state = self._state_at(int(iteration), state)
      state, metrics, maps = step(state, jax.tree.map(jnp.asarray, batch), jnp.asarray(mask))
      expected = self.reference["losses"][index]
      pairs = zip(names, expected, strict=True)
      losses += [abs(float(metrics[name]) / value - 1) for name, value in pairs]
      if index == 0:
        measures = [*self._maps(maps, batch), *self._gradients(state.optimizer_state[1])]
    return state, [worst("losses", losses, EXACT if self.dtype == "float64" else LOSSES), *measures]

  def _compile_step(self):
    @functools.partial(jax.jit, donate_argnums=0)  # of two gigabytes
    def step(state, inputs, mask):
      released = dataclasses.replace(
        self.task.step, optimizer=self._optimizer, gradient_sharding=None
      )
      draws = released.mixing.sample(jax.random.key(0), inputs["source_label"], 19)
      off = jnp.zeros_like(draws["use_jitter"])
      draws |= {"mix_mask": mask, "use_jitter": off, "use_blur": off}
      draws["terms"] = dict.fromkeys(released.terms)
      return released.adapt(state, inputs, draws)

    return step

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    """The task's optimiser, which keeps the gradients' norms beside its state."""
    inner = self.task.step.optimizer

    def norms(tree):
      return jax.tree.map(lambda x: jnp.sqrt(jnp.square(x).sum()), tree)

    def update(gradients, state, params):
      updates, inner_state = inner.update(gradients, state[0], params)
      return updates, (inner_state, norms(gradients))

    return optax.GradientTransformation(lambda params: (inner.init(params), norms(params)), update)

  def _state_at(self, iteration: int, state: TrainState | None) -> TrainState:
    if state is None:
      student, teacher = self.variables(), self.variables()
      state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=student["params"],
        batch_stats=student["batch_stats"],
        optimizer_state=self._optimizer.init(student["params"]),
        teacher_params=teacher["params"],
        teacher_batch_stats=teacher["batch_stats"],
      )
    inner, norms = state.optimizer_state
    inner = {**inner, "count": jnp.asarray(iteration, jnp.int32)}
    count = jnp.asarray(iteration, jnp.int32)  # an array of its own: both are donated
    return state.replace(step=count, optimizer_state=(inner, norms))

  def _maps(self, maps: dict[str, Any], batch: dict[str, np.ndarray]) -> Iterator[Measure]:
    """Maps of the first step."""
    got = {
      "max_prob": maps["confidence"],
      "mixed_image": maps["image"],
      "mixed_label": maps["label"],
      "pseudo_label": maps["pseudo_label"],
      "depth_weight": maps.get("depth_weight"),
      "pixel_weight": maps["pixel_weight"],
    }
    for name, value in got.items():
      entry = f"step0/{name}"
      if entry in self.reference.files:
        expected = self.reference[entry]
        exact = np.issubdtype(expected.dtype, np.integer)  # classes: not one may differ
        bound = np.finfo(np.float64).tiny if exact else STORED
        yield Measure(entry, relative(value, expected.astype(np.float64)), bound, expected.size)

  def _used(self) -> Iterator[tuple[int, str]]:
    """Index and name of the parameters that the network here has."""
    unused = [f"conv2d_list.{i}." for i in range(self.branches, 4)]
    for index, name in enumerate(str(n) for n in self.reference["param_names"]):
      if not any(part in name for part in unused):
        yield index, name

  def _gradients(self, norms: Any) -> Iterator[Measure]:
    errors = []
    for index, name in self._used():
      expected = self.reference["step0/grad_norm"][index]
      got = CORDA.tensor({"params": norms}, name)
      if np.isnan(expected):  # frozen
        errors.append(0.0 if got == 0 else np.inf)
      else:
        errors.append(abs(got / expected - 1))
    yield worst("step0/grad_norm", errors, EXACT)

  def changes(self, params: Any, prefix: str) -> Iterator[Measure]:
    """How far parameters moved from their start, and where to."""
    norms, probes = [], []
    for index, name in self._used():
      start = golden.parameter(name, self.shapes[name])
      change = CORDA.tensor({"params": params}, name) - start
      norm = self.reference[prefix + "delta_norm"][index]
      size = max(1, np.linalg.norm(start))
      if norm < 1e-13 * size:  # frozen, or never reached by a gradient
        norms.append(0.0 if np.linalg.norm(change) < 1e-13 * size else np.inf)
        continue
      # A change is a difference of parameters, of which each step of each implementation rounds
      # every one: late in training, where a step moves the teacher by 1e-9, that is what is seen.
      rounding = 4 * np.finfo(np.float64).eps * size
      norms.append(max(abs(np.linalg.norm(change) - norm) - rounding, 0) / norm)
      probe = self.reference[prefix + "delta_probe"][index]
      probes.append(max(abs(golden.probe(name, change) - probe) - rounding, 0) / norm)
    yield worst(prefix + "delta_norm", norms, CHANGES)
    yield worst(prefix + "delta_probe", probes, CHANGES)

  def statistics(self, stats: Any) -> Iterator[Measure]:
    """Running statistics of the student after the last step."""
    norms, probes = [], []
    for index, name in enumerate(str(n) for n in self.reference["stat_names"]):
      got = CORDA.tensor({"batch_stats": stats}, name)
      norm = self.reference["stat_norm"][index]
      norms.append(abs(np.linalg.norm(got) / norm - 1))
      probes.append(abs(golden.probe(name, got) - self.reference["stat_probe"][index]) / norm)
    yield worst("stat_norm", norms, EXACT)
    yield worst("stat_probe", probes, EXACT)
