"""Runs of seconds of both tasks, from batches in memory: what their tests share."""

import functools

import jax
import ml_collections

from corda_jax.training import train_loop
from tests import tiny, tiny_depth
from tests.stub_network import stub_depth_task, stub_task

ALL = ("right", "previous", "next")


class Killed(Exception):
  """In place of a kill: whatever comes after it does not happen."""


class Feed:
  """Gives batches as `data_pipelines.feed.Feed` does.

  Args:
    module: `tiny` or `tiny_depth`.
    killed_at: step whose batch never comes.
    evaluated: replaces the module's `evaluation_batches`.
    trained: replaces its `train_batches`.
  """

  def __init__(self, module, killed_at=None, evaluated=None, trained=None):
    self._train = trained or module.train_batches
    self._evaluated, self._killed_at = evaluated or module.evaluation_batches, killed_at

  def train(self, start):
    for step, batch in enumerate(self._train(start), start + 1):
      if step == self._killed_at:
        raise Killed
      yield batch

  def frames(self, need, spread=0):
    return self._evaluated()


class Curves:
  """A writer that remembers."""

  def __init__(self):
    self.scalars, self.images = [], []

  def write_scalars(self, step, values):
    self.scalars.append((step, dict(values)))

  def write_images(self, step, images):
    self.images.append((step, images))

  def steps_with(self, name):
    return [step for step, values in self.scalars if name in values]


class Full:
  """A writer whose disk is full."""

  def write_scalars(self, *_):
    raise OSError(28, "No space left on device")

  write_images = write_scalars


MODULES = {"adaptation": tiny, "depth": tiny_depth}


def make(name: str, **overrides):
  """A task with stubs for networks, on two devices; one a name and set of overrides."""
  return _make(name, tuple(sorted(overrides.items())))


@functools.cache
def _make(name, overrides):
  if name == "adaptation":
    return stub_task(tiny.get_config(**dict(overrides)), devices=2)
  return stub_depth_task(tiny_depth.get_config(ALL, **dict(overrides)), devices=2)


def config_of(name: str, **overrides) -> ml_collections.ConfigDict:
  return MODULES[name].get_config(**overrides)


def run(task, workdir, writer=None, **feed):
  """Trains in `workdir`, which is made; the last state and its result."""
  workdir.mkdir(exist_ok=True)
  batches = Feed(MODULES[task.config.task], **feed)
  with jax.numpy_dtype_promotion("standard"):  # the library's Adam mixes types
    state, evaluation = train_loop.train(task, workdir, batches, writer or Curves())
  return state, evaluation.result
