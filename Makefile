# Two commands: `make demo` shows the main job, `make test` runs the tests. Both do all the set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check setup clean

demo: $(STAMP)  ## the main job on embedded photos and digits; ends with the path of a report
	$(BIN)/tag2mask demo

test: $(STAMP)  ## all tests; those that need data kept outside the project skip without it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(STAMP)  ## the virtual environment only

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tag2mask needs Python 3.10 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[demo,dev]'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[crf]' 2> $(VENV)/crf.log \
		|| echo "no dense CRF: pydensecrf2 could not be compiled ($(VENV)/crf.log); masks are refined by PAMR instead"
	@touch $(STAMP)

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) runs/demo runs/demo_digits
