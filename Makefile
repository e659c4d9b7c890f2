# Everything runs in .venv, which each target sets up as far as it needs. uv is used where it is installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := UV_PROJECT_ENVIRONMENT=$(VENV) uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full check bench figures evaluation notebooks docs calibrations lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qmodel needs Python >= 3.11; name one with: make PYTHON=python3.11" >&2; exit 2; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing qmodel"
	@$(INSTALL) -c constraints.txt -e .
	@echo "compiling kernels, once (about a minute)"
	@$(BIN)/python -m qmodel.studies.warm
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing what the tests need"
	@$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

DEMO := thresholds --model deepseek-v2-lite --gpu a100 --cluster 2P2D --workload azure-conv --load 0.9 \
	--ttft-slo 1s --tbt-slo 60ms -o plan.json --plot plan.png

install: $(VENV)/.base ## set up .venv with qmodel in it, kernels compiled

demo: $(VENV)/.base ## set up and run the main job on embedded defaults
	$(BIN)/qmodel $(DEMO)

test: $(VENV)/.dev ## set up and run every test but the heavy ones
	$(BIN)/python -m pytest -m "not full"

test-full: $(VENV)/.dev ## also the heavy tests
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## ruff, mypy, import contract, docstrings, dependency audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m numpydoc.hooks.validate_docstrings $$(git ls-files 'qmodel/*.py' | grep -v -e _kernels)
	$(BIN)/python tools/audit.py constraints.txt

$(VENV)/.notebooks: $(VENV)/.base
	@echo "installing what notebooks need"
	@$(INSTALL) -c constraints.txt -e '.[notebooks]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@echo "installing what the documentation needs"
	@$(INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@

OUT := out

figures: $(VENV)/.base ## the paper's figures into out/figures; FULL=1 for fine grids and 20 runs a policy
	$(BIN)/qmodel figures $(if $(FULL),--full) -o $(OUT)/figures

evaluation: $(VENV)/.base ## every policy in every cell into out/evaluation, and its page into docs; a stopped run goes on
	$(BIN)/qmodel evaluate --full --vendors -o $(OUT)/evaluation
	cp $(OUT)/evaluation/evaluation.md docs/evaluation.md

notebooks: $(VENV)/.notebooks ## run every notebook from top to bottom into out/notebooks
	$(BIN)/python notebooks/run.py $(OUT)/notebooks $(sort $(wildcard notebooks/[0-9]*.py))

docs: $(VENV)/.docs ## the documentation site into out/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs $(OUT)/docs
	@echo "open $(OUT)/docs/index.html"

$(VENV)/.peers: $(VENV)/.base
	@echo "installing other queueing packages to compare with"
	@$(INSTALL) -c constraints.txt -e '.[peers]' && touch $@ || echo "they cannot be had here: timing qmodel alone"

bench: $(VENV)/.peers ## how fast: decisions, predictions, plans, simulated requests, queues; beside other packages
	$(BIN)/python paper_figures/bench.py $(OUT)/bench.csv
	@set -e; for script in $(sort $(wildcard bench/*.py)); do echo; echo $$script; $(BIN)/python $$script; done

calibrations: $(VENV)/.dev ## rebuild every calibration from kernel profiles
	$(BIN)/python calibration/build.py

lock: $(BIN)/python ## write constraints.txt from what is installed, with every extra; UPGRADE=1 for the newest versions
	$(BIN)/python -m pip install --quiet --disable-pip-version-check packaging
	$(BIN)/python tools/lock.py constraints.txt $(INSTALL) $(if $(UPGRADE),--upgrade,-c constraints.txt)

clean: ## remove the environment, caches and outputs
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
