# Each target is a few plain python lines; the README shows them for machines without make.

# Threads that wait soon leave their core to other programs.
export GOMP_SPINCOUNT ?= 2000

PRESET ?= mini
BASE_PYTHON ?= python3
PYTHON := .venv/bin/python
INSTALLED := .venv/installed

.PHONY: help install study test check lab bench faults clean distclean

help:
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

install: $(INSTALLED) ## create .venv and install the locked requirements; every other target does it first

study: $(INSTALLED) ## run all notebooks: PRESET=mini by default
	$(PYTHON) -m doit preset=$(PRESET)

test: $(INSTALLED) ## style, types and all tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n 2 --dist loadfile

check: $(INSTALLED) ## style, types, and the tests that neither train nor run a notebook nor need a browser
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow"

lab: $(INSTALLED) ## open the notebooks in JupyterLab
	$(PYTHON) -m jupyter lab notebooks

IMAGES ?= 11829
bench: $(INSTALLED) ## measure the merge and the inspector; IMAGES=118287 is the paper's size, not a tenth
	$(PYTHON) tests/bench/make_corpus.py data/bench/$(IMAGES) $(IMAGES)
	$(PYTHON) tests/bench/merge.py data/bench/$(IMAGES)
	$(PYTHON) tests/bench/inspector.py $(IMAGES)

faults: $(INSTALLED) ## kills, full disks, a cut network, hostile input: ten minutes
	$(PYTHON) tests/faults/run.py
	$(PYTHON) -m pip install --quiet -r tests/hostile/requirements.txt
	$(PYTHON) tests/hostile/campaign.py

# uv where it is installed, pip elsewhere.
UV := $(shell command -v uv)
$(INSTALLED): requirements.txt requirements.lock pyproject.toml
ifdef UV
	uv venv --seed --allow-existing --python $(BASE_PYTHON) .venv
	uv pip install --quiet --python .venv -r requirements.txt -c requirements.lock
	uv pip install --quiet --python .venv --no-deps -e .
else
	$(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet -r requirements.txt -c requirements.lock
	$(PYTHON) -m pip install --quiet --no-deps -e .
endif
	touch $(INSTALLED)

clean:
	rm -rf .venv .mypy_cache data/mini data/smoke data/bench reports/mini reports/smoke
