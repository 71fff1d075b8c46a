# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DIR ?= runs/demo
# Processes that share the tests; each takes up to 7 GB.
TEST_PROCESSES ?= 2

.PHONY: address demo docs table test test-quick test-slow lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The core alone: training, tensorflow not needed. Bytecode is written by the first import of a
# module, since writing all of it takes a third of the installation's time.
$(VENV)/.core: setup.cfg | $(BIN)/python
	@echo "Installing facecycle_jax and JAX into $(VENV); a minute."
	$(BIN)/python -m pip install --quiet --quiet --no-compile --editable .
	@touch $@

# Everything the tests use.
$(VENV)/.dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/python -m facecycle_jax.main --config=configs/demo.py --workdir="$(DEMO_DIR)"

test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# What depends on JAX's version, in minutes: make test-quick PYTHON=python3.13 VENV=.venv-3.13
QUICK := tests/networks tests/ops tests/storage tests/training/loop_test.py
test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile $(QUICK)

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

# Writes the owner of the repository into badges, notebooks and pages: make address OWNER=name.
address:
	@test -n "$(OWNER)" || { echo "make address needs OWNER=name, as in github.com/name/facecycle_jax." >&2; exit 2; }
	perl -pi -e 's#/OWNER/facecycle_jax#/$(OWNER)/facecycle_jax#g; s# \(`OWNER` stands for its owner\)##' colabs/*.ipynb docs/*.md

# The results table of a model: make table LFW=DIR FER2013=DIR [WITHOUT=names.txt] [MODEL=...] [TABLE=DIR].
MODEL ?= facecycle-base
TABLE ?= runs/table
EVALUATE = $(BIN)/facecycle evaluate --model "$(MODEL)" --baselines hog,pixels,pca,random
VERIFY = $(EVALUATE),lbp --task lfw --data "$(LFW)" $(if $(WITHOUT),--without "$(WITHOUT)")
table: $(VENV)/.dev
	@test -n "$(LFW)" && test -n "$(FER2013)" || { echo "make table needs LFW=DIR and FER2013=DIR." >&2; exit 2; }
	$(EVALUATE) --task synthetic --out "$(TABLE)/synthetic"
	$(VERIFY) --out "$(TABLE)/lfw"
	$(VERIFY) --light 0.5 --out "$(TABLE)/lfw_light"
	$(EVALUATE) --task fer2013 --data "$(FER2013)" --out "$(TABLE)/fer2013"
	$(BIN)/facecycle evaluate --model "$(MODEL)" --baselines random --layer residual2,conv6_2 --size 160 --flip --task fer2013 \
		--data "$(FER2013)" --out "$(TABLE)/fer2013_layers"
	@cat "$(TABLE)"/*/results.md

# The documentation site: pages, notebooks and the API reference, in site/. Warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.core
