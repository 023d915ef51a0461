# Two commands, each enough by itself on a machine with Python >= 3.11:
#
#   make demo    set up .venv, make example images, choose functions, train under mpirun (in demo/)
#   make test    set up .venv and run every test; says at the end what was skipped, and why
#
# Parts of it: make lint | unit | mpi | fault | interop | slurm | docs
# Coverage:    make coverage, of each package, by the unit tests
# Longer:      make soak [SOAK_SECONDS=600], make bench
# Generated:   make jobscripts, after a change of jobscripts/parts
# Another interpreter: make test PYTHON=/path/to/python3.12

PYTHON ?= python3
SOAK_SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
SUITES := lint unit mpi fault interop slurm docs

.DEFAULT_GOAL := help
.PHONY: help demo test $(SUITES) coverage soak bench jobscripts setup clean

help:
	@sed -n "/^#/!q; s/^# \{0,1\}//p" Makefile

demo: $(VENV)/.run-time
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: setup
	@$(BIN)/python tests/run.py

$(SUITES): setup
	@$(BIN)/python tests/run.py $@

coverage: setup
	@$(BIN)/python tests/run.py --coverage unit

jobscripts: setup
	@$(BIN)/python jobscripts/parts/generate.py

soak: setup
	@$(BIN)/python tests/run.py --soak $(SOAK_SECONDS)

bench: setup
	@for script in benchmarks/*.py; do \
	    echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

setup: $(VENV)/.complete

# .run-time is what a user needs, .complete everything.
$(VENV)/.run-time: EXTRAS := mpich,plot
$(VENV)/.complete: EXTRAS := mpich,plot,test,docs,dev

$(VENV)/.run-time $(VENV)/.complete: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "ampmpi needs Python 3.11 or newer, and $(PYTHON) is not:" \
	         "name one with  make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make virtual environments: install its venv module" \
	         "(Debian and Ubuntu: python3-venv), or name another PYTHON=" >&2; exit 1; }
	@echo "Installing ampmpi and what it needs into $(VENV) (a download of some 200 MB, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf demo build docs/_build .mypy_cache .ruff_cache .pytest_cache .coverage*
