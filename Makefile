# Needs Python 3.11 to 3.13 (PYTHON=python3.12 picks one) and nothing else: the environment is made here, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow lint

demo: $(VENV)/installed
	$(BIN)/python tools/demo.py

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
