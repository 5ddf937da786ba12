# What one types in this repository. The first target that needs it makes .venv; `make help` lists them all.
# PYTHON=... chooses the interpreter (3.11 or newer); settings such as METRICLOG_URL pass through to the programs.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=

.PHONY: help demo test lint bench dashboards screenshots clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "%-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## train four small models and draw their curves; no server needed
	@$(BIN)/metriclog demo $(DEMO_ARGS)

test: $(VENV)/.dev ## run the tests; PYTEST_ARGS="-m 'not live'" leaves out those that need InfluxDB
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(VENV)/.dev ## measure what a call of log() costs
	@$(BIN)/python benchmarks/log_call.py

dashboards: $(VENV)/.dev ## write dashboards/ again from metriclog/grafana
	@$(BIN)/python -m metriclog.grafana

screenshots: $(VENV)/.screenshots ## look at every dashboard in Chromium; pictures go to build/screenshots
	@$(BIN)/python -m pytest -m live_grafana tests/screens $(PYTEST_ARGS)

# Journals in .metriclog are measurements that may not have been shipped: `clean` leaves them.
clean: ## remove .venv and caches; journals in .metriclog stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find metriclog tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# An interpreter counts only if it really runs, is new enough and can make environments: a version manager's stub may not.
define MAKE_VENV
set -e; \
for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python3.14 python); do \
  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    "$$python" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; \
    exit 0; \
  fi; \
done; \
echo "metriclog needs Python 3.11 or newer with its venv module$(if $(PYTHON),; $(PYTHON) is not one,, and none is on PATH)." >&2; \
echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
exit 1
endef

$(BIN)/python:
	@$(MAKE_VENV)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Installed in place, so that only a change of pyproject.toml, or a new .venv, asks for another install.
$(VENV)/.demo: pyproject.toml $(BIN)/python
	@echo "Installing metriclog and what its demo needs into $(VENV) ..."
	@$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/python
	@echo "Installing metriclog and its development tools into $(VENV) ..."
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.screenshots: pyproject.toml $(VENV)/.dev
	@$(PIP) --editable ".[dev,screenshots]"
	@touch $@
