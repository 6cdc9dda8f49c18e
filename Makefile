# Every target makes .venv where there is none and installs into it; a .venv that you made yourself is kept and used.
# Installing happens again only when pyproject.toml has changed.
PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_ARGS ?=
BIN := .venv/bin

.PHONY: help demo test lint slow
.DELETE_ON_ERROR:

help:
	@echo "make demo   install, then compare a dozen solvers on the embedded model (files in demo_out/)"
	@echo "make test   install with the tools, then lint, types and tests (PYTEST_ARGS='-k order' for some of them)"
	@echo "make lint   lint and types only"
	@echo "make slow   the long tests"
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv"

demo: .venv/installed
	$(BIN)/fewstep compare demo --out demo_out $(DEMO_ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Editors and type checkers do not follow the import hook of an editable install: a path file shows them the package,
# alone in a folder, so that nothing else of the checkout can be imported from elsewhere.
SHOW_SOURCE = mkdir -p .venv/source && ln -sfn "$(CURDIR)/fewstep" .venv/source/fewstep && $(BIN)/python -c \
	'import pathlib, sysconfig; p = pathlib.Path(sysconfig.get_path("purelib"), "fewstep_source.pth"); \
	p.write_text(str(pathlib.Path(".venv/source").resolve()))'

.venv/installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -e .
	@$(SHOW_SOURCE)
	@touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[dev]"
	@$(SHOW_SOURCE)
	@touch .venv/installed $@

# pip is the last thing that venv puts in place: an interrupted attempt is mended by the next one.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fewstep needs Python 3.10 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
