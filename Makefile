# Two commands do everything on a machine with Python 3.10 or later: `make run` and `make test`. `make help` lists the others.
PYTHON ?= python3
ARGS ?=
VENV := .venv
ENVS := .stackbench/envs
TORCH_ENV := $(ENVS)/test
OLD_ENV := $(ENVS)/oldtorch
FUZZ_ENV := $(ENVS)/fuzz
DOCS_ENV := $(ENVS)/docs
FUZZ_PYTHON ?= 3.12
UV := $(ENVS)/lock/bin/uv
CPU_LOCKS := images/cpu/requirements.lock images/cpu/requirements.cuda.lock
PIP_INSTALL := pip install --quiet --quiet --disable-pip-version-check
PINNED := $(PIP_INSTALL) --require-hashes --no-deps

# With ARGS a selection may leave no test of some kind; without, that is an error.
SOME_TESTS = $(if $(ARGS),|| test $$? -eq 5)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help run test check test-plain test-docker test-ssh test-compose test-torch test-oldtorch test-slurm test-engines test-environments overhead peers scaling trip many verdicts alarms long-run faults fuzz docs docs-check docs-generate lock lock-check wheels dist changelog clean python

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
	@echo "  ARGS=\"…\"               passed on: make run ARGS=\"--suite smoke --method eager\""

run: $(VENV)/.installed  ## plan, build, run every cell and print the tables: what suits this machine
	@$(VENV)/bin/orchestrator run-all $(ARGS)

test: check test-torch test-plain test-docker test-compose  ## lint, types, import contracts, and all tests

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/hadolint images/Dockerfile

# What needs an engine is apart, so that `make --jobs` runs it beside the others: it waits for containers most of the time.
test-compose: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m "compose" $(ARGS) $(SOME_TESTS)

test-docker: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m "docker and not compose and not torch and not oldtorch and not slurm" $(ARGS) $(SOME_TESTS)

# Tests of other hosts wait most of the time: for a node that is noticed to be dead, for a time limit, for silence.
test-ssh: $(VENV)/.dev  ## cells on another host: an sshd of the tests' own and the real Docker Engine
	$(VENV)/bin/python -m pytest -m "ssh" --numprocesses 2 $(ARGS) $(SOME_TESTS)

test-plain: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m "not docker and not ssh and not engines and not torch and not oldtorch and not slurm" $(ARGS) $(SOME_TESTS)

test-slurm: $(VENV)/.dev  ## the launcher slurm on a real cluster that it starts here, as root (.ci/slurm-cluster.sh install)
	$(VENV)/bin/python -m pytest -m slurm --numprocesses 3 --dist worksteal $(ARGS) $(SOME_TESTS)

# One after the other: each keeps two cores busy.
test-engines: $(VENV)/.dev  ## engines in the images of their stacks, which are built: every check, and planted faults
	$(VENV)/bin/python -m pytest -m engines $(ARGS)

# One thread: the models are tiny, and several kinds of tests run beside one another.
test-torch: $(TORCH_ENV)/.installed
	OMP_NUM_THREADS=1 $(TORCH_ENV)/bin/python -m pytest -m torch $(ARGS) $(SOME_TESTS)

test-oldtorch: $(VENV)/.dev $(TORCH_ENV)/.installed $(OLD_ENV)/.installed  ## the same cells under torch 2.1.0 (downloads 2.5 GB)
	STACKBENCH_TEST_PYTHON=$(TORCH_ENV)/bin/python STACKBENCH_TEST_OLD_PYTHON=$(OLD_ENV)/bin/python \
	  $(VENV)/bin/python -m pytest -m oldtorch $(ARGS)

test-environments: $(VENV)/.dev $(TORCH_ENV)/.installed $(OLD_ENV)/.installed

overhead: $(VENV)/.dev  ## what the orchestrator costs: a cell under it against the same `docker run` by hand
	@$(VENV)/bin/python tests/benchmarks/overhead.py $(ARGS)

