# Everything runs in a virtual environment of its own; `make quickstart` and `make test` need nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# What pip installs as torch, for a machine with a GPU; without it an installed torch in the range stays.
# make quickstart TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
TORCH ?=
export OMP_NUM_THREADS ?= 2
# Tests run side by side, one thread each; a worker holds about 1.5 GB.
WORKERS ?= 2
# Bytecode of tests and library is kept, also where the environment forbids it: without it, every process compiles
# both again.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
# The tests of a row share its processes, so a worker takes a class as a whole.
MATRIX = $(PYTEST) --dist loadscope -m matrix

# Fast enough to run before every commit: no run of a stream, no process of its own.
QUICK = tests/adapters tests/analysis tests/conventions tests/metrics tests/run tests/utils

.PHONY: help quickstart baseline test test-processes test-oldest matrix matrix-due check quick method clean FORCE
.DELETE_ON_ERROR:

help:
	@echo "make quickstart  install, then learn cvit-mini with SMoLoRA (offline, CPU, a few minutes)"
	@echo "make baseline    the same stream with one plain LoRA, and both runs in one table"
	@echo "make test        install with the test tools, then run the tests"
	@echo "make test-processes  the tests of whole runs that are killed or on several ranks"
	@echo "make test-oldest the compat tests, with the oldest libraries that pyproject.toml allows"
	@echo "make matrix      every method against everything that is promised of a method; goes on where it stopped"
	@echo "make matrix-due  the rows of the matrix whose files have changed, and a quarter of the others by turns"
	@echo "make check       lint, types and import directions"
	@echo "make quick       lint, types and the fast unit tests, in a minute"
	@echo "make method NAME=smolora   the tests of one method and its rows of the matrix"
	@echo "make clean       remove the virtual environments"

# An environment that exists is used as it is.
$(VENV)/offline.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH),$(BIN)/python -m pip install --quiet $(TORCH))
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[offline]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/offline.stamp
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[offline,test]'
	@touch $@

# A TORCH that is named is installed, whatever was there before.
ifneq ($(TORCH),)
$(VENV)/offline.stamp: FORCE
endif
FORCE:

quickstart: $(VENV)/offline.stamp
	$(BIN)/python -m lit_cvit fit --config configs/quickstart.yaml

baseline: $(VENV)/offline.stamp
	test -e runs/smolora-cvit-mini || $(MAKE) quickstart
	$(BIN)/python -m lit_cvit fit --config configs/quickstart.yaml --model SeqLoRA --name seqlora-cvit-mini
	$(BIN)/python -m lit_cvit compare runs/seqlora-cvit-mini runs/smolora-cvit-mini

test: $(VENV)/test.stamp
	$(PYTEST)

test-processes: $(VENV)/test.stamp
	$(PYTEST) -m processes

test-oldest:
	$(MAKE) .venv-oldest/test.stamp VENV=.venv-oldest CONSTRAINTS='--constraint constraints-oldest.txt'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m compat -p no:cacheprovider

matrix: $(VENV)/test.stamp
	$(MATRIX) --rows due

matrix-due: $(VENV)/test.stamp
	$(MATRIX) --rows turn

method: $(VENV)/test.stamp
	$(PYTEST) --dist loadscope -m 'matrix or not (slow or processes)' -k 'not test_method_matrix or $(NAME)' \
		$(wildcard tests/methods/$(NAME) tests/methods/test_$(NAME)*.py) tests/methods/test_method_matrix.py

quick: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) $(QUICK)

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/conventions/test_import_directions.py

clean:
	rm -rf $(VENV) .venv-oldest
