# One entry point per task; `make` alone lists them. Everything runs in the project's own .venv, made by `make setup`,
# on which every other target depends. No target asks anything.

PYTHON ?= python3
CPU ?=
DATA_ROOT ?= $(or $(value BNSTUDY_DATA_ROOT),data)
# The others are given on the command line alone: a shell may have a NAME of its own.
unused := $(strip $(foreach v,PRESET JOBS BUDGET_MIN LAUNCHER SEED SWEEP YES STRICT AGAIN REPLACE,$(if $(filter environment,$(origin $v)),$v)))
$(foreach v,$(unused),$(warning $v of the environment is not used: give it behind make, as in make ... $v=$(value $v)))
PRESET =
JOBS =
BUDGET_MIN =
LAUNCHER =
SEED =
SWEEP =
ID =
NAME =
YES =
STRICT =
AGAIN =
REPLACE =
ARGS =

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BNSTUDY := $(BIN)/python -m bnstudy
# A variable that is misspelt would be without effect.
variables := $(shell sed -n 's/^\([A-Z_]*\) ?*=.*/\1/p' $(firstword $(MAKEFILE_LIST)))
unknown := $(filter-out $(variables),$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))
near = $(strip $(foreach v,$(variables),$(if $(or $(findstring $v,$1),$(findstring $1,$v)),$v)))
$(if $(unknown),$(error $(firstword $(unknown)): there is no such variable; $(if $(call near,$(firstword $(unknown))),did you mean $(call near,$(firstword $(unknown)))? )there are: $(variables)))
# So would be one that the target does not take: its line says which it takes, besides those of all targets.
line = $(if $(filter sweep-%,$1),sweep-%,$(if $(filter wandb-sweep-%,$1),wandb-sweep-%,$1))
takes = $(shell sed -n 's/^$(call line,$1):[^\#]*\#\# //p' $(firstword $(MAKEFILE_LIST)) | grep -o '[A-Z_]*=' | tr -d =)
given := $(foreach v,$(variables),$(if $(filter command,$(origin $v)),$v))
taken = $(sort PYTHON CPU DATA_ROOT ARGS $(foreach goal,$(MAKECMDGOALS),$(call takes,$(goal))))
idle := $(if $(MAKECMDGOALS),$(filter-out $(taken),$(given)))
$(if $(idle),$(error $(firstword $(idle)): make $(MAKECMDGOALS) does not take it; it takes: $(taken)))
# A given value is one word to the shell, whatever characters it has; ARGS are words, quoted by the caller.
quoted = '$(subst ','\'',$(value $1))'
option = $(if $(value $1),$2$(call quoted,$1))
# Of variables that switch something on, 0, no, n, false and off leave it off.
wanted = $(filter-out 0 n N no No NO off Off OFF false False FALSE,$(value $1))
preset = $(call option,PRESET,--preset )
strict = $(if $(call wanted,STRICT),--strict)
budget = $(call option,BUDGET_MIN,--budget-min )
jobs = $(call option,JOBS,--jobs )
launcher = $(call option,LAUNCHER,--launcher )
seed = $(call option,SEED,seed=)
again = $(if $(call wanted,AGAIN),--again)
name = $(call option,NAME,--name )
yes = $(if $(call wanted,YES),--yes)
replace = $(if $(call wanted,REPLACE),--replace)
pytest = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export BNSTUDY_DATA_ROOT := $(if $(filter default file,$(origin DATA_ROOT)),$(DATA_ROOT),$(value DATA_ROOT))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUTF8 := 1
# Importing torch without cached bytecode takes half a minute; the cache is written below .venv.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { sub("%", "NAME", $$1); printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nsweeps (NAME):%s\n' "$(patsubst sweeps/%.yaml, %,$(sort $(wildcard sweeps/*.yaml)))"
	@printf 'variables: DATA_ROOT=%s (data folder)  PYTHON=%s (3.11 or newer, makes .venv)  ARGS="..." (added to the command)\n' \
	  $(call quoted,BNSTUDY_DATA_ROOT) $(call quoted,PYTHON)
	@printf 'PRESET is quick, for minutes, unless full is given; full is what is published\n'

