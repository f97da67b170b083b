# The commands of this repository. `make` alone lists them.
#
# Every target that needs the environment prepares it first; that costs nothing when it is ready.
# PYTEST_ARGS='-k lsn -x' goes to pytest; PYTHON=/path/to/python3 chooses the interpreter.

PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help environment setup format lint types test unit integration matrix demo bench-pagefault \
	check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

environment:
	@scripts/setup

setup: environment ## Prepare .venv and what it needs of the system; install the git hooks
	@if [ -e .git ]; then .venv/bin/pre-commit install; fi

format: environment ## Format the code, and mend what ruff can mend
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

lint: environment ## Check style, format and the layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports

types: environment ## Check the types of code and tests
	.venv/bin/mypy

test: environment lint types ## Everything that every change must pass (under 10 minutes)
	.venv/bin/pytest -m 'not stock' $(PYTEST_ARGS)

unit: environment ## The tests that need no server
	.venv/bin/pytest --ignore=tests/integration $(PYTEST_ARGS)

integration: environment ## The tests against real PostgreSQL servers
	.venv/bin/pytest tests/integration $(PYTEST_ARGS)

matrix: environment ## The tests against servers of the majors that `make test` does not have
	servers=$$(.venv/bin/python scripts/fetch-matrix-servers) && \
		SEAWALL_TEST_PG=$$(printf '%s' "$$servers" | tr '\n' ',') \
		.venv/bin/pytest -m postgres $(PYTEST_ARGS)

demo: environment ## Boot PostgreSQL over a data directory whose blocks fault in
	.venv/bin/python -P -m seawall demo

bench-pagefault: environment ## Measure the faulting blocks; prints JSON and a table
	.venv/bin/python -P -m bench.pagefault

check: environment lint types unit ## What to run before a commit

clean: ## Remove what was built or cached; .venv stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f sqlnode/pagefault/*.so
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
