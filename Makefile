# make serve   set up what is missing, then serve model_repository/ in the foreground
# make test    set up what tests need, then the fast suite and the slow one: real engines, faults
# make check   format, lint, types, import contracts, module lengths
# make bench   the benchmark beside other gateways; bench-routing: the cost of a routing decision; bench-cache: what it finds cached
# make bench-infer   inference beside real Triton, which it installs (1.5 GB, Python 3.11)
# make bench-rag   search, ingestion and chats over documents, beside onnxruntime alone and Haystack, which it installs (200 MB)
#
# ENGINE=llamacpp|vllm|transformers|tensorrtllm|sglang  what serves the demo model
# ARGS="…"  more flags of `tritium serve`
# PYTHON=…  the interpreter for new environments (3.11-3.13)           CI=1      an engine that cannot be set up is an error

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := serve

ENGINE ?= llamacpp
DEMO := smollm2-135m-instruct
EMBEDDER := all-minilm-l6-v2
RERANKER := minilm-maxsim
GGUF := model_repository/$(DEMO)/1/SmolLM2-135M-Instruct.Q4_1.gguf
CONVERTED := model_repository/$(DEMO)/1/hf/converted_from.json
ENGINES_DIR := $(or $(TRITIUM_ENGINES_DIR),.engines)
PYTHON ?=
export PYTHON
# Tests start hundreds of processes: without kept bytecode each would compile the whole project.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test test-fast test-slow test-gpu check format bench bench-routing bench-cache bench-infer bench-rag lock clean venv venv-dev weights test-weights engine-llamacpp engine-vllm engine-transformers engine-tensorrtllm engine-sglang engines services

serve: venv weights engine-$(ENGINE)
	@exec .venv/bin/tritium serve --model-repository model_repository \
		$(if $(filter-out llamacpp,$(ENGINE)),--model-config-name $(ENGINE)) $(ARGS)

test: test-fast test-slow

test-fast: venv-dev
	@.venv/bin/python -m pytest -m "not engine and not slow and not gpu" -n 3 $(ARGS)

test-slow: venv-dev test-weights engines services
	@.venv/bin/python -m pytest -m "engine or slow" $(ARGS)

test-gpu: venv-dev weights $(CONVERTED)
	@.venv/bin/python -m pytest -m gpu $(ARGS)

check: venv-dev
	@.venv/bin/ruff format --check
	@.venv/bin/ruff check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/python -m pytest -q tests/test_architecture.py

format: venv-dev
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

bench: venv weights
	@exec tests/bench/run.sh $(ARGS)

bench-routing: venv-dev
	@.venv/bin/python -m tests.bench.routing $(ARGS)

bench-cache: venv-dev
	@.venv/bin/python -m tests.bench.cache $(ARGS)

bench-infer: venv-dev
	@.venv/bin/python -m tests.bench.infer $(ARGS)

bench-rag: venv-dev weights
	@.venv/bin/python -m tests.bench.rag $(ARGS)

venv:
	@deploy/venv.sh serve

venv-dev:
	@deploy/venv.sh dev

weights: venv
	@.venv/bin/tritium models pull $(DEMO) $(EMBEDDER) $(RERANKER)

test-weights: weights
	@.venv/bin/tritium models pull minilm-vllm --model-repository tests/model_repository

engine-llamacpp: ;

engine-vllm: weights $(CONVERTED)
	@deploy/engines/vllm.sh

engine-transformers: weights $(CONVERTED)
	@deploy/engines/transformers.sh

engine-tensorrtllm: weights $(CONVERTED)
	@deploy/engines/tensorrtllm.sh

engine-sglang: weights $(CONVERTED)
	@deploy/engines/sglang.sh

# vLLM and transformers read no GGUF: the weights are converted once, by the environment that can.
$(CONVERTED): | weights
	@deploy/engines/transformers.sh
	@$(ENGINES_DIR)/transformers/bin/python deploy/engines/convert_gguf.py $(GGUF) $(@D)

# What cannot be made here is skipped by its tests, with the reason; CI has no such excuse.
engines: weights
	@$(MAKE) --no-print-directory engine-vllm || { test -z "$${CI:-}"; }
	@$(MAKE) --no-print-directory engine-transformers || { test -z "$${CI:-}"; }

services:
	@deploy/test-services.sh || { test -z "$${CI:-}"; }

# Every package anew, within the bounds of pyproject.toml.
lock:
	@rm -rf build/lock && $(or $(PYTHON),python3) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --upgrade setuptools
	@build/lock/bin/python -m pip install --quiet --no-build-isolation --editable ".[llamacpp,onnxruntime,text,kserve,images,rag,postgres,dev]"
	@{ echo "# Every package of .venv, direct and transitive, for Python 3.11 to 3.13; \`make lock\` writes it anew."; \
		build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | tr 'A-Z_' 'a-z-'; } >constraints.txt

clean:
	@rm -rf .venv .engines build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find backends gateway tests -name __pycache__ -prune -exec rm -rf {} +
