# `make run` and `make test` do all set-up on a fresh Debian-like machine. `make help` lists the rest.
#
# No build rules here: cargo builds. This file installs what is missing and says what to type.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test soak fuzz bench bench-hot static image clean tools test-tools

# rustup puts cargo here before any shell has it on its path.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Ports of the demo; another one may be in use by somebody else.
export DEMO_PORT ?= 8443
export DEMO_ORIGIN_PORT ?= 8080
export DEMO_ADMIN_PORT ?= 9901

# How long each fuzz target runs under `make fuzz`, and how long each storm under `make soak`.
FUZZ_SECONDS ?= 300
SOAK_SECONDS ?= 300
# The same for the taste of fuzzing in `make test`.
FUZZ_TASTE_SECONDS ?= 5

# Options of benches/peers/run.py, such as --quick or --case tls-64.
BENCH_ARGS ?=

TARGET := $(or $(CARGO_TARGET_DIR),target)
MUSL := $(shell uname -m)-unknown-linux-musl
# Of its own, so that building the static binary never waits for, or throws away, another build.
STATIC := $(TARGET)/static
STATIC_PROFILE ?= release
STATIC_DIRECTORY = $(if $(filter dev,$(STATIC_PROFILE)),debug,$(STATIC_PROFILE))

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | column -t -s $$'\t'

run: tools ## Build, then serve a demo: HTTPS before a program that has none
	@cargo build --release
	@.ci/demo $(TARGET)/release/attache

test: tools test-tools ## Run every test
	@.ci/test

soak: tools ## Reload, and have endpoints fail, under load for SOAK_SECONDS; kill what reads 10 million lines
	ATTACHE_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --test it -- --nocapture storm chaos
	ATTACHE_LOG_LINES=10000000 cargo test --release --test it -- --nocapture logs::kills

bench-hot: tools ## Measure the pieces of the hot path
	cargo bench --bench hot_path

fuzz: ## Fuzz each parser for FUZZ_SECONDS (needs nightly and cargo-fuzz)
	@.ci/fuzz $(FUZZ_SECONDS)

bench: tools ## Compare with nginx, HAProxy and Envoy (BENCH_ARGS=--quick for a first look)
	@.ci/setup bench $(TARGET)
	cargo build --release --bin attache --examples
	@benches/peers/run.py --json $(TARGET)/bench.json $(BENCH_ARGS)
	@benches/peers/scatter.py $(TARGET)/release
	@benches/peers/logs.py $(TARGET)/release

static: tools ## Build the static binary that images are made of
	@.ci/setup static $(MUSL)
	cargo build --bin attache --profile $(STATIC_PROFILE) --target $(MUSL) --target-dir $(STATIC)
	@mkdir -p $(STATIC)/image
	@cp $(STATIC)/$(MUSL)/$(STATIC_DIRECTORY)/attache $(STATIC)/image/attache

image: static ## Build the container image attache:latest
	podman build --format docker -f deploy/Containerfile -t attache:latest $(STATIC)/image

clean: ## Remove everything that was built
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts

tools:
	@.ci/setup build

test-tools:
	@.ci/setup test $(TARGET)
