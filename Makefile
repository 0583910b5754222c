# make train      set up .venv and run the demo: train, evaluate, report
# make test       the same set-up, then lint, types and the fast tests
# make test-all   the slow tests, too
# make clean      remove .venv
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: train test test-all lint clean
train: .venv/installed
	$(BIN)/python train.py $(ARGS)

test: .venv/tested-with lint
	$(BIN)/python -m pytest

test-all: .venv/tested-with lint
	$(BIN)/python -m pytest -m ""

lint: .venv/tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv

# The marks are made last: an installation that was cut off is done again.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/tested-with: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
