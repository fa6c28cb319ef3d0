"""The notebook runs from top to bottom in a kernel of its own, and shows pictures."""

import json
import re
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient

from tests.command import ROOT, TINY

# git is to know who commits.
IDENTITY = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
NOTEBOOK = ROOT / "launch" / "colab.ipynb"


def test_the_notebook_is_committed_without_results():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
  assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
def test_the_notebook_installs_adapts_and_shows_pictures(tmp_path):
  # Its commands are tiny ones, and the kernel inherits this environment.
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
  flags = [
    f"--config.{name}={value}"
    for name, value in TINY.items()
    if name not in ("num_steps", "evaluate_every")
  ]
  tiny = {"FOLDER": str(tmp_path / "made here"), "NUM_STEPS": 2, "FLAGS": flags}
  settings.source += "".join(f"\n{name} = {value!r}" for name, value in tiny.items())
  NotebookClient(
    notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
  ).execute()

  texts, pictures = [], []
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      texts.append(output.get("text", ""))
      pictures.append("image/png" in output.get("data", {}))
  printed = "".join(texts)
  assert f"The program is in {ROOT}" in printed
  assert printed.count("pixel accuracy") == 2  # of both networks
  assert sum(pictures) == 3  # the cities, the contact sheet, the bars
  for run in ("adapted", "source_only"):
    result = json.loads((tmp_path / "made here" / run / "results.json").read_text())
    assert result["step"] == 2


@pytest.mark.slow
def test_in_an_empty_folder_it_clones_and_installs(tmp_path, monkeypatch):
  repository, stubs = tmp_path / "origin", tmp_path / "stubs"
  (repository / "corda_jax").mkdir(parents=True)
  (repository / "corda_jax" / "main.py").touch()
  for command in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-q", "-m", "all"]):
    subprocess.run(["git", *command], cwd=repository, check=True)
  stubs.mkdir()
  (stubs / "pip.py").write_text("import sys; print('pip was given', *sys.argv[1:])")
  monkeypatch.setenv("PYTHONPATH", str(stubs))
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  settings, install = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
  settings.source += f"\nREPOSITORY = {str(repository)!r}"
  not_there = nbformat.v4.new_code_cell(
    "import importlib.metadata as metadata\n"
    "def version(name): raise metadata.PackageNotFoundError(name)\n"
    "metadata.version = version"
  )
  empty = tmp_path / "empty"
  empty.mkdir()
  NotebookClient(
    nbformat.v4.new_notebook(cells=[settings, not_there, install]),
    kernel_name="python3",
    resources={"metadata": {"path": str(empty)}},
  ).execute()
  printed = "".join(output.get("text", "") for output in install.outputs)
  assert re.search(
    rf"pip was given install --quiet --editable {empty}/corda_jax(\[\w+\])?$", printed, re.M
  )
  assert f"The program is in {empty}/corda_jax" in printed


@pytest.mark.slow
def test_a_notebook_away_from_the_checkout_says_what_it_needs(tmp_path):
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  settings, install = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
  client = NotebookClient(
    nbformat.v4.new_notebook(cells=[settings, install]),
    kernel_name="python3",
    allow_errors=True,
    resources={"metadata": {"path": str(tmp_path)}},
  )
  client.execute()
  (error,) = install.outputs
  assert error["evalue"] == "this is no checkout of corda_jax: set REPOSITORY above"
