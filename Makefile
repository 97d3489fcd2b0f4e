# Every target makes .venv itself when it is missing. PYTHON picks the interpreter it is made with.
PYTHON ?= python3
# On Linux the package index serves torch with gigabytes of CUDA; for the CPU build alone:
# make install TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-engines test-inspect test-integrations test-browser test-redis test-statistical check format lint types bench weights clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# A verdict of no (exit 1) is a result, not a failure of make.
demo: install
	$(BIN)/budgetctl eval live pocket --limit 400 --out demo-out || [ $$? -eq 1 ]
	@echo "picture: demo-out/tradeoff.png   report: demo-out/report.html"

test: install
	$(BIN)/python -m pytest

# Packages that cannot share an environment, each family in one of its own below .venvs; FAMILY=litellm runs one.
FAMILY ?=
test-integrations:
	TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) tests/integrations/families.py $(FAMILY)

# Real engines, each in an environment of its own; what cannot be started fails.
VLLM := .venv-vllm
test-engines: install $(VLLM)/.installed
	BUDGETCTL_VLLM=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest -s -rs tests/engines/test_vllm.py \
		tests/engines/test_transformers_serve.py
	TEST_DEADLINES=1 $(BIN)/python -m pytest -s -rs tests/engines/test_deadlines.py

$(VLLM)/.installed: tests/engines/install_vllm.py constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade "pip>=24" wheel
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX) torch
	$(VLLM)/bin/python tests/engines/install_vllm.py
	touch $@

# The report in a real browser: BUDGETCTL_BROWSER is its command. Also loads a page of 10,000 results.
test-browser: install
	BUDGETCTL_BROWSER=$${BUDGETCTL_BROWSER:-chromium} $(BIN)/python -m pytest -s tests/evals/test_report_browser.py

# The ledger of spending limits on a real Redis server, which the tests start and stop: the one that comes with the
# development extra on Linux, or TEST_REDIS_SERVER. Where there is none it fails and says so; make test skips those tests.
test-redis: install
	TEST_REDIS_SERVER=$${TEST_REDIS_SERVER:-$(abspath $(BIN))/redis-server} $(BIN)/python -m pytest -rs tests/ledger

# Worlds in which every certificate is wrong, in full; make test runs a sample of them.
test-statistical: install
	STATISTICAL_REPEATS=2000 $(BIN)/python -m pytest -s tests/statistical
	$(BIN)/python -m budgetctl.evals.risk.honesty

# The exported logs, in the viewer of the real inspect_ai, which has an environment of its own.
INSPECT := .venv-inspect
test-inspect: install $(INSPECT)/.installed
	BUDGETCTL_INSPECT=$(abspath $(INSPECT))/bin/python $(BIN)/python -m pytest -rs tests/engines/test_inspect.py

$(INSPECT)/.installed: constraints.txt
	$(PYTHON) -m venv $(INSPECT)
	$(INSPECT)/bin/python -m pip install --quiet --constraint constraints.txt inspect-ai
	touch $@

check: install lint types
	$(BIN)/python -m pytest -q tests/packaging tests/docs

format: install
	$(BIN)/ruff format budgetctl classifiers evals tests
	$(BIN)/ruff check --fix budgetctl classifiers evals tests

lint: install
	$(BIN)/ruff format --check budgetctl classifiers evals tests
	$(BIN)/ruff check budgetctl classifiers evals tests

# The type checkers do not see through the package mapping of pyproject.toml: give them a tree of links.
types: install
	$(PYTHON) tests/packaging/link_types.py
	MYPYPATH=.types $(BIN)/mypy --strict -p budgetctl
	$(BIN)/pyright

# The shipped classifier, from recorded outcomes: make weights DATA=DIR. One thread, so that sums keep their order.
weights: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m budgetctl.classifiers.weights $(DATA) --out classifiers/default.npz

bench: install
	$(BIN)/budgetctl bench

clean:
	rm -rf $(VENV) $(VLLM) $(INSPECT) .venvs .types build dist *.egg-info demo-out
