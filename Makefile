# The ways in. Everything runs from a virtual environment made here; only the lab needs root and
# Debian 12.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests start antipode hundreds of times, and without bytecode each start compiles all of it.
unexport PYTHONDONTWRITEBYTECODE

STATIC := set -x; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && \
	$(BIN)/mypy --strict src lab bench nova_quiesce/src antipode_client/src .ci tests && \
	$(BIN)/mypy --strict --platform darwin --cache-dir .mypy_cache/darwin src

.PHONY: demo lab-demo test test-unit test-static test-kill-matrix test-kill-matrix-core \
	test-kill-matrix-rest test-contract test-contract-lab test-contract-lab-core \
	test-contract-lab-rest test-sandbox test-sandbox-core test-sandbox-rest test-console \
	distributed-servers test-distributed lab lab-from-nothing lab-down lab-wipe test-lab \
	test-lab-core test-lab-rest test-nova-quiesce test-distributions bench bench-api \
	bench-scale bench-week format test-tempest clean

demo: $(READY)            ## embedded sites: drill, disaster, recovery, the way back: a good minute
	$(BIN)/antipode demo --report build/demo-report.json

lab-demo: $(READY)        ## its first half on two real OpenStack sites (root, Debian 12)
	$(BIN)/python -m lab.demo

test: $(READY)            ## unit tests and static checks, side by side; no cloud
	$(MAKE) --no-print-directory -j 2 test-unit test-static

test-unit: $(READY)       ## what needs no cloud, except for the kill matrix
	$(BIN)/pytest tests/unit -q -n 3 --dist worksteal --timeout 600 \
		--ignore tests/unit/test_kill_matrix.py

test-static: $(READY)     ## style, imports and types; shown in one piece
	mkdir -p build
	@( $(STATIC) ) >build/static.log 2>&1; status=$$?; cat build/static.log; exit $$status

TEST_KILL_MATRIX := $(BIN)/pytest tests/unit/test_kill_matrix.py -q -n 2 --timeout 1800

test-kill-matrix: $(READY)  ## a run killed at every task and write, and resumed; no cloud
	$(TEST_KILL_MATRIX)

test-kill-matrix-core: $(READY)  ## at every fourth of these points
	$(TEST_KILL_MATRIX) -m "not rest"

test-kill-matrix-rest: $(READY)  ## and at all the others
	$(TEST_KILL_MATRIX) -m rest

test-contract: $(READY)   ## what antipode calls, on the embedded sites
	$(BIN)/pytest tests/contract -q -n 4 --timeout 1200

test-contract-lab: lab    ## the same on the two real sites; differences are bugs of the embedded
	$(BIN)/pytest tests/contract -q --sites lab

test-contract-lab-core: lab  ## those of them that antipode relies on most
	$(BIN)/pytest tests/contract -q --sites lab -m core

test-contract-lab-rest: lab  ## and all the others
	$(BIN)/pytest tests/contract -q --sites lab -m "not core"

TEST_SANDBOX := $(BIN)/pytest tests/sandbox -q -n 6 --timeout 1200

test-sandbox: $(READY)    ## antipode's command line on embedded sites, with faults
	$(TEST_SANDBOX)

test-sandbox-core: $(READY)  ## those of them that every change has to pass
	$(TEST_SANDBOX) -m "not rest"

test-sandbox-rest: $(READY)  ## and all the others
	$(TEST_SANDBOX) -m rest

test-console: $(READY)    ## the web console in Debian's Chromium; pictures in build/console/
	$(BIN)/python -m tests.console.packages
	$(BIN)/pytest tests/console -q --timeout 1200

distributed-servers: $(READY)  ## etcd, PostgreSQL, MariaDB and Redis, from Debian, as root
	$(BIN)/python -m tests.distributed.packages

test-distributed: distributed-servers  ## several hosts, on real etcd, databases and Redis
	$(BIN)/pytest tests/distributed -q -n 3 --timeout 600

lab: $(READY)             ## bring the two sites up (idempotent)
	$(BIN)/python -m lab up

lab-from-nothing: $(READY)        ## the same, without the caches and the data of an earlier one
	$(BIN)/python -m lab wipe --all
	$(BIN)/python -m lab up

lab-down: $(READY)        ## stop the sites, keep what they hold
	$(BIN)/python -m lab down

lab-wipe: $(READY)        ## stop the sites and forget them
	$(BIN)/python -m lab wipe

test-lab: lab             ## tests against the two real sites
	$(BIN)/pytest tests/lab -q -m "not unseen"

test-lab-core: lab        ## those of them that every change has to pass
	$(BIN)/pytest tests/lab -q -m core

test-lab-rest: lab        ## and all the others
	$(BIN)/pytest tests/lab -q -m "not core and not unseen"

test-nova-quiesce: $(READY)  ## the Nova add-on with three Novas, old to new, or NOVAS="29 31"
	$(BIN)/python -m lab test-nova-quiesce $(NOVAS)

test-tempest: lab         ## Tempest's compute API tests, with the add-on and without
	$(BIN)/python -m lab.tempest $(TEMPEST)

test-distributions: $(READY)  ## wheels and sdists: built, and tried in an empty environment
	$(BIN)/python .ci/distributions.py

bench: lab                ## antipode beside a floor and beside the openstack command line
	$(BIN)/python -m lab.canary remove site-b
	$(BIN)/python -m bench
	$(BIN)/python -m bench.replicated
	$(BIN)/python -m bench.standing
	$(BIN)/python -m bench.standing --members 1 --gib 20
	$(BIN)/python -m bench.streams
	$(BIN)/python -m bench --volumes 10 --skip-cli
	$(BIN)/python -m lab.canary remove site-a

bench-week: $(READY)      ## a week of 200 VNFs by a played clock, on two hosts that are killed
	$(BIN)/python -m bench.week

bench-api: $(READY)       ## the REST API under load, on embedded sites
	$(BIN)/python -m bench.api

bench-scale: $(READY)     ## antipode's own cost with 20, 200 and 2,000 volumes, on embedded sites
	$(BIN)/python -m bench.scale

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist

$(READY): pyproject.toml antipode_client/pyproject.toml
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --prefer-binary -e '.[lab,dev]' \
		-e ./antipode_client
	touch $(READY)
