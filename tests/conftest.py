"""Fixtures that more than one test file needs."""

import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # quiet child processes, too

PARAMETERS = """
DATASET: str = "demo"  # data set
DATA_DIR: str = ""  # its folder
RUN_DIR: str = ""  # results
PROFILE: str = "demo"  # demo or full
WEIGHTS: str = "demo"  # weights
EPOCHS: int = 0  # at most
LEARNING_RATE: float = 0.0  # step
SEEDS: list = [0, 1]  # one training each
SEED: int = 0  # splits
TASK: str = "malignant"  # question
""".strip()


@pytest.fixture(scope="session")
def root():
    """The project's folder."""
    return ROOT


@pytest.fixture
def write_notebook(tmp_path):
    """A function that writes a small notebook: write_notebook("01_first", "code", ...) -> its path."""

    def write(name, *sources, parameters=PARAMETERS, folder=None):
        node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}", id="title")])
        node.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        for number, source in enumerate([parameters] * bool(parameters) + list(sources)):
            metadata = {"tags": ["parameters"]} if source == parameters else {}
            node.cells.append(nbformat.v4.new_code_cell(source, metadata=metadata, id=f"cell-{number}"))
        path = Path(folder or tmp_path / "notebooks") / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(node, path)
        return path

    return write


@pytest.fixture
def clean_environment(monkeypatch):
    """No MAMMO_RUN_DIR from outside."""
    monkeypatch.delenv("MAMMO_RUN_DIR", raising=False)
