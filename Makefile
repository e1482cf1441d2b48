# make demo       fresh machine: environment, generated data, training, figures
# make test       fresh machine: environment and development tools, then the tests
# make test-fast  the unit tests without the slow ones
# make check      linters, types, import contracts
# make torture    long tests
# make docs       the documentation as a site, in site/
# make tables     the tables of docs/reference, from the code
# make pictures   the pictures of docs/images, from the network and images of make demo
# make bench      measurements (docs/reference/benchmarks.md explains what they print)

PYTHON ?= python3
BIN := .venv/bin
# Waiting threads sleep: many small runs on a machine that others use too take a quarter of the time.
# And the many processes of the tests find compiled modules, also where the environment keeps Python from writing them.
TEST_ENVIRONMENT := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 PYTHONDONTWRITEBYTECODE=
# Processes that run tests side by side.
WORKERS ?= auto
CLASSES := Positive Negative
METHODS := gradcam layercam
# A name of its own: the bundled network, which is better, stays the default of inference.py and xai.py.
DEMO := weights/demo.safetensors

.PHONY: demo test test-fast torture check docs tables pictures bench clean

demo: .venv/.runtime
	$(BIN)/python train.py --sample --output $(DEMO) --report outputs/training.html
	set -e; for class in $(CLASSES); do \
		$(BIN)/python inference.py --weights $(DEMO) --type $$class; \
		for method in $(METHODS); do \
			$(BIN)/python xai.py --weights $(DEMO) --type $$class --method $$method; \
		done; \
	done
	@echo; echo "make demo wrote:"; ls -1 $(DEMO) outputs/*.csv outputs/*.html outputs/*.json outputs/*.png

test: .venv/.development
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: .venv/.development
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/unit -m 'not torture and not slow'

torture: .venv/.development
	$(BIN)/python -m pytest -m torture

check: .venv/.development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/.development
	$(BIN)/mkdocs build --strict

tables: .venv/.runtime
	$(BIN)/python docs/tables.py

pictures: demo .venv/.development
	$(BIN)/python docs/pictures.py

bench: .venv/.development
	$(BIN)/python benchmarks/cam_speed.py --arch resnet18 --batch 9
	$(BIN)/python benchmarks/sample_realism.py
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache site

.venv/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Requires Python 3.11+: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/.development: .venv/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