peers: $(VENV)/.dev  ## a row beside a short script of the same packages, or its engine's own tool: ARGS="--stack tinyllama --method tinyllama"
	@$(VENV)/bin/python tests/benchmarks/peers.py $(ARGS)

scaling: $(VENV)/.dev  ## time to read, reduce and tabulate 1,000, 10,000 and 100,000 records
	@$(VENV)/bin/python tests/benchmarks/scaling.py $(ARGS)

trip: $(VENV)/.dev  ## how many files one cell passes through on its way to a record and a row; what a round costs late in a run
	@$(VENV)/bin/python tests/benchmarks/trip.py $(ARGS)

many: $(VENV)/.dev  ## 5,000 cells on 100 hosts of 8 GPUs, simulated: GPU time used, memory, lag (about a quarter of an hour)
	@$(VENV)/bin/python tests/benchmarks/many.py $(ARGS)

verdicts: $(VENV)/.dev  ## how often intervals hold a known truth, and how often verdicts are false, by simulation
	@$(VENV)/bin/python tests/benchmarks/verdicts.py $(ARGS)

alarms: $(TORCH_ENV)/.installed  ## how often the proof calls a right method wrong: 200 tiny cells, each with its own seed
	@$(TORCH_ENV)/bin/python tests/benchmarks/alarms.py $(ARGS)

long-run: $(VENV)/.dev  ## what the orchestrator needs late in a run of 1,000 cells in containers, against early in it
	@$(VENV)/bin/python tests/benchmarks/long_run.py $(ARGS)

faults: $(VENV)/.dev  ## plant faults (kills, signals, full disks, hostile cells, …) and see what is lost; ARGS=--short: a minute
	@$(VENV)/bin/python tests/faults $(ARGS)

fuzz: $(FUZZ_ENV)/.installed  ## read mutated files guided by coverage, with Python 3.12: ARGS="--seconds 600"
	@$(FUZZ_ENV)/bin/python tests/fuzz $(ARGS)

docs: $(DOCS_ENV)/.installed  ## build the pages of docs/ as a site below build/site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS_ENV)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

docs-check: $(VENV)/.dev docs  ## run every command and example of README and docs/, follow every link, build the site
	$(VENV)/bin/python -m pytest tests/docs $(ARGS)

docs-generate: $(VENV)/.dev  ## write again what in docs/ is made from code and committed runs: pictures, tables, columns
	@PYTHONPATH=. $(VENV)/bin/python tests/support/made_docs.py

lock: $(UV)  ## pin every requirements file again
	@PATH="$(CURDIR)/$(dir $(UV)):$$PATH" $(PYTHON) -m images.lock

lock-check: $(UV)  ## see that every lock still resolves, for its Python, to its own pins and hashes (downloads no wheel)
	@PATH="$(CURDIR)/$(dir $(UV)):$$PATH" $(PYTHON) -m images.lock --check

$(UV): | python
	@$(PYTHON) -m venv $(ENVS)/lock && $(ENVS)/lock/bin/$(PIP_INSTALL) uv

wheels: | python  ## bring wheels from local folders of PIP_FIND_LINKS to where `docker compose build` sees them
	@$(PYTHON) -m orchestrator.build.wheels copy images/*/

# Of what is committed, and of nothing else that lies here. The commit's time makes a wheel the same for everybody.
DIST_FILES := bench orchestrator images pyproject.toml setup.py MANIFEST.in README.md CHANGELOG.md LICENSE
dist: changelog $(UV)  ## build dist/: the wheel and the sdist of the commit that is checked out
	@rm -rf build dist && mkdir -p build/dist && git archive HEAD $(DIST_FILES) | tar -x -C build/dist
	@umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(UV) build --quiet --out-dir dist \
	  --build-constraints images/cpu/requirements.lock --require-hashes build/dist
	@ls dist/*.whl dist/*.tar.gz

changelog:
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); grep -qF "## [$$version] - " CHANGELOG.md || \
	  { echo "make: CHANGELOG.md has no section of version $$version of pyproject.toml; write one: ## [$$version] - DATE" >&2; exit 1; }

clean:  ## remove environments, caches and work folders; results/ stays
	rm -rf $(VENV) .stackbench build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache images/*/wheels
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is missing or older than Python 3.10; name another: make PYTHON=python3.12 …" >&2; exit 1; }

