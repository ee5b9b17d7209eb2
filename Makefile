# `make demo` and `make test` set up a fresh machine; each stage target calls the command of its name.
PYTHON ?= python3
RUN ?= runs/debian
CONFIG ?= data/debian/ssl-recall.toml
BIN := .venv/bin
TOOL := $(BIN)/ssl-recall
STAGE = $(TOOL) $(1) --config $(CONFIG) --run $(RUN)

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults mutants audit lock locked check bench docs clean prepare popularity mi views train export evaluate

help:  ## Show the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(TOOL)  ## Train on the embedded Debian package graph and show head, tail and cold recall with and without SSL.
	$(call STAGE,run)

test: $(BIN)/.dev  ## Run the tests; branch coverage must stay above 90 %.
	$(BIN)/python -m pytest --ignore=tests/faults --cov --cov-report=term --cov-fail-under=90

test-faults: $(BIN)/.dev  ## Inject kills, full disks, power cuts, damage and hostile input; best as root (tests/faults/README.md).
	$(BIN)/python -m pytest tests/faults -ra

mutants: $(BIN)/.dev  ## Put faults into a copy of the code, one at a time: the tests must notice each.
	$(BIN)/python tests/mutants/run.py

audit: $(BIN)/.dev  ## Look for known vulnerabilities of the installed packages (pip-audit), if the network allows it.
	-$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python .ci/audit.py

locked:  ## Install requirements.lock with its hashes into .venv, before other targets do (Python 3.11; torch by its range).
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock

lock: $(BIN)/.dev  ## Rewrite requirements.lock: the tested versions with hashes, without torch.
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/python -m piptools compile --quiet --upgrade --extra dev --generate-hashes --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-header --unsafe-package torch --unsafe-package setuptools --output-file requirements.lock \
		pyproject.toml

check: $(BIN)/.dev  ## Check formatting, lint, the import boundary, strict types and the rules of the layout.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/house.py

docs: $(BIN)/.dev  ## Write docs/settings.md from the settings dataclasses.
	$(BIN)/python .ci/settings_page.py

bench: $(BIN)/.dev  ## Time every stage at two sizes, each next to a reference (benchmarks/results/tables.md).
	$(BIN)/python benchmarks/bench.py

clean:  ## Remove the demo's run folder and the caches.
	rm -rf $(RUN) .pytest_cache .mypy_cache .ruff_cache .coverage

prepare: $(TOOL)  ## Validate, encode and split the tables.
	$(call STAGE,prepare)
popularity: $(TOOL)  ## Count the interactions of each item: p and log p.
	$(call STAGE,compute-popularity)
mi: $(TOOL)  ## Measure mutual information between item features.
	$(call STAGE,compute-mi)
views: $(TOOL)  ## Draw pairs of partial views of every item.
	$(call STAGE,build-views)
train: $(TOOL)  ## Train with SSL, and without it to compare.
	$(call STAGE,train)
	$(call STAGE,train) --no-ssl
export: $(TOOL)  ## Export item and query vectors of both models.
	$(call STAGE,export-embeddings)
	$(call STAGE,export-embeddings) --no-ssl
evaluate: $(TOOL)  ## Measure recall by slice on the test pairs.
	$(call STAGE,evaluate)

$(TOOL): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $(TOOL)

$(BIN)/.dev: pyproject.toml $(TOOL)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(BIN)/.dev
