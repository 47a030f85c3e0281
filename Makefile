# The two front doors of the README: `make demo` and `make test`. Both install into .venv first.

PYTHON ?= python3.11
# Which torch to install. The CPU build is enough; where an index of CPU builds is at hand, name it here:
#   make demo TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test docs install check clean

demo: $(READY)
	$(BIN)/harmonet demo --out harmonet-demo

test: $(READY) check
	$(BIN)/python -m pytest -n 2

# The site, in build/docs; sphinx is installed for it alone.
docs: $(READY)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(READY)

$(READY): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone, so that no resolver brings gigabytes of CUDA unasked.
	@if ! $(BIN)/python -c "import torch" 2>/dev/null; then \
	  if [ -z "$(CUDA)" ] && $(PIP) install --dry-run $(TORCH) 2>/dev/null | grep -qiE "Would install.*(nvidia|cuda)"; then \
	    echo "harmonet: $(TORCH) would bring CUDA packages of several GB; name a CPU build with TORCH=, or say CUDA=yes." >&2; \
	    exit 1; \
	  fi; \
	  $(PIP) install -q -c constraints.txt $(TORCH); \
	fi
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	$(PIP) install -q -c constraints.txt --no-deps $(addprefix -e ,$(sort $(dir $(wildcard plugins/*/pyproject.toml))))
	@touch $(READY)

clean:
	rm -rf $(VENV) harmonet-demo