.PHONY: setup
setup: $(READY) ## make .venv with the locked, hash-checked packages [CPU=1: torch without its 4 GB of GPU libraries]

.PHONY: reproduce
reproduce: $(READY) ## the main job, from data to report [PRESET=quick|full] [JOBS=n] [SEED=0,1,2]; run again to resume
	$(BNSTUDY) reproduce $(preset) $(jobs) $(seed) $(ARGS)

.PHONY: test
test: $(READY) ## lint, types and tests, but for those of test-slow [ARGS="pytest options"]
	@$(MAKE) --no-print-directory lint
	$(pytest) $(ARGS)

.PHONY: test-slow
test-slow: $(READY) ## whole paths through real processes and clients, which make test leaves out [ARGS="pytest options"]
	$(pytest) -m 'slow and not soak' $(ARGS)

.PHONY: soak
soak: $(READY) ## the tests that take long: a hundred kills, real sweeps side by side [ARGS="pytest options"]
	$(BIN)/python -m pytest -m soak --timeout 0 $(ARGS)

.PHONY: test-slurm
test-slurm: $(READY) ## sweeps through a real Slurm, started on this machine (root; installs it with apt); some minutes
	$(BIN)/python -m pytest -rA --color=no --timeout 0 tests/check_slurm.py $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff, mypy, and which room of src/bnstudy may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache

sweep-%: $(READY) ## one sweep [PRESET=quick|full] [JOBS=n] [LAUNCHER=local|slurm] [BUDGET_MIN=n] [AGAIN=1: also what is published] [YES=1: also what takes more than a day] [SEED=0,1,2] [ARGS="optim.lr=0.1 ..."] (other runs than the preset's: into results/custom, or [NAME=mine]: into results/custom/mine)
	$(BNSTUDY) sweep $* $(preset) $(jobs) $(budget) $(again) $(yes) $(name) $(launcher) $(seed) $(ARGS)

.PHONY: paper-init
paper-init: $(READY) ## the paper's claims on untrained networks, at full depth; PRESET=full: as published [PRESET=quick|full] [JOBS=n] [BUDGET_MIN=n] [SEED=0,1,2] [AGAIN=1] [YES=1]
	$(BNSTUDY) suite paper_init $(preset) $(jobs) $(budget) $(again) $(yes) $(seed) $(ARGS)

.PHONY: paper-train
paper-train: $(READY) ## the paper's trainings, for a GPU; [PRESET=quick|full]; in slices of BUDGET_MIN=n minutes: run again to resume [JOBS=n] [SEED=0,1,2] [AGAIN=1] [YES=1]
	$(BNSTUDY) suite paper_train $(preset) $(jobs) $(budget) $(again) $(yes) $(seed) $(ARGS)

.PHONY: textbook
textbook: $(READY) ## the textbook's study and its report [PRESET=quick|full] [JOBS=n] [BUDGET_MIN=n] [SEED=0,1,2] [AGAIN=1] [YES=1]; run again to resume
	$(BNSTUDY) suite textbook $(preset) $(jobs) $(budget) $(again) $(yes) $(seed) $(ARGS)

.PHONY: beyond
beyond: $(READY) ## questions beyond the paper, by intervention and theory [PRESET=quick|full] [JOBS=n] [BUDGET_MIN=n] [SEED=0,1,2] [AGAIN=1] [YES=1]; run again to resume
	$(BNSTUDY) suite beyond $(preset) $(jobs) $(budget) $(again) $(yes) $(seed) $(ARGS)

.PHONY: status
status: $(READY) ## how far the sweeps are that were started, or one of them: [SWEEP=NAME] [PRESET=quick|full]
	$(BNSTUDY) status $(call option,SWEEP) $(preset) $(ARGS)

