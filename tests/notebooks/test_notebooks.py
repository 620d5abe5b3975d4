"""The committed notebooks: skeleton, stored outputs, links, and a run of each with its exercises' solutions."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from pipeline import execution
from pipeline import series as pipeline

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob(pipeline.NOTEBOOK_PATTERN))
COMMON = {
    "DATASET": "demo", "DATA_DIR": "", "RUN_DIR": "", "PROFILE": "demo", "IMAGE_SIZE": 0, "BATCH_SIZE": 0, "EPOCHS": 0,
    "LEARNING_RATE": 0.0, "WEIGHTS": "demo", "N_FOLDS": 0, "SEEDS": [], "SEED": 0, "TASK": "malignant",
    "INPUT": "crop",
}  # fmt: skip
STORE = {"WINDOW": "percentile", "KEEP_ASPECT": True, "BREAST_CROP": False}  # of every notebook that opens the store
SECTIONS = ("Setup", "Parameters", "Resolve", "Check", "Summary", "Exercises", "References")
MAX_BYTES = 1_000_000
MAX_LINES, MAX_MODEL_LINES = 25, 30
MACHINE_PATHS = re.compile(r"(/home/|/root/|/Users/|/work/|/tmp/|/usr/|site-packages|[A-Z]:\\\\)")
SOLUTION = re.compile(r"<details>.*?</details>", flags=re.DOTALL)
PYTHON_BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", flags=re.DOTALL | re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text_of(notebook):
    return "\n".join(execution.source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def solutions_of(notebook):
    """Return the Python blocks of the collapsed solutions."""
    return [
        block.replace("\r", "")
        for solution in SOLUTION.findall(text_of(notebook))
        for block in PYTHON_BLOCK.findall(solution)
    ]


@each_notebook
def test_skeleton(path):
    notebook = execution.read_notebook(path)
    nbformat.validate(nbformat.read(path, as_version=4))
    text = text_of(notebook)
    assert re.match(rf"# {path.name[:2]} · \S", text)
    head = text.split("\n## ")[0]
    assert "You will learn" in head
    assert "Time" in head
    assert "?" in head, "the question in one sentence"
    headings = re.findall(r"^## (.+?)\s*$", text, flags=re.MULTILINE)
    places = [headings.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert solutions_of(notebook), "exercises have solutions that run"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


@each_notebook
def test_neighbours_are_linked(path):
    place = NOTEBOOKS.index(path)
    text = text_of(execution.read_notebook(path))
    for other in NOTEBOOKS[max(place - 1, 0) : place] + NOTEBOOKS[place + 1 : place + 2]:
        assert f"]({other.name})" in text
    assert "](../README.md)" in text


@each_notebook
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(execution.read_notebook(path)))
    for link in links:
        if not re.match(r"https?://|#|attachment:", link):
            assert (path.parent / link.split("#")[0]).exists(), link


@each_notebook
def test_parameters(path):
    notebook = execution.read_notebook(path)
    tagged = [cell for cell in code_cells(notebook) if execution.PARAMETERS_TAG in execution.tags_of(cell)]
    assert len(tagged) == 1
    source = execution.source_of(tagged[0])
    parameters = execution.default_parameters(notebook)  # refuses what is not a literal
    assert list(parameters)[: len(COMMON)] == list(COMMON)
    assert {name: parameters[name] for name in COMMON} == COMMON
    if any("preparation.prepare(" in code for code in execution.code_of(notebook)):
        assert {name: parameters.get(name) for name in STORE} == STORE
    lines = source.strip().splitlines()
    assert len(ast.parse(source).body) == len(lines), "one assignment a line"
    for line in lines:
        assert re.match(r"[A-Z][A-Z0-9_]*: (str|int|float|bool|list) = .+  # \S", line), line


@each_notebook
def test_stored_outputs(path):
    assert path.stat().st_size <= MAX_BYTES
    notebook = execution.read_notebook(path)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "figures"
    assert "widgets" not in notebook["metadata"]
    assert "papermill" not in notebook["metadata"]
    printed = json.dumps(
        [{k: v for k, v in output.get("data", output).items() if k != "image/png"} for output in outputs]
    )
    for where in (printed, text_of(notebook), "\n".join(execution.code_of(notebook))):
        assert not MACHINE_PATHS.search(where), MACHINE_PATHS.search(where)
    for cell in cells:
        lines = sum(len(execution.source_of({"source": o.get("text", "")}).splitlines()) for o in cell["outputs"])
        assert lines <= 100, "a hundred lines of text output a cell"


@each_notebook
def test_code_is_short_and_plain(path):
    for cell in code_cells(execution.read_notebook(path)):
        source = execution.source_of(cell)
        limit = MAX_MODEL_LINES if "layers." in source else MAX_LINES
        assert len(source.splitlines()) <= limit, source
        assert not re.search(r"^\s*[!%]|import \*", source, flags=re.MULTILINE), source


def test_ruff():
    if not NOTEBOOKS:
        pytest.skip("no notebooks")
    command = [sys.executable, "-m", "ruff", "check", "--quiet", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def shared_run_dir(tmp_path_factory):
    """One run directory for all notebooks, as a reader has it."""
    return tmp_path_factory.mktemp("notebooks") / "run"


def with_solutions(path, folder):
    """Copy a notebook with the solutions of its exercises as further cells."""
    node = nbformat.read(path, as_version=4)
    for block in solutions_of(node):
        node.cells.append(nbformat.v4.new_code_cell(block))
    copy = folder / path.name
    nbformat.write(node, copy)
    return copy


@pytest.mark.xdist_group("notebooks")  # one after the other, in order
@each_notebook
def test_runs_as_stored(path, shared_run_dir, tmp_path):
    """Cells tagged nbval-check-output print what is stored; no cell, and no solution, fails."""
    copy = with_solutions(path, tmp_path)
    environment = {
        **os.environ,
        "MAMMO_RUN_DIR": str(shared_run_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--nbval-lax"]
    command += ["--nbval-current-env", "-x", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(copy)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    count = len(code_cells(execution.read_notebook(copy)))
    assert f"{count} passed" in done.stdout
