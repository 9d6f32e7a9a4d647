# The ways into the project. `make` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
CLUSTER := tests/cluster/cluster
CRD := charts/distributed-counter/files/crd.yaml
# One version for crates, chart and images: the workspace's.
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
IMAGE_PREFIX ?= distributed-counter

.PHONY: help run test test-rust test-redis test-browser test-websocket test-openapi test-control-plane check fix crds charts bench soak e2e image programs need-cargo need-go

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: programs ## start examples/page-views.yaml as local processes and print its URLs
	@exec "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/operator" local examples/page-views.yaml

test: test-rust test-redis test-browser test-websocket test-openapi test-control-plane ## run every test that needs no root
	@echo "test: the crates' own tests, the contracts, the simulation, Redis's clients and suite, the browser's side, the WebSocket suite, the OpenAPI document, and the operator on a real control plane all passed"

programs: need-cargo
	$(CARGO) build --locked --package operator --package counter-node --bins

test-rust: programs ## run the tests that need cargo and strace alone
	$(CARGO) test --locked --workspace --exclude counter-tests
	$(CARGO) test --locked --package counter-tests --lib --test contract --test node --test local

test-redis: programs ## run the tests of the Redis port by others' clients, and Redis's own suite (needs redis-tools, tcl, npm, python3-venv, dpkg-dev)
	tests/redis/clients
	$(CARGO) test --locked --package counter-tests --test redis
	tests/redis/suite "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/counter-node"

test-browser: programs ## run the tests of dashboard, widget and example site in a real Chromium (needs chromium and a font)
	$(CARGO) test --locked --package counter-tests --test browser

test-websocket: programs ## run the Autobahn suite against the WebSockets (needs Python 2.7, as pyenv builds it, and curl)
	tests/websocket/autobahn "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/counter-node"

test-openapi: programs ## hold a node to its OpenAPI document by Schemathesis (needs python3-venv and curl)
	tests/openapi/schemathesis "$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/counter-node"

test-control-plane: programs need-go ## run the operator's tests on a real etcd, API server, controller-manager and scheduler
	$(CLUSTER) build-control-plane
	$(CARGO) test --locked --package counter-tests --test control_plane

check: need-cargo ## format, lints and generated files, without changing anything
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	@$(CARGO) run --quiet --locked --package operator --bin operator -- crd | diff -u $(CRD) - \
	  || { echo "check: $(CRD) is not what 'operator crd' prints; run make crds" >&2; exit 1; }
	@if command -v shellcheck >/dev/null; then shellcheck --external-sources --source-path=SCRIPTDIR tests/fuzz/soak $(CLUSTER) tests/cluster/charts tests/redis/clients tests/redis/suite tests/websocket/autobahn tests/openapi/schemathesis .ci/run; \
	  else echo "check: shellcheck is not installed; scripts were not checked"; fi
	@python3 -c 'import ast, sys; [ast.parse(open(name).read(), name) for name in sys.argv[1:]]' .ci/times tests/e2e/run tests/e2e/*.py tests/redis/programs/*.py tests/websocket/*.py tests/openapi/*.py
	@cd tests/e2e && python3 -B -m unittest --quiet

fix: need-cargo ## format, apply lints' suggestions and make generated files anew
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(MAKE) crds

crds: need-cargo ## write the chart's CRD from the operator's types
	@mkdir -p $(dir $(CRD))
	$(CARGO) run --quiet --locked --package operator --bin operator -- crd >$(CRD).part
	@mv $(CRD).part $(CRD)

charts: need-go ## lint and render the chart, and hold it and the examples against strict schemas, offline
	tests/cluster/charts

bench: need-cargo ## measure against bare hyper and Redis, interleaved; writes docs/benchmarks.md and .json (BENCH_ARGS="--help" tells more)
	$(CARGO) build --release --locked --package counter-node --package counter-bench --bins
	@release="$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release"; \
	  "$$release/bench" --node "$$release/counter-node" --markdown docs/benchmarks.md $(BENCH_ARGS)

soak: need-cargo ## fuzz, simulate and kill for hours (SOAK_SECONDS for each fuzz target, SOAK_SEEDS, SOAK_KILLS)
	tests/fuzz/soak

image: need-cargo ## make the two images: with Docker, or as archives in target/images without
	@if docker info >/dev/null 2>&1; then \
	  for name in operator counter-node; do \
	    docker build --file $$name/Dockerfile --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	      --tag $(IMAGE_PREFIX)/$$name:$(VERSION) .; \
	    mkdir -p target/images; docker save --output target/images/$$name.tar $(IMAGE_PREFIX)/$$name:$(VERSION); \
	  done; \
	else \
	  $(CARGO) build --release --locked --package operator --package counter-node --bins; \
	  release="$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release"; \
	  for name in operator counter-node; do \
	    IMAGE_VERSION=$(VERSION) IMAGE_REVISION=$(REVISION) \
	      $(CLUSTER) image $(IMAGE_PREFIX)/$$name:$(VERSION) "$$release/$$name" target/images/$$name.tar; \
	  done; \
	fi
	@echo "image: $(IMAGE_PREFIX)/{operator,counter-node}:$(VERSION), archives in target/images"

e2e: image programs need-go ## install the chart on a real kubelet, and count while the cluster grows and loses Pods (needs root, kind or E2E_CONTEXT)
	OPERATOR_BINARY="$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/operator" \
	  IMAGE_VERSION=$(VERSION) tests/e2e/run

need-cargo:
	@command -v $(CARGO) >/dev/null || { echo "make: Rust is missing; install it from https://rustup.rs" >&2; exit 69; }

need-go:
	@command -v go >/dev/null || { echo "make: Go is missing; install Go 1.26 or newer from https://go.dev/dl" >&2; exit 69; }
