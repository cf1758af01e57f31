# Everything runs in a virtual environment of its own; `make quickstart` and `make test` need nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_NUM_THREADS ?= 2
# Tests run side by side, one thread each; a worker holds about 1.5 GB.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help quickstart test matrix check clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart  install, then learn cvit-mini with SMoLoRA (offline, CPU, a few minutes)"
	@echo "make test        install with the test tools, then run the tests"
	@echo "make matrix      every method against everything that is promised of a method"
	@echo "make check       lint, types and import directions"
	@echo "make clean       remove the virtual environment"

$(VENV)/offline.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[offline]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/offline.stamp
	$(BIN)/python -m pip install --quiet --editable '.[offline,test]'
	@touch $@

quickstart: $(VENV)/offline.stamp
	$(BIN)/python -m lit_cvit fit --config configs/quickstart.yaml

test: $(VENV)/test.stamp
	$(PYTEST)

matrix: $(VENV)/test.stamp
	$(PYTEST) -m matrix

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_directions.py

clean:
	rm -rf $(VENV)