.PHONY: ls
ls: $(READY) ## your runs: state, test accuracy, age [ARGS="state=failed norm=batch"] [ARGS=--csv]
	$(BNSTUDY) ls $(ARGS)

.PHONY: show
show: $(READY) ## what is known about one run: ID=its name, or the beginning of it
	@test -n $(call quoted,ID) || { echo "show: name the run, as in: make show ID=lenet-none" >&2; exit 2; }
	$(BNSTUDY) show $(call quoted,ID) $(ARGS)

.PHONY: retry
retry: $(READY) ## train failed runs once more [SWEEP=NAME] [JOBS=n]
	$(BNSTUDY) retry $(call option,SWEEP,--sweep ) $(jobs) $(ARGS)

.PHONY: clean-run
clean-run: $(READY) ## forget one run: ID=its whole name
	@test -n $(call quoted,ID) || { echo "clean-run: name the run, as in: make clean-run ID=lenet-none-lr0.1-s0-1f3a9c2b" >&2; exit 2; }
	$(BNSTUDY) clean-run $(call quoted,ID) $(ARGS)

.PHONY: figures
figures: $(READY) ## figures and claims of the committed tables, into results/redrawn [PRESET=quick|full|custom or NAME=mine: of your own] [STRICT=1: none of several commits]
	$(BNSTUDY) figures $(preset) $(name) $(strict) $(ARGS)

.PHONY: report
report: $(READY) ## the same, and report.html, a page with all of them [PRESET=quick|full|custom or NAME=mine] [STRICT=1]
	$(BNSTUDY) report $(preset) $(name) $(strict) $(ARGS)

.PHONY: notebooks
notebooks: $(READY) ## run the notebooks on the committed tables: results/notebooks/*.html and .ipynb
	$(BNSTUDY) notebooks $(ARGS)

