"""Tiny adaptation steps with photometric supervision: configurations, batches, compiled steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corda_jax.adaptation.joint_depth import scenes
from tests import tiny
from tests.stub_network import stub_experiment

SIZE = (tiny.HEIGHT, tiny.WIDTH)
STEREO, VIDEO, ALL = ("right",), ("previous", "next"), ("right", "previous", "next")

# (supervision, views) of source and target.
FILES = (("files", ()), ("files", ()))
TARGET = (("files", ()), ("photometric", STEREO))
EVERYTHING = (("both", VIDEO), ("both", ALL))
SOURCE = (("photometric", STEREO), ("none", ()))


def get_config(source, target, **overrides):
  """Of (supervision, views) for source and target."""
  config = tiny.get_config()
  config.update_from_flattened_dict(
    {
      "method.depth_supervision.source": source[0],
      "method.depth_supervision.target": target[0],
      "data.source.views": source[1],
      "data.target.views": target[1],
      "model.pose_encoder.stage_sizes": (1, 1),
      "model.pose_encoder.strides": (1, 2),
      "model.pose_encoder.dilations": (1, 1),
      "model.pose_encoder.width": 4,
      "model.pose_encoder.stem_kernel": 3,
      "model.pose_decoder_width": 4,
      "optimizer.weight_decay": 0.0,
    }
  )
  config.update_from_flattened_dict(overrides)
  return config


def get_batch(seed=3):
  """A host batch with all views of both domains; neighbours are the image, moved and noisy."""
  batch = tiny.get_batch(seed)
  random = np.random.RandomState(seed)
  for domain in ("source", "target"):
    image = np.kron(random.randint(0, 200, (4, 6, 9, 3)), np.ones((1, 3, 3, 1)))
    image = image[:, : SIZE[0], : SIZE[1]]

    def seen(image, shift):
      moved = np.roll(image, shift, 2) + random.randint(0, 40, image.shape)
      return moved.astype(np.uint8)

    batch[f"{domain}_image"] = seen(image, 0)
    for view, shift in (("right", -2), ("previous", 1), ("next", -1)):
      batch[f"{domain}_{view}_image"] = seen(image, shift)
    size = np.array([*SIZE[::-1], *SIZE[::-1]])
    shares = random.uniform([0.7, 0.9, 0.4, 0.4], [0.9, 1.2, 0.6, 0.6], (4, 4))
    batch[f"{domain}_intrinsics"] = (shares * size).astype(np.float32)
    batch[f"{domain}_baseline"] = random.uniform(0.8, 1.2, 4).astype(np.float32)
  return batch


def build(case, devices=1, **overrides):
  """An experiment whose Adam, which is the library's, may promote types."""
  experiment = stub_experiment(get_config(*case, **overrides), devices)
  if experiment.joint is None or experiment.joint.pose is None:
    return experiment
  adam = experiment.joint.pose_optimizer

  def update(*arguments):
    with jax.numpy_dtype_promotion("standard"):
      return adam.update(*arguments)

  optimizer = optax.GradientTransformation(adam.init, update)
  joint = dataclasses.replace(experiment.joint, pose_optimizer=optimizer)
  return dataclasses.replace(experiment, joint=joint)


def louder(params):
  """Depth heads that see 8 to 30 metres, and differ, as they do once they are trained."""
  params = dict(params)
  for number, name in enumerate(("initial_D", "initial_D_src", "final_D", "final_D_src")):

    def change(path, x, number=number):
      bias = path[-1].key == "bias"
      return jnp.full_like(x, 20.0 + 6 * number) if bias else 100 * x

    params[name] = jax.tree_util.tree_map_with_path(change, params[name])
  return params


@functools.cache
def compiled(source, target, **overrides):
  """An experiment, the inputs and draws of a step, a state, and the compiled step."""
  overrides = {name.replace("__", "."): value for name, value in overrides.items()}
  experiment = build((source, target), **overrides)
  batch = {k: jnp.asarray(v) for k, v in get_batch().items()}
  inputs = dict(batch)
  for name in ("source_image", "target_image"):
    inputs[name] = experiment.normalization.normalize(batch[name])
  if experiment.joint is not None:
    inputs["scenes"] = scenes(batch, experiment.joint, jnp.float32)
  draws, function = tiny.drawn_step(experiment, inputs["source_label"])
  state = experiment.initial_state()
  state = state.replace(params=louder(state.params))
  state = state.replace(teacher_params=jax.tree.map(lambda x: 1.1 * x, state.params))
  if state.pose is not None:  # a camera that moves and turns, not one of the first step
    last = jax.tree.map(lambda x: 1200 * x, state.pose.params["decoder"]["pose2"])
    decoder = state.pose.params["decoder"] | {"pose2": last}
    state = state.replace(pose=state.pose.replace(params=state.pose.params | {"decoder": decoder}))
  return experiment, inputs, draws, state, function


@functools.cache
def one_step(source, target, **overrides):
  """State before, state after, metrics, maps."""
  _, inputs, draws, state, function = compiled(source, target, **overrides)
  return (state, *function(state, inputs, draws))
