PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: help demo test test-arm chromium check lint bench bench-accuracy bench-qat published memory docs examples install clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# Everything is in a virtual environment in the repository, updated when the dependencies change.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: .venv/installed ## set up .venv with zeropoint and every engine

demo: .venv/installed ## compare methods and engines on the two built-in networks, and tune one
	$(BIN)/zeropoint compare digits/resnet --data digits --methods fp32,dynamic,static,qat --bits W8A8,W4A4 --epochs 2 \
		--out runs/digits-resnet
	$(BIN)/zeropoint compare digits/mobilenet --data digits --methods fp32,static,qat --epochs 2 \
		--engines onnxruntime,openvino --out runs/digits-mobilenet
	$(BIN)/zeropoint report runs/digits-resnet runs/digits-mobilenet --out runs/report.html
	$(BIN)/zeropoint tune digits/mobilenet --data digits --max-drop 0.5 --minimize size \
		--engines onnxruntime,openvino --out runs/tune-digits-mobilenet

# The report is tested in a browser. If none can be installed, those tests are skipped with a message.
chromium:
	@command -v chromium >/dev/null || (test "$$(id -u)" = 0 && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium) >/dev/null 2>&1 || \
		echo "no Chromium, and apt cannot install it here: the tests in a browser are skipped"

test: .venv/installed chromium ## the whole test suite
	$(PYTEST)

check: .venv/installed ## lint and the fast tests
	$(MAKE) lint
	$(PYTEST) -m "not slow"

build/arm/ready: .venv/installed tests/arm/setup.sh
	PYTHON=$(BIN)/python bash tests/arm/setup.sh build/arm

test-arm: build/arm/ready ## int8 artefacts on an emulated Arm processor: three minutes
	$(BIN)/python -m pytest tests/arm

lint: .venv/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed ## speed, fidelity, size and time to quantize, compared with other tools: over an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/quantize_time.py

# Trained networks and images to measure accuracy on: see benchmarks/accuracy.py.
DATA ?= ../shared/data

bench-accuracy: .venv/installed ## accuracy on the networks in DATA=FOLDER, compared with other tools: half an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/accuracy.py $(DATA)

bench-qat: .venv/installed ## quantization-aware training on the networks in DATA=FOLDER: over an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/qat.py $(DATA)

PUBLISHED := runs/published
$(PUBLISHED)/resnet18.safetensors: .venv/installed
	DATA=$(DATA) $(BIN)/zeropoint train benchmarks/resnet18.py:make_model --data benchmarks/resnet18.py:make_loaders \
		--epochs 40 --batch-size 64 --learning-rate 0.05 --out $@

published: $(PUBLISHED)/resnet18.safetensors ## five published comparisons, measured here, with DATA=FOLDER: an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	DATA=$(DATA) $(BIN)/python benchmarks/published.py $(DATA)

memory: .venv/installed ## peak memory of calibration on few and on many images
	$(BIN)/python benchmarks/memory.py --images 64 --images 4096

docs: .venv/installed ## build the documentation to build/docs, with an API reference
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python docs/constants.py
	$(BIN)/python docs/rules.py
	$(BIN)/python docs/concepts.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/docs

examples: .venv/installed ## run the scripts in examples/
	$(PYTEST) tests/docs/test_examples.py

clean:           ## remove what the commands above made
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
