# SPDX-License-Identifier: Apache-2.0
# Every target works from a clean clone. PYTHON chooses the interpreter of a new environment.
PYTHON ?= python3
VENV ?= .venv
VENV_ADDONS ?= .venv-addons
VENV_PROTOS ?= .venv-protos
PY = $(VENV)/bin/python
# Up to four processes, a file of tests in one of them.
PARALLEL = -n auto --maxprocesses=4 --dist=loadfile
# One line a test when output is captured; pip quiet but for errors.
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help venv protos docs demo test test-slow test-addons lint format bench clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F: '{printf "  %-12s%s\n", $$1, $$2}'

$(VENV)/installed: setup.py pyproject.toml
	@echo "Installing into $(VENV) (TensorFlow is large: this takes a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(VENV_ADDONS)/installed: setup.py pyproject.toml
	@echo "Installing TensorFlow 2.15.1 and tensorflow-addons into $(VENV_ADDONS)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' || \
	  { echo "error: tensorflow-addons needs Python 3.10 or 3.11: make test-addons PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV_ADDONS)
	$(VENV_ADDONS)/bin/python $(PIP_INSTALL) --editable '.[addons,test]'
	@touch $@

$(VENV_PROTOS)/installed:
	$(PYTHON) -m venv $(VENV_PROTOS)
	$(VENV_PROTOS)/bin/python $(PIP_INSTALL) grpcio-tools==1.62.3 'setuptools<81'
	@touch $@

venv: $(VENV)/installed  ## Make .venv with everything that development needs.

protos: $(VENV_PROTOS)/installed  ## Generate deeplab_axial/protos from protos/ (Python up to 3.12).
	$(VENV_PROTOS)/bin/python protos/generate.py

docs: venv  ## Write docs/model_zoo.md: count every network of configs/; some minutes.
	$(PY) docs/model_zoo.py

demo: venv  ## Data, training, evaluation, export and report, small; 6 to 15 minutes.
	$(VENV)/bin/deeplab-axial demo --output_dir=demo

test: venv  ## Run the fast tests.
	$(PY) -m pytest $(PARALLEL) -m 'not slow and not addons'

test-slow: venv  ## Run the tests that take minutes.
	$(PY) -m pytest -m slow

test-addons: $(VENV_ADDONS)/installed  ## Compare optimizers with tensorflow-addons, and run once, on TensorFlow 2.15.1.
	TF_USE_LEGACY_KERAS=1 $(VENV_ADDONS)/bin/python -m pytest -m addons

lint: venv  ## Check style and formatting.
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: venv  ## Format the code and mend what ruff can.
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: venv  ## Measure; results go to benchmarks/results.
	$(PY) benchmarks/axial_attention.py
	$(PY) benchmarks/network.py
	$(PY) benchmarks/postprocessing.py
	$(PY) benchmarks/image_sizes.py
	$(PY) benchmarks/input_pipeline.py

clean:  ## Remove environments, caches and what the demo made.
	rm -rf $(VENV) $(VENV_ADDONS) $(VENV_PROTOS) demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
