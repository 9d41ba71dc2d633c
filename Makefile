# Two commands matter: make demo, make test. Each prepares what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-full crash soak dst defects lint bench wheel lock clean

demo: .venv/.run
	@$(BIN)/fangkong demo

test: .venv/.dev
	@$(PYTEST) -m "not full and not soak" -n 4 --dist worksteal

# What needs apt packages on top: independent peers, a real Prometheus, a browser (.ci/tools installs them as root).
test-full: .venv/.dev .venv/peers/libosdp
	@.ci/tools
	@$(PYTEST) -m "(full or peer) and not soak" --all-peers -n 4 --dist worksteal

# Kills under load with a balance at the end, then one at every system call: make crash KILLS=1000 SEED=7
KILLS ?= 100
crash: .venv/.dev
	@.ci/tools
	@$(BIN)/python -m tests.crash --kills $(KILLS) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.crash.sweep

# Simulated bad weeks, thousands a minute: make dst SEEDS=100000, and what happened in one: make dst SEED=123
SEEDS ?= 10000
dst: .venv/.dev
	@$(BIN)/python -m tests.dst $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

# Plants each known mistake in a copy of the sources and shows which test notices (docs/evidence.md).
defects: .venv/.dev
	@$(BIN)/python -m tests.planted

lint: .venv/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m dashboards.src.overview --check
	@$(BIN)/python -m dashboards.src.families --check
	@$(BIN)/python -m dashboards.src.coverage --check
	@$(BIN)/python -m tests.evidence --check
	@$(BIN)/python -m tests.ladder --check

# The stories at full size: docs/testing.md. make soak EVENTS=300000
EVENTS ?= 1000000
soak: .venv/.dev
	@.ci/tools
	@SOAK_EVENTS=$(EVENTS) $(BIN)/python -m tests.soak

# The gateway beside the least such a program must do, in one run: docs/proof.md.
bench: .venv/.dev
	@$(BIN)/python -m bench

# What a box gets: docs/install.md.
wheel: .venv/.uv
	@$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist .
	@ls dist/*.whl

# Hashes, no registry address inside: the lock works with whatever index the machine is set up for.
lock: .venv/.uv
	@$(BIN)/uv pip compile -q --universal --no-header --generate-hashes pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --universal --no-header --generate-hashes --group pyproject.toml:dev pyproject.toml -o requirements-dev.lock
	@echo libosdp==3.2.9 | $(BIN)/uv pip compile -q --universal --no-header --generate-hashes - -o requirements-libosdp.lock

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.uv: requirements-uv.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: apt install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Fangkong needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.11 $(or $(MAKECMDGOALS),demo)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "The venv module is missing: apt install python3-venv"; exit 2; }
	@echo "preparing .venv ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

.venv/.run: .venv/.uv requirements.lock pyproject.toml
	@$(call install,requirements.lock)
	@touch $@

.venv/.dev: .venv/.uv requirements-dev.lock pyproject.toml
	@$(call install,requirements-dev.lock)
	@touch $@ .venv/.run

# A peer with an environment of its own: libosdp and osdp install the same package.
.venv/peers/libosdp: requirements-libosdp.lock .venv/.dev
	@echo "preparing $@ ..."
	@$(BIN)/python -m venv --clear $@
	@$@/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $< || { rm -rf $@; exit 2; }
	@touch $@

# uv is fast; pip does the same where uv cannot reach an index that only pip is set up for.
install = echo "installing from $(1) ..."; \
	{ $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r $(1) && $(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e . ; } \
	|| { $(BIN)/python -m pip install -q --require-hashes -r $(1) && $(BIN)/python -m pip install -q --no-deps -e . ; }
