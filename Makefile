# Every target does its own set-up: the only thing needed beforehand is Python 3.11 or newer with venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOB ?= examples/demo.yaml
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format generate pins bench bench-merge bench-worker sweep clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# uv turns minutes of pip into seconds (torch brings 5 GB of CUDA); it lives inside the environment, so nothing
# outside this folder is touched.
$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet "uv>=0.8"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

setup: $(STAMP) ## Make the virtual environment

demo: $(STAMP) ## Four institutions train one model on real text; ends with a model, a table and a report
	$(BIN)/python -m benchmarks.demo

run: $(STAMP) ## Run a job on this machine: make run JOB=path/to/job.yaml
	$(BIN)/photon run $(JOB)

test: $(STAMP) ## Everything that CI tests
	$(BIN)/python -m pytest -q

check: $(STAMP) ## Format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m photon.api.crd --check manifests/crd.yaml
	$(BIN)/python -m photon.api.crd --check charts/photon/files/crd.yaml
	$(BIN)/python -m tests.chart.values_table --check charts/photon/README.md

format: $(STAMP) ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(STAMP) ## Write the generated files (the CRD, its copy in the chart, the chart's table of values)
	$(BIN)/python -m photon.api.crd --write manifests/crd.yaml
	cp manifests/crd.yaml charts/photon/files/crd.yaml
	$(BIN)/python -m tests.chart.values_table --write charts/photon/README.md

pins: $(STAMP) ## Choose new versions of all dependencies (requirements.txt)
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras --group dev --no-header --no-annotate -o requirements.txt

bench: bench-merge bench-worker ## Every figure that the README quotes

bench-merge: $(STAMP) ## Merging beside Flower, a plain pass over the bytes, and plain transfers
	$(BIN)/python -m benchmarks.merge

bench-worker: $(STAMP) ## The worker's loop beside a plain PyTorch loop; what of a round is not training
	$(BIN)/python -m benchmarks.worker

sweep: $(STAMP) ## The sweep that chose the demo's recipe
	$(BIN)/python -m benchmarks.sweep

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) .cache runs
