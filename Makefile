# Everything is installed into .venv, in the folder of this file; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin
# constraints.txt says which releases: of pip first, then of all that is installed and of the setuptools it is built with.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
INSTALL := $(PIP) pip && $(PIP) --build-constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help demo test test-all conformance torture lint stale schemas bench install update clean

help:
	@echo 'make demo     install what the demo needs and run it: handwritten digits, from PyTorch to checked predictions'
	@echo 'make test     install what the tests need and run them: a few minutes'
	@echo 'make test-all the same, with the tests that take minutes each'
	@echo 'make conformance  run all of ONNX own backend tests through trtpipe: up to half an hour'
	@echo 'make torture  kill, starve, damage and confuse it for a quarter of an hour; print what was lost'
	@echo 'make lint     ruff, its formatter, and mypy'
	@echo 'make stale    fail if schemas/, docs/stages/ or docs/floors.svg do not fit the code'
	@echo 'make schemas  write schemas/, docs/stages/ and docs/floors.svg again from the code'
	@echo 'make bench    measure; takes ten minutes on a quiet machine'
	@echo 'make update   write constraints.txt again: the newest releases of all that is installed here'
	@echo 'make clean    remove .venv and caches (artifacts/ stays)'

demo: .venv/demo.stamp
	@$(BIN)/trtpipe run pipelines/digits.yaml
	@echo
	@head -n 6 "$$($(BIN)/trtpipe show pipelines/digits.yaml labels/table.txt)"
	@echo
	@echo 'what each stage made:    artifacts/view/digits/'
	@echo 'the predictions:         artifacts/view/digits/labels/table.txt'
	@echo 'run it yourself:         .venv/bin/trtpipe run pipelines/digits.yaml'

test: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' $(PYTEST)

test-all: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

conformance: .venv/test.stamp
	timeout 1800 $(BIN)/python -m tests.conformance $(CONFORMANCE)

torture: .venv/test.stamp
	timeout 900 $(BIN)/python tests/torture.py --long

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stale: .venv/test.stamp
	$(BIN)/trtpipe schema --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/floors.py --check

schemas: .venv/test.stamp
	$(BIN)/trtpipe schema --write
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/floors.py

bench: .venv/test.stamp
	$(BIN)/python bench/noop.py
	$(BIN)/python bench/hash.py
	$(BIN)/python bench/store.py
	$(BIN)/python bench/disk.py
	$(BIN)/python bench/infer_ort.py
	$(BIN)/python bench/fill.py --threads 1,2
	$(BIN)/python bench/remote.py

install: .venv/test.stamp

# One file for every Python from 3.10 on: where releases must differ, each line says where it holds.
# What must stay as it is stands in pyproject.toml, under [tool.uv].
update: | .venv/bin/python
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate \
		--custom-compile-command 'make update' --output-file constraints.txt \
		--extra demo --extra test --extra models --extra rtx --group tools pyproject.toml

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("trtpipe needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; say which: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# A stamp says that an extra is installed as pyproject.toml has it now.
.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing trtpipe with PyTorch and ONNX Runtime into .venv (minutes, once)'
	$(INSTALL) '.[demo]'
	@touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing trtpipe with what its tests need into .venv (minutes, once)'
	$(INSTALL) '.[test,models,rtx]'
	@touch $@

clean:
	rm -rf .venv build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
