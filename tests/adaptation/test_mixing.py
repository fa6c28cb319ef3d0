"""What is sampled for a step."""

import jax
import numpy as np
import pytest

from corda_jax.adaptation import class_mix, color_augmentation
from corda_jax.adaptation.mixing import Mixing
from tests import tiny, tiny_joint
from tests.stub_network import stub_task


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


def test_the_weak_augmentation_changes_what_the_student_sees_and_not_the_teacher():
  off = {"mixing.augmentation.jitter_probability": 0.0, "mixing.augmentation.blur_probability": 0.0}
  task = stub_task(tiny.get_config(**off, **{"mixing.weak.jitter_probability": 1.0}))
  plain = stub_task(tiny.get_config(**off))
  state, batch = task.initial_state(), tiny.get_batch()
  inputs, draws = task.step.prepare(state, batch, jax.random.key(0))
  _, seen, taught = task.step.teach(state, inputs, draws)
  _, same, clean = plain.step.teach(state, inputs, draws)
  np.testing.assert_array_equal(same["source_image"], inputs["source_image"])
  np.testing.assert_array_equal(taught.outputs["S"], clean.outputs["S"])
  np.testing.assert_array_equal(seen["target_image"], inputs["target_image"])
  weak = {
    domain: task.step.mixing.weak.augment(
      inputs[f"{domain}_image"], draws["weak"][domain], task.normalization
    )
    for domain in ("source", "target")
  }
  np.testing.assert_array_equal(seen["source_image"], weak["source"])
  mask = np.asarray(draws["mix_mask"])[..., None]
  np.testing.assert_array_equal(
    taught.mixed["image"], np.where(mask, inputs["source_image"], weak["target"])
  )
  for domain, image in weak.items():
    assert not np.allclose(image, inputs[f"{domain}_image"], atol=1e-2), domain


@pytest.mark.parametrize(("classes_from", "everyone"), [("image", False), ("batch", True)])
def test_classes_are_those_of_the_image_or_of_the_batch(classes_from, everyone):
  label = np.zeros((2, 4, 8), np.uint8)
  label[1] = np.arange(8)
  mixing = Mixing(classes_from=classes_from)
  keys = jax.random.split(jax.random.key(0), 40)
  masks = [np.asarray(mixing.sample(key, label, 19)["mix_mask"]) for key in keys]
  # Half of its own one class is that class; half of the batch's eight may lack it.
  assert all(mask[0].all() for mask in masks) != everyone
  assert {int(mask[1, 0].sum()) for mask in masks} == {4}
