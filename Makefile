# make compare    the main job: trains rope, hope and p-rope on real text and writes runs/compare/report.html
# make test       the tests that are essential; make test-full: the rest of the matrix; make check: lint, format, types
# make test-wheel the wheel, built, installed in an empty environment and used there
# make docs       what is written of registries and results: README's tables, docs/found.md, docs/families.md, docs/runtimes.md, docs/encodings
# make study NAME=extrapolation  runs that study of experiments/studies.py, or goes on with it (STUDY=--list says what is missing);
#                                NAME=pretrained-llms fetches its models with pip
# make test-runtimes what whorl exports, in llama.cpp, vLLM, mlx-lm, CTranslate2 and transformers 4 and 5 (an hour, 9.2 GiB)
# make test-compat all tests on the oldest PyTorch and transformers that are supported, in .venv-compat
# make test-lm-eval whorl as a model of the lm-evaluation-harness, in .venv-lm-eval
# make test-timm  whorl on timm's image models, in .venv-timm
# .ci/run calls check, test, test-full, test-timm and test-wheel.
# Everything is installed into .venv with the pinned versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/compare
COMPARE ?=
STUDY ?=
RUNTIMES ?=
SOAK ?= --minutes 30
WORKERS ?= logical --maxprocesses 8
COMPAT := .venv-compat
LM_EVAL := .venv-lm-eval
TIMM := .venv-timm

.PHONY: setup compare docs study test test-full test-compat test-lm-eval test-timm test-runtimes wheel test-wheel check format bench bench-against bench-commands soak bench-gpu test-gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "whorl needs Python 3.11 or newer"'
	@echo "installing whorl and what it needs into $(VENV), with pinned versions: a minute or more"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $@

docs: setup
	$(BIN)/python -m whorl.cli.listing
	$(BIN)/python -m tests.contract.table
	$(BIN)/python -m tests.runtimes.table
	$(BIN)/python -m whorl.pages
	$(BIN)/python experiments/found.py

compare: setup
	$(BIN)/whorl compare --out $(OUT) $(COMPARE)

# The name is asked before anything is installed; a list installs nothing where there is an environment, and fetches and gathers nothing. What it fetches is in build/, which can be fetched again; what was measured is in runs/, and goes on there.
FOLDER = $(wildcard experiments/[0-9]*-$(NAME))
OWN = $(wildcard $(FOLDER)/fetch.py)
LISTS = $(filter --list,$(STUDY))
study:
	@$(PYTHON) experiments/studies.py "$(NAME)"
	$(if $(and $(LISTS),$(wildcard $(VENV)/.installed)),,@$(MAKE) --no-print-directory setup)
	$(if $(LISTS),,$(if $(OWN),$(BIN)/python $(OWN) build/models))
	$(if $(OWN),$(BIN)/python $(FOLDER)/study.py --models build/models --out runs/$(NAME) $(STUDY),$(BIN)/python experiments/study.py $(NAME) $(STUDY))
	$(if $(LISTS),,$(if $(OWN),$(BIN)/python $(FOLDER)/gather.py runs/$(NAME)))

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full" -n $(WORKERS) --dist loadfile

test-full: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m full -n $(WORKERS) --dist worksteal

test-compat: $(COMPAT)/.installed
	OMP_NUM_THREADS=1 $(COMPAT)/bin/python -m pytest -n $(WORKERS) --dist loadfile

$(COMPAT)/.installed: pyproject.toml constraints-compat.txt
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-compat.txt torch
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-compat.txt --editable '.[test]'
	touch $@

test-lm-eval: $(LM_EVAL)/.installed
	OMP_NUM_THREADS=1 $(LM_EVAL)/bin/python -m pytest tests/evaluation/test_lm_eval.py

$(LM_EVAL)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LM_EVAL)
	$(LM_EVAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LM_EVAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[test,lm-eval]' 'lm-eval[longbench]'
	touch $@

test-timm: $(TIMM)/.installed
	OMP_NUM_THREADS=1 $(TIMM)/bin/python -m pytest tests/hosts/test_timm.py tests/hosts/test_timm_relative.py tests/hosts/test_rope_vit.py tests/attaching/test_timm_folders.py

# What .venv has, and timm on top: torchvision, which it needs, would be taken by transformers too, and is for CUDA.
$(TIMM)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(TIMM)
	$(TIMM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps timm torchvision
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> $$($(TIMM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/installed.pth
	touch $@

# Rows that are in src/whorl/runtimes/ran.json are not run again; RUNTIMES="--only vllm --again" runs those of one.
test-runtimes: setup
	$(BIN)/python benchmarks/runtimes/run.py $(RUNTIMES)
	$(BIN)/python -m tests.runtimes.table

# What was there goes first: setuptools would put modules that are no more into the wheel.
wheel: setup
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

test-wheel: wheel
	OMP_NUM_THREADS=1 $(BIN)/python .ci/try_wheel.py dist/whorl-*.whl

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/scores.py
	$(BIN)/python benchmarks/images.py
	$(BIN)/python benchmarks/attached.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/inspection.py
	$(BIN)/python benchmarks/training.py

# Is anything slower than at BASE?
bench-against: $(VENV)/.bench
	$(BIN)/python benchmarks/against.py $(BASE)

# Time and memory of every command on the .gguf files in WHORL_MODELS.
bench-commands: setup
	$(BIN)/python benchmarks/commands.py

# The peers that are measured: nothing else needs them.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[bench]'
	touch $@

# kill -9, races, damaged checkpoints, full disks and fuzz, for half an hour: see benchmarks/soak.py.
soak: setup
	$(BIN)/python benchmarks/soak.py $(SOAK)

# On a machine with a CUDA device and its own PyTorch: no .venv, the machine's Python.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -m gpu

bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/kernels.py --device cuda
	PYTHONPATH=src $(PYTHON) benchmarks/scores.py --device cuda
	PYTHONPATH=src $(PYTHON) benchmarks/llama.py --device cuda

clean:
	rm -rf $(VENV) $(COMPAT) $(LM_EVAL) $(TIMM) build dist *.egg-info src/*.egg-info
