import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from corda_jax.adaptation.passes import student_passes
from corda_jax.adaptation.terms.base import Context, Found, Loss, Term
from corda_jax.models.normalization import Normalization
from corda_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Extra(Term):
  """Asks for a pass and returns the image of one."""

  passes: ClassVar[tuple[str, ...]] = ("target",)
  image_of: str = "target"

  def images(self, context):
    return {self.image_of: context.inputs["target_image"]}

  def losses(self, passes, context):
    return Found({"mean": Loss(passes["target"].outputs["S"].mean())})


class Doubled(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return {"S": 2 * x}


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


def test_a_pass_without_an_image_is_refused():
  with pytest.raises(ValueError, match=r"terms\.extra .*'target'.*`images`"):
    passes_of(extra=Extra(image_of="other"))


def test_two_passes_of_one_name_are_refused():
  with pytest.raises(ValueError, match=r"terms\.second .*'target'"):
    passes_of(first=Extra(), second=Extra())
  with pytest.raises(ValueError, match=r"terms\.extra .*'source'"):
    passes_of(extra=Extra(image_of="source"))
