# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DIR ?= runs/demo

.PHONY: demo docs test test-slow lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel

# The core alone: training, tensorflow not needed.
$(VENV)/.core: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Everything the tests use.
$(VENV)/.dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/python -m facecycle_jax.main --config=configs/demo.py --workdir=$(DEMO_DIR)

test: lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

# The API reference, of the docstrings, in docs/api.
MODULES := $(addprefix facecycle_jax.,model ops losses models data methods training probes convert viz train evaluate)
docs: $(VENV)/.docs
	$(BIN)/python -m pdoc --docformat google --output-directory docs/api facecycle_jax $(MODULES)

$(VENV)/.docs: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.core
