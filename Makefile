# make lab           set up .venv, then open the workbench in JupyterLab (make lab MODEL=PATH for a model of yours)
# make test          set up .venv and Chromium, then ruff, mypy and every test but the soak tests
# make lint          ruff and mypy only
# make soak          the long tests; hours
# make peers         set up .venv-peers with torchao 0.11, 0.12, 0.18 and hqq, then the tests against them
# make test-oldest   set up .venv-oldest with transformers 5.17 and other oldest releases, then the tests that use them
# make peers-gptqmodel set up .venv-gptqmodel with GPTQModel and the torch that it needs (3 GB), then its tests
# make renderers     fetch the widget managers of VS Code and Colab (npm), then the tests that show the workbench in them
# make demo-model    train the embedded demo model again; 40 minutes
# make clean         remove what the builds and tests left; the environments (.venv, .venv-peers, …) stay
#
# PROCESSES is how many processes make test divides the tests among; PYTEST_OPTIONS="-n 0 -k name" runs some in one.
# PYTHON names the interpreter that .venv is made with: make lab PYTHON=python3.12

PYTHON ?= python3
MODEL ?=
PYTEST_OPTIONS ?=
PROCESSES ?= 2
BIN := .venv/bin
PEERS := .venv-peers
GPTQMODEL := .venv-gptqmodel
OLDEST := .venv-oldest
OLDEST_TORCH ?=
# Not those of a browser, of notebooks and of what else only looks at the project's own files.
OLDEST_TESTS ?= $(filter-out tests/test_notebooks.py tests/test_benchmarks.py tests/test_bootstrap.py,\
	$(wildcard tests/test_*.py)) $(addprefix tests/,checkpoint cli coverage foreign hf improve measure recipe records \
	session solvers triton views widgets)

.PHONY: lab test lint soak peers peers-gptqmodel test-oldest renderers demo-model clean set-up-lab set-up-test

lab: set-up-lab
	@$(BIN)/workbench lab $(if $(MODEL),"$(MODEL)")

test: set-up-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(PROCESSES) --junitxml=build/junit.xml $(PYTEST_OPTIONS)

lint: set-up-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

soak: set-up-test
	$(BIN)/python -m pytest -m soak --timeout=0 $(PYTEST_OPTIONS)

peers: $(PEERS)/installed
	$(PEERS)/bin/python -m pytest tests/peers --ignore=tests/peers/test_gptqmodel.py $(PYTEST_OPTIONS)

# torchao 0.12 is only read: it does not import under the torch that the workbench needs. torchao 0.18 loads exports in a
# process of its own.
$(PEERS)/installed: pyproject.toml constraints.txt | set-up-lab
	$(BIN)/python -m venv --clear --without-pip $(PEERS)
	$(BIN)/python -m pip --python $(PEERS)/bin/python install --constraint constraints.txt --editable ".[peers]"
	$(BIN)/python -m pip install --no-deps --target $(PEERS)/torchao-0.12 torchao==0.12.0
	$(BIN)/python -m pip install --no-deps --target $(PEERS)/torchao-0.18 torchao==0.18.0
	touch $@

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -n $(PROCESSES) $(OLDEST_TESTS) $(PYTEST_OPTIONS)

$(OLDEST)/installed: pyproject.toml constraints.txt constraints-oldest.txt | set-up-lab
	$(BIN)/python -m venv --clear --without-pip $(OLDEST)
	$(BIN)/python scripts/oldest_constraints.py $(if $(OLDEST_TORCH),torch==$(OLDEST_TORCH)) > $(OLDEST)/constraints.txt
	$(BIN)/python -m pip --python $(OLDEST)/bin/python install --constraint $(OLDEST)/constraints.txt --editable ".[test]"
	touch $@

peers-gptqmodel: $(GPTQMODEL)/installed
	$(GPTQMODEL)/bin/python -m pytest tests/peers/test_gptqmodel.py $(PYTEST_OPTIONS)

# Without constraints.txt, whose torch is too old for it.
$(GPTQMODEL)/installed: pyproject.toml | set-up-lab
	$(BIN)/python -m venv --clear --without-pip $(GPTQMODEL)
	$(BIN)/python -m pip --python $(GPTQMODEL)/bin/python install --editable ".[gptqmodel]"
	touch $@

renderers: set-up-test tests/renderers/node_modules/installed
	npm --prefix tests/renderers run build
	$(BIN)/python -m pytest tests/renderers $(PYTEST_OPTIONS)

tests/renderers/node_modules/installed: tests/renderers/package-lock.json
	npm --prefix tests/renderers ci --ignore-scripts --no-audit --no-fund
	touch $@

demo-model: set-up-lab
	$(BIN)/python scripts/train_demo_model.py
	$(BIN)/python scripts/evaluate_demo_model.py

set-up-lab set-up-test: set-up-%:
	@$(PYTHON) scripts/bootstrap.py $*

clean:
	rm -rf build dist exports tests/renderers/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks tests/screenshots
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
