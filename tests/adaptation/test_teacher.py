"""Switches of the teacher, each both ways."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.teacher import Teacher
from corda_jax.training.sharding import put_batch
from tests import tiny
from tests.stub_network import stub_task

SIZE = (5, 7)
BORDER = jnp.array([[0, 9, 9, 9], [3, 0, 0, 1]], jnp.int32)
ONES = np.ones((2, *SIZE), bool)


def label(teacher, random, border=None):
  outputs = {
    name: jnp.asarray(9 * random.standard_normal((2, *SIZE, 4))) for name in ("S", "mirrored_S")
  }
  inputs = {"source_label": jnp.zeros((2, *SIZE)), "target_border": border}
  return outputs, teacher.label(outputs, jnp.int32(0), inputs)


def inside(image, top, bottom, left, right):
  """The image's pixels that remain without so many rows and columns."""
  mask = ONES[image].copy()
  mask[: max(top, 0)] = False
  mask[SIZE[0] - max(bottom, 0) :] = False
  mask[:, : max(left, 0)] = False
  mask[:, SIZE[1] - max(right, 0) :] = False
  return mask


@pytest.mark.parametrize("margins_of", ["frame", "crop"])
def test_margins_weigh_nothing(float64, random, margins_of):
  teacher = Teacher(untrusted_margins=(2, 1, 0, 3), margins_of=margins_of, confidence_threshold=0.5)
  assert teacher.batch_names == (("target_border",) if margins_of == "frame" else ())
  _, found = label(teacher, random, BORDER if margins_of == "frame" else None)
  if margins_of == "crop":
    expected = [inside(0, 2, 1, 0, 3), inside(1, 2, 1, 0, 3)]
  else:  # less what of the margins is in the frame around the crop
    expected = [inside(0, 2, -8, -9, -6), inside(1, -1, 1, 0, 2)]
  np.testing.assert_array_equal(found.weight, np.where(expected, found.fraction, 0))
  assert 0 < found.fraction[0, 0, 0] < 1  # of all pixels, also of those in the margins
  confident = (np.asarray(found.confidence) >= 0.5).mean()
  np.testing.assert_allclose(found.fraction, confident, rtol=1e-12)


def test_without_margins_the_border_is_not_read(random):
  assert Teacher().batch_names == ()
  _, found = label(Teacher(), random)
  assert found.weight is found.fraction


def test_labels_of_the_image_and_its_mirror_image(float64, random):
  for mirror in (False, True):
    outputs, found = label(Teacher(mirror=mirror), random)
    probability = jax.nn.softmax(outputs["S"])
    if mirror:
      probability = (probability + jax.nn.softmax(outputs["mirrored_S"])[:, :, ::-1]) / 2
    np.testing.assert_array_equal(found.label, probability.argmax(-1))
    np.testing.assert_allclose(found.confidence, probability.max(-1), rtol=1e-12)


@functools.cache
def task_of(**fields):
  config = tiny.get_config(**{f"teacher.{name}": value for name, value in fields.items()})
  return stub_task(config)


def steps(task, count):
  """The students and the teachers of the first steps, [0] before them."""
  state, step = task.initial_state(), task.compile_step()
  students, teachers = [jax.device_get(state.params)], [jax.device_get(state.teacher_params)]
  for number in range(count):
    batch = put_batch(task.mesh, task.batch_inputs(tiny.get_batch(number)))
    state, _ = step(state, batch, jax.random.key(0))
    students.append(jax.device_get(state.params))
    teachers.append(jax.device_get(state.teacher_params))
  return students, teachers


@pytest.mark.parametrize(
  ("fields", "keeps"),
  [
    ({"update": "after"}, [0, 1 / 2, 2 / 3]),
    ({"update": "before"}, [0, 1 / 2, 2 / 3]),
    ({"update": "after", "updates_before": 1}, [1 / 2, 2 / 3, 3 / 4]),
    ({"update": "before", "decay": 0.6}, [0, 1 / 2, 0.6]),
  ],
)
def test_the_teacher_follows_before_or_after_the_step(fields, keeps):
  students, teachers = steps(task_of(**fields), len(keeps))
  followed = students[1:] if fields["update"] == "after" else students
  expected = teachers[0]
  for number, keep in enumerate(keeps):
    expected = jax.tree.map(
      lambda t, s, keep=keep: keep * t + (1 - keep) * s, expected, followed[number]
    )
    jax.tree.map(
      lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7),
      teachers[number + 1],
      expected,
    )


def test_a_mirrored_teacher_sees_both_images():
  task = task_of()
  step = dataclasses.replace(task.step, teacher=Teacher(mirror=True, initial_label_steps=0))
  state = task.initial_state()
  x = jnp.asarray(tiny.get_batch()["target_image"], jnp.float32) / 60 - 2
  outputs, stats = step.ask_teacher(state, x)
  plain, of_one = task.step.ask_teacher(state, x)
  of_mirror, _ = task.step.ask_teacher(state.replace(teacher_batch_stats=of_one), x[:, :, ::-1])
  for name, value in plain.items():
    np.testing.assert_array_equal(outputs[name], value)
    np.testing.assert_array_equal(outputs[f"mirrored_{name}"], of_mirror[name])
  differ = jax.tree.map(lambda a, b: bool((a != b).any()), stats, of_one)
  assert any(jax.tree.leaves(differ))  # the second pass has updated them again


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"untrusted_margins": (1, 2)}, r"untrusted_margins is \(1, 2\).*top, bottom, left, right"),
    ({"untrusted_margins": (0, -1, 0, 0)}, r"untrusted_margins.*0 or more"),
    ({"update": "during"}, r"update is 'during'.*'after' or 'before'"),
    ({"margins_of": "image"}, r"margins_of.*'frame' or 'crop'"),
    ({"updates_before": -1}, r"updates_before is -1"),
  ],
)
def test_values_that_cannot_be(fields, message):
  with pytest.raises(ValueError, match=message):
    Teacher(**fields)
