# Everything below needs Python 3.11 to 3.13 and make; the rest is installed into .venv.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
  $(if $(shell $(p) -c 'import sys; print((3, 11) <= sys.version_info < (3, 14) or "")' 2>/dev/null),$(p))))
WORKDIR ?= runs/demo
VENV := .venv
READY := $(VENV)/.ready
# Shared out evenly; a worker that is done takes tests from the others.
PYTEST := $(VENV)/bin/python -m pytest --numprocesses=auto --dist=worksteal

.PHONY: demo test test-all test-versions check docs format clean help

help:
	@echo "make demo           one procedural city adapts to another: numbers and pictures in $(WORKDIR)"
	@echo "make test           the tests, but for the slow ones"
	@echo "make test-all       all tests"
	@echo "make test-versions  every other Python of this machine, and the oldest packages"
	@echo "make check          linter and formatter, without changes"
	@echo "make docs           guides and reference as pages: docs/_build/index.html"
	@echo "make format         fixes what they find"
	@echo "make clean          removes environments, made data and the demo's results"

# Rebuilt when pyproject.toml is newer; made whole or not at all.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found: install one, or set PYTHON=" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(VENV)/bin/python -m corda_jax.main --config=configs/demo.py --workdir=$(WORKDIR)

test: $(READY)
	$(PYTEST)

# With the slow ones: each benchmark once, long kills and fuzzing, the notebook, a browser.
test-all: $(READY)
	$(PYTEST) -m ''

test-versions: $(READY)
	$(VENV)/bin/python -m tests.versions

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Any warning fails it: a reference without docstrings, a link to nowhere.
docs: $(READY)
	rm -rf docs/api
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .versions data/street_world runs/demo build docs/api docs/_build *.egg-info
