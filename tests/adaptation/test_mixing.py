"""What is sampled for a step."""

import jax
import numpy as np

from corda_jax.adaptation import class_mix, color_augmentation
from tests import tiny, tiny_joint


def test_no_two_draws_share_a_key(monkeypatch):
  keys = []

  def recording(module, name, place):
    real = getattr(module, name)

    def recorded(*arguments, **options):
      keys.append(arguments[place])
      return real(*arguments, **options)

    monkeypatch.setattr(module, name, recorded)

  recording(class_mix, "draw_classes", 0)
  recording(color_augmentation, "draw_jitter", 0)
  recording(color_augmentation, "draw_blur", 0)
  recording(jax.random, "bernoulli", 0)
  task = tiny_joint.build(tiny_joint.EVERYTHING)
  draws = task.step.prepare(task.initial_state(), tiny.get_batch(), jax.random.key(7))[1]
  keys += draws["terms"]["photometric"].values()
  assert len(keys) >= 7
  bits = np.stack([jax.random.key_data(key) for key in keys])
  assert len(np.unique(bits, axis=0)) == len(keys)
