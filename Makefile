# The Python that makes the environment: the first found that is new enough and complete.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
BIN = .venv/bin
READY = .venv/.ready

.PHONY: help run test lint lock bench load soak audit

help: ## print this help
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

run: $(READY) ## serve a demo with an embedded PostgreSQL; prints a curl to paste
	@$(BIN)/python -m service demo

test: $(READY) ## run the tests, with an embedded PostgreSQL
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

lint: $(READY) ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(READY) ## look the pinned versions up in the database of known vulnerabilities
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes --vulnerability-service osv

lock: $(READY) ## resolve the dependencies anew and write both lock files
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade \
		--custom-compile-command "make lock" \
		pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade \
		--custom-compile-command "make lock" --constraints requirements.lock \
		pyproject.toml --extra demo --extra tracing --group dev --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade \
		--custom-compile-command "make lock" --constraints requirements-dev.lock \
		pyproject.toml --extra demo --group bench --output-file requirements-bench.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade \
		--custom-compile-command "make lock" --constraints requirements-dev.lock \
		pyproject.toml --extra demo --group load --output-file requirements-load.lock

bench: .venv-bench/.ready ## compare with PostgreSQL's limit and other services; BENCH=--quick: 2 minutes
	.venv-bench/bin/python -m tests.bench $(BENCH)

.venv-bench/.ready: requirements-bench.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

soak: $(READY) ## load under one fault after another; MINUTES=10
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),10)

load: .venv-load/.ready ## load the demo for a minute, check every outcome; LOAD="--users 20 --run-time 30s"
	.venv-load/bin/python -m tests.load.run $(LOAD)

.venv-load/.ready: requirements-load.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv-load
	.venv-load/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-load.lock
	@touch $@

$(READY): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
