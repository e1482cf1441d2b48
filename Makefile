# make demo    fresh machine: environment, generated data, training, grids and heat maps
# make test    fresh machine: environment and development tools, then the tests
# make check   linters and types
# make torture long tests
# make tables  the tables of README.md, from the code
# make bench   measurements (docs/benchmarks.md says what they print)

PYTHON ?= python3
BIN := .venv/bin
# Waiting threads sleep: many small runs on a machine that others use too take a quarter of the time.
QUIET_THREADS := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
CLASSES := Positive Negative
METHODS := gradcam layercam

.PHONY: demo test check torture tables bench clean

demo: .venv/.runtime
	$(BIN)/python train.py --sample
	set -e; for class in $(CLASSES); do \
		$(BIN)/python inference.py --type $$class; \
		for method in $(METHODS); do $(BIN)/python xai.py --type $$class --method $$method; done; \
	done
	@echo; echo "make demo wrote:"; ls -1 weights/*.safetensors outputs/*.csv outputs/*.json outputs/*.png

test: .venv/.development
	$(QUIET_THREADS) $(BIN)/python -m pytest

torture: .venv/.development
	$(BIN)/python -m pytest -m torture

check: .venv/.development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tables: .venv/.runtime
	$(BIN)/python docs/tables.py

bench: .venv/.development
	$(BIN)/python benchmarks/cam_speed.py --arch resnet18 --batch 9
	$(BIN)/python benchmarks/sample_realism.py
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache

.venv/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/.development: .venv/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
