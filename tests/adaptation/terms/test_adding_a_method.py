"""The example of docs/adding_a_method.md, run as the page shows it."""

import inspect
import re
import sys
import types
from pathlib import Path

import jax
import pytest

from corda_jax.adaptation.task import AdaptationTask

PAGE = Path(__file__).parents[3] / "docs" / "adding_a_method.md"


@pytest.fixture
def example(monkeypatch):
  """The page's term, recipe and tests, as modules of the names that it gives them."""
  blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
  files = re.findall(r"^`([\w/]+\.py)`(?:[:,]| compares)", PAGE.read_text(), re.MULTILINE)
  assert files == [
    "adaptation/terms/entropy.py",
    "configs/demo_entropy.py",
    "tests/adaptation/terms/test_entropy.py",
  ]
  names = ["corda_jax.adaptation.terms.entropy", "configs.demo_entropy", "test_entropy"]
  code = [*blocks[:2], "\n".join(blocks[2:4])]
  modules = []
  for name, text in zip(names, code, strict=True):
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(text, module.__dict__)
    modules.append(module)
  return modules


def test_the_example_works(example):
  _, recipe, tests = example
  task = AdaptationTask.from_config(recipe.get_config())
  assert task.step.terms["entropy"].weight == 0.01
  run = [function for name, function in vars(tests).items() if name.startswith("test_")]
  assert len(run) == 2
  for function in run:
    if "float64" in inspect.signature(function).parameters:
      with jax.enable_x64(True):
        function(None)
    else:
      function()
