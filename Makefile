# `make demo` and `make test` first create the environment, install the dependencies and build the compiled code.
# PYTHON: the interpreter of the environment. TORCH: the packages to install, e.g. `make test TORCH=torch==2.13.0`
# (torchvision is installed only if it is named).
PYTHON ?= python3
TORCH ?= torch torchvision

requirements := $(foreach requirement,$(TORCH),'$(requirement)')
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Runs a command and prints its output only if it fails
quietly = @echo "$(1)"; $(1) > $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
# A stamp file per value of PYTHON and TORCH: another value installs again
choice := $(shell printf '%s' '$(PYTHON) $(TORCH)' | cksum | cut -d ' ' -f 1)
ENVIRONMENT := $(VENV)/environment-$(choice)
BUILD := $(VENV)/build-$(choice)
SOURCES := setup.py pyproject.toml $(wildcard external/soft_nms/*.c external/*/build.py external/*.h external/*/csrc/*)

.PHONY: demo test fuzz build lint sanitize gpu clean

# Draws the toy data, trains a small CornerNet on it, evaluates it, and finds the objects in a picture. Resumes an
# interrupted run.
demo: build
	$(BIN)/python -m db.toy --output data/toy
	$(BIN)/python train.py configs/toy.yaml --output runs/toy --resume
	$(BIN)/python test.py configs/toy.yaml --checkpoint runs/toy/last.pt --output runs/toy --draw 8 --report
	$(BIN)/python detect.py --checkpoint runs/toy/last.pt data/toy/val/000802.jpg --output runs/toy/found
	@echo "Done: metrics.json, pictures, curves.png and the log (metrics.jsonl, TensorBoard) are in runs/toy"
	@echo "The objects found in a picture: runs/toy/found/pictures. Open in a browser: runs/toy/report/index.html"

# Two processes, each with whole files: many tests wait for the programs that they start
test: build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Random hostile input (tests/fuzz): CASES of each of five areas, in the order of their numbers from FIRST on
CASES ?= 12000
FIRST ?= 0
fuzz: build
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.fuzz --cases $(CASES) --first $(FIRST) 2> build/fuzz.log || \
	    { grep -v -e JPEG -e libpng build/fuzz.log; exit 1; }

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Builds the compiled code with AddressSanitizer and UBSan in a copy of the repository, and runs its tests there. Any
# finding is fatal. The CUDA kernels are among them, compiled for the CPU. To use another interpreter than that of
# `make build`: `make -o build sanitize BIN=folder/of/python`
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
sanitize: build
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r configs db external models nnet sample tests setup.py pyproject.toml README.md LICENSE build/sanitize
	find build/sanitize -name '*.so' -delete
	cd build/sanitize && CFLAGS='-O1 $(SANITIZERS)' CXXFLAGS='-O1 $(SANITIZERS)' LDFLAGS='$(SANITIZERS)' \
	    $(abspath $(BIN))/python setup.py -q build_ext --inplace
	for library in build/sanitize/external/*/*.so; do nm -D $$library | grep -q __asan || { echo "$$library: not instrumented"; exit 1; }; done
	if [ -d ../shared ]; then ln -sfn $(abspath ../shared) build/shared; fi
	cd build/sanitize && OMP_NUM_THREADS=2 CXXFLAGS='$(SANITIZERS)' LDFLAGS='$(SANITIZERS)' \
	    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider tests/external

# Builds, tests and measures on a GPU in under 10 minutes: build/gpu/gpu.md and gpu.json (docs/gpu.md). Nothing is
# installed. GPU_PYTHON: an interpreter with PyTorch for CUDA and the packages that docs/gpu.md names
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu

build: $(BUILD)

$(ENVIRONMENT):
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(call quietly,$(PIP) install --upgrade pip 'setuptools>=77' wheel ninja cffi numpy $(requirements))
	@touch $@

$(BUILD): $(ENVIRONMENT) $(SOURCES)
	$(call quietly,$(PIP) install --no-build-isolation --editable '.[dev]' $(requirements))
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info external/*/*.so
