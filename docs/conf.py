"""Sphinx: the guides of this folder, and the reference of every module from its docstrings."""

import importlib.metadata

project = "corda_jax"
author = "the corda_jax authors"
release = importlib.metadata.version("corda_jax")

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
apidoc_modules = [
  {
    "path": f"../{package}",
    "destination": f"api/{package}",
    "separate_modules": True,
    "max_depth": 1,
  }
  for package in ("corda_jax", "data_pipelines", "benchmarks", "configs")
]
exclude_patterns = ["_build", "api/*/modules.rst"]
html_theme = "furo"

default_role = "code"  # docstrings mark code by single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # else fields that a docstring describes are reported twice
# An extra, and what runs in another Python.
autodoc_mock_imports = ["apache_beam", "torch", "transformers"]
# Several classes have fields of one name, which a type of that name might mean.
suppress_warnings = ["ref.python"]
myst_heading_anchors = 3


def _show_commands(app, what, name, obj, options, lines):
  """Docstrings of modules show commands as indented blocks; as such Sphinx needs them marked."""
  marked = []
  for line in lines:
    begins = line.startswith("    ") and len(marked) > 1 and not marked[-1]
    if begins and not marked[-2].startswith((" ", "::")):
      marked += ["::", ""]
    marked.append(line)
  lines[:] = marked


def setup(app):
  """Called by Sphinx."""
  app.connect("autodoc-process-docstring", _show_commands)
