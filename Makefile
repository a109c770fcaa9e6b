# make train        set up, then train a 9-layer PixelCNN skip model and report on its collapse
# make test         set up, then run the whole test suite
# make torture      count in full how runs survive kills, signals, faults and damage -> results/torture.json
# make check-slow   a tenth of that; every command and notebook of the documentation, quickly; what a compiler makes of a step
# make bench        what is fast and how fast, beside other libraries: at most 20 minutes -> results/benchmarks.json, docs/performance.md
# make docs         the site, in docs/_build/html; a warning is an error
# make notebooks    the notebooks in full: exercises and solutions (ARGS=02 for one)
# make dist         wheel and source distribution in dist/, checked
# make check-wheel  the wheel away from here, on Python 3.11 and the newest at hand: doctor, examples, scikit-learn's checks
# make check-lowest a part of the tests with the lowest versions that setup.py allows (but for torch's)
# make lock         requirements.lock anew, after a change of what setup.py requires
PYTHON ?= python3
ARGS ?=
VENV := .venv
export SKIPVAE_DATA ?= ../shared/data

.PHONY: setup extras train test torture check-slow bench docs notebooks dist check-wheel check-lowest lock lint types clean
setup: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

extras: $(VENV)/installed-extras  # what the site and the notebooks are made with

$(VENV)/installed-extras: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,notebooks]'
	touch $@

train: setup
	$(VENV)/bin/skipvae-pyro train $(ARGS)

test: setup lint types
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto

# runs killed, stopped, poisoned and started twice, in full; goes on with a count that was broken off
torture: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(VENV)/bin/python -m torture --out results/torture.json $(ARGS)

check-slow: extras  # a tenth of it
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(VENV)/bin/python -m torture --scale 0.1 $(ARGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow

$(VENV)/installed-benchmarks: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,benchmarks]'
	touch $@

# goes on where it was broken off; one thread but for J1
bench: $(VENV)/installed-benchmarks
	$(VENV)/bin/python benchmarks/table.py --minutes 16 $(ARGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/growth.py --minutes 2
	$(VENV)/bin/python benchmarks/table.py --markdown

docs: extras
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

notebooks: extras
	OMP_NUM_THREADS=1 $(VENV)/bin/python examples/notebooks/build.py $(ARGS)

$(VENV)/installed-release: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,release]'
	touch $@

dist: $(VENV)/installed-release
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m twine check --strict dist/*

check-wheel: dist
	.ci/interpreters | xargs -I{} .ci/wheel {}

# what reads files, draws pictures, computes and stores, and so is the first to notice another version
LOWEST := test_packaging.py test_estimator.py test_objectives.py test_likelihoods.py data/test_own_files.py data/test_data.py \
	diagnostics/test_known_answers.py diagnostics/test_report.py distributions guides/test_codes.py runs/test_checkpoint.py \
	runs/test_included.py reports/test_page.py reports/test_comparison.py cli/test_run_commands.py
check-lowest: setup
	rm -rf $(VENV)-lowest
	$(PYTHON) -m venv $(VENV)-lowest
	PYTHONPATH=tests $(VENV)/bin/python tests/setup_ranges.py > $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)-lowest/lowest.txt --editable . \
		pytest pytest-xdist hypothesis
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -q -n auto -p no:cacheprovider $(addprefix tests/,$(LOWEST)) \
		--deselect tests/test_packaging.py::test_the_pins_are_what_the_tests_run_with \
		--deselect tests/test_packaging.py::test_a_users_script_passes_strict_types

lock: $(VENV)/installed-release
	$(VENV)/bin/python -m uv pip compile setup.py --universal --python-version 3.11 --all-extras --constraint constraints.txt \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

lint: setup
	$(VENV)/bin/ruff check pyro_skipvae cli examples benchmarks tests setup.py

# the wings that are annotated throughout; settings in pyproject.toml
TYPED := $(addprefix pyro_skipvae/,model.py callables skip.py blocks.py likelihoods.py objectives schedules.py priors decoders distributions guides encoders training \
	diagnostics data runs/folder.py runs/loaded.py)
types: setup
	$(VENV)/bin/python -m mypy $(TYPED)

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist docs/_build docs/notebooks *.egg-info
