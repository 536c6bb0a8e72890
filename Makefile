PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

# every process that is started would compile all of its modules anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup run test check fuzz fuzz-api chaos soak crowd simulate test-memory-controller bench demo acceptance clean

# how long the trouble of a chaos run lasts, and its seed (the time of day when empty)
SECONDS ?= 600
SEED ?=

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	# compat: a path in place of an import hook, which every Python of the environment pays for at its start
	$(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/claude-pool serve

test: $(STAMP)
	$(BIN)/pytest -n 5 --dist loadfile --no-loadscope-reorder -m 'not acceptance'

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_architecture.py

acceptance: $(STAMP)
	$(BIN)/pytest -m acceptance -o timeout=900 tests

fuzz: $(STAMP)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest -n 2 --dist load -o timeout=900 $$(grep -rlw hypothesis --include='test_*.py' tests)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

soak: $(STAMP)
	$(BIN)/python -m tests.soak $(if $(SEED),--seed $(SEED))

SEEDS ?= 1000
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

# how long people come and go
CROWD_SECONDS ?= 3600
crowd: $(STAMP)
	$(BIN)/python -m tests.crowd --seconds $(CROWD_SECONDS) $(if $(SEED),--seed $(SEED))

# in a kernel of its own: Debian's package user-mode-linux
test-memory-controller: $(STAMP)
	$(BIN)/python -m tests.memory_controller

FUZZ_SECONDS ?= 600
fuzz-api: $(STAMP)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest -s -p no:randomly tests/fuzz

bench: $(STAMP)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.death_notice

demo: $(STAMP)
	$(BIN)/python demo/pool_demo.py

clean:
	rm -rf $(VENV) build dist
