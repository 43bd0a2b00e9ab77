# The commands of a checkout. All they need: Python 3.11 or newer with pip and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install --disable-pip-version-check -c constraints.txt
UNIT := tests/model tests/loss tests/runs/test_run_lock.py tests/data/test_masking.py tests/data/test_packing.py
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST := $(BIN) -m pytest -n $(JOBS) --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help setup demo check test ci lint slow fire gpu-check clean

help:
	@echo "make setup   .venv with all that is needed to run, test and change the code"
	@echo "make demo    train three small models on synthetic scenes and compare them"
	@echo "make check   lint, types of the product and unit tests: a minute or two"
	@echo "make test    lint, types and the quick tests: minutes"
	@echo "make ci      lint, types and all that is tested before a change lands: an hour"
	@echo "make slow    the slowest tests"
	@echo "make fire    faults injected for real, one row each: tried and survived (FAULTS=SIGTERM: rows with that word)"
	@echo "make gpu-check  whether all of it works on this machine's GPU, and how fast: gpu.json (8 minutes)"
	@echo "make clean   remove .venv and all that was built; runs/ stays"
	@echo "Another Python: make setup PYTHON=python3.12 (after make clean)"

# The two files below say what .venv holds: $(VENV)/runtime, what a run needs; $(VENV)/dev, the tools for tests too.
# Each is written last, and taken away before .venv is changed: without $(VENV)/runtime, .venv is made anew.
$(VENV)/runtime: pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "no $(PYTHON): install Python 3.11 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (PYTHON=... names another)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv: install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@if [ -e $@ ]; then rm -f $@; else rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); fi
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/dev: $(VENV)/runtime
	@rm -f $(VENV)/runtime
	$(PIP) --quiet -e '.[dev]'
	@touch $(VENV)/runtime $@

setup: $(VENV)/dev

demo: $(VENV)/runtime
	@$(BIN) -m tests.tools.demo

lint: $(VENV)/dev
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy $(TYPES)
	$(VENV)/bin/lint-imports --no-cache

# One thread per worker: threads of several workers that spin on the same cores are many times slower.
check test ci slow fire: export OMP_NUM_THREADS := 1
check: TYPES := -p hybrid_patch -p launch
check: lint
	$(PYTEST) --timeout 30 $(UNIT)

test: lint
	$(PYTEST)

# Each with all that it is asked, and every case.
ci: lint
	$(PYTEST) --hypothesis-profile whole -m "not slow and not fire"

# On a machine with a GPU torch and the rest may be installed already: then no .venv is made.
gpu-check:
	@$(if $(wildcard $(BIN)),$(BIN),"$(PYTHON)") -m tests.gpu.gpu_check

slow: $(VENV)/dev
	$(PYTEST) -m slow

fire: $(VENV)/dev
	$(BIN) -m tests.fire.campaign $(JOBS) $(FAULTS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
