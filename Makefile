# `make run` and `make test` are all that a fresh machine with Python and make needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install run test check format lint types tests lock clean

help:
	@echo "make run      a fleet on this machine with four demo cameras; options: ARGS=\"--workers 3 --port 9090\""
	@echo "make test     format, lint, types and tests"
	@echo "make debian   as root, once: the browser, the RTSP server and the tools that some tests use"
	@echo "make images-check  as root: builds and runs the container images without Docker, in three minutes"
	@echo "make bench    figures beside limits and baselines: tables, charts, files; options: ARGS=\"--quick\""
	@echo "make format   write the code as 'make check' wants it"
	@echo "make lock     resolve the dependencies anew into requirements.lock"

# What the tests use beside Python. Without one of them, the tests that need it are skipped.
DEBIAN := chromium debootstrap gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi systemd

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

# Not among the tests: it takes minutes, and fetches a Debian and all that the images have.
.PHONY: images-check
images-check: install
	$(BIN)/python -m pytest tests/check_images.py

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One lock for development, and what each container image needs of it. NVIDIA's own ONNX Runtime comes to a
# Jetson's image by hand, so that one is left out, and what it needs is not.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" pyproject.toml
IMAGE_LOCK := $(COMPILE) --constraint requirements.lock --no-annotate --output-file compose/locks

lock: install
	$(COMPILE) --output-file requirements.lock --extra worker --extra cpu --extra api --group dev
	$(IMAGE_LOCK)/broker.txt
	$(IMAGE_LOCK)/api.txt --extra api
	$(IMAGE_LOCK)/worker-cpu.txt --extra worker --extra cpu
	$(IMAGE_LOCK)/worker-gpu.txt --extra worker --extra cuda
	$(IMAGE_LOCK)/worker-jetson.txt --extra worker --extra cpu --no-emit-package onnxruntime
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --constraint requirements.lock --no-annotate \
		--group build --output-file compose/locks/build.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
