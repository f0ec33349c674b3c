# The study: `make study` (PRESET=mini by default), `make test`, `make check`, `make lab`, `make bench`.
# Each target is a few plain python lines; the README shows them for machines without make.

# Threads that wait soon leave their core to other programs.
export GOMP_SPINCOUNT ?= 2000

PRESET ?= mini
BASE_PYTHON ?= python3
PYTHON := .venv/bin/python
INSTALLED := .venv/installed

.PHONY: study test check lab bench faults clean

study: $(INSTALLED)
	$(PYTHON) -m doit preset=$(PRESET)

test: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n 2 --dist loadfile

# Style, types, clean notebooks, and the tests that neither train nor run a notebook nor need a browser.
check: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow"

# A tenth of the paper's size; IMAGES=118287 is all of it.
IMAGES ?= 11829
bench: $(INSTALLED)
	$(PYTHON) tests/bench/make_corpus.py data/bench/$(IMAGES) $(IMAGES)
	$(PYTHON) tests/bench/merge.py data/bench/$(IMAGES)
	$(PYTHON) tests/bench/inspector.py $(IMAGES)

# Kills, full disks, a cut network, hostile input: ten minutes.
faults: $(INSTALLED)
	$(PYTHON) tests/faults/run.py
	$(PYTHON) -m pip install --quiet -r tests/hostile/requirements.txt
	$(PYTHON) tests/hostile/campaign.py

lab: $(INSTALLED)
	$(PYTHON) -m jupyter lab notebooks

$(INSTALLED): requirements.txt requirements.lock pyproject.toml
	$(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet -r requirements.txt -c requirements.lock
	$(PYTHON) -m pip install --quiet --no-deps -e .
	touch $(INSTALLED)

clean:
	rm -rf .venv .mypy_cache data/mini data/smoke data/bench reports/mini reports/smoke
