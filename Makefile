# Two commands are enough: `make demo` shows Muster at work, `make test` proves it. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# What the checks read instead of a real deployment's environment. No server is asked.
CHECK_ENVIRONMENT := SECRET_KEY=checked-only-never-deployed-0123456789-abcdefghijklmnopqrstuvwxyz \
	DATABASE_URL=postgresql://nobody@127.0.0.1:1/nothing BROKER_URL=redis://127.0.0.1:1/0 \
	DJANGO_SETTINGS_MODULE=config.settings

# Half a second of start-up per process instead of five, wherever somebody has switched the bytecode cache off.
unexport PYTHONDONTWRITEBYTECODE

# Compose, and what it runs on: `docker compose` on Docker, or what is said here.
COMPOSE ?= docker compose
# The tool that writes the locked requirements; it is no part of them.
UV := uv==0.13.9
LOCK := .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --annotation-style line

.PHONY: help demo up test test-long screenshots compose-test chaos check check-types check-others bench lock hooks clean
.DEFAULT_GOAL := help

help: ## List these commands.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/up.stamp ## Start everything, run the main jobs before your eyes, go on serving until Ctrl-C.
	@$(BIN)/python manage.py demo

up: .venv/up.stamp ## Start everything and serve until Ctrl-C; changed code is reloaded, but not by: make up ARGS=--no-reload.
	@$(BIN)/python manage.py up $(ARGS)

# One process more than there are cores, since system tests wait for other processes.
TESTERS = $$(($$(nproc) + 1))

# A process that crashes is not replaced: pytest-xdist would wait for ever for the new one. The others go on.
test: .venv/dev.stamp ## Run the tests, some files at a time, on private servers. Options for pytest: make test ARGS="-k retry".
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not long" $(ARGS)

test-long: .venv/dev.stamp ## Run the long tests: outages, chaos on both brokers, a crash at each failpoint, reload, queues of your own.
	@$(BIN)/python -m pytest -m long $(ARGS)

screenshots: .venv/dev.stamp ## Take the pictures of README and docs with Chromium; of every page in four forms: make screenshots PICTURES=folder.
	@$(if $(PICTURES),PICTURES=$(PICTURES)) $(BIN)/python -m pytest -q -o python_files=screenshots.py tests/browser/screenshots.py $(ARGS)

compose-test: .venv/dev.stamp ## Test the running containers and kill each of them; needs an engine: make compose-test COMPOSE="docker compose".
	@COMPOSE="$(COMPOSE)" $(BIN)/python -m pytest -o addopts=-ra --noconftest -o DJANGO_SETTINGS_MODULE= tests/compose/scenario.py $(ARGS)

# SECONDS is the shell's own clock where it is not given to make.
chaos: .venv/dev.stamp ## Inject faults into a full stack for five minutes and look for losses: make chaos SECONDS=60 SEED=1 BROKER=rabbitmq.
	@$(BIN)/python -m tests.chaos --seconds $(if $(filter command line,$(origin SECONDS)),$(SECONDS),300) \
		$(if $(SEED),--seed $(SEED)) --broker $(or $(BROKER),valkey) $(ARGS)

check: .venv/dev.stamp ## Check style, types, layers, migrations and deployment settings, as the hooks and CI do.
	@$(MAKE) --no-print-directory --jobs 2 --output-sync check-types check-others

check-types:
	$(CHECK_ENVIRONMENT) EXTRA_APPS=tests.kinds,benchmarks.kinds $(BIN)/mypy

check-others:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CHECK_ENVIRONMENT) $(BIN)/lint-imports
	$(CHECK_ENVIRONMENT) $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(CHECK_ENVIRONMENT) $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(CHECK_ENVIRONMENT) $(BIN)/python manage.py draw_states --check
	$(CHECK_ENVIRONMENT) $(BIN)/python manage.py draw_settings --check
	$(BIN)/python misc/draw_architecture.py --check
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@if command -v promtool; then cd deploy/monitoring && promtool check rules rules.yml && promtool test rules rules.test.yml; fi

lock: ## Write requirements*.txt, with hashes, from requirements*.in. To take newer versions: make lock ARGS=--upgrade.
	@$(PYTHON) -m pip install --quiet --target .venv/lock $(UV)
	$(LOCK) --custom-compile-command "make lock, from requirements.in" $(ARGS) \
		--output-file requirements.txt requirements.in
	$(LOCK) --custom-compile-command "make lock, from requirements-dev.in" $(ARGS) --constraints requirements.txt \
		--output-file requirements-dev.txt requirements-dev.in
	@if [ -e requirements-extra.in ]; then \
		$(LOCK) --custom-compile-command "make lock, from requirements-extra.in" $(ARGS) --constraints requirements-dev.txt \
			--output-file requirements-extra.txt requirements-extra.in; \
	fi
	$(LOCK) --custom-compile-command "make lock, from benchmarks/requirements.in" $(ARGS) --constraints requirements-dev.txt \
		--output-file benchmarks/requirements.txt benchmarks/requirements.in
	$(LOCK) --custom-compile-command "make lock, from benchmarks/baselines/requirements.in" $(ARGS) --constraints requirements-dev.txt \
		--output-file benchmarks/baselines/requirements.txt benchmarks/baselines/requirements.in

bench: .venv/bench.stamp ## Compare Muster's speed with the alternatives, in an hour or two; a part: make bench ONLY=tasks,reads QUICK=1.
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

hooks: ## Install the git hooks: check before a commit, test before a push.
	@hooks=$$(git rev-parse --git-path hooks) && mkdir -p "$$hooks" && \
	for hook in pre-commit pre-push; do \
		install -m 755 misc/$$hook.sh "$$hooks/$$hook" && echo "installed $$hooks/$$hook"; \
	done

clean: ## Delete the virtual environment and what the checks cache; the data folder stays.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# requirements-extra.txt is yours; there need not be one.
REQUIREMENTS := requirements.txt requirements-dev.txt $(wildcard requirements-extra.txt)

.venv/up.stamp: $(REQUIREMENTS) misc/install.py
	@$(PYTHON) misc/install.py up

.venv/dev.stamp: $(REQUIREMENTS) misc/install.py
	@$(PYTHON) misc/install.py dev

.venv/bench.stamp: $(REQUIREMENTS) benchmarks/requirements.txt benchmarks/baselines/requirements.txt misc/install.py
	@$(PYTHON) misc/install.py bench
