# `make` lists what there is to do.
.DEFAULT_GOAL := help
SHELL := bash
PY := .venv/bin/python

# What is compiled is kept: tests compile seven hundred files of theirs else, in each worker anew.
unexport PYTHONDONTWRITEBYTECODE

# A lock is made from the package index alone, whatever this machine adds to it.
COMPILE_FOR = env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL -u UV_FIND_LINKS \
	.venv/bin/uv pip compile --quiet --python-version $(1) --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"
COMPILE := $(call COMPILE_FOR,3.11)
PARTS := services/wallet services/catalog services/billing services/topup services/legacy \
	services/analytics services/gateway deploy/stripe_sandbox

.PHONY: help
help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install:  ## Install what `make run` needs (it does so by itself)
	@deploy/local/install.sh run

.PHONY: install-test
install-test:
	@deploy/local/install.sh test

.PHONY: install-check
install-check:
	@deploy/local/install.sh check

.PHONY: run
run: install  ## Run the whole product on this machine; its data stays in .data/
	@exec $(PY) -m deploy.local.run

.PHONY: test
test: install-test  ## Run every test, on real servers of its own (15 to 30 minutes on two cores)
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/tidy $(ARGS)

.PHONY: check
check: install-check  ## Format, lint, types, tidiness, deployment files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/tidy
	docker-compose --env-file .env.example config --quiet

.PHONY: format
format: install-test  ## Format the code and mend what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: bench
bench:  ## Measure calls, purchases, the ledger and pages
	@deploy/local/install.sh bench
	$(PY) -m pytest -q -s benchmarks -o python_files='bench_*.py' -o python_functions='measure_*' --timeout 1800 $(ARGS)

.PHONY: mutants
mutants:  ## Put faults into PART=billing and count those that tests notice (SAMPLE=40)
	@deploy/local/install.sh mutants
	$(PY) -m mutants $(or $(PART),--help) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: test-stripe
test-stripe: install-test  ## The contract with Stripe, in its test mode (needs STRIPE_API_KEY=sk_test_…)
	@if [ -z "$$STRIPE_API_KEY" ]; then \
		echo "STRIPE_API_KEY is not set: nothing was run. Give a key of Stripe's test mode, sk_test_…"; \
	else \
		$(PY) -m pytest -q -m stripe_contract tests/topup/test_processor_contract.py $(ARGS); \
	fi

.PHONY: test-containers
test-containers: install-test  ## docker-compose.yml on a container engine: build, buy, break, scale
	tests/containers/stand_in/with_engine.sh $(PY) -m pytest -q -m containers tests/containers $(ARGS)

.PHONY: test-cluster
test-cluster:  ## Brokers and databases on machines of their own, killed and cut off while people buy (root)
	@deploy/local/install.sh test
	@deploy/local/install.sh cluster
	tests/cluster/in_a_network.sh $(PY) -m pytest -q -s -m cluster tests/cluster $(ARGS)

.PHONY: test-upgrade
test-upgrade: install-test  ## From the version FROM=commit to this one and back, part by part, while people buy
	UPGRADE_FROM=$(FROM) $(PY) -m pytest -q -s -m "" tests/upgrades $(ARGS)

