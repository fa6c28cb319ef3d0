"""Network and training step against values computed with the released code, in float64.

Every `corda_*.npz` in the folder of reference values is run: outputs, statistics, losses, gradients
and the changes of student and teacher over several steps of the released recipe.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import gta2cs, synthia2cs
from corda_jax.adaptation.step import adapt, draw
from corda_jax.jobs.experiment import Experiment
from corda_jax.models.torch_weights import state_dict_tensor, variables_from_state_dict
from corda_jax.training.sharding import make_mesh
from corda_jax.training.state import TrainState
from tests.golden import golden

CONFIGS = {"gta": gta2cs, "synthia": synthia2cs}
STORED = 1e-7  # relative error of arrays that are stored as float32
EXACT = 1e-9
CHANGES = 1e-8  # of a parameter, relative to the norm of the change


def pytest_generate_tests(metafunc):
  if "variant" in metafunc.fixturenames:
    metafunc.parametrize("variant", CONFIGS)


def relative(got, expected):
  return np.abs(np.asarray(got, float) - expected).max() / np.abs(expected).max()


@pytest.mark.long
def test_released_network_and_steps(float64, golden_dir, variant):
  files = sorted(golden_dir.glob(f"corda_{variant}*.npz"))
  assert files, f"no corda_{variant}*.npz in {golden_dir}"
  names = json.loads((golden_dir / f"state_dict_{variant}.json").read_text())
  start = {name: golden.parameter(name, tuple(shape)) for name, shape in names}
  for file in files:
    Check(np.load(file), start, CONFIGS[variant].get_config()).run()


class Check:
  """One file of reference values."""

  def __init__(self, reference, start, config):
    self.reference, self.start = reference, start
    self.seed = int(reference["seed"])
    self.shape = tuple(int(n) for n in reference["batch_shape"])
    config.model.dtype = config.model.param_dtype = "float64"
    config.optimizer.learning_rate = float(reference["learning_rate"])
    config.method.initial_pseudo_label_steps = 10**6 if reference["use_initial"] else 0
    # The file's own switches, where it has them.
    for switch in (n for n in reference.files if n.startswith("switch/")):
      config.update_from_flattened_dict({switch.removeprefix("switch/"): reference[switch].item()})
    self.config = config
    self.experiment = Experiment.from_config(config, make_mesh(jax.devices()[:1]))
    branches = len(config.model.classifier_dilations)
    self.variables = jax.tree.map(jnp.asarray, variables_from_state_dict(start, branches=branches))

  def run(self):
    self.outputs()
    state = self.steps()
    self.changes(state.params, "")
    self.changes(state.teacher_params, "ema_")
    self.statistics(state.batch_stats)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    got = self.evaluate(variables, self.image)["S"]
    assert relative(got, self.reference["final_eval/S"]) < STORED

  def outputs(self):
    model = self.experiment.model
    self.image = jnp.asarray(golden.forward_image(self.seed, self.shape))
    self.evaluate = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    for name, got in self.evaluate(self.variables, self.image).items():
      assert relative(got, self.reference[f"eval/{name}"]) < STORED, name
    outputs, updated = jax.jit(
      lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])
    )(self.variables, self.image)
    assert len(outputs) == 6
    for name, got in outputs.items():
      assert relative(got, self.reference[f"train/{name}"]) < STORED, name
    for entry in (n for n in self.reference.files if n.startswith("after_train_forward/")):
      got = state_dict_tensor(updated, entry.removeprefix("after_train_forward/"))
      assert relative(got, self.reference[entry]) < EXACT, entry

  def steps(self):
    experiment, method = self.experiment, self.config.method
    # Keeps the gradients beside the optimiser's state, to compare them.
    inner = experiment.optimizer
    optimizer = optax.GradientTransformation(
      lambda params: (inner.init(params), jax.tree.map(jnp.zeros_like, params)),
      lambda gradients, state, params: (lambda update: (update[0], (update[1], gradients)))(
        inner.update(gradients, state[0], params)
      ),
    )

    @jax.jit
    def step(state, inputs, mask):
      draws = draw(jax.random.key(0), inputs["source_label"], 19, method)
      off = jnp.asarray(False)
      draws |= {"mix_mask": mask, "use_jitter": off, "use_blur": off}
      return adapt(
        state, inputs, draws, experiment.model, optimizer, experiment.normalization, method
      )

    params, stats = self.variables["params"], self.variables["batch_stats"]
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=stats,
      optimizer_state=optimizer.init(params),
      teacher_params=params,
      teacher_batch_stats=stats,
    )
    for index, iteration in enumerate(self.reference["iterations"]):
      assert int(state.step) == iteration
      batch = golden.step_batch(self.seed + index, self.shape)
      mask = batch.pop("mix_mask")
      state, metrics = step(state, jax.tree.map(jnp.asarray, batch), jnp.asarray(mask))
      expected = self.reference["losses"][index]
      for name, value in zip(self.reference["loss_names"], expected, strict=True):
        np.testing.assert_allclose(metrics[name], value, rtol=EXACT, err_msg=name)
      if index == 0:
        self.gradients(state.optimizer_state[1])
    return state

  def used(self):
    """Index and name of the parameters that the network here has."""
    branches = len(self.config.model.classifier_dilations)
    unused = [f"conv2d_list.{i}." for i in range(branches, 4)]
    for index, name in enumerate(str(n) for n in self.reference["param_names"]):
      if not any(part in name for part in unused):
        yield index, name

  def gradients(self, gradients):
    compared = 0
    for index, name in self.used():
      expected = self.reference["step0/grad_norm"][index]
      got = np.linalg.norm(state_dict_tensor({"params": gradients}, name))
      if np.isnan(expected):  # frozen
        assert got == 0, name
      else:
        np.testing.assert_allclose(got, expected, rtol=EXACT, err_msg=name)
        compared += 1
    assert compared > 150

  def changes(self, params, prefix):
    compared = 0
    for index, name in self.used():
      change = state_dict_tensor({"params": params}, name) - self.start[name]
      norm = self.reference[prefix + "delta_norm"][index]
      rounding = 1e-13 * max(1, np.linalg.norm(self.start[name]))
      if norm < rounding:  # frozen, or never reached by a gradient
        assert np.linalg.norm(change) < rounding, name
        continue
      np.testing.assert_allclose(np.linalg.norm(change), norm, rtol=CHANGES, err_msg=name)
      probe = self.reference[prefix + "delta_probe"][index]
      assert abs(golden.probe(name, change) - probe) < CHANGES * norm, name
      compared += 1
    assert compared > 150

  def statistics(self, stats):
    for index, name in enumerate(str(n) for n in self.reference["stat_names"]):
      got = state_dict_tensor({"batch_stats": stats}, name)
      norm = self.reference["stat_norm"][index]
      np.testing.assert_allclose(np.linalg.norm(got), norm, rtol=EXACT, err_msg=name)
      assert abs(golden.probe(name, got) - self.reference["stat_probe"][index]) < EXACT * norm, name


def test_names_that_the_release_does_not_have():
  with pytest.raises(KeyError, match="no tensor of a released CorDA network"):
    variables_from_state_dict({"backbone.conv.weight": np.zeros((1, 1, 3, 3))}, branches=2)
