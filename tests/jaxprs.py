"""What tests look for in traced functions."""

from jax.extend.core import ClosedJaxpr, Jaxpr


def equations_of(jaxpr):
  """All equations, those of inner functions among them."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, ClosedJaxpr):
          each = each.jaxpr
        if isinstance(each, Jaxpr):
          yield from equations_of(each)


def products_of(jaxpr):
  """Matrix products and convolutions."""
  kinds = ("dot_general", "conv_general_dilated")
  return [each for each in equations_of(jaxpr) if each.primitive.name in kinds]


def precision_of(equation):
  """The precisions that the operands of a product are taken at."""
  precision = equation.params["precision"]
  return set(precision) if isinstance(precision, tuple) else {precision}
