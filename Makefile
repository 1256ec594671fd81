# One command each. `make run` and `make test` are all a newcomer needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three workers per two cores: while one waits for a lease, a disk or a start, the others work. A
# module stays on one worker, since its tests share what they start; the order of modules is
# tests/conftest.py's, the longest first.
TEST_WORKERS ?= 3
SPREAD = -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ORDER)

# Tests run in a shuffled order, the same one each time (pyproject.toml); TEST_ORDER=N is another.
ORDER = $(if $(TEST_ORDER),--randomly-seed=$(TEST_ORDER))

.PHONY: help run test check dev docs soak clean

help: ## Show what there is to do
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-6s %s\n", $$1, $$2}'

run: $(VENV)/.server ## Install, collect the sample sources, report on them, and stop
	@$(BIN)/holdfast up --sample --once

test: $(VENV)/.test ## Run the whole suite
	$(BIN)/python -m pytest $(SPREAD) --junitxml .test-report.xml $(TEST_ARGS)
	$(BIN)/python -m tests.conformance_report

check: $(VENV)/.test ## Lint, types, import order, generated files up to date
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m holdfast.app.generate --check

docs: $(VENV)/.test ## Write the generated files: OpenAPI, schemas, reference pages
	$(BIN)/python -m holdfast.app.generate

dev: $(VENV)/.test ## Install everything a change needs
	@echo "ready: source $(BIN)/activate"

soak: $(VENV)/.test ## The long forms of the seeded tests: hours, not minutes
	HOLDFAST_SOAK_SCALE=10 $(BIN)/python -m pytest $(SPREAD) -m soak --timeout 14400 -rP --durations 0 $(TEST_ARGS)

clean: ## Remove the virtual environment and what tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

# Wheels only, every one pinned by its hash.
$(VENV)/.%: requirements/%.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements/$*.txt into $(VENV): a minute or two …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
