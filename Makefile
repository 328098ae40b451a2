# Everything a fresh machine with Python 3.11 and make needs: each target makes .venv first.
# For another environment: make VENV=/path/to/venv test
VENV ?= .venv
PYTHON ?= python3.11
RUN := $(VENV)/bin/python -m

# torch by its exact version: a CPU build is taken where pip finds one, and the CUDA build
# otherwise. Axolotl 0.19 accepts 2.11 to 2.13.
TORCH := torch==2.13.0

# Two workers on two cores; a file's tests stay together, for what they share.
PYTEST := $(RUN) pytest -p no:randomly
WORKERS ?= logical
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: fuzz help install from-pip quickstart test test-fast walks rehearsals methods kill-sweep rehearsal cloud gpu-proof lint format schema benchmark-from-scratch clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 26

$(VENV)/.installed: pyproject.toml
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; set PYTHON=..." >&2; exit 1; }
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python .ci/install.py $(TORCH) --editable '.[train,deepspeed,dev]'
	touch $@

install: $(VENV)/.installed  ## Make .venv with everything in it

from-pip:  ## The README's pip install in an empty environment, and a command in it
	rm -rf runs/from-pip
	$(PYTHON) -m venv runs/from-pip/venv
	runs/from-pip/venv/bin/pip install --quiet $(TORCH)
	runs/from-pip/venv/bin/pip install --quiet '.[train]'
	cd runs/from-pip && venv/bin/multitask init && venv/bin/multitask prepare multitask.yaml --sample

quickstart: $(VENV)/.installed  ## Data, training, scoring and report on a toy, in minutes
	$(VENV)/bin/multitask quickstart

# Tests start several processes at once, whose threads would fight for few cores.
test test-fast methods kill-sweep rehearsal rehearsals walks cloud fuzz: export OMP_NUM_THREADS := 1

test: $(VENV)/.installed  ## All tests, with a real Axolotl training; 25 minutes on two cores
	$(PYTEST) $(PARALLEL)

test-fast: $(VENV)/.installed  ## The tests of parts that start no process; 90 seconds on two cores
	$(PYTEST) $(PARALLEL) -m 'not train and not slow and not long'

walks: $(VENV)/.installed  ## Every method on every model and cluster; tests take a sample
	$(PYTEST) -m slow tests/runners

methods: $(VENV)/.installed  ## Train a toy with every method that runs without a GPU
	$(PYTEST) $(PARALLEL) -m 'slow or not slow' tests/test_methods.py

kill-sweep: $(VENV)/.installed  ## Kill trainings at 37 points and resume them; 40 minutes
	$(PYTEST) -m 'slow or not slow' tests/test_kill_sweep.py

fuzz: $(VENV)/.installed  ## 11,200 bad specs, templates, runs and data files, counted; 10 minutes
	$(RUN) tests.fuzz

rehearsal: $(VENV)/.installed  ## Rehearse the 3x4 cluster on this machine, with a node killed
	rm -rf runs/rehearsal
	$(VENV)/bin/multitask build-config configs/examples/default.yaml --sample --no-validate --out runs/rehearsal
	$(VENV)/bin/multitask rehearse runs/rehearsal --kill node:1@step:5

rehearsals: $(VENV)/.installed  ## Rehearse every fault, sharding and method on two ranks
	$(PYTEST) -m 'slow or not slow' tests/rehearsal/test_rehearse.py

cloud: $(VENV)/.installed  ## dstack's commands on three CPU nodes, one killed, all started again
	$(PYTEST) -m 'slow or not slow' tests/test_cloud.py

lint: $(VENV)/.installed  ## ruff, mypy --strict, shellcheck, hadolint
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/shellcheck -x .ci/run docker/*.sh
	$(VENV)/bin/hadolint docker/Dockerfile

format: $(VENV)/.installed  ## Let ruff format and fix what it can
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

schema: $(VENV)/.installed  ## Write the spec's schema and the snapshot of Axolotl's anew
	$(RUN) multitask.spec_schema > configs/schema/spec.schema.json
	$(RUN) multitask.runners.axolotl.make_schema

# With WHEELS, what is missing beside torch comes from there and nothing is installed.
DEVICE ?= cuda
GPU_PYTHON = $(if $(WHEELS),python3,$(VENV)/bin/python)
ifndef WHEELS
gpu-proof: $(VENV)/.installed
endif
gpu-proof:  ## One GPU, 8 minutes: losses, speed, memory, scores (DEVICE=cpu, WHEELS=dir, DATA=dir)
	rm -rf runs/gpu-proof
	$(GPU_PYTHON) -m benchmarks.gpu_proof --device $(DEVICE) --out runs/gpu-proof \
	  $(if $(WHEELS),--wheels $(WHEELS)) $(if $(DATA),--data-dir $(DATA)) $(PROOF)

benchmark-from-scratch: $(VENV)/.installed  ## Half an hour: a 2M Llama on real data (docs/from-scratch.md)
	$(VENV)/bin/python benchmarks/train_from_scratch.py --data-dir ../shared/data --out runs/from-scratch

clean:  ## Remove what the targets made, but not runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
