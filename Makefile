# Two commands do all the set-up:  make fit  (the main job, offline)  and  make test.
# PYTHON chooses the interpreter; an active virtual environment, or one at .venv, is used as it is,
# and so is a torch that is already in it.

PYTHON ?= python3
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: fit test check install install-dev

fit: install
	$(BIN)/mavis fit --objective humor

test: install-dev
	$(BIN)/python -m pytest -n auto

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.mavis
install-dev: $(VENV)/.mavis-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The tested torch goes first, so that nothing drags in another build; a torch that is there stays.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install -q "$(TORCH)"
	touch $@

$(VENV)/.mavis: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.mavis-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@ $(VENV)/.mavis
