# Every target does all of its own set-up. On a fresh machine: `make demo`, then `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Exactly this torch: where a CPU build is provided pip takes it; a range would pull gigabytes of CUDA libraries.
TORCH  := torch==2.13.0
PYTEST := $(BIN)/python -m pytest
# Two processes at a time. Threads that wait for each other spin, which takes two or three times as long.
BY_TWO := OMP_WAIT_POLICY=passive $(PYTEST) -n 2

.PHONY: demo test lint test-reliability test-peers docs pictures clean

demo: $(VENV)/installed
	$(BIN)/primegpt demo

test: $(VENV)/installed-dev lint
	$(BY_TWO) -m "not reliability and not peers"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check src tests docs
	$(BIN)/ruff format --check src tests docs
	$(BIN)/pyrefly check

test-reliability: $(VENV)/installed-dev
	# A file stays with one process: what its tests share, such as thirty killed runs, is made once.
	$(BY_TWO) -m "reliability and not alone" --dist loadfile --no-loadscope-reorder
	$(PYTEST) -m "reliability and alone"

test-peers: $(VENV)/installed-peers
	$(BY_TWO) -m peers --dist loadfile

docs: $(VENV)/installed-docs
	$(BIN)/python docs/make_site.py

pictures: $(VENV)/installed-docs
	# Of the playground, with two runs trained for them, and of the demo: a quarter of an hour, and a Chromium is needed.
	$(PIP) 'playwright>=1.50'
	$(BIN)/python docs/make_pictures.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/make_recording.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("primegpt needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/installed-peers: $(VENV)/installed-dev
	$(PIP) --editable '.[dev,peers]'
	# llama.cpp is compiled here, which takes minutes and a compiler; its tests are skipped where that fails. Without
	# AMX: virtual machines report it and then call its instructions illegal. No wheel that another machine has built.
	CMAKE_ARGS=-DLLAVA_BUILD=OFF CFLAGS=-U__AMX_INT8__ CXXFLAGS=-U__AMX_INT8__ $(PIP) --no-cache-dir --editable '.[llama-cpp]' || echo "llama.cpp could not be built: its tests will be skipped"
	touch $@

clean:
	rm -rf $(VENV) build dist site .cache .pytest_cache .ruff_cache .hypothesis
