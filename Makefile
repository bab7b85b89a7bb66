# You need Python 3.11 or newer and make. Every target creates .venv by itself; `make help` lists the targets.
# PYTHON=python3.12 chooses another Python. PIP_ARGS="..." is passed to pip, for example an index with CPU builds of torch.

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
UNILDIFF := $(BIN)/unildiff
READY := .venv/.ready
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export GOMP_SPINCOUNT ?= 1000

DATA_ROOT ?=
PROFILE ?= tiny
CKPT ?=
NOW := $(shell date +%Y-%m-%d_%H-%M-%S)
DEMO := runs/demo/$(NOW)
DEMO_STEPS ?= 20

.DEFAULT_GOAL := help
.PHONY: help demo test format lint types docs reproduce-table1 reproduce-table2 reproduce-table3 reproduce-udc tiny-weights tiny-goals tiny-validate ablation bench bench-data bench-check full-size-check gpu-check clean-venv

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "unildiff: error: you need Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing); choose another with make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once; torch is large)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: $(READY)  ## run everything once: sample images, a short training of each stage, a test, a table and an HTML report
	$(UNILDIFF) data sample cdd11 --root data/cdd11
	$(UNILDIFF) fit --config configs/tiny/alignment.yaml --trainer.max_steps $(DEMO_STEPS) --trainer.val_check_interval $(DEMO_STEPS) --run_dir $(DEMO)/alignment
	$(UNILDIFF) fit --config configs/tiny/joint.yaml --trainer.max_steps $(DEMO_STEPS) --trainer.val_check_interval $(DEMO_STEPS) --run_dir $(DEMO)/joint \
	  --model.init_from $(DEMO)/alignment/checkpoints/last.ckpt
	$(UNILDIFF) fit --config configs/tiny/decoder.yaml --trainer.max_steps $(DEMO_STEPS) --trainer.val_check_interval $(DEMO_STEPS) --run_dir $(DEMO)/decoder \
	  --model.init_from $(DEMO)/joint/checkpoints/last.ckpt
	$(UNILDIFF) test --data cdd11 --ckpt_path $(DEMO)/decoder/checkpoints/last.ckpt --run_dir $(DEMO) \
	  --model.sampling.num_inference_steps 4
	$(UNILDIFF) table table2 $(DEMO)/test --out $(DEMO)/results
	$(UNILDIFF) report $(DEMO) --out $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html in a browser; tables are in $(DEMO)/results, restored images in $(DEMO)/test/restored."

test: export OMP_NUM_THREADS = 1
test: $(READY)  ## run all tests, in two processes
	$(BIN)/pytest -n 2

format: $(READY)  ## format the code and fix simple faults
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

lint: $(READY)  ## check with ruff, and check the import layers of .importlinter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(READY)  ## run mypy --strict on unildiff/ and datamodules/
	$(BIN)/mypy

docs: $(READY)  ## build the documentation site into site/, without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The paper's tables. PROFILE=tiny uses a sample set and the shipped model (or CKPT), PROFILE=paper the real data.
# CKPT and SEEDS may name several, which then share one table. TEST_ARGS are passed to `unildiff test`.
REPRODUCE := reproduce-table1 reproduce-table2 reproduce-table3 reproduce-udc
SEEDS ?= 0
TEST_ARGS ?=
ifeq ($(PROFILE),paper)
DATA_OF = $(or $(DATA_ROOT),$(error PROFILE=paper needs DATA_ROOT=folder of the real data, see `unildiff data layout $(SET)`))
MODELS = $(or $(CKPT),$(error PROFILE=paper needs CKPT=a decoder checkpoint))
else
DATA_OF = $(or $(DATA_ROOT),data/$(SET))
MODELS = $(or $(CKPT),shipped)
endif
SAMPLE = $(if $(filter paper,$(PROFILE)),true,$(UNILDIFF) data sample $(SET) --root $(DATA_OF))
TABLE = $(@:reproduce-%=%)
RUNS = runs/$(TABLE)/$(PROFILE)_$(NOW)

