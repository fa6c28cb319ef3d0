import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from corda_jax.adaptation.passes import student_passes
from corda_jax.adaptation.terms.base import Context, Found, Loss, PassInput, Term
from corda_jax.models.normalization import Normalization
from corda_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Extra(Term):
  """Asks for a pass and returns the image of one."""

  passes: ClassVar[tuple[str, ...]] = ("target",)
  image_of: str = "target"

  def images(self, context):
    return {self.image_of: PassInput(context.inputs["target_image"])}

  def losses(self, passes, context):
    return Found({"mean": Loss(passes["target"].outputs["S"].mean())})


class Doubled(nn.Module):
  """Doubles images, of which it drops some."""

  resize_outputs: str = "aligned"

  def for_domains(self, domains):
    return self

  @nn.compact
  def __call__(self, x, *, train, draws=None):
    factor = jnp.ones(len(x)) if draws is None else draws["images"].astype(x.dtype)
    return {"S": 2 * x * factor[:, None, None, None]}


@dataclasses.dataclass(frozen=True)
class Step:
  terms: dict
  one_student_pass: bool = False
  normalization: Normalization = Normalization()


def passes_of(**terms):
  inputs = {
    "source_image": jnp.ones((2, 4, 6, 3)),
    "target_image": jnp.full((2, 4, 6, 3), 5.0),
    "source_label": jnp.zeros((2, 4, 6), jnp.uint8),
  }
  step = Step(terms)
  state = TrainState(jnp.int32(0), {}, {}, (), {}, {})
  return student_passes(Doubled(), state, {name: Context(step, inputs) for name in terms}).passes


def test_a_term_has_a_pass_of_its_own():
  passes = passes_of(extra=Extra())
  assert list(passes) == ["source", "target"]
  np.testing.assert_array_equal(passes["target"].outputs["S"], np.full((2, 4, 6, 3), 10.0))
  loss = Extra().losses(passes, Context(None, {})).losses["mean"]
  assert jax.device_get(loss.value) == 10


@pytest.mark.parametrize("one_student_pass", [True, False])
def test_each_pass_drops_what_was_sampled_for_it(one_student_pass):
  image = jnp.ones((2, 4, 6, 3))
  inputs = {"source_image": image, "source_label": jnp.zeros((2, 4, 6), jnp.uint8)}
  inputs["target_image"] = 5 * image
  step = Step({"extra": Extra()}, one_student_pass)
  context = Context(step, inputs, mixed={"image": 3 * image})
  kept = {"source": [True, False], "mixed": [False, True], "target": [False, False]}
  kept = {name: {"images": jnp.array(value)} for name, value in kept.items()}
  state = TrainState(jnp.int32(0), {}, {}, (), {}, {})
  passes = student_passes(Doubled(), state, {"extra": context}, kept).passes
  means = {name: each.outputs["S"].mean((1, 2, 3)).tolist() for name, each in passes.items()}
  assert means == {"source": [2, 0], "mixed": [0, 6], "target": [0, 0]}


def test_a_pass_without_an_image_is_refused():
  with pytest.raises(ValueError, match=r"terms\.extra .*'target'.*`images`"):
    passes_of(extra=Extra(image_of="other"))


def test_two_passes_of_one_name_are_refused():
  with pytest.raises(ValueError, match=r"terms\.second .*'target'"):
    passes_of(first=Extra(), second=Extra())
  with pytest.raises(ValueError, match=r"terms\.extra .*'source'"):
    passes_of(extra=Extra(image_of="source"))
