# The two commands of a newcomer are `make demo` and `make test`; each makes the environment that it needs.
PYTHON ?= python3
VENV ?= .venv
# flags for installing torch alone, such as where to find a build without CUDA libraries
TORCH_FLAGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROMPT ?= a red ball bounces on a wooden floor

.PHONY: demo test lint bench venv clean

demo: $(STAMP)
	$(BIN)/phonofilm generate "$(PROMPT)" -o out/demo.mp4 --sheet
	@ls -l out/demo*

# one process more than there are cores: many tests wait for servers, and for time to pass
test: $(STAMP)
	$(BIN)/python -m pytest -rs -n $$($(BIN)/python -c 'import os; print(min(os.cpu_count() or 1, 4) + 1)') --dist loadfile --no-loadscope-reorder --durations 15

lint: $(STAMP)
	$(BIN)/ruff check src tests scripts
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python scripts/bench.py

venv: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_FLAGS) "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache
