# Each target is a few plain python lines; docs/install.md shows them for machines without make.

PRESET ?= mini
BASE_PYTHON ?= python3
PYTHON := .venv/bin/python
INSTALLED := .venv/installed

.PHONY: help install study test check lab bench faults clean distclean

help:
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

install: $(INSTALLED) ## create .venv and install the locked requirements; every other target does it first

study: $(INSTALLED) ## run all notebooks: PRESET=mini by default
	$(PYTHON) -m cocoift study $(PRESET)

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

# A person's work stays: decisions on turns, and files of their own beside those that were drawn.
clean: ## remove what mini, smoke and bench made; curation.jsonl, your own raw files and .venv stay
	rm -rf .mypy_cache data/bench reports/mini reports/smoke
	for raw in data/mini/raw data/smoke/raw; do \
		if grep -qs '^Drawn by' $$raw/MINI_COCO.txt; then \
			(cd $$raw && tail -n +2 MINI_COCO.txt | tr '\n' '\0' | xargs -0 rm -f -- && \
				if [ -z "$$(find . -type f ! -name MINI_COCO.txt)" ]; then rm MINI_COCO.txt; fi); \
		fi; \
	done
	for folder in $(wildcard data/mini data/smoke); do \
		find $$folder -mindepth 1 ! -type d ! -name curation.jsonl ! -path '*/raw/*' ! -path '*/raw' -delete; \
		find $$folder -depth -type d -empty -delete; \
	done

distclean: clean ## clean, and remove .venv
	rm -rf .venv
