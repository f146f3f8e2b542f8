# Two commands after `git clone`: `make demo` and `make test`. `make test PY=3.12` uses that Python, in an environment of its own.
PYTHON ?= python$(or $(PY),3)
VENV := .venv$(if $(PY),-$(PY))
BIN := $(VENV)/bin
TORCH_VERSION := 2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.installed
RUN_ENV := OMP_NUM_THREADS=1

.PHONY: install demo test test-all docs lint types format clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fieldloop needs Python >= 3.11; say which with 'make PYTHON=python3.12 ...'"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: install it with 'apt-get install python3-venv', or take another Python: 'make PYTHON=...'"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==$(TORCH_VERSION)
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# DFT codes are installed by apt where that is possible, explained where it is not.
demo: install
	@sh examples/install_codes.sh pw.x
	$(RUN_ENV) $(BIN)/fieldloop loop examples/alas/loop.yaml

# More than four at a time want much memory.
test: install
	@sh examples/install_codes.sh pw.x abinit
	$(RUN_ENV) $(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term:skip-covered

test-all: test lint types
	$(RUN_ENV) $(BIN)/python -m pytest -q -m slow

# Pages in site/, to be opened from the disk.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache site
