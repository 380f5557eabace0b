# Everything here needs python3 (3.11 or newer, with venv), make and git; the rest goes into .venv.
# Another interpreter:  make test PYTHON=python3.13      Arguments:  make test ARGS="-k stream", make lock ARGS=--upgrade

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock'

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo run test coverage bench count check format lock

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)  ## Serve six sample apps of an embedded stand-in Dify; needs no Dify and no configuration
	@$(BIN)/opendify demo $(ARGS)

run: $(STAMP)  ## Serve the Dify apps configured in .env
	@$(BIN)/opendify serve $(ARGS)

# Many tests wait more than they work: three processes keep two cores busy.
PARALLEL := --numprocesses=3 --dist=worksteal

test: $(STAMP)  ## Run all tests
	$(BIN)/pytest $(PARALLEL) $(ARGS)

coverage: $(STAMP)  ## The same with branch coverage, which has a floor
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

bench: $(STAMP)  ## What a request and an event cost, beside the least they could (Linux, under two minutes)
	$(BIN)/python -m benchmarks.run $(ARGS)

count: $(STAMP)  ## Instructions that the conversion of an event takes, to compare two commits; best with valgrind
	$(BIN)/python -m benchmarks.count $(ARGS)

check: $(STAMP)  ## Lint, formatting, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py

format: $(STAMP)  ## Fix what can be fixed automatically
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(STAMP)  ## Write requirements/*.lock anew from pyproject.toml, keeping versions that still fit
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements/runtime.lock
	$(COMPILE) $(ARGS) --group build --output-file requirements/build.lock
	$(COMPILE) $(ARGS) pyproject.toml --group dev --output-file requirements/dev.lock

$(STAMP): requirements/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: $(PYTHON) was not found: install Python 3.11 or newer, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $$($(PYTHON) --version) is too old: OpenDify needs 3.11 or newer, name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Installing into $(VENV) (again only when pyproject.toml or requirements/dev.lock change)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
