# Every target wraps one command; `make` alone lists them. FLAGS passes further options through.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install list experiment plan decide status report verify sync dashboard test test-slow chaos coverage bench shape notebook lint clean

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m experiments
JOBS ?= auto
ENGINE ?= local
# A variable as one word of the shell, as it was typed: neither make nor the shell reads its $, quotes, brackets and line ends.
typed = $(if $(strip $(value $1)),'$(subst $(line_end),'$$'\n'',$(subst ','\'',$(value $1)))')
define line_end


endef
unexport NAME ARGS FROM EFFECT BUDGET
asked = $(if $(value EFFECT),--effect $(call typed,EFFECT)) $(if $(value BUDGET),--budget $(call typed,BUDGET))

help: ## List the targets
	@echo 'First:'
	@echo '  make experiment NAME=smoke            Does everything work here? A minute'
	@echo '  make experiment NAME=vit_small_data   Train 48 small models, write a report'
	@echo '  make list                             What else there is to run'
	@echo '  make test                             Run the tests'
	@echo 'All:'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{n = split($$2, words, " "); line = sprintf("  make %-12s", $$1); for (i = 1; i <= n; i++) { \
	    if (length(line words[i]) > 78) { print line; line = sprintf("%19s", "") } line = line " " words[i] } print line }'

WITH ?= $(filter ray,$(ENGINE))
EXTRAS := $(WITH:%=$(VENV)/.installed-%)

install: $(VENV)/.installed $(EXTRAS) ## Make .venv and install everything: [WITH="ray huggingface mnist"]; nothing to do when nothing changed

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is too old; Python 3.11 or newer is needed. Say which: make PYTHON=python3.12 …" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: uv
	@$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed-%: requirements-%.lock | $(VENV)/.installed
	@$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r $<
	@touch $@

list: install ## List experiments, models, data and recipes
	@$(RUN) list $(FLAGS)

experiment: install named ## Run an experiment: NAME=… [ARGS="recipe.steps=200 seeds=[0,1]"] [JOBS=n|auto] [ENGINE=ray] [FLAGS=--retry-failed]
	@$(RUN) run $(call typed,NAME) $(call typed,ARGS) --engine $(ENGINE) --jobs $(JOBS) $(FLAGS)

plan: install named ## Say before anything runs what it costs and what it can tell: NAME=… [EFFECT=0.01] [BUDGET=8h] [ARGS=…]
	@$(RUN) plan $(call typed,NAME) $(call typed,ARGS) --jobs $(JOBS) $(asked) $(FLAGS)

decide: install named ## Add seeds in looks until each pair is decided: NAME=… EFFECT=0.01 BUDGET=8h [ARGS=…] [FLAGS=--all-pairs]
	@$(RUN) decide $(call typed,NAME) $(call typed,ARGS) --engine $(ENGINE) --jobs $(JOBS) $(asked) $(FLAGS)

status: install named ## Show which cells are done, running, failed or missing: NAME=…
	@$(RUN) status $(call typed,NAME) $(call typed,ARGS) $(FLAGS)

report: install named ## Make tables, figures and report.html again: NAME=… [FROM=wandb:entity/project]
	@$(RUN) report $(call typed,NAME) $(call typed,ARGS) $(if $(value FROM),--from $(call typed,FROM)) $(FLAGS)

verify: install named ## Train published runs again and compare: NAME=… [FROM=results] [CELLS=3]
	@$(RUN) verify $(call typed,NAME) --from $(or $(call typed,FROM),results) --cells $(or $(CELLS),3) --jobs $(JOBS) $(FLAGS)

sync: install named ## Send to W&B what it has not seen: NAME=…
	@$(RUN) sync $(call typed,NAME) $(FLAGS)

dashboard: install named ## Lay the comparison out in W&B, or view the runs in the terminal without a login: NAME=…
	@$(RUN) dashboard $(call typed,NAME) $(call typed,ARGS) $(FLAGS)

test: install ## Run the tests, file by file in parallel
	@$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(FLAGS)

test-slow: install ## Run the slow tests
	@$(VENV)/bin/python -m pytest -m slow $(FLAGS)

chaos: install ## Attack the harness: kills, malformed input, outages, full disks; figures in reports/chaos.md
	@$(VENV)/bin/python -m tests.chaos

coverage: install ## Simulate what intervals cover and how often marks err; figures in docs/coverage.md and docs/looks.md (half an hour)
	@$(VENV)/bin/python -m tests.coverage
	@$(VENV)/bin/python -m tests.coverage.looks

bench: install ## Measure the harness against the bare step and a DataLoader loop
	@$(RUN) bench $(FLAGS)

notebook: install ## Run the notebook, figures in reports/four_equations.ipynb: [DATA=digits|pizza_steak_sushi] [STEPS=…]
	@$(VENV)/bin/jupytext --quiet --update --to ipynb notebooks/four_equations.py
	@mkdir -p "$${REPORTS_DIR:-reports}"
	@$(VENV)/bin/jupyter execute notebooks/four_equations.ipynb --output="$$(realpath "$${REPORTS_DIR:-reports}")/four_equations.ipynb"

shape: install ## Figures of the code base: lines, long functions, files per change; FLAGS=--frames adds the path to the step
	@$(VENV)/bin/python -m tests.shape $(FLAGS)

lint: install ## Check style and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

clean: ## Delete caches and the environment; runs, reports and data stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: named
named:
	@$(if $(call typed,NAME),,echo "error: NAME is missing, as in: make $(firstword $(MAKECMDGOALS)) NAME=vit_small_data. \`make list\` shows the names." >&2; exit 2)
