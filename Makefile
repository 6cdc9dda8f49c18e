# Every target makes .venv where there is none and installs into it; a .venv that you made yourself is kept and used.
# Installing happens again only when pyproject.toml has changed.
PYTHON ?= python3
OLDEST ?= python3.10
NEWEST ?= $(PYTHON)
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
BIN := .venv/bin

.PHONY: help demo test lint slow docs bench gpu dist floor ceiling audit
.DELETE_ON_ERROR:

help:
	@echo "make demo   install, compare a dozen solvers on the embedded model, and open the page (demo_out/report.html)"
	@echo "make test   install with the tools, then lint, types and tests (PYTEST_ARGS='-k order' for some of them)"
	@echo "make lint   lint and types only"
	@echo "make slow   the long tests"
	@echo "make docs   the documentation as a site, in site/; its notebooks are run"
	@echo "make bench  measure the tables of the documentation anew, hours (BENCH_ARGS=--list: which; '--again adaptive')"
	@echo "make gpu    what needs a GPU: its tests, then times and memory in at most 8 minutes, into gpu.json and gpu.md (GPU_ARGS=features)"
	@echo "make dist   wheel and sdist in dist/, checked by twine, installed into .venv-dist and tried in an empty folder"
	@echo "make floor  the tests on the oldest releases that pyproject.toml declares, in .venv-floor"
	@echo "make ceiling the tests on the newest releases, pre-releases too, in .venv-ceiling"
	@echo "make audit  known vulnerabilities of what .venv holds, by pip-audit, which asks PyPI"
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv"

demo: .venv/installed
	$(BIN)/fewstep compare demo --out demo_out $(DEMO_ARGS)
	-@$(BIN)/python -m webbrowser "file://$(CURDIR)/demo_out/report.html"

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# A warning is an error (strict in mkdocs.yml).
docs: .venv/installed-docs
	$(BIN)/mkdocs build

# One table after another; stopped, it goes on where it was.
bench: .venv/installed-dev
	$(BIN)/python tests/benchmarks/bench.py $(BENCH_ARGS)

# On a machine without a GPU the tests are skipped, and the sizes are those of a test.
gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu -rs $(PYTEST_ARGS)
	$(BIN)/python tests/benchmarks/gpu.py $(GPU_ARGS)

# What is tried is the wheel, where nothing of this folder is in reach.
dist: .venv/installed-dev
	rm -rf dist .venv-dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install twine dist/*.whl
	.venv-dist/bin/python -m twine check --strict dist/*
	mkdir .venv-dist/empty
	cd .venv-dist/empty && ../bin/python -c "import fewstep; from fewstep import NoiseSchedule, build; build('unipc', NoiseSchedule.flow(), 6)"
	.venv-dist/bin/python -m pip install "$$(ls dist/*.whl)[all]"
	cd .venv-dist/empty && ../bin/fewstep compare --solvers ddim,unipc --nfe 4 -n 2 --reference nfe=20 --out page.html

# What is declared is what passes. A test of a class that an old diffusers lacks is skipped, and says so.
floor: .venv-floor/installed
	.venv-floor/bin/python -m pytest -n 2 --dist loadfile -rs $(PYTEST_ARGS)

# Anew each time, as the newest release of yesterday is not that of today.
ceiling:
	rm -rf .venv-ceiling
	$(NEWEST) -m venv .venv-ceiling
	.venv-ceiling/bin/python -m pip install --pre --upgrade --upgrade-strategy eager -e ".[test]"
	.venv-ceiling/bin/python -m pip list
	.venv-ceiling/bin/python -m pytest -n 2 --dist loadfile -rs $(PYTEST_ARGS)

# pip-audit lives apart, so that it adds nothing to what it looks at; --strict fails where a package could not be looked up.
audit: .venv/installed .venv-audit/installed
	.venv-audit/bin/pip-audit --strict --progress-spinner off --skip-editable \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

.venv-floor/installed: pyproject.toml .ci/oldest.py
	$(OLDEST) -m venv .venv-floor
	.venv-floor/bin/python .ci/oldest.py > .venv-floor/oldest.txt
	.venv-floor/bin/python -m pip install -c .venv-floor/oldest.txt -e ".[test]"
	@touch $@

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install pip-audit
	@touch $@

# Editors and type checkers do not follow the import hook of an editable install: a path file shows them the package,
# alone in a folder, so that nothing else of the checkout can be imported from elsewhere.
SHOW_SOURCE = mkdir -p .venv/source && ln -sfn "$(CURDIR)/fewstep" .venv/source/fewstep && $(BIN)/python -c \
	'import pathlib, sysconfig; p = pathlib.Path(sysconfig.get_path("purelib"), "fewstep_source.pth"); \
	p.write_text(str(pathlib.Path(".venv/source").resolve()))'

.venv/installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[all]"
	@$(SHOW_SOURCE)
	@touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[dev]"
	@$(SHOW_SOURCE)
	@touch .venv/installed $@

.venv/installed-docs: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -e ".[docs]"
	@$(SHOW_SOURCE)
	@touch .venv/installed $@

# pip is the last thing that venv puts in place: an interrupted attempt is mended by the next one.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fewstep needs Python 3.10 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
