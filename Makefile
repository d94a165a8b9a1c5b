# `make help` lists the targets. PYTHON chooses the interpreter of the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUTS ?= outputs
COHORT ?= cohort=phantom cohort/preset=paper
PAPER_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo docs paper test test-slurm faults lint data train report screenshots tensorboard clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: data train report ## phantom cohort, preprocessing, SL sweep, ML, table and figures

data: $(STAMP) ## build and preprocess the demo cohort
	$(BIN)/python experiments/prepare.py cohort=phantom cohort/preset=demo

train: $(STAMP) ## train the demo's SL sweep and ML, and evaluate them on HS and DS
	$(BIN)/python experiments/train.py experiment=demo_sl
	$(BIN)/python experiments/train.py experiment=demo_ml

report: $(STAMP) ## table and figures from the demo's predictions
	$(BIN)/python experiments/report.py runs=$(OUTPUTS)/demo

test: lint ## lint, types and tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(STAMP) ## formatting, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

faults: $(STAMP) ## kill, fill up, damage and fuzz everything; the table goes to outputs/faults
	$(BIN)/python tests/faults/run.py

test-slurm: $(STAMP) ## sweeps and shards on a SLURM node of their own (as root; installs it once)
	SLURM_TESTS=1 $(BIN)/python -m pytest -q tests/slurm

paper: $(STAMP) ## the paper's whole study from nothing; COHORT=... PAPER_ARGS=trainer.max_epochs=100
	$(BIN)/python experiments/prepare.py $(COHORT)
	$(BIN)/python experiments/train.py experiment=paper_sl $(COHORT) $(PAPER_ARGS)
	$(BIN)/python experiments/train.py experiment=paper_ml $(COHORT) $(PAPER_ARGS)
	$(BIN)/python experiments/report.py runs=$(OUTPUTS)/paper

docs: $(STAMP) ## the docs as a site, in outputs/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet -f .mkdocs.yml

screenshots: $(STAMP) ## pictures of the demo's report and TensorBoard for docs/images (needs Chromium)
	$(BIN)/python experiments/benchmarks/screenshots.py runs=$(OUTPUTS)/demo
	cp $(OUTPUTS)/demo/report/figures/figure6_examples.png docs/images/

tensorboard: $(STAMP) ## open TensorBoard on outputs/
	$(BIN)/tensorboard --logdir $(OUTPUTS)

clean: ## remove everything that was made under outputs/, and tool caches
	find outputs -mindepth 1 ! -name .gitkeep -delete
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
