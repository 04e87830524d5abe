# `make demo` and `make test` do all of their own set-up; the other targets are parts of it.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(shell command -v uv 2>/dev/null)
# A name on the PATH may be a shim for a version that is not installed, so each is asked.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do \
	if "$$name" -c '$(SUITABLE)' >/dev/null 2>&1; then command -v "$$name"; break; fi; done)

.PHONY: setup demo test check bench up down lock

setup: $(READY)
	@:

$(READY): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No suitable Python: 3.11 or newer with its venv module is needed" >&2; \
		echo "(Debian, Ubuntu: apt install python3 python3-venv). Another place: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@echo "Setting up $(VENV) with $(PYTHON) (once; downloads about 500 MB)"
	@if [ -n "$(UV)" ]; then \
		{ [ -x $(BIN)/python ] || uv venv --quiet --python "$(PYTHON)" $(VENV); } \
		&& uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock \
		&& uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
		{ [ -x $(BIN)/pip ] || "$(PYTHON)" -m venv --clear $(VENV); } \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

demo: setup
	@$(BIN)/loyalty demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

check: setup
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

# After a change of dependencies in pyproject.toml; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
