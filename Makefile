# Everything sets itself up: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
DEMO := build/demo
SECONDS ?= 60
PROCESSES ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs site samples pictures fuzz bench release clean

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(VENV)/.installed  ## install mxtools and all that its development needs

# An editable install leaves compiling to the first start; where Python may not write, to each start.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mxtools needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q mxtools cli explorer
	touch $@

demo: setup  ## run the README's pipe on a small BERT and compare with PyTorch
	mkdir -p $(DEMO)
	test -d $(DEMO)/bert || $(BIN)/mx demo -o $(DEMO)/bert
	cd $(DEMO) && PATH="$(BIN):$$PATH" sh $(abspath examples/pipe.sh) bert
	$(BIN)/python examples/compare.py $(DEMO)/bert encoder.layer.0 $(DEMO)/layer0.onnx $(DEMO)/bert.tagged.onnx

test: setup  ## run the tests
	$(BIN)/python -m pytest

check: setup  ## format, lint, types, and generated files up to date
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m docs.generate --check

format: setup  ## format the code
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

docs: setup  ## write the generated parts of docs/
	$(BIN)/python -m docs.generate

site: setup  ## build the documentation site in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

samples: setup  ## run the blocks of the docs, and write what they print
	$(BIN)/python -m docs.samples

pictures: setup  ## make the pictures of docs/ from real runs
	$(BIN)/python -m docs.pictures

fuzz: setup  ## run every command on files that are almost right, SECONDS long, in PROCESSES
	PYTHONHASHSEED=0 $(BIN)/python -m tests.fuzz $(SECONDS) $(PROCESSES) $(SEED)

bench: setup  ## run the benchmarks
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/comparison.py
	$(BIN)/python benchmarks/external.py
	$(BIN)/python benchmarks/trace_overhead.py
	$(BIN)/python benchmarks/strategy_overhead.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/onnx_models.py

release: setup  ## build the packages, their hashes, and a list of all that they install, in dist/
	rm -rf dist build/installed build/sbom
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv --without-pip build/installed
	$(BIN)/python -m pip --python build/installed/bin/python install --quiet -c constraints.txt dist/*.whl
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
		--output-file "$$(echo dist/*.whl).cdx.json" build/installed/bin/python
	cd dist && sha256sum * > ../build/SHA256SUMS && mv ../build/SHA256SUMS .

clean:  ## remove what was made, but for the environment
	rm -rf build dist *.egg-info
