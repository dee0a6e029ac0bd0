# Riverlock's commands. `make` lists them.

ORDERS ?= 1000
SEED ?= 1
BROKER ?= kafka
INVOICES ?= 100000

# The tests look for the binary in this repository.
unexport CARGO_TARGET_DIR
# rustup's default folder, for shells that have not loaded its environment yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export RIVERLOCK_HOME := $(CURDIR)

riverlock := target/debug/riverlock

# Exit code of `kafka fetch` if Maven Central cannot be reached (EX_UNAVAILABLE).
UNREACHABLE := 69

ifeq ($(filter $(BROKER),kafka embedded),)
$(error BROKER is "$(BROKER)"; it is kafka (Apache Kafka, the default) or embedded (in memory, for machines without Java))
endif

.PHONY: help demo up build fmt check test docs references bench bench-instructions bench-ingest bench-processor bench-invoices bench-account lint deny broker

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  demo and up take ORDERS=$(ORDERS) SEED=$(SEED) BROKER=kafka|embedded, test and bench BROKER, bench INVOICES=$(INVOICES)'

demo: build broker ## play orders from webhook to invoice on real servers, audit everything, and end
	@$(riverlock) demo --orders $(ORDERS) --seed $(SEED) --broker $(BROKER)

up: build broker ## start the same stack, and keep it running with permanent data
	@$(riverlock) stack --broker $(BROKER)

build:
	@deploy/setup build postgres
	@[ -x $(riverlock) ] || echo 'The first build compiles about 300 crates: 7 minutes of CPU time, 4 minutes or more on two cores.' >&2
	cargo build --locked --workspace --bin riverlock

# The embedded broker needs nothing.
broker:
ifeq ($(BROKER),kafka)
	@deploy/setup kafka && deploy/kafka/kafka fetch || { code=$$?; \
	  echo 'Without Java or Maven Central, BROKER=embedded runs on a broker in memory, without persistence.' >&2; exit $$code; }
endif

fmt: ## format the Rust code
	cargo fmt --all

# SQL is checked against .sqlx/ and not against a database; `make lint` does that. Some unit tests of the invoice-fetcher start
# a PostgreSQL, for which it has to be installed.
check: export SQLX_OFFLINE := true
check: ## check format and lints, and run the unit tests of what has changed
	@deploy/setup build postgres
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo test --locked --workspace --lib --config 'target."cfg(unix)".runner = "$(CURDIR)/deploy/unless-passed"'

test: ## run all tests, on their own PostgreSQL, Apache Kafka and Prometheus
	@deploy/setup build postgres prometheus
	@broker=$(BROKER); \
	if [ "$$broker" = kafka ]; then \
	  code=$(UNREACHABLE); \
	  if deploy/setup kafka; then code=0; deploy/kafka/kafka fetch || code=$$?; fi; \
	  case $$code in 0) ;; $(UNREACHABLE)) broker=embedded ;; *) exit $$code ;; esac; \
	fi; \
	if [ "$$broker" = embedded ]; then \
	  case "$$REQUIRE_KAFKA" in ''|0) ;; \
	  *) echo 'There is no Apache Kafka, and REQUIRE_KAFKA is set: the tests are not run.' >&2; exit 1 ;; esac; \
	  printf '%s\n' '' '**********************************************************************************' \
	    '*** NO APACHE KAFKA: the tests run on the embedded broker, and those that need ***' \
	    '*** Kafka are SKIPPED, each by name. REQUIRE_KAFKA=1 makes this a failure.     ***' \
	    '**********************************************************************************' '' >&2; \
	  export RIVERLOCK_TEST_BROKER=embedded; \
	fi; \
	cargo build --locked --workspace --bin riverlock && cargo test --workspace --locked

docs: references ## record the output of commands in README.md and docs/operations
	@deploy/setup build postgres kafka
	@deploy/kafka/kafka fetch
	cargo build --locked --workspace --bin riverlock
	RIVERLOCK_RECORD=1 REQUIRE_KAFKA=1 cargo test --locked -p riverlock-tests --test all -- \
	  the_recipes_print_what_their_page_says the_demo_balances_on_apache_kafka \
	  the_pages_about_the_account_say_what_commands_print

references: ## write the pages of docs/reference that are generated from the code
	RIVERLOCK_RECORD=1 cargo test --locked --workspace --test all -- pages::references::

# The first run compiles everything for release, about 5 minutes on two cores. Then ingest takes 3 minutes, the processor 8,
# 100 000 invoices 7, and the account 3.
bench: bench-instructions bench-ingest bench-processor bench-invoices bench-account ## run all five benchmarks

bench-instructions: ## count instructions against the baseline
	@deploy/setup build bench
	cargo bench --locked -p riverlock-tests --bench instructions

bench-ingest: broker ## measure the cost of accepting a webhook
	@deploy/setup build bench
	cargo bench --locked -p riverlock-tests --bench ingest -- --broker $(BROKER)

bench-processor: broker ## measure the rate of processing a backlog, as a ratio to plain inserts
ifeq ($(BROKER),kafka)
	@deploy/setup build postgres
	cargo bench --locked -p riverlock-tests --bench processor
else
	@echo 'The processor is measured on Apache Kafka only: the embedded broker keeps too few records.' >&2
endif

bench-account: ## compare 1 000 000 events with Digital River's list, report 5 000 shipments at its rate limit
	@deploy/setup build postgres
	cargo bench --locked -p riverlock-tests --bench account

bench-invoices: ## fetch INVOICES invoices at 250 a second, 5 % with faults: CPU, memory, completeness
	@deploy/setup build postgres
	cargo bench --locked -p riverlock-invoice-fetcher --bench invoices -- --documents $(INVOICES)

# It needs a network: the advisories are fetched.
deny: ## check the dependencies for advisories, licences and sources, with cargo-deny
	@cargo deny --version >/dev/null 2>&1 || { \
	  echo 'cargo-deny is not installed: cargo install --locked cargo-deny (5 minutes), or a binary from its releases:' >&2; \
	  echo '  https://github.com/EmbarkStudios/cargo-deny/releases' >&2; exit 1; }
	cargo deny --locked check

lint: ## check format, lints, and every SQL statement against a real PostgreSQL
	@deploy/setup build postgres
	cargo fmt --all --check
	deploy/sqlx-prepare --check
