# Polymath's commands. Every one builds what it needs: a machine with Python 3.11, git and make is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A package index for torch's CPU build, where the default one would bring the CUDA build of several GB:
#   make env TORCH_INDEX=URL-of-the-index
TORCH_INDEX ?=
# `make test STRICT=1` fails on a skipped test: a missing system part is an error then.
STRICT ?=
# GOMP_SPINCOUNT: torch's threads of one process do not spin while another's work.
# Test files that run at the same time: more than two cores, since runs often wait for their own processes.
JOBS ?= 3

.PHONY: help quickstart test env env-docker env-peers env-reasoning-gym env-vllm lint check fix bench soak clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   train a maths specialist from nothing, in minutes"
	@echo "make test         the whole test suite (STRICT=1: a skip is a failure)"
	@echo "make check        format, lint, types, imports, fast tests;  make fix repairs what can be repaired"
	@echo "make bench | soak measurements;  long campaigns, resumable"
	@echo "make env          only the environment, in .venv;  make env-vllm, env-docker, env-peers and env-reasoning-gym add extras;  make clean removes .venv"

env: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Polymath needs Python 3.11 or newer; found $$($(PYTHON) --version). Name another with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --requirement requirements.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

env-docker: env
	$(PIP) install --quiet docker==7.2.0

env-reasoning-gym: env
	$(PIP) install --quiet --requirement requirements-reasoning-gym.txt

env-peers: env
	$(PIP) install --quiet --no-deps --requirement requirements-peers.txt

# On a machine with a GPU: make env-vllm VLLM="vllm==0.33.0", in place of the CPU build.
env-vllm: env
	$(PIP) install --quiet $(if $(VLLM),$(VLLM),--no-deps --requirement requirements-vllm.txt)

quickstart: env
	@$(BIN)/polymath run math --name quickstart

test: env
	GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -m "not full" -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(if $(STRICT),--strict-skips)

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --output-format concise .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/python -m pytest -m "not slow and not full"

fix: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --output-format concise .

bench: env env-vllm
	$(BIN)/python -m tests.bench.invariance
	$(BIN)/python -m tests.bench.train_step
	$(BIN)/python -m tests.bench.engine --write --models q5,q50
	$(BIN)/python -m tests.bench.engines --write
	$(BIN)/python -m tests.bench.multi_turn --write
	$(BIN)/python -m tests.bench.weights --write
	$(BIN)/python -m tests.bench.grpo_step --write --models q5,q50
	$(BIN)/python -m tests.bench.grpo_step --write --sweep
	$(BIN)/python -m tests.sim.placement --write
	$(BIN)/polymath sandbox image build debian debian-vm
	$(BIN)/polymath sandbox bench --image debian --write docs/results/sandbox.md

soak: env env-docker env-peers env-reasoning-gym env-vllm
	$(BIN)/python -m pytest -m full
	$(BIN)/python -m tests.soak.kills
	$(BIN)/python -m tests.soak.memory
	$(BIN)/python -m tests.soak.math_seeds
	$(BIN)/python -m tests.soak.specialists
	$(BIN)/python -m tests.soak.efforts
	$(BIN)/python -m tests.soak.math_engines
	$(BIN)/python -m tests.soak.optimizers
	$(BIN)/python -m tests.soak.frames
	$(BIN)/python -m tests.soak.log_damage
	$(BIN)/python -m tests.soak.tool_call_fuzz --write
	$(BIN)/python -m tests.soak.boxes
	$(BIN)/python -m tests.soak.output
	$(BIN)/python -m tests.containment --write

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
