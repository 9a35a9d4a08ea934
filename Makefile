# `make help` tells what there is. Everything that is made goes into .venv, target and demo-output.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# What `make test` and `make bench` install as PyTorch, for example TORCH=torch==2.13.0. Empty: what
# compares with PyTorch is skipped, unless it is in .venv already.
TORCH ?=

SOURCES := Cargo.toml $(wildcard Cargo.lock) pyproject.toml README.md LICENSE \
	$(shell find rust python -type f ! -name '*.so' ! -name '*.pyc')

.PHONY: help demo test lint lint-rust lint-python bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

demo: $(VENV)/.demo ## build, install into .venv, convolve a photograph, write demo-output/*.png
	@$(PY) -m faltung demo --output demo-output

test: $(VENV)/.test ## all that must pass, Rust and Python
	@$(if $(TORCH),$(PIP) install '$(TORCH)')
	@$(PY) tests/run.py

lint: lint-rust lint-python ## formatting, clippy, rustdoc, ruff, mypy, stubtest

# Documentation is made with its private items, so links to those are as good as others.
lint-rust: export PYO3_PYTHON := $(CURDIR)/$(PY)
lint-rust: export RUSTDOCFLAGS := -D warnings -A rustdoc::private_intra_doc_links
lint-rust: $(VENV)/.python
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	cargo doc --quiet --no-deps --document-private-items --features python

lint-python: $(VENV)/.dev
	$(PY) -m ruff check --quiet
	$(PY) -m ruff format --quiet --check
	$(PY) -m mypy --no-error-summary
	$(PY) -m mypy.stubtest --concise faltung._core

bench: $(VENV)/.bench ## time tiles and convolutions, alone and beside NumPy and PyTorch
	@$(if $(TORCH),$(PIP) install '$(TORCH)')
	cargo bench
	$(PY) -m pytest benches

clean: ## remove all that make made
	rm -rf $(VENV) target demo-output dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks

# Stamps: a second run reinstalls nothing, a changed source builds again.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("faltung needs Python 3.10 or newer; this one is " \
		+ sys.version.split()[0] + ": make PYTHON=...") if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.built: $(VENV)/.python $(SOURCES)
	@command -v cargo >/dev/null || { echo "faltung needs Rust: https://rustup.rs" >&2; exit 1; }
	@echo "building faltung and installing it into $(VENV)"
	@$(PIP) install .
	@touch $@

# faltung itself is installed by now; this adds what the extra of that name asks for.
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench $(VENV)/.dev: $(VENV)/.built
	@$(PIP) install 'faltung[$(patsubst .%,%,$(notdir $@))]'
	@touch $@
