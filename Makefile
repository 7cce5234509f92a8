# Each target makes .venv and installs what it needs, once: a stamp in .venv says what is there.

PYTHON ?= python3
FRAMEWORK ?= numpy
RULE ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Bytecode is compiled when a module is first imported: most modules never are.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile

EXTRAS_numpy := demo
EXTRAS_torch := demo,torch
EXTRAS_keras := demo,keras
# What the tests run with; a newer one may bring gigabytes of CUDA.
PINS_torch := 'torch==2.13.0'
# The demo's stamp: in Keras, one for each backend that was asked for.
DEMO := $(if $(EXTRAS_$(FRAMEWORK)),$(FRAMEWORK),numpy)
DEMO := $(if $(filter keras,$(DEMO)),keras-$(or $(KERAS_BACKEND),any),$(DEMO))

# The oracle of the legacy optimizers: its dependencies are those of the extra, and pip cannot say
# in an extra that a package comes without its own.
UNDEPENDENT := 'tf_keras==2.21.*'

.PHONY: demo test bench lint clean

demo: $(VENV)/.demo-$(DEMO)
	@$(BIN)/pellucid demo --framework $(FRAMEWORK) $(if $(RULE),--rule '$(RULE)')

test: $(VENV)/.test
	@$(BIN)/python tools/suites.py $(ARGS)

bench: $(VENV)/.test
	@$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(VENV)/.lint
	@$(BIN)/ruff check
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Pellucid needs Python 3.11 or later; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-%: pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV)"
	@$(PIP) --editable '.[$(EXTRAS_$*)]' $(PINS_$*)
	@touch $@

# Keras itself, then the backend that it is to run on, which it knows only then.
$(VENV)/.demo-keras-%: pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV)"
	@$(PIP) --editable '.[$(EXTRAS_keras)]'
	@backend=$$($(BIN)/python -m pellucid.demo.keras_backend) && \
		echo "Installing Keras's backend $$backend" && \
		if [ $$backend = torch ]; then $(PIP) --editable '.[torch]' $(PINS_torch); \
		else $(PIP) --editable ".[$$backend]"; fi
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) --editable '.[test]'
	@$(PIP) --no-deps $(UNDEPENDENT)
	@touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	@echo "Installing what lint needs into $(VENV)"
	@$(PIP) --editable '.[lint,test]'
	@$(PIP) --no-deps $(UNDEPENDENT)
	@touch $@
