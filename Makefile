# Every goal makes the virtual environment first where there is none.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
ARGS ?=
ONLY ?=
RUN ?= runs/demo
PAGE ?= docs/results.md
WORKERS ?= 2

.PHONY: run test lab notebooks results site lock lint doctor clean clean-runs
.DEFAULT_GOAL := run

run: $(STAMP)  ## the whole series on the demo data; make run ARGS="--data-dir DIR"
	$(PY) -m pipeline run $(ARGS)

test: lint  ## all tests; make test ARGS="-k readers"
	TF_CPP_MIN_LOG_LEVEL=3 $(PY) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

lab: $(STAMP)  ## JupyterLab on the notebooks
	$(PY) -m jupyterlab --notebook-dir=. notebooks

notebooks: $(STAMP)  ## run the committed notebooks on the demo data and store their outputs; ONLY="03 07" for some
	$(PY) -c "import sys; from pipeline import series; series.renew_notebooks(sys.argv[1:])" $(ONLY)

results: $(STAMP)  ## a page and the scores of a finished run, into docs/; make results RUN=runs/cbis-ddsm
	$(PY) -c "import sys; from pipeline import report; print(report.publish(*sys.argv[1:]))" "$(RUN)" "$(PAGE)"

site: $(STAMP)-docs  ## the pages, the notebooks and the API as a site: site/html/index.html
	$(PY) -m sphinx -c docs/site -d site/doctrees . site/html --fail-on-warning --keep-going --quiet

lock:  ## after a change of dependencies in pyproject.toml; needs uv
	uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --no-annotate --no-emit-index-url \
		--quiet --custom-compile-command "make lock" --output-file requirements.lock

lint: $(STAMP)-dev  ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

doctor: $(STAMP)
	$(PY) -m pipeline doctor

$(STAMP): requirements.txt requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

$(STAMP)-%: $(STAMP)  # the group dev or docs of pyproject.toml
	$(INSTALL) -c requirements.lock -e ".[$*]"
	touch $@

clean:  ## caches of tools; neither results nor the virtual environment
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-runs:  ## everything in runs/: results, trained networks, the demo data
	rm -rf runs
