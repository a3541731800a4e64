# Every target sets up .venv by itself; nothing but python3 (3.11 or newer) and make is needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check fix schemas conformance clean
.DEFAULT_GOAL := test

demo: $(STAMP)  ## the whole job on data and a model that come with the package
	$(BIN)/bye-audit demo $(DEMO_OPTIONS)

# A file's tests stay together: they share what their fixtures trained.
test: $(STAMP)  ## all tests, on up to four cores
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: $(STAMP)  ## format and mend what can be mended without thought
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(STAMP)  ## write schemas/ again from the code
	$(BIN)/python -c 'from pathlib import Path; from bye_audit.contracts import write_schemas; write_schemas(Path("schemas"))'

conformance: $(STAMP)  ## hold the probe against eager attention on every architecture; write the page
	$(BIN)/python -m conformance --write docs/conformance.md

clean:  ## remove the virtual environment and every cache
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
