"""What tests of the commands of `benchmarks` share."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator

import jax
import pytest


@contextlib.contextmanager
def as_a_command() -> Iterator[None]:
  """As users run them, but for processes that render; what a command sets of JAX ends with it."""
  cache = jax.config.jax_compilation_cache_dir
  with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
    patch.setattr(os, "sched_getaffinity", lambda process: {0})
    yield
  jax.config.update("jax_compilation_cache_dir", cache)


def table_rows(printed: str) -> dict[str, list[str]]:
  """First cell → the others, of every line of a table."""
  lines = [line for line in printed.splitlines() if line.startswith("|")]
  return {first.strip(): rest for first, *rest in (line.strip("|").split("|") for line in lines)}


def numbers(cells: Iterable[str]) -> list[float]:
  """The first number of each cell."""
  return [float(re.search(r"[-+\d.,]+", cell)[0].replace(",", "")) for cell in cells]