# The commands' environment. A new pyproject.toml or lock installs again.
$(VENV)/.installed: pyproject.toml images/orchestrator.lock | python
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/$(PINNED) -r images/orchestrator.lock
	@$(VENV)/bin/$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed tests/dev.lock
	@echo "adding to $(VENV) what the tests and checks need"
	@$(VENV)/bin/$(PINNED) -r tests/dev.lock
	@touch $@

# Cells write no bytecode: without any, each would compile torch's sources again. One import writes what they need.
write_bytecode = PYTHONDONTWRITEBYTECODE= $(1)/bin/python -c 'import torch._inductor.compile_fx, torch._inductor.codegen.cpp, torch.testing'

# The stack's own pins, with the tests' beside them: what needs torch is tested on the torch that is measured.
$(TORCH_ENV)/.installed: $(CPU_LOCKS) tests/torch.lock | python
	@echo "making $(TORCH_ENV), with torch"
	@rm -rf $(TORCH_ENV) && mkdir -p $(ENVS) && $(PYTHON) -m venv $(TORCH_ENV)
	@$(PYTHON) -m orchestrator.build.wheels links $(TORCH_ENV)/links.html $(CPU_LOCKS)
	@$(TORCH_ENV)/bin/$(PINNED) --no-compile --find-links $(TORCH_ENV)/links.html -r images/cpu/requirements.lock -r tests/torch.lock
	@$(TORCH_ENV)/bin/python -c 'import torch' 2>/dev/null || $(TORCH_ENV)/bin/$(PINNED) -r images/cpu/requirements.cuda.lock
	@$(call write_bytecode,$(TORCH_ENV))
	@touch $@

# torch 2.1.0 has wheels only for Python 3.10 and 3.11. A Python on PATH may be only a shim, so each is tried. Its
# 2.5 GB are installed by uv, from the index that uv is set up with: pip takes more than twice as long.
$(OLD_ENV)/.installed: tests/oldtorch.lock | $(UV)
	@echo "making $(OLD_ENV), with torch 2.1.0"
	@rm -rf $(OLD_ENV) && mkdir -p $(ENVS)
	@for python in $(OLD_PYTHON) python3.10 python3.11 $(PYTHON); do \
	  $$python -c 'import sys; sys.exit((3, 10) > sys.version_info[:2] or sys.version_info[:2] > (3, 11))' 2>/dev/null \
	    && $$python -m venv $(OLD_ENV) && exit; done; echo "make: no Python 3.10 or 3.11 here; name one: OLD_PYTHON=…" >&2; exit 1
	@$(UV) pip install --quiet --python $(OLD_ENV)/bin/python --require-hashes --no-deps -r tests/oldtorch.lock
	@$(call write_bytecode,$(OLD_ENV))
	@touch $@

$(DOCS_ENV)/.installed: tests/docs.lock | python
	@echo "making $(DOCS_ENV), with what builds the site"
	@rm -rf $(DOCS_ENV) && mkdir -p $(ENVS) && $(PYTHON) -m venv $(DOCS_ENV)
	@$(DOCS_ENV)/bin/$(PINNED) -r tests/docs.lock
	@touch $@

# The fuzzer has wheels for few Pythons. uv finds this one, or brings it; FUZZ_PYTHON may also be a path.
$(FUZZ_ENV)/.installed: tests/fuzz.lock | $(UV)
	@echo "making $(FUZZ_ENV), with the fuzzer"
	@rm -rf $(FUZZ_ENV) && $(UV) venv --quiet --python $(FUZZ_PYTHON) $(FUZZ_ENV)
	@$(UV) pip install --quiet --python $(FUZZ_ENV)/bin/python --require-hashes --no-deps -r tests/fuzz.lock
	@touch $@
