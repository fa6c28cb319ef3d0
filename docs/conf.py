"""Sphinx: the guides of this folder, and the reference of every module from its docstrings."""

import importlib.metadata

project = "corda_jax"
author = "the corda_jax authors"
release = importlib.metadata.version("corda_jax")

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
apidoc_modules = [
  {"path": f"../{package}", "destination": "api", "separate_modules": True, "max_depth": 1}
  for package in ("corda_jax", "data_pipelines", "benchmarks", "configs")
]
exclude_patterns = ["_build", "api/modules.rst"]
html_theme = "furo"

default_role = "code"  # docstrings mark code by single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Needed by released_step alone, which runs in another Python.
autodoc_mock_imports = ["torch"]
myst_heading_anchors = 3
nitpicky = False  # types of other projects are not linked
