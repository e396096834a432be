# Everything a person or CI does here starts from this file. `make` alone prints the list.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO   ?= cargo
PROFILE ?= dev
# Where cargo puts what it builds; a CARGO_TARGET_DIR from outside is honoured everywhere.
TARGET  := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET)/release
# The programs are built together, so that every target below shares one set of features and one build.
BUILD   := $(CARGO) build --locked --workspace --bins

# What the tests run besides our own programs: tools, and every client of the matrix in tests/tests/e2e/clients.
TEST_NEEDS := openssh-server openssh-client openssh-sftp-server tmux rsync strace python3-paramiko python3-cryptography age \
  cargo-nextest git curl sshfs lftp putty-tools dropbear-bin ansible-core python3-asyncssh node-ssh2 \
  postgresql postgresql-18 python3-asyncpg python3-psycopg node-pg ceph ministack duckdb

.PHONY: help run test check demo rig rig-stop soak fuzz bench conformance audit build release fmt

help: ## Print this list
	@echo "Casemate: a bastion that writes down what is done through it, and can prove it."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Start a bastion here with a working configuration, and print the lines to paste
	@scripts/need openssh-client openssh-server
	@$(BUILD) --release
	@CASEMATE_BINS=$(RELEASE) scripts/run

test: ## Run all tests (what CI runs)
	@CASEMATE_TOOLS=$(TARGET)/tools scripts/need $(TEST_NEEDS)
	$(BUILD)
	CASEMATE_BINS=$(TARGET)/debug $(CARGO) nextest run --locked --workspace $(ARGS)

check: ## Format, lints, dependencies, documentation, import rules, infrastructure, example configurations
	@scripts/need cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	scripts/check-imports
	scripts/check-infra
	$(BUILD)
	CASEMATE_BINS=$(TARGET)/debug scripts/check-examples

fmt: ## Format the sources
	$(CARGO) fmt --all

demo: ## The whole story in a minute: sessions with ssh and psql, their proof, a forged bit, a bucket that gives nothing back
	@scripts/need openssh-server openssh-client openssh-sftp-server
	@scripts/need ceph || echo "casemate: without Ceph the demo leaves out the bucket" >&2
	@$(BUILD) --release
	@$(RELEASE)/casemate-rig demo

rig: ## Start throwaway targets and a bastion under DIR=…, print KEY=VALUE lines [DURABILITY=… POSTGRES=18|none VAULT=s3 RETAIN=1d]
	@test -n "$(DIR)" || { echo "usage: make rig DIR=directory [DURABILITY=strict|causal|process] [POSTGRES=packaged|18|none] [VAULT=dir|s3] [RETAIN=time]" >&2; exit 2; }
	@CASEMATE_TOOLS=$(TARGET)/tools scripts/need openssh-server openssh-client openssh-sftp-server \
	  $(if $(filter none,$(POSTGRES)),,postgresql $(if $(filter 18,$(POSTGRES)),postgresql-18)) $(if $(filter s3,$(VAULT)),ceph) >&2
	@$(BUILD) --release >&2
	@$(RELEASE)/casemate-rig start "$(DIR)" $(if $(DURABILITY),--durability "$(DURABILITY)") $(if $(POSTGRES),--postgres "$(POSTGRES)") \
	  $(if $(VAULT),--vault "$(VAULT)") $(if $(RETAIN),--retain "$(RETAIN)")

rig-stop: ## End exactly what `make rig DIR=…` started
	@test -n "$(DIR)" || { echo "usage: make rig-stop DIR=directory" >&2; exit 2; }
	@test -x $(RELEASE)/casemate-rig || $(BUILD) --release >&2
	@$(RELEASE)/casemate-rig stop "$(DIR)"

soak: ## The long forms of the tests: full sizes, 300 kills per durability (an hour or more)
	@CASEMATE_TOOLS=$(TARGET)/tools scripts/need $(TEST_NEEDS)
	$(BUILD) --release
	CASEMATE_SOAK=1 CASEMATE_BINS=$(RELEASE) $(CARGO) nextest run --locked --release -p casemate-tests --profile soak $(ARGS)

FUZZ_TARGETS = $(notdir $(basename $(wildcard tests/fuzz/fuzz_targets/*.rs)))
fuzz: ## Let libFuzzer loose on every decoder [RUNS=executions | SECONDS_EACH=60] [FUZZ_TARGETS=…]
	@scripts/need cargo-fuzz g++
	@# cargo-fuzz knows no --locked, and would bring an old lock file up to date in silence.
	$(CARGO) fetch --locked --quiet --manifest-path tests/fuzz/Cargo.toml
	cd tests/fuzz && for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(TARGET)/fuzz/found/$$target; \
	  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(TARGET)/fuzz \
	    $(CARGO) fuzz run --fuzz-dir . -s none $$target $(TARGET)/fuzz/found/$$target corpus/$$target -- \
	    -max_len=65536 $(if $(RUNS),-runs=$(RUNS),-max_total_time=$(or $(SECONDS_EACH),60)) || exit 1; \
	done

bench: ## Measure against direct ssh, `ssh -J`, PostgreSQL and pgbouncer: medians of five in random order
	@scripts/need openssh-server openssh-client openssh-sftp-server b3sum postgresql pgbouncer
	$(BUILD) --release
	$(RELEASE)/casemate-bench $(ARGS)

conformance: ## Suites of others, straight at PostgreSQL 15 and 18 and through the bastion: what fails, compared (half an hour)
	@CASEMATE_TOOLS=$(TARGET)/tools scripts/need $(TEST_NEEDS) python3-venv libpostgresql-jdbc-java
	$(BUILD) --release
	CASEMATE_POSTGRES=18 CASEMATE_BINS=$(RELEASE) $(CARGO) nextest run --locked --release -p casemate-tests -E 'test(/^pg_(clients|pitfalls|audit)/)'
	CASEMATE_BINS=$(RELEASE) CASEMATE_TOOLS=$(TARGET)/tools scripts/conformance packaged 18

audit: ## Ask the advisory database about every dependency (needs the internet)
	@scripts/need cargo-deny
	$(CARGO) deny --locked check advisories

build:
	$(BUILD)

release:
	$(BUILD) --release
