# One command for each wish; `make help` lists them. Needs Python 3.11 or newer and make, nothing else:
# everything is installed into .venv inside this folder, from the lock files, hashes checked.
# More options for a command go into ARGS: make demo ARGS="--port-offset 100"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
CRYPTOTRACE := $(BIN)/cryptotrace
# pip takes a pin of `gql` for no pin of `gql[requests]` when it checks hashes: the extras stay in the lock.
LOCK_OPTIONS := --universal --generate-hashes --no-strip-extras --python-version 3.11 --no-emit-index-url --no-annotate --quiet \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo up test system-test browser-test faults bench bench-guard check lint format types imports \
	lock lock-check secrets docs hooks clean

help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the two installations; each happens once, and again when its lock file changed

setup: $(VENV)/.installed ## Install what the system needs to run

setup-dev: $(VENV)/.installed-dev ## Install what tests and checks need, too

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "CryptoTrace needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock requirements-install.lock pyproject.toml | $(BIN)/python
	PYTHON=$(BIN)/python sh scripts/install.sh requirements.lock
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock requirements-install.lock pyproject.toml | $(BIN)/python
	PYTHON=$(BIN)/python sh scripts/install.sh requirements-dev.lock
	touch $@ $(VENV)/.installed

# --- run it

demo: setup ## Run everything offline, with a simulated exchange; Ctrl-C stops it
	$(CRYPTOTRACE) up --demo $(ARGS)

up: setup ## Run everything against the live exchange; Ctrl-C stops it
	$(CRYPTOTRACE) up $(ARGS)

# --- run it in containers (docs/containers.md); COMPOSE="docker compose -f ..." chooses other files

compose-start: ## Build and start the containers, wait until they are healthy, and tell the addresses
	deploy/compose.sh start

compose-status: ## What runs, and what `cryptotrace doctor` says inside
	deploy/compose.sh status

compose-logs: ## Follow the logs; SERVICE=feed shows one
	deploy/compose.sh logs $(SERVICE)

compose-stop: ## Stop the containers; the volumes stay
	deploy/compose.sh stop

compose-backup: ## Write the warehouse into a file in TO (default: backups/)
	deploy/compose.sh backup $(TO)

compose-restore: ## Put the backup FROM in the place of the warehouse, and start again
	deploy/compose.sh restore $(FROM)
	deploy/compose.sh start

compose-rules: ## Check alerts.toml and put it into force
	deploy/compose.sh rules

# --- test it

# Many tests wait for real time to pass: four at once keep two cores busy.
test: setup-dev ## Run the tests (those that start whole systems have targets of their own)
	$(RUN) pytest -m "not system and not browser" -n 4 --dist worksteal

system-test: setup-dev ## Run the tests that start the whole system, one after the other
	$(RUN) pytest -m system

browser-test: setup-dev ## Run the tests that look at the dashboard in headless Chromium
	$(RUN) pytest -m browser

faults: setup-dev ## Break every part on purpose, at 1,000 trades a second, and compare trade by trade
	$(RUN) tests.faults.matrix --full $(ARGS)

compose-test: setup-dev ## Build the image, run the compose file on a Docker engine, break it, restore it (10 minutes)
	$(RUN) tests.compose.compose_test

bench: setup-dev ## Measure speed; the last line is JSON
	$(CRYPTOTRACE) bench $(ARGS)

bench-guard: setup-dev ## Compare speed with the last recorded ratios; fails at a loss of more than 30 %
	$(CRYPTOTRACE) bench --guard tests/bench/recorded.json

# --- check it

check: lint types imports lock-check secrets ## Run all the checks that do not run the code

lint: setup-dev ## Style and common mistakes
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: setup-dev ## Write the code in the one style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: setup-dev ## Types, strictly
	$(RUN) mypy

imports: setup-dev ## Import directions
	$(BIN)/lint-imports

lock-check: setup-dev ## Tell whether the lock files still fit pyproject.toml; needs no network
	$(RUN) pytest -q tests/docs/test_lock_files.py

secrets: setup-dev ## Look for secrets in the tracked files
	$(BIN)/python scripts/find_secrets.py

audit: setup-dev ## Look the locked packages up among known holes; needs the network, and is not part of check
	$(BIN)/pip-audit --no-deps --disable-pip --progress-spinner off -r requirements.lock

# --- keep it

lock: setup-dev ## Choose the newest allowed versions anew
	$(RUN) uv pip compile requirements-install.in $(LOCK_OPTIONS) --upgrade -o requirements-install.lock
	$(RUN) uv pip compile pyproject.toml $(LOCK_OPTIONS) --upgrade -o requirements.lock
	$(RUN) uv pip compile pyproject.toml --extra dev $(LOCK_OPTIONS) --upgrade -c requirements.lock \
		-o requirements-dev.lock
	$(RUN) uv pip compile pyproject.toml --extra cluster $(LOCK_OPTIONS) --upgrade -c requirements.lock \
		-o requirements-cluster.lock
	echo 'setuptools>=77' | $(RUN) uv pip compile - $(LOCK_OPTIONS) --upgrade -o deploy/build.lock

docs: setup-dev ## Write docs/settings.md, docs/tables.md and .env.example from the code
	$(RUN) cryptotrace_dagster.reference

hooks: setup-dev ## Run the checks before every commit
	$(BIN)/pre-commit install

clean: ## Remove what was installed and cached; data/ stays
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