.PHONY: lab
lab: $(READY) ## JupyterLab on the notebooks
	@# its kernels run in the notebooks' folder; components may be several folders, with colons between them
	absolute() { case $$1 in ''|/*|~*) ;; *) printf '%s/' "$$PWD";; esac; printf %s "$$1"; }; \
	own=; IFS=:; set -f; for each in $$BNSTUDY_COMPONENTS; do own=$${own:+$$own:}$$(absolute "$$each"); done; unset IFS; set +f; \
	BNSTUDY_DATA_ROOT=$$(absolute "$$BNSTUDY_DATA_ROOT") BNSTUDY_RESULTS=$$(absolute "$$BNSTUDY_RESULTS") BNSTUDY_COMPONENTS=$$own \
	$(BIN)/jupyter lab --notebook-dir analysis/notebooks $(ARGS)

.PHONY: docs
docs: $(READY) ## the documentation as a site: site/index.html; no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet $(ARGS)
	@echo site/index.html

.PHONY: publish
publish: $(READY) ## add a sweep's whole seeds to the committed tables: SWEEP=NAME [REPLACE=1]
	@test -n $(call quoted,SWEEP) || { echo "publish: name the sweep, as in: make publish SWEEP=init" >&2; exit 2; }
	$(BNSTUDY) publish $(call quoted,SWEEP) $(replace) $(ARGS)

.PHONY: data
data: $(READY) ## download the data sets into DATA_ROOT, or say why that fails
	$(BNSTUDY) data $(ARGS)

.PHONY: dashboard
dashboard: $(READY) ## W&B's terminal dashboard on the offline runs
	$(BNSTUDY) dashboard $(ARGS)

.PHONY: sync
sync: $(READY) ## upload the offline W&B runs (needs a key)
	$(BNSTUDY) sync $(ARGS)

wandb-sweep-%: $(READY) ## register a sweep at W&B, for agents (needs a key) [PRESET=quick|full] [SEED=0,1,2] [ARGS="optim.lr=0.1 ..."]
	$(BNSTUDY) wandb-sweep $* $(preset) $(seed) $(ARGS)

.PHONY: wandb-agent
wandb-agent: $(READY) ## one agent: train runs of a sweep registered at W&B, one after another: SWEEP=ENTITY/PROJECT/ID
	@test -n $(call quoted,SWEEP) || { echo "wandb-agent: name the sweep, as in: make wandb-agent SWEEP=lab/bnstudy/x1y2z3" >&2; exit 2; }
	$(BNSTUDY) wandb-agent $(call quoted,SWEEP) $(ARGS)

.PHONY: wandb-workspace
wandb-workspace: $(READY) ## save the study's dashboard to W&B (needs a key)
	$(BNSTUDY) wandb-workspace $(ARGS)

.PHONY: bench
bench: $(READY) ## speed against a tutorial's and a careful user's loop, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lock
lock: $(READY) ## resolve the newest packages that pyproject.toml allows into the lock files
	$(BIN)/uv pip compile $(lock_options) --upgrade --extra dev --extra notebooks --extra docs pyproject.toml -o requirements.lock
	printf 'uv\nsetuptools\n' | $(BIN)/uv pip compile $(lock_options) --constraints requirements.lock - -o bootstrap.lock

lock_options := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.PHONY: clean
clean: ## remove .venv, caches and half-written files; data and results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build site src/*.egg-info
	find src tests analysis -name __pycache__ -type d -prune -exec rm -rf {} +
	find results -name '*.part' -type f -delete 2>/dev/null || true

# An environment with torch for CPUs stays one when the packages change, unless CPU=0 is given.
# uv first, itself from a hash-checked file; where it is not available, or cannot install, pip does the same more slowly.
# Packages built from source use the locked setuptools (no build isolation), so nothing unlocked is ever fetched.
$(READY): requirements.lock bootstrap.lock pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(call quoted,PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { printf "setup: '%s' is not there, or older than Python 3.11: install 3.11 or newer, or name one: make setup PYTHON=/path/to/python3.12\n" $(call quoted,PYTHON) >&2; exit 1; }; \
	  $(call quoted,PYTHON) -m venv --clear $(VENV) \
	  || { printf "setup: '%s' cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)\n" $(call quoted,PYTHON) >&2; exit 1; }; }
ifneq ($(if $(filter file,$(origin CPU)),$(wildcard $(VENV)/cpu.lock),$(call wanted,CPU)),)
	@echo "setup: packages of requirements.lock into $(VENV), torch from its index of builds for CPUs (about 2 GB, once)"
	@awk '/^[a-z]/ { wanted = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z-]*)==/ } wanted' requirements.lock > $(VENV)/cpu.part
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r bootstrap.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --torch-backend cpu \
	  $$(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ]*\).*/\1/p' requirements.lock) || { \
	  echo "setup: this machine cannot get the builds of torch for CPUs (above); 'make setup CPU=0' takes those with GPU libraries, which compute the same here" >&2; exit 1; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-build-isolation -r $(VENV)/cpu.part
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@mv $(VENV)/cpu.part $(VENV)/cpu.lock
else
	@rm -f $(VENV)/cpu.lock
	@echo "setup: packages of requirements.lock into $(VENV) (about 6 GB, once)"
	@if $(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r bootstrap.lock \
	  && $(BIN)/uv pip sync $$(test -t 2 || echo --quiet) --python $(BIN)/python --require-hashes --no-build-isolation requirements.lock; then \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
	  echo "setup: uv did not do it; pip does it now, which takes some minutes" >&2; \
	  awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' bootstrap.lock > $(VENV)/setuptools.lock \
	  && $(BIN)/python -m pip install --quiet --require-hashes -r $(VENV)/setuptools.lock \
	  && $(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -r requirements.lock \
	  && $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .; \
	fi
endif
	@touch $@