.PHONY: soak
soak: install-test  ## What takes long: load with crashes, frozen servers, a year of many users
	SOAK_USERS=$(or $(SOAK_USERS),1000) $(PY) -m pytest -q -m soak $(ARGS)
	DRAWN_TIMES=$(or $(DRAWN_TIMES),20) $(PY) -m pytest -q --timeout 0 $$(grep -l "tests.drawn import" tests/*/test_*.py)

.PHONY: chaos
chaos: install-test  ## Faults of all kinds at once for CHAOS_MINUTES=10, as CHAOS_SEED=1 chooses
	$(PY) -m pytest -q -m chaos tests/faults/chaos -k together $(ARGS)

.PHONY: chaos-table
chaos-table: install-test  ## Each fault alone, and what people notice of it into docs/faults.md
	CHAOS_WRITES=yes $(PY) -m pytest -q -m chaos tests/faults/chaos -k alone $(ARGS)

.PHONY: lock
lock:  ## Renew the locked versions and hashes of all packages
	$(COMPILE) --upgrade requirements.in -o requirements.txt
	$(COMPILE) --upgrade requirements-dev.in -o requirements-dev.txt
	$(COMPILE) --upgrade benchmarks/requirements.in -o benchmarks/requirements.txt
	$(COMPILE) --upgrade mutants/requirements.in -o mutants/requirements.txt
	$(COMPILE) --upgrade deploy/kubernetes/requirements.in -o deploy/kubernetes/requirements.txt
	for part in $(PARTS); do \
		$(COMPILE) --upgrade -c requirements.txt $$part/requirements.in \
			-o $$part/requirements.txt || exit 1; \
	done
	$(COMPILE) --upgrade -c requirements.txt clients/python/pyproject.toml \
		-o clients/python/requirements.txt
	@for lock in requirements requirements-dev benchmarks/requirements mutants/requirements \
			deploy/kubernetes/requirements; do \
		cp $$lock.txt .venv/newest.txt && \
		$(call COMPILE_FOR,3.13) $$lock.in -o .venv/newest.txt && \
		cmp $$lock.txt .venv/newest.txt || \
			{ echo "$$lock.txt does not hold for Python 3.13"; exit 1; }; \
	done

.PHONY: sbom
sbom: install-test  ## Write a bill of materials of all locked packages (CycloneDX) to sbom.json
	$(PY) -m tests.tidy.bill_of_materials >sbom.json

.PHONY: docs
docs: install-test  ## Write what is made of the code: schemas, OpenAPI, routes, examples, manifests, dashboards
	$(PY) -m contracts.schemas docs/schemas
	$(PY) -m tests.contracts.golden
	$(PY) -m services.gateway.api docs/openapi.json
	$(PY) -m services.gateway.routes docs/routes.md
	$(PY) -m deploy.kubernetes.manifests deploy/kubernetes
	$(PY) -m deploy.grafana.dashboards deploy/grafana

.PHONY: screenshots
screenshots: install-test  ## Take the pictures of the README anew (docs/images)
	$(PY) -m pytest -q tests/e2e/pictures.py

.PHONY: pictures
pictures: install-test  ## Draw the dashboards anew (docs/images/dashboards) of what people do for PICTURES_MINUTES=6
	@deploy/local/install.sh pictures
	$(PY) -m pytest -q -s tests/monitoring/pictures.py $(ARGS)

.PHONY: vendor
vendor: install  ## Copy the browser libraries of package.json into the website
	npm ci --omit=dev
	$(PY) -m services.gateway.vendor

# What an operator asks of what `make run` runs; ARGS goes to the command.
OPERATE = @$(PY) -m deploy.local.operate $@ $(ARGS)

.PHONY: verify
verify:  ## Check the ledger of the running product
	$(OPERATE)

.PHONY: problems
problems:  ## List payments that need a look
	$(OPERATE)

.PHONY: reconcile
reconcile:  ## Compare Stripe, top-ups and ledger (ARGS="--since 2026-11-01")
	$(OPERATE)

.PHONY: audit
audit:  ## Answer for a credit that nothing explains (ARGS="accept TRANSACTION --by …")
	$(OPERATE)

.PHONY: switch
switch:  ## Stop all automatic charges (ARGS="stop --by … --reason …"), or release
	$(OPERATE)

.PHONY: traces
traces:  ## Print the newest traces of `make run TRACES=1` as trees
	@$(PY) -m deploy.local.traces .data/traces/spans.jsonl $(ARGS)

.PHONY: roles
roles:  ## Who has which role (ARGS="list", or "grant EMAIL operator --by … --reason …", take)
	$(OPERATE)

.PHONY: audit-log
audit-log:  ## What was done by a role (ARGS="check", head, export)
	$(OPERATE)

.PHONY: move
move:  ## Out of the old system (ARGS="plan DIRECTORY --rate 0.1"; docs/migration.md)
	$(OPERATE)

.PHONY: refill
refill:  ## Count what the services have on record (docs/analytics.md)
	$(OPERATE)

.PHONY: dead-letters
dead-letters:  ## Failed messages of a service (ARGS="wallet list", replay, discard)
	$(OPERATE)

.PHONY: republish
republish:  ## Publish again what a service published (ARGS="topup --since 2026-11-29T12:00:00Z")
	$(OPERATE)

.PHONY: restored
restored:  ## Whether a service's tables take new rows, as after a restore (ARGS="wallet")
	$(OPERATE)

.PHONY: dead-notices
dead-notices:  ## Notices of Stripe's that were given up (ARGS="list", replay, discard)
	$(OPERATE)

.PHONY: reset
reset:  ## Remove all data of `make run` (asks first)
	@read -r -p "Remove .data/ with its users, ledger and purchases? [y/N] " answer; \
		[ "$$answer" = y ] || { echo "Nothing was removed."; exit 1; }
	rm -rf .data
