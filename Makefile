# `make run` and `make test` are all that a fresh machine with Python and make needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install run test check format lint types tests lock clean

help:
	@echo "make run      a fleet on this machine with four demo cameras; options: ARGS=\"--workers 3 --port 9090\""
	@echo "make test     format, lint, types and tests"
	@echo "make debian   as root, once: the browser and the RTSP server that some tests use"
	@echo "make bench    figures beside limits and baselines: tables, charts, files; options: ARGS=\"--quick\""
	@echo "make format   write the code as 'make check' wants it"
	@echo "make lock     resolve the dependencies anew into requirements.lock"

# What the tests use beside Python. Without a browser or an RTSP server, the tests that need it are skipped.
DEBIAN := chromium gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi

.PHONY: debian
debian:
	@dpkg -s $(DEBIAN) >/dev/null 2>&1 || \
	(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(DEBIAN) >/dev/null)

install: $(VENV)/.installed

# Hashes are checked, and our own package is built with what the lock holds: nothing is fetched that it does not name.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: install
	@exec $(BIN)/streamfleet up --demo $(ARGS)

test: check

check: format-check lint types tests

.PHONY: format-check bench
format-check: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

tests: install
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
		--extra worker --extra cpu --extra api --group dev --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
