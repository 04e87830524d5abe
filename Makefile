# `make demo` and `make test` do all of their own set-up. `setup` brings what runs the system, `setup-all` everything.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPLETE := $(VENV)/.complete
# What runs the system; tests, checks and Debezium's JVM come with `setup-all`.
RUNTIME := cdc local edge bench demo setuptools
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
# Runs deploy/make_venv.py, which finds the Python to make the environment with. A name on the PATH may be a shim.
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
ANY = $(shell for name in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do \
	if "$$name" -c '$(SUITABLE)' >/dev/null 2>&1; then command -v "$$name"; break; fi; done)

.PHONY: setup setup-all demo test check bench up down lock fuzz clients test-long test-patroni gaps chaos mutants

setup: $(READY)
	@:

setup-all: $(COMPLETE)
	@:

$(READY): requirements.lock pyproject.toml deploy/select_requirements.py
	@[ -x $(BIN)/$(if $(UV),python,pip) ] || { python="$(ANY)" && "$${python:-false}" deploy/make_venv.py $(VENV) $(PYTHON); } || { \
		echo "No suitable Python: 3.11 or newer with its venv module is needed" >&2; \
		echo "(Debian, Ubuntu: apt install python3 python3-venv). Another place: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(BIN)/python deploy/select_requirements.py $(RUNTIME) >$(VENV)/requirements.txt
	@$(INSTALL) --require-hashes -r $(VENV)/requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(COMPLETE): $(READY)
	@echo "Setting up tests, checks and Debezium in $(VENV) (once; downloads about 350 MB more)"
	@$(INSTALL) --require-hashes -r requirements.lock
	@touch $@

demo: setup
	@$(BIN)/loyalty demo $(ARGS)

# Two at a time: most of a test is waiting. Files are the unit (tests/conftest.py), so that what they share is made once;
# they are begun in the order of that file, not with those of the most tests.
test: setup-all
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

check: setup-all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	@$(BIN)/loyalty bench $(ARGS)

up: setup
	@$(BIN)/loyalty up $(ARGS)

down: setup
	@$(BIN)/loyalty down $(ARGS)

# Minutes of Schemathesis for every role on each node; `make test` gives it seconds.
fuzz: setup-all
	@LOYALTY_CAMPAIGN_S=180 $(BIN)/python -m pytest tests/integration/test_openapi_campaign.py $(ARGS)

# The tools that tests/integration/test_openapi_tools.py tries on the OpenAPI documents; needs npm.
clients: setup
	@mkdir -p .clients
	cd .clients && npm install --no-audit --no-fund @redocly/cli@2.77.0 @stoplight/spectral-cli@6.16.3 \
		openapi-typescript@7.13.0 typescript@5.9.3
	$(BIN)/python -m venv .clients/venv && .clients/venv/bin/python -m pip install --quiet openapi-python-client==0.29.1

# A quarter of an hour of what `make test` has shorter tests of, or none: servers that fail under a guard, restores,
# regions and shards that join and go under load, a start that is not ready in time, streams whose region is away.
LONG := tests/integration/test_guard.py tests/system/test_restore.py tests/system/test_growth.py tests/system/test_documents.py \
	tests/system/test_shard_growth.py tests/system/test_shard_leaving.py tests/system/test_failover.py \
	tests/system/test_detach.py tests/integration/test_query_stand_in.py \
	tests/integration/test_takeover_clock.py tests/integration/test_moving_laws.py
test-long: setup-all
	@LOYALTY_LONG=1 $(BIN)/python -m pytest $(LONG) $(ARGS)

# Minutes of servers that fail under Patroni and etcd (Debian: apt install etcd-server); CI has the shortest of them.
test-patroni: setup-all
	@LOYALTY_TEST_ENGINE=patroni $(BIN)/python -m pytest tests/integration/test_patroni.py tests/integration/test_patroni_parted.py $(ARGS)

# How long writes stand still, twenty times each fault: half an hour with nothing else running.
gaps: setup
	@$(BIN)/python -m benchmarks.gaps $(ARGS)

# Faults under load for an hour or more; `make test` has half a minute of them.
chaos: setup
	@$(BIN)/loyalty chaos --faults 300 --standbys 2 --tills 8 $(ARGS)

# Plants every bug of tests/mutants, one at a time, and sees whether the test that it names fails; a quarter of an hour.
mutants: setup-all
	@$(BIN)/python -m tests.mutants $(ARGS)

# After a change of dependencies in pyproject.toml; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
