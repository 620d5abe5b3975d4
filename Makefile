# Every goal makes the virtual environment first where there is none.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ARGS ?=
ONLY ?=
RUN ?= runs/demo
PAGE ?= docs/results.md
WORKERS ?= 2

.PHONY: run test lab notebooks results lint doctor clean clean-runs
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
	$(PY) -c "import sys; from pipeline import report; print(report.publish(*sys.argv[1:]))" $(RUN) $(PAGE)

lint: $(STAMP)  ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

doctor: $(STAMP)
	$(PY) -m pipeline doctor

$(STAMP): requirements.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:  ## caches of tools; neither results nor the virtual environment
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-runs:  ## everything in runs/: results, trained networks, the demo data
	rm -rf runs
