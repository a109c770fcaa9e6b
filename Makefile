# make train        set up, then train a 9-layer PixelCNN skip model and report on its collapse
# make test         set up, then run the whole test suite
PYTHON ?= python3
ARGS ?=
VENV := .venv
export SKIPVAE_DATA ?= ../shared/data

.PHONY: setup train test lint clean
setup: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: setup
	$(VENV)/bin/skipvae-pyro train $(ARGS)

test: setup lint
	$(VENV)/bin/python -m pytest

lint: setup
	$(VENV)/bin/ruff check pyro_skipvae cli examples tests setup.py

clean:
	rm -rf $(VENV) build dist *.egg-info
