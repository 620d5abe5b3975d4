"""The committed notebooks: skeleton, imports, stored outputs, links, and a run of each with its solutions."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from pipeline.parameters import is_optional, list_notebooks, notebook_number

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = list_notebooks(ROOT / "notebooks")
ROOMS = {"data", "evaluation", "explain", "models", "plots", "run", "synthetic"}
COMMON = {
    "DATASET": "demo", "DATA_DIR": "", "RUN_DIR": "", "PROFILE": "demo", "IMAGE_SIZE": 0, "BATCH_SIZE": 0, "EPOCHS": 0,
    "LEARNING_RATE": 0.0, "WEIGHTS": "demo", "N_FOLDS": 0, "SEEDS": [], "SEED": 0, "TASK": "malignant",
    "INPUT": "auto",
}  # fmt: skip
OF_TRAINING = {"BATCH_SIZE", "EPOCHS", "LEARNING_RATE", "SEEDS"}  # a notebook that trains nothing leaves these out
STORE = {"WINDOW": "percentile", "KEEP_ASPECT": True, "BREAST_CROP": False}  # of every notebook that opens the store
SECTIONS = ("Setup", "Parameters", "Resolve", "Check", "Summary", "Exercises", "References")
MAX_BYTES = 1_200_000
MAX_LINES, MAX_MODEL_LINES = 25, 30
MACHINE_PATHS = re.compile(r"(/home/|/root/|/Users/|/work/|/tmp/|/usr/|site-packages|[A-Z]:\\\\)")
SOLUTION = re.compile(r"<details>.*?</details>", flags=re.DOTALL)
PYTHON_BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", flags=re.DOTALL | re.MULTILINE)
# what a reader does to the controls of a notebook, and what it must change
CONTROLS = {
    "06": """
drawn = picture.value
for choice, value in zip(choices, (2, CORE[-1], 1.0)):
    before, choice.value = picture.value, value
    assert drawn and picture.value != before
""",
    "07": """
before, drawn = at(threshold_slider.value, cancers_slider.value / 1000), picture.value
threshold_slider.value, cancers_slider.value = 0.9, 100
assert drawn and picture.value != drawn
assert at(0.9, 0.1) != before
reader.value = "a test/reader"
for number in range(len(cases)):
    mark.value = 1 + 4 * int(cases.label[case.value - 1])
