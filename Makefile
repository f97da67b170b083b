# The commands of this repository. `make` alone lists them.
#
# Every target that needs the environment prepares it first; that costs nothing when it is ready.
# PYTEST_ARGS='-k lsn -x' goes to pytest; PYTHON=/path/to/python3 chooses the interpreter.

PYTEST_ARGS ?=
N ?= 2000
BENCH_ARGS ?=
FAULTS_ARGS ?=
UP_ARGS ?=
IMAGES_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help environment setup up format lint types test unit integration faults matrix sim demo \
	chart generate images e2e e2e-prepare nemesis bench bench-pagefault bench-log bench-storage bench-failover bench-elastic bench-gateway \
	bench-kubernetes bench-operator pg-suites report-check \
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

# Tests of our own code alone use all processors; those of the C library race, and want them alone.
ALONE = .venv/bin/pytest --ignore=tests/native --ignore=tests/integration --ignore=tests/e2e \
	-n auto --dist loadfile
# Those with servers wait most of the time, so three go side by side on two processors. Not more:
# clusters whose nodes starve lose their leaders, and tests of failovers then test something else.
SERVERS = .venv/bin/pytest tests/integration -n 3 --dist loadfile
NATIVE = .venv/bin/pytest tests/native
# With PYTEST_ARGS='-k lsn' some of these commands have no test at all, which pytest says with a 5.
CHOSEN = $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])
ANY = SEAWALL_TEST_PG=$${SEAWALL_TEST_PG:-any}
EMBEDDED = SEAWALL_TEST_PG=embedded

test: environment lint types ## Everything that every change must pass, on one PostgreSQL
	$(ANY) $(ALONE) -m 'not stock and not faults' $(CHOSEN)
	$(ANY) $(NATIVE) -m 'not stock and not faults' $(CHOSEN)
	$(ANY) $(SERVERS) -m 'not stock and not faults' $(CHOSEN)

embedded: environment ## The tests with servers again, on the embedded PostgreSQL
	$(EMBEDDED) $(ALONE) -m 'postgres and not stock and not faults' $(CHOSEN)
	$(EMBEDDED) $(SERVERS) --ignore=tests/integration/bench -m 'postgres and not stock and not faults' $(CHOSEN)

unit: environment ## The tests that need no server
	$(ALONE) $(CHOSEN)
	$(NATIVE) $(CHOSEN)

integration: environment ## The tests against real PostgreSQL servers
	$(SERVERS) $(PYTEST_ARGS)

NEMESIS = .venv/bin/python -P -m bench.faults --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1) $(FAULTS_ARGS)

faults: environment ## The slower tests, with faults; with SECONDS=60 SEED=1 the nemesis instead
ifdef SECONDS
	$(NEMESIS)
else
	$(ANY) .venv/bin/pytest --ignore=tests/e2e -n 2 --dist loadfile -m faults $(PYTEST_ARGS)
endif

nemesis: environment ## Break a cluster at random under load, and check all it said: SECONDS=60 SEED=1
	$(NEMESIS)

matrix: environment ## The tests against servers of the majors that `make test` does not have
	servers=$$(.venv/bin/python scripts/fetch-matrix-servers) && \
		SEAWALL_TEST_PG=$$(printf '%s' "$$servers" | tr '\n' ',') \
		.venv/bin/pytest -m postgres $(PYTEST_ARGS)

chart: environment ## Check the Helm chart; SEAWALL_HELM names a helm
	.venv/bin/pytest tests/unit/operator/test_chart.py $(PYTEST_ARGS)

generate: environment ## Write the CRD, dashboards and alerts of the chart anew
	.venv/bin/python -P -m kube_operator.crd > charts/seawall/crds/postgresclusters.seawall.dev.yaml
	.venv/bin/python -P -m kube_operator.monitoring charts/seawall/monitoring

images: environment ## Build the container images into build/images; IMAGES_ARGS=--offline-base
	images/build --output build/images $(IMAGES_ARGS)

e2e-prepare: environment ## Build what `make e2e` needs and what takes long; prints the path of helm
	@cd tests && ../.venv/bin/python -m e2e.prepare

e2e: environment ## The tests on a real Kubernetes: the rig's, as root, or that of KUBECONFIG
	.venv/bin/pytest -m e2e $(PYTEST_ARGS)

sim: environment ## Simulate the consensus core: N=2000 seeds from 0 on, or SEED=17 alone with its trace
	cd tests && ../.venv/bin/python -m simulation $(if $(SEED),--seed $(SEED) --trace,--seeds 0:$(N))

up: environment ## Start a local cluster and stay with it; UP_ARGS='--ha --detach'
	.venv/bin/seawall up $(UP_ARGS)

demo: environment ## Boot PostgreSQL over a data directory whose blocks fault in
	.venv/bin/python -P -m seawall demo

PART ?= all

bench: environment ## Measure Seawall beside other systems: PART=tps BENCH_ARGS='--quick'; see bench/README.md
	.venv/bin/seawall bench $(PART) $(if $(findstring --out,$(BENCH_ARGS)),,--out build/bench/$(PART)) $(BENCH_ARGS)

bench-pagefault: environment ## Measure the faulting blocks; prints JSON and a table
	.venv/bin/python -P -m bench.pagefault $(BENCH_ARGS)

bench-log: environment ## Measure the replicated log beside stock replication; prints JSON and a table
	.venv/bin/python -P -m bench.log $(BENCH_ARGS)

bench-storage: environment ## Measure storage nodes against their bars; prints JSON and a table
	.venv/bin/python -P -m bench.storage $(BENCH_ARGS)

bench-failover: environment ## Measure what clients see when parts of a cluster die
	.venv/bin/python -P -m bench.failover $(BENCH_ARGS) --only primary_killed node_killed node_paused \
		alone_killed switchover log_leader_killed storage_killed random_kills

bench-elastic: environment ## Measure new replicas, their lag, and what a cluster costs
	.venv/bin/python -P -m bench.failover $(BENCH_ARGS) --only replicas lag up idle throughput

bench-gateway: environment ## Measure the gateway beside direct connections and pgbouncer
	.venv/bin/python -P -m bench.gateway $(BENCH_ARGS)

bench-kubernetes: environment ## Measure a cluster on the rig: first answer, scaling, lost pods and nodes
	cd tests && ../.venv/bin/python -m e2e.bench $(BENCH_ARGS)

bench-operator: environment ## Measure one operator of 200 settled clusters: memory, processor, writes
	.venv/bin/python -P -m bench.operator_scale $(BENCH_ARGS)

report-check: environment ## Look at a report of `seawall bench` in Chromium; SEAWALL_SCREENSHOT=DIR keeps it
	.venv/bin/pytest tests/integration/bench/test_report_in_browser.py -rs -s $(PYTEST_ARGS)

pg-suites: environment ## PostgreSQL's own suites against a cluster, before and after a failover; storage against stock
	.venv/bin/python -P -m bench.pg_suites $(BENCH_ARGS)

check: environment lint types unit ## What to run before a commit

clean: ## Remove what was built or cached; .venv stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f sqlnode/pagefault/*.so
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
