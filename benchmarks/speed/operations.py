"""Counts the floating-point operations of a function from its trace, part by part.

Nothing runs and nothing is compiled: what a function must compute is read from its jaxpr, after
what no result needs is dropped. A product and an addition are two operations. Convolutions count
the taps that fall on the image, not those on the padding or between the pixels of a strided input,
as XLA's own analysis does.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval

CONVOLUTION, PRODUCT, REST = "convolution", "matrix product", "the rest"
OTHER = "other"  # the part of operations in no named scope

# They move, choose, make or convert values, and compute none.
_NO_ARITHMETIC = frozenset(
  """
  broadcast_in_dim concatenate convert_element_type copy device_put dynamic_slice
  dynamic_update_slice expand_dims gather iota optimization_barrier pad random_bits random_fold_in
  random_seed random_split random_unwrap random_wrap reduce_precision reshape rev scatter select_n
  slice sort split squeeze transpose
  """.split()  # noqa: SIM905 (a list of one word a line)
)


def count_operations(
  function: Callable[..., Any], *arguments: Any, parts: Sequence[str] = ()
) -> Counter[tuple[str, str]]:
  """Floating-point operations by part and kind.

  Args:
    function: function whose operations are counted.
    *arguments: its arguments; arrays, or their shapes as `jax.ShapeDtypeStruct`.
    parts: names of scopes (`jax.named_scope`) that are distinguished; the outermost of them counts.

  Returns:
    (part, kind) → operations; the part is one of `parts` or "other", the kind
    "convolution", "matrix product" or "the rest". Of branches the most expensive counts, a loop of
    unknown length as one turn. Of branches for platforms, that of the default backend counts.
  """
  closed = jax.make_jaxpr(function)(*arguments)
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _count(jaxpr, frozenset(parts), OTHER)


def part_of(scopes: str, parts: frozenset[str]) -> str:
  """The outermost of `parts` in a path of scopes, such as "jit(f)/transpose(jvp(mixed))/add"."""
  for name in scopes.replace("(", "/").replace(")", "/").split("/"):
    if name in parts:
      return name
  return OTHER


def _count(jaxpr: Jaxpr, parts: frozenset[str], inherited: str) -> Counter[tuple[str, str]]:
  total = Counter()
  for equation in jaxpr.eqns:
    part = inherited
    if part == OTHER:  # an inner function's scopes start over
      part = part_of(str(equation.source_info.name_stack), parts)
    inner = [_count(each, parts, part) for each in _inner(equation.params)]
    if platforms := equation.params.get("branches_platforms"):  # one of them is compiled
      total += inner[_branch_of(jax.default_backend(), platforms)]
    elif equation.primitive.name == "cond":
      total += max(inner, key=Counter.total)
    elif inner:
      for counts in inner:
        turns = equation.params.get("length", 1)  # of a scan
        total += Counter({key: turns * value for key, value in counts.items()})
    else:
      kind, operations = _operations(equation)
      total[part, kind] += operations
  return +total


def _branch_of(platform: str, platforms: Sequence[Sequence[str] | None]) -> int:
  """Place of the branch for a platform; None stands for all that no other branch names."""
  named = [place for place, names in enumerate(platforms) if names and platform in names]
  return named[0] if named else platforms.index(None)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
  for value in params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      if isinstance(each, ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, Jaxpr):
        yield each


def _operations(equation: Any) -> tuple[str, int]:
  name, params = equation.primitive.name, equation.params
  given = [v.aval for v in equation.invars]
  result = equation.outvars[0].aval
  if name == "conv_general_dilated":
    return CONVOLUTION, _convolution(*given, result, params)
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    depth = math.prod(given[0].shape[axis] for axis in contracted)
    return PRODUCT, 2 * depth * result.size
  if name in _NO_ARITHMETIC or not any(_is_float(x) for x in (*given, result)):
    return REST, 0
  if name.startswith("reduce_window"):
    return REST, result.size * math.prod(params["window_dimensions"])
  # Reductions take an operation a value that goes in, all else one a value that comes out.
  return REST, max(x.size for x in (*given, result) if hasattr(x, "size"))


def _is_float(x: Any) -> bool:
  return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _convolution(image: Any, kernel: Any, result: Any, params: dict[str, Any]) -> int:
  dimensions = params["dimension_numbers"]
  taps = 1
  for spatial in range(len(params["window_strides"])):
    taps *= _taps(
      image.shape[dimensions.lhs_spec[2 + spatial]],
      kernel.shape[dimensions.rhs_spec[2 + spatial]],
      result.shape[dimensions.out_spec[2 + spatial]],
      stride=params["window_strides"][spatial],
      padding=params["padding"][spatial][0],
      spread=params["lhs_dilation"][spatial],
      dilation=params["rhs_dilation"][spatial],
    )
  batch, features = (result.shape[axis] for axis in dimensions.out_spec[:2])
  return 2 * batch * features * kernel.shape[dimensions.rhs_spec[1]] * taps


def _taps(
  size: int, kernel: int, result: int, *, stride: int, padding: int, spread: int, dilation: int
) -> int:
  """Pairs of an output's place and a kernel's tap that meet a value of the input, on one axis.

  Args:
    size: size of the input.
    kernel: number of taps.
    result: number of output places.
    stride: distance between the windows of two places.
    padding: values before the input; may be negative.
    spread: distance of the input's values (dilation of the left-hand side).
    dilation: distance of the taps.
  """
  places = [stride * place - padding for place in range(result)]
  reached = [place + dilation * tap for place in places for tap in range(kernel)]
  return sum(0 <= x <= spread * (size - 1) and x % spread == 0 for x in reached)