kept = pd.read_csv(readers / "atestreader.csv")
assert list(kept) == ["image_id", "mark"] and len(kept) == len(cases) and case.value == len(cases)
assert roc_auc_score(cases.set_index("image_id").label[kept.image_id], kept.mark) == 1
""",
}
# nbval waits five seconds for what a cell has printed, whatever its options say: too short on a busy machine
PATIENCE = "def pytest_itemcollected(item):\n    item.output_timeout = 300\n"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    """Return a notebook, its code cells, and its text."""
    node = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    return node, [cell for cell in node.cells if cell.cell_type == "code"], text


def solutions_of(text):
    """Return the Python blocks of the collapsed solutions."""
    return [block for solution in SOLUTION.findall(text) for block in PYTHON_BLOCK.findall(solution)]


@each_notebook
def test_skeleton(path):
    node, _, text = read(path)
    nbformat.validate(node)
    assert re.match(rf"# {notebook_number(path.stem)} · \S", text)
    assert is_optional(path.stem) == ("optional" in text.split("|")[0].lower())
    head = text.split("\n## ")[0]
    assert "You will learn" in head
    assert "Time" in head
    assert "?" in head, "the question in one sentence"
    headings = re.findall(r"^## (.+?)\s*$", text, flags=re.MULTILINE)
    places = [headings.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert solutions_of(text), "exercises have solutions that run"
    assert len({cell.id for cell in node.cells}) == len(node.cells)


@each_notebook
def test_links_lead_somewhere_and_to_the_neighbours(path):
    links = re.findall(r"\]\(([^)\s]+)\)", read(path)[2])
    for link in links:
        if not re.match(r"https?://|#|attachment:", link):
            assert (path.parent / link.split("#")[0]).exists(), link
    series = [other for other in NOTEBOOKS if other == path or not is_optional(other.stem)]
    place = series.index(path)
    neighbours = [other.name for other in series[max(place - 1, 0) : place + 2] if other != path]
    assert {*neighbours, "../README.md"} <= set(links)


@each_notebook
def test_parameters(path):
    """papermill lists every parameter: one literal a line, with help that holds no `=`, which it cannot read."""
    _, cells, _ = read(path)
    (tagged,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = tagged.source.strip().splitlines()
    for line in lines:
        assert re.match(r"[A-Z][A-Z0-9_]*: (str|int|float|bool|list) = [^#]+  # [^=]+$", line), line
    listed = papermill.inspect_notebook(str(path))
    assert list(listed) == [line.split(":")[0] for line in lines]
    values = {name: ast.literal_eval(parameter["default"]) for name, parameter in listed.items()}
    common = {name: default for name, default in COMMON.items() if name in values or name not in OF_TRAINING}
    assert dict(list(values.items())[: len(common)]) == common
    assert list(values)[: len(common)] == list(common)
    assert len(values) <= 20
    if any("data.prepare(" in cell.source for cell in cells):
        assert {name: values.get(name) for name in STORE} == STORE


@each_notebook
def test_code_is_short_and_plain_and_imports_rooms_only(path):
    for cell in read(path)[1]:
        source = cell.source
        limit = MAX_MODEL_LINES if "layers." in source else MAX_LINES
        assert len(source.splitlines()) <= limit, source
        assert not re.search(r"^\s*[!%]|import \*|getsource", source, flags=re.MULTILINE), source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert node.module == "shared" or not (node.module or "").startswith(("shared", "phantoms", "pipeline"))
                assert node.module != "shared" or {alias.name for alias in node.names} <= ROOMS, source
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith(("shared", "phantoms", "pipeline")) for alias in node.names)


@each_notebook
def test_stored_outputs(path):
    assert path.stat().st_size <= MAX_BYTES
    node, cells, text = read(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in outputs), "figures"
    assert not {"widgets", "papermill"} & set(node.metadata)
    assert not [kind for output in outputs for kind in output.get("data", {}) if "widget" in kind]
    printed = [{k: v for k, v in output.get("data", output).items() if k != "image/png"} for output in outputs]
    for where in (json.dumps(printed), text, "\n".join(cell.source for cell in cells)):
        assert not MACHINE_PATHS.search(where), MACHINE_PATHS.search(where)
    for cell in cells:
        lines = sum(len(output.get("text", "").splitlines()) for output in cell.outputs)
        assert lines <= 100, "a hundred lines of text output a cell"


@pytest.fixture(scope="session")
def shared_run_dir(tmp_path_factory):
    """One run directory for all notebooks, as a reader has it."""
    return tmp_path_factory.mktemp("notebooks") / "run"


@pytest.mark.xdist_group("notebooks")  # one after the other, in order
@each_notebook
def test_runs_as_stored(path, shared_run_dir, tmp_path):
    """Cells tagged nbval-check-output print what is stored; no cell, and no solution, fails."""
    node, cells, text = read(path)
    solutions = solutions_of(text) + [block for number, block in CONTROLS.items() if path.name.startswith(number)]
    node.cells += [nbformat.v4.new_code_cell(block) for block in solutions]
    nbformat.write(node, tmp_path / path.name)
    (tmp_path / "conftest.py").write_text(PATIENCE)
    environment = os.environ | {"MAMMO_RUN_DIR": str(shared_run_dir), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment |= {"TQDM_DISABLE": "1"}  # as the runner does: no progress bars in outputs
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--nbval-lax"]
    command += ["--nbval-current-env", "--nbval-kernel-startup-timeout", "300", "-x", "-q", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), str(tmp_path / path.name)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{len(cells) + len(solutions)} passed" in done.stdout