reproduce-table1: SET = five_task
reproduce-table2: SET = cdd11
reproduce-table3: SET = autodir
reproduce-udc: SET = udc
reproduce-table1:  ## Table 1, five tasks; for your own checkpoint PROFILE=paper CKPT=... DATA_ROOT=...
reproduce-table2:  ## Table 2, CDD-11, with the same options
reproduce-table3:  ## Table 3, AutoDIR's six tasks, with the same options
reproduce-udc:  ## the table of under-display cameras, with the same options
$(REPRODUCE): $(READY)
	@set -e; $(SAMPLE); number=0; \
	for model in $(MODELS); do for seed in $(SEEDS); do \
	  number=$$((number + 1)); checkpoint=; test $$model = shipped || checkpoint="--ckpt_path $$model"; \
	  $(UNILDIFF) test --data $(SET) --data.root $(DATA_OF) --data.test_seed $$seed $$checkpoint --run_dir $(RUNS)/$$number \
	    --model.evaluation.stages "[round_trip,no_diffusion,after_joint]" $(TEST_ARGS); \
	done; done; \
	$(UNILDIFF) table $(TABLE) $(RUNS)/*/test --out results

# Two processes of one thread each; see the configs.
TINY_STEPS := 1_vae 2_unet 3_alignment 4_joint 5_decoder
TINY_FOLDERS := fit_vae fit_unet alignment joint decoder
PHOTOGRAPHS_STEPS := 6_photographs_joint 7_photographs_decoder
PHOTOGRAPHS_FOLDERS := photographs_joint photographs_decoder

tiny-weights: export OMP_NUM_THREADS = 1
tiny-weights: $(READY)  ## train the tiny model from scratch in about 2.5 hours; resumes an interrupted run
	$(UNILDIFF) data photographs --root data/photographs
	set -e; set -- $(TINY_FOLDERS); for step in $(TINY_STEPS); do \
	  $(UNILDIFF) fit --config configs/tiny/weights/$$step.yaml --run_dir runs/tiny/$$1 --ckpt_path auto; shift; done
	test -d runs/tiny/generated || $(UNILDIFF) export runs/tiny/decoder/checkpoints/last.ckpt --out runs/tiny/generated
	set -e; set -- $(PHOTOGRAPHS_FOLDERS); for step in $(PHOTOGRAPHS_STEPS); do \
	  $(UNILDIFF) fit --config configs/tiny/weights/$$step.yaml --run_dir runs/tiny/$$1 --ckpt_path auto; shift; done
	$(BIN)/python -m studies.tone --model runs/tiny/photographs_decoder/checkpoints/last.ckpt --out runs/tiny/export

ARGS ?=

tiny-goals: $(READY)  ## measure every goal of the tiny model; ARGS="--validation", "--model FOLDER --naf FILE", ...
	$(BIN)/python -m studies.goals $(ARGS)

tiny-validate: $(READY)  ## score a tiny model on 31 photographs; ARGS="--model FOLDER --out NEW.csv --against OLD.csv"
	$(BIN)/python -m studies.validate $(ARGS)

ablation: $(READY)  ## train variants without each part; ARGS="--minutes 60 --seeds 0 1"; resumes an interrupted run
	$(BIN)/python -m studies.ablation $(ARGS)

bench: $(READY)  ## run all benchmarks into benchmarks/README.md: 25 minutes on two idle cores
	$(BIN)/python -m benchmarks $(ARGS)

bench-data: $(READY)  ## benchmark only reading and degrading images, without writing files
	$(BIN)/python -m benchmarks --only data synthesis $(ARGS)

bench-check: $(READY)  ## run the benchmarks again and list ratios that got worse by more than 15%
	$(BIN)/python -m benchmarks --check $(ARGS)

full-size-check: $(READY)  ## run a step of alignment, a step of the decoder stage and one image at SDXL's size; needs 16 GB of memory
	$(BIN)/python -m benchmarks.full_size

gpu-check: $(READY)  ## check correctness, training and inference on a GPU, in three calls of under 10 minutes; ARGS="--device cpu --size tiny"
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

clean-venv:  ## remove .venv
	rm -rf .venv
