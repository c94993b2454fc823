# emtag: `make demo` and `make test` do everything; each makes what it needs.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# MicroPython's stubs would hide CPython's modules in site-packages; they live beside it.
STUBS := $(VENV)/micropython-stubs
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO ?=
# Tests run on every core; give PYTEST='-x -q tests/wire' for a part. A worker that ended is named with its test and not
# replaced: pytest-xdist's loadgroup may then wait for ever.
PYTEST ?= -n auto --dist loadgroup --max-worker-restart 0

.PHONY: pico pico-memory demo test install lint format types generated bench flood crash systemd fuzz asyncapi docs lock clean

demo: install
	$(BIN)/emtag demo $(DEMO)

test: install
	$(BIN)/pytest $(PYTEST)

install: $(STAMP)

$(STAMP): requirements/dev.txt requirements/stubs.txt pyproject.toml
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "emtag needs Python 3.11 or newer as python3; none was found" >&2; exit 2; fi; \
	test -x $(BIN)/python || $$python -m venv $(VENV) || \
	  { echo "python3 has no venv module: install it (on Debian: apt install python3-venv)" >&2; rm -rf $(VENV); exit 2; }
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --require-hashes --upgrade --target $(STUBS) -r requirements/stubs.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy
	MYPYPATH=$(STUBS) $(BIN)/mypy --config-file firmware/mypy.ini --custom-typeshed-dir $(STUBS) firmware

generated: install
	$(BIN)/emtag generate --check

bench: install
	@for bench in tests/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

# Garbage at line rate on every link at once; needs mosquitto and dbus-daemon.
MINUTES ?= 10
flood: install
	$(BIN)/python tests/links/flood.py $(MINUTES)

# Breaks gateway, broker and backend at random instants; the verdict is the devices'. 200 rounds: up to an hour.
ROUNDS ?= 200
crash: install
	$(BIN)/python tests/crash/run.py --rounds $(ROUNDS)

# Installs the gateway as documented in a machine of its own and boots a real systemd there; root, systemd-nspawn, Debian.
systemd: install
	$(BIN)/python tests/operations/real_systemd.py

# Bounded: each target gets its share of FUZZ_SECONDS.
FUZZ_SECONDS ?= 120
fuzz: install
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

# The standard's own schema, for the test that holds our AsyncAPI document to it (Apache-2.0; needs npm).
asyncapi: $(VENV)/asyncapi/node_modules
$(VENV)/asyncapi/node_modules: $(STAMP)
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/asyncapi @asyncapi/specs@6.11.1
	@touch $@

docs: install
	$(BIN)/emtag generate

# MicroPython for the emulated Raspberry Pi Pico: two minutes, Debian only, root where the compiler is missing. Then the
# emulator's own core for this Python: some 15 s, and all that runs on it takes a fraction of the time.
pico: install
	hil_tests/emrig/pico/build.sh var/pico
	$(BIN)/python -m emrig.pico.faster

# What each model allocates on it over 60 reporting cycles; models beside each other, one a core.
CYCLES ?= 60
pico-memory: pico
	$(BIN)/python -m emrig.pico.memory --cycles $(CYCLES)

# Hashed, and naming no host: pip takes them from wherever it is set up to.
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	--no-emit-options --no-header --strip-extras --allow-unsafe
lock: install
	$(LOCK) --extra gateway --extra rig --extra dev -o requirements/dev.txt pyproject.toml
	$(LOCK) --extra gateway -o requirements/gateway.txt pyproject.toml
	echo micropython-unix-stubs | $(LOCK) --no-annotate -o requirements/stubs.txt -

clean:
	rm -rf $(VENV) build dist var .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
