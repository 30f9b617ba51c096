# Needs Python 3.11 or 3.12, git and make. PYTHON=... picks the interpreter of a new environment, VENV=... its folder.
VENV ?= .venv
SEED ?= 0
ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist worksteal --timeout 900
UV ?= uv

REQUIREMENTS := $(if $(shell nvidia-smi >/dev/null 2>&1 && echo yes),requirements-cuda12.txt,requirements.txt)
RUN_STAMP := $(VENV)/.$(REQUIREMENTS)
DEV_STAMP := $(VENV)/.$(REQUIREMENTS)-dev
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# The first interpreter that runs, has a supported version and can make an environment; looked for only when it is needed.
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
BASE_PYTHON = $(shell for p in $(or $(PYTHON),python3.12 python3.11 python3 python); do \
	"$$p" -c '$(USABLE)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
NO_PYTHON = Python 3.11 or 3.12 with venv is needed (dm_control needs labmaze, which has no wheel for 3.13): \
	install one of them or name it with PYTHON=/path/to/python3.12

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-ci lint results format requirements clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

quickstart: $(RUN_STAMP)  ## make data, train BC then TRQAM, show the result (SEED=1 ARGS="--eval_episodes=100")
	$(VENV)/bin/python scripts/quickstart.py --seed=$(SEED) $(ARGS)

test: $(DEV_STAMP)  ## run the fast tests (PYTEST_ARGS="tests/test_packaging.py -x" replaces pytest's arguments)
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-slow: $(DEV_STAMP)  ## run the slow tests, before a release and every night
	$(VENV)/bin/python -m pytest -m slow $(PYTEST_ARGS)

test-ci: $(DEV_STAMP)  ## run the fast tests and those marked ci: what every change must pass
	$(VENV)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

lint: $(DEV_STAMP)  ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

results: $(RUN_STAMP)  ## write the tables of the README and docs/ anew from results/
	$(VENV)/bin/python scripts/results.py

format: $(DEV_STAMP)  ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(RUN_STAMP): $(REQUIREMENTS)
	@echo "installing $(REQUIREMENTS) into $(VENV)"
	@"$(or $(BASE_PYTHON),$(error $(NO_PYTHON)))" -m venv $(VENV)
	@$(PIP) -r $(REQUIREMENTS)
	@touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements-dev.txt
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PIP) -r $(REQUIREMENTS) -r requirements-dev.txt
	@touch $@

COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-emit-index-url \
	--custom-compile-command "make requirements"
DEV_EXTRA := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")

requirements:  ## pin the ranges of pyproject.toml anew (needs uv; pins that still fit stay)
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml --extra cuda12 -c requirements.txt -o requirements-cuda12.txt
	$(BASE_PYTHON) -c '$(DEV_EXTRA)' | $(COMPILE) - --no-annotate -c requirements.txt -o requirements-dev.txt

clean:  ## remove caches (runs, data and the environment stay)
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
