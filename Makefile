# Two commands to remember: `make demo` and `make test`. Both prepare .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An accelerator's torch extension must not load itself behind our back: backends do that, when they are chosen.
export TORCH_DEVICE_BACKEND_AUTOLOAD := 0
# DeepSpeed compiles its operators when they are first needed, not while it is installed.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all ascend-emulation triton-env test-ray lint format bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv and install Portable with its tools

$(STAMP): pyproject.toml ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt -e '.[dev]'
	touch $@

demo: setup ## Run the whole chain and print where the report is
	$(BIN)/portable run recipe=quickstart

# Two processes, for two cores; WORKERS=0 runs all in one. A backend's tests, and a file's, stay together.
WORKERS ?= 2

# One thread each: the shapes in the tests are tiny, and thread pools would only fight over the cores.
test test-all: export OMP_NUM_THREADS := 1

test: setup ## Run the tests (the fast tier, CPU only)
	$(BIN)/python -m pytest --import-mode=importlib -n $(WORKERS)

test-all: setup ## Run the slow tests too
	$(BIN)/python -m pytest --import-mode=importlib -n $(WORKERS) -m 'not device and not ascend_emulation and not triton_interpreter and not ray'

ascend-emulation: ## Make .venv-ascend with the real torch_npu on an emulated chip, and run its tests
	ci/ascend-emulation.sh

triton-env: ## Make .venv-triton with Triton and its interpreter, and run the tests of the GPU kernels
	ci/triton-env.sh

test-ray: ## Make .venv-ray with Ray, and run the tests of launcher=ray
	ci/ray-env.sh

lint: setup ## Check style, formatting, types and portability
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/portable lint portable --strict-ignores

format: setup ## Mend what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Run the quickstart and print time and memory of each stage
	$(BIN)/portable run recipe=quickstart
	$(BIN)/python ci/stage_table.py

clean: ## Delete caches and build results; .venv and runs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find portable backends conf tests -name __pycache__ -type d -exec rm -rf {} +
