# Every target does its own set-up, in .venv, from Python 3.10+ and make alone. `make help` lists them.
#
# PYTHON=... chooses the interpreter, VENV=... the directory of the environment, and ARGS=... is
# handed on to the command that a target runs.

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# Each file's tests in one of two processes, where what they share is made once. In the order of
# their names: else files of few long tests, the experiments', come last, and one process waits.
PYTEST := $(BIN)/python -m pytest -W error -n 2 --dist loadfile --no-loadscope-reorder
# Tests start Python some hundred times: where bytecode is not kept, a quarter of their time goes
# into compiling the same files again. `make clean` removes it.
unexport PYTHONDONTWRITEBYTECODE
# Stamps: each is written last, so that an interrupted installation is taken up again.
VENV_READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo
PICTURES_READY := $(VENV)/.ready-pictures
SHOP_READY := $(VENV)/.ready-shop
DEV_READY := $(VENV)/.ready-dev
REQUIREMENTS := pyproject.toml constraints.txt

# Nothing is built in parallel here; pip in the same environment twice at a time would break it.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo demo-pictures demo-shop test test-all test-shared check lint bench bench-smoke docs \
	clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY) ## breed two digit specialists into one better classifier
	@$(BIN)/genepool demo digits $(ARGS)

demo-pictures: $(PICTURES_READY) ## breed four small image generators into one that draws more
	@$(BIN)/genepool demo pictures $(ARGS)

demo-shop: $(SHOP_READY) ## breed a better shopper out of two, in a small web shop that runs here
	@$(BIN)/python examples/webshop/demo.py $(ARGS)

test: $(DEV_READY) ## run the tests, but the slow ones
	@$(PYTEST) -m "not slow and not shared" $(ARGS)

test-all: $(DEV_READY) ## run all tests; those that need shared/ are skipped where it is absent
	@$(PYTEST) $(ARGS)

test-shared: $(DEV_READY) ## run the tests that need shared/, here or where GENEPOOL_SHARED says
	@GENEPOOL_SHARED="$${GENEPOOL_SHARED:-$(abspath ../shared)}" $(PYTEST) -m shared $(ARGS)

check: lint ## lint, format, types, import arrows, docs
	$(BIN)/python -m pytest -W error tests/architecture tests/ui/test_docs.py

lint: $(DEV_READY) ## lint, format, types: of `check` what `test` has not done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(DEV_READY) ## run the benchmarks at their real size (minutes)
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

bench-smoke: $(DEV_READY) ## run the benchmarks at a tiny size, to see that they work
	@$(MAKE) --no-print-directory bench ARGS=--smoke

docs: $(DEV_READY) ## write anew the pages of docs/ that are made from the code
	$(BIN)/python -m genepool.ui.docs docs CONTRIBUTING.md

clean: ## remove what make made: the environment and the caches (pools stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The first suitable interpreter. One that is named by PYTHON is used or refused, never replaced.
$(VENV_READY):
	@set -e; found=; \
	for candidate in $${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3 python}; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
			found=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "genepool needs Python 3.10 or later; tried: $${PYTHON:-python3.13 ... python3, python}." \
			"Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$found cannot make virtual environments; on Debian and Ubuntu:" \
			"apt install python3-venv" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)
	@$(pip) --upgrade pip
	@touch $@

$(DEMO_READY): $(REQUIREMENTS) $(VENV_READY)
	@echo "Installing genepool for the demo (numpy, numba, scikit-learn, matplotlib; about a minute)"
	@$(call install,digits$(comma)plots)
	@touch $@

$(PICTURES_READY): $(REQUIREMENTS) $(VENV_READY)
	@echo "Installing genepool for the pictures demo (also torch and diffusers; a few minutes)"
	@$(call install,digits$(comma)plots$(comma)pictures)
	@touch $@ $(DEMO_READY)

$(SHOP_READY): $(REQUIREMENTS) $(VENV_READY)
	@echo "Installing genepool for the shop demo (a small web server and search; about a minute)"
	@$(call install,digits$(comma)plots$(comma)shop)
	@touch $@ $(DEMO_READY)

$(DEV_READY): $(REQUIREMENTS) $(VENV_READY)
	@echo "Installing genepool for development (also torch, pytest, pyright; a few minutes)"
	@if command -v cc > /dev/null; then $(call install,dev$(comma)textworld); else \
		echo "There is no C compiler, which TextWorld is installed with: its tests are skipped"; \
		$(call install,dev); fi
	@$(BIN)/python -m compileall -q -j 0 -x '$(RARE)' $(VENV) > /dev/null 2>&1 || true
	@touch $@ $(PICTURES_READY) $(SHOP_READY) $(DEMO_READY)

# -qq: errors, but no warnings. Python compiles what it imports, which is a small part of all that is
# installed; only for development, where hundreds of processes start, it is compiled beforehand, by
# as many processes as there are cores, without what is seldom or never imported: tests of other
# packages, hundreds of architectures, and packages of which little is used. (Some packages hold files
# that are no Python 3: no matter.)
RARE := /(tests?|diffusers|fontTools|lm_eval|nltk|peft|pip|playwright|pygments|ray|setuptools|sklearn|spacy|transformers/models)/
comma := ,
pip = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-compile \
	-c constraints.txt
install = $(pip) -e '.[$(1)]'
