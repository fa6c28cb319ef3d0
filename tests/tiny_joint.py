"""Tiny adaptation steps with photometric supervision: configurations, batches, compiled steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from corda_jax.adaptation.terms.photometric import Photometric
from tests import tiny
from tests.stub_network import stub_task

SIZE = (tiny.HEIGHT, tiny.WIDTH)
STEREO, VIDEO, ALL = ("right",), ("previous", "next"), ("right", "previous", "next")

# What depth is learned from, and the views, of source and target.
FILES = (("files", ()), ("files", ()))
TARGET = (("files", ()), ("views", STEREO))
EVERYTHING = (("both", VIDEO), ("both", ALL))
SOURCE = (("views", STEREO), ("none", ()))


def get_config(source, target, *, adapt=True, **overrides):
  """Of ("files", "views", "both" or "none", views) for source and target."""
  config = tiny.get_config(adapt=adapt)
  kinds = {"source": source[0], "target": target[0]}
  pose = "terms.photometric.pose"
  config.update_from_flattened_dict(
    {
      "terms.depth_files.domains": tuple(d for d, k in kinds.items() if k in ("files", "both")),
      "terms.photometric.domains": tuple(d for d, k in kinds.items() if k in ("views", "both")),
      "data.source.views": source[1],
      "data.target.views": target[1],
      f"{pose}.encoder.stage_sizes": (1, 1),
      f"{pose}.encoder.strides": (1, 2),
      f"{pose}.encoder.dilations": (1, 1),
      f"{pose}.encoder.width": 4,
      f"{pose}.encoder.stem_kernel": 3,
      f"{pose}.decoder_width": 4,
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
  """A task whose Adam, which is the library's, may promote types."""
  task = stub_task(get_config(*case, **overrides), devices)
  term = task.step.terms["photometric"]
  # A term of the same fields; Adam is made again whenever it is asked for.
  quiet = _Photometric(**{f.name: getattr(term, f.name) for f in dataclasses.fields(term)})
  terms = {**task.step.terms, "photometric": quiet}
  return dataclasses.replace(task, step=dataclasses.replace(task.step, terms=terms))


class _Photometric(Photometric):
  def optimizer(self):
    adam = super().optimizer()

    def update(*arguments):
      with jax.numpy_dtype_promotion("standard"):
        return adam.update(*arguments)

    return optax.GradientTransformation(adam.init, update)


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
  """A task, the inputs and draws of a step, a state, and the compiled step."""
  overrides = {name.replace("__", "."): value for name, value in overrides.items()}
  task = build((source, target), **overrides)
  inputs, draws, function = tiny.prepared_step(task, get_batch())
  state = task.initial_state()
  state = state.replace(params=louder(state.params))
  state = state.replace(teacher_params=jax.tree.map(lambda x: 1.1 * x, state.params))
  if "photometric" in state.terms:  # a camera that moves and turns, not one of the first step
    pose = state.terms["photometric"]
    last = jax.tree.map(lambda x: 1200 * x, pose.params["decoder"]["pose2"])
    decoder = pose.params["decoder"] | {"pose2": last}
    moving = pose.replace(params=pose.params | {"decoder": decoder})
    state = state.replace(terms={"photometric": moving})
  return task, inputs, draws, state, function


@functools.cache
def one_step(source, target, **overrides):
  """State before, state after, metrics, maps."""
  _, inputs, draws, state, function = compiled(source, target, **overrides)
  return (state, *function(state, inputs, draws))
