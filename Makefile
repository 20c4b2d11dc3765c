# kwsq: one command per need; `make help` lists them. Nothing here needs root or files outside the checkout.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# An editable install leaves byte-compiling to the first import, which may not be allowed to write.
COMPILE := @$(BIN)/python -m compileall -q ir passes targets converter models
OUT := out
PYTEST_ARGS ?=

# Off the root path: from here `import passes` would be a second identity of kwsq.passes.
export PYTHONSAFEPATH := 1
# Two test workers each with a thread pool per core would only wait for one another.
TEST_ENV := OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3

.DEFAULT_GOAL := help
.PHONY: help demo test test-shared test-slow check dev acceptance clean distclean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- environments: one .venv, filled step by step; a stamp per step makes repeats free --------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kwsq needs Python >= 3.11, found $$($(PYTHON) --version); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot create environments; enable with: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.kwsq-core: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(PIP) install --quiet -e .
	$(COMPILE)
	@touch $@

$(VENV)/.kwsq-dev: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(PIP) install --quiet -e '.[dev]'
	$(COMPILE)
	@touch $@ $(VENV)/.kwsq-core

$(VENV)/.kwsq-train: $(VENV)/.kwsq-dev
	$(PIP) install --quiet -e '.[dev,train]'
	@touch $@

# Type checkers do not follow the editable install's import hook: give them a folder `kwsq` of links.
.typing/kwsq: Makefile
	@mkdir -p $@
	@for room in ir passes targets converter models; do ln -sfn ../../$$room $@/$$room; done
	@touch $@

dev: $(VENV)/.kwsq-train .typing/kwsq ## set up .venv with everything development needs

# ---- what a visitor runs ---------------------------------------------------------------------------------------

# The footprint table of the last conversion is the last thing on screen, so the reports are announced first.
demo: $(VENV)/.kwsq-core ## convert two bundled models (no TensorFlow) and leave HTML reports
	@mkdir -p $(OUT)/demo
	@echo "kwsq demo: reports go to $(OUT)/demo/kws_ff_w5_codebook/report.html and $(OUT)/demo/kws_ff_w4/report.html"
	@echo
	@echo "== kws_ff, non-uniform 5-bit codebook"
	$(BIN)/kwsq-convert models/kws_ff/kws_ff_w5_codebook.onnx --target neon --wbits 5 \
		-o $(OUT)/demo/kws_ff_w5_codebook --force
	@echo
	@echo "== kws_ff, uniform 4-bit weights"
	$(BIN)/kwsq-convert models/kws_ff/kws_ff_w4.onnx --target neon --wbits 4 \
		-o $(OUT)/demo/kws_ff_w4 --force

test: $(VENV)/.kwsq-train ## run the default tests (adds TensorFlow for models/)
	@$(BIN)/python -c 'import tensorflow, tf_keras' 2>/dev/null || \
		{ echo "TensorFlow does not import; repair with: rm -f $(VENV)/.kwsq-train && make test"; exit 1; }
	$(TEST_ENV) $(BIN)/pytest -q -n 2 --dist loadfile -m "not slow and not shared" $(PYTEST_ARGS)

test-shared: $(VENV)/.kwsq-train ## run the tests that need ../shared
	$(TEST_ENV) $(BIN)/pytest -q -n 2 -m "shared and not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.kwsq-train ## run the long tests
	$(TEST_ENV) $(BIN)/pytest -q -m slow $(PYTEST_ARGS)

# ---- what a contributor runs -----------------------------------------------------------------------------------

# Every check runs even when an earlier one fails, so that one round shows everything.
CHECKS := check-lint check-format check-types check-imports check-spelling check-docs check-wheel
.PHONY: $(CHECKS)

check: $(VENV)/.kwsq-dev .typing/kwsq ## lint, format, types, import contracts, spelling, docs, wheel
	@$(MAKE) --no-print-directory --keep-going $(CHECKS) && echo "check: all passed"

check-lint: $(VENV)/.kwsq-dev
	$(BIN)/ruff check --quiet --output-format=concise .

check-format: $(VENV)/.kwsq-dev
	$(BIN)/ruff format --quiet --check --output-format=concise .

check-types: $(VENV)/.kwsq-dev .typing/kwsq
	$(BIN)/mypy

check-imports: $(VENV)/.kwsq-dev .typing/kwsq
	PYTHONPATH=.typing $(BIN)/lint-imports --no-cache

check-spelling: $(VENV)/.kwsq-dev
	$(BIN)/codespell

# As where `make test` never ran: a page that needs the training extra would pass here and fail on a fresh machine.
check-docs: $(VENV)/.kwsq-dev
	PYTHONPATH=tests/docs/without_training $(BIN)/pytest -q tests/docs tests/models/table/test_results_page.py

# Built through the sdist in an empty folder: a stale build/ would put back a package that the list forgot.
check-wheel: $(VENV)/.kwsq-dev
	@rm -rf build dist *.egg-info && mkdir -p $(OUT)
	$(BIN)/python -m build --no-isolation --outdir dist . >$(OUT)/build.log 2>&1 || { cat $(OUT)/build.log; exit 1; }
	$(BIN)/check-wheel-contents dist
	@rm -rf build *.egg-info

acceptance: $(VENV)/.kwsq-train ## regenerate docs/acceptance.md from the commands that show each line
	$(TEST_ENV) $(BIN)/python benchmarks/acceptance.py docs/acceptance.md

clean: ## remove what the commands wrote, keep .venv
	rm -rf build dist $(OUT) .cache .ruff_cache .import_linter_cache .hypothesis .typing *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV)
