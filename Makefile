# Two commands on a fresh machine: `make demo` and `make test`. Everything happens in .venv.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: help install demo test test-all check clean

help:
	@echo "make demo      search on the built-in wafer data, ends with a table, the best settings and a report"
	@echo "make test      the tests that CI runs"
	@echo "make test-all  every test, the slow and the cluster ones too"
	@echo "make check     format, lint, types"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[dev]"
	@# So that `import distributed` works in notebooks and scripts outside this folder. The packages are
	@# not installed under their generic names, because another project is called distributed (Dask's).
	@echo "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/longtail-fusion.pth"
	@touch $@

demo: install
	$(BIN)/python distributed/tune.py --out experiments/demo $(if $(wildcard experiments/demo),--resume)

test: install check
	$(BIN)/python -m pytest -m "not slow and not cluster"

test-all: install check
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
