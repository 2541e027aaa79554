# `make run` and `make test` are all that a fresh machine with Python and make needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Fleets and tests start many processes: each would compile again what it imports of ours.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run test check format lint types tests lock clean

help:
	@echo "make run      a fleet on this machine with four demo cameras; options: ARGS=\"--workers 3 --port 9090\""
	@echo "make test     format, lint, types and tests; installs what they need beside it"
	@echo "make debian   as root, once: the browser, the RTSP server and the tools that some tests use"
	@echo "make package-check  builds wheel and sdist, installs them into an empty environment and runs them"
	@echo "make images-check  as root: builds and runs the container images without Docker, in three minutes"
	@echo "make locks-check  looks up whether the locks have wheels for a Jetson, and installs nothing"
	@echo "make families-check  compares what is read from models with what their own packages find, in ten minutes"
	@echo "make gpu-check  on a machine with an NVIDIA GPU or a Jetson: what runs on it, in eight minutes"
	@echo "make simulate  more seeds of the simulated fleet, resumable; options: SEEDS=100000 or SEEDS=FROM:TO"
	@echo "make chaos    random faults against real processes, resumable; options: SEEDS=20 or SEEDS=FROM:TO"
	@echo "make bench    figures beside limits and baselines: tables, charts, files; options: ARGS=\"--quick\""
	@echo "make bench-compare A=REV B=REV  frames/s and CPU time of two revisions in pairs; options: ARGS=\"--pairs 15\""
	@echo "make docs     the documentation site, into site/"
	@echo "make coverage branches that the in-process tests reach, against the floor in pyproject.toml"
	@echo "make format   write the code as 'make check' wants it"
	@echo "make lock     resolve the dependencies anew into requirements.lock"

# What the tests use beside Python. Without one of them, the tests that need it are skipped.
DEBIAN := chromium debootstrap ffmpeg gir1.2-gst-rtsp-server-1.0 gnupg gstreamer1.0-libav \
	gstreamer1.0-plugins-bad gstreamer1.0-plugins-good gstreamer1.0-tools postgresql python3-gi systemd

.PHONY: debian
debian:
	@dpkg -s $(DEBIAN) >/dev/null 2>&1 || \
	(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(DEBIAN) >/dev/null)

install: $(VENV)/.installed

# Tests and tools need more than what runs, in the same environment.
$(VENV)/.installed: requirements.lock pyproject.toml | python
	@$(PYTHON) tools/create_environment.py $(VENV) requirements.lock
	@touch $@ $(VENV)/.runs

$(VENV)/.runs: requirements-run.lock pyproject.toml | python
	@$(PYTHON) tools/create_environment.py $(VENV) requirements-run.lock
	@touch $@

.PHONY: python ports
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "error: expected Python 3.10 or newer, $(PYTHON) is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) -V 2>&1 || echo not there)"; \
		echo "       name another one, as in: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12"; exit 1; } >&2

# Before a minute is spent on packages: `up` looks again.
ports: python
	@$(PYTHON) tools/ports.py $(ARGS)

run: ports $(VENV)/.runs
	@exec $(BIN)/streamfleet up --demo $(ARGS)

test: check

check: format-check lint types tests

.PHONY: format-check bench bench-compare coverage docs
format-check: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# More processes than most machines of CI have cores: tests of whole fleets wait more than they compute.
tests: install
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Not among the tests: they fetch what they need, the second one for minutes (a Debian, and all that images have).
.PHONY: first-hour-check package-check images-check locks-check gpu-check families-check
first-hour-check: install
	$(BIN)/python -m pytest tests/check_first_hour.py

package-check: install
	$(BIN)/python -m pytest tests/check_package.py

images-check: install
	$(BIN)/python -m pytest tests/check_images.py

locks-check: install
	$(BIN)/python -m pytest tests/check_locks.py

# It makes a second environment, .venv-references, of seven gigabytes, for Python 3.11 and later.
families-check: install
	$(BIN)/python -m tests.check_families $(ARGS)

# It makes an environment of its own, from the locks of the images: no `install`.
gpu-check: python
	$(PYTHON) -m tests.check_gpu $(ARGS)

# On all cores at the lowest priority. What ran is remembered in .simulated/.
.PHONY: simulate
simulate: install
	$(BIN)/python -m tests.simulate $(SEEDS)

# Real processes and random faults, about two minutes a seed. What passed is remembered in .simulated/.
.PHONY: chaos
chaos: install
	$(BIN)/python -m tests.check_chaos $(SEEDS)

# Strictly, and without internet: a broken link or a warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site
	@echo "the documentation: file://$(CURDIR)/site/index.html"

coverage: install
	STREAMFLEET_SEEDS=$(or $(SEEDS),5) $(BIN)/coverage run -m pytest -q tests/core tests/broker/fleet \
		tests/worker/decisions $(ARGS)
	$(BIN)/coverage report

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

bench-compare: install
	$(BIN)/python -m benchmarks.compare "$(A)" "$(B)" $(ARGS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One lock for development, and what each container image needs of it. worker-jetson is for a Jetson whose ONNX
# Runtime is one's own wheel: that one is left out, and what it needs is not.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" pyproject.toml
IMAGE_LOCK := $(COMPILE) --constraint requirements.lock --no-annotate --output-file compose/locks

lock: install
	$(COMPILE) --output-file requirements.lock --extra worker --extra cpu --extra api --extra postgres --group dev
	$(COMPILE) --output-file requirements-run.lock --extra worker --extra cpu --extra api --group run \
		--constraint requirements.lock --no-annotate
	$(IMAGE_LOCK)/broker.txt --extra postgres
	$(IMAGE_LOCK)/api.txt --extra api
	$(IMAGE_LOCK)/worker-cpu.txt --extra worker --extra cpu
	$(IMAGE_LOCK)/worker-gpu.txt --extra worker --extra cuda
	$(IMAGE_LOCK)/worker-jetson.txt --extra worker --extra cpu --no-emit-package onnxruntime
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --constraint requirements.lock --no-annotate \
		--group build --output-file compose/locks/build.txt
	echo "opencv-python; sys_platform == 'never'" | $(BIN)/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --override - \
		--custom-compile-command "make lock" --group references --output-file requirements-references.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage site
