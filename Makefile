# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
#
# One target folder and one profile (--release) for everything, so that RocksDB's C++ is compiled once a machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/shoal
export CARGO_TARGET_DIR ?= $(CACHE)/target
export SHOAL_TOOLS ?= $(CACHE)/tools
export PATH := $(PATH):$(HOME)/.cargo/bin:$(SHOAL_TOOLS)/bin:$(SHOAL_TOOLS)/venv/bin
export CARGO_TERM_COLOR ?= $(if $(CI),never,auto)

BINARIES := $(CARGO_TARGET_DIR)/release
ARGS ?=
NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nARGS goes to the command underneath: make demo ARGS="--agents 5"\n'

.PHONY: demo
demo: ## installs what it needs, builds, and shows the main job with real parts
	@.ci/install demo
	@cargo build --release --workspace --bins
	@$(BINARIES)/shoal-loadtest demo $(ARGS)

.PHONY: test
test: ## installs what it needs, then every check and every test
	@.ci/install $(if $(CI),ci,test)
	@$(MAKE) lint build nextest doctest deny deploy$(if $(CI), fuzz)

.PHONY: build
build: ## all binaries
	@.ci/install build
	cargo build --release --locked --workspace --bins

.PHONY: lint
lint: ## format, clippy and documentation, warnings denied
	@.ci/install build
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --release --locked --workspace --no-deps --document-private-items

.PHONY: nextest
nextest: build ## unit, property, simulation and cluster tests
	cargo nextest run --release --locked --workspace --profile $(NEXTEST_PROFILE) $(ARGS)

.PHONY: doctest
doctest: ## examples in the documentation
	cargo test --release --locked --workspace --doc --quiet

.PHONY: deny
deny: ## licences, bans and sources of dependencies
	cargo deny --locked --log-level error check bans licenses sources

.PHONY: bench
bench: build ## every promise about fan-out, measured (root, an hour); ARGS names scenarios
	@.ci/install demo
	@$(BINARIES)/shoal-loadtest bench $(ARGS)

.PHONY: deploy
deploy: build ## chart, units, Dockerfile, dashboards and alerts
	deploy/check.sh

.PHONY: bench-clients
bench-clients: ## what pulling through an agent costs a real containerd (root; minutes)
	@.ci/install demo
	@cargo build --release --locked --workspace --bins
	@$(BINARIES)/shoal-loadtest clients $(ARGS)

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZ_SECONDS, where a nightly toolchain is
	@if ! cargo +nightly --version >/dev/null 2>&1; then \
	    printf 'no nightly toolchain: of the parsers, the properties beside them are all that ran\n'; \
	else \
	    .ci/install fuzz; \
	    for target in agent/accept agent/range agent/request origin/challenge; do \
	        cargo +nightly fuzz run --fuzz-dir $${target%/*}/fuzz $${target#*/} -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	    done; \
	fi

.PHONY: fmt
fmt: ## formats all code
	cargo fmt --all
