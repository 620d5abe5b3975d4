"""The sabotage exercises of docs/teaching.md: the solution printed there finds the planted fault, and only that."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from phantoms import Difficulty, write_demo_data
from shared import data, run
from shared.run import project_root

PAGE = (project_root() / "docs/teaching.md").read_text()


@pytest.fixture
def work_through(tmp_path, monkeypatch):
    """Return a function that runs the common start and a solution of the page on data with a fault."""

    def run_page(fault, solution):
        folder = tmp_path / "colleague"
        write_demo_data(folder, patients=40, difficulty=Difficulty(fault=fault), n_jobs=2, progress=False)
        monkeypatch.setenv("MAMMO_RUN_DIR", str(tmp_path / "run"))
        data.load_dataset(run.resolve_settings({"DATASET": "cbis-ddsm", "DATA_DIR": folder, "PROFILE": "demo"}))
        start, *solutions = re.findall(r"```python\n(.*?)```", PAGE.split("## Two sabotage exercises")[1], re.DOTALL)
        names: dict = {}
        exec(start.replace('"colleague"', repr(str(folder))) + solutions[solution], names)
        return names

    return run_page


@pytest.mark.parametrize("fault", ["", "marker"])
def test_the_difference_of_means_shows_the_mark(fault, work_through):
    found = work_through(fault, 0)
    in_corner = max(found["row"], found["column"]) < 20
    assert in_corner == (fault == "marker")
    corner = found["prepared"].images[:, :20, :20].max(axis=(1, 2))
    assert (roc_auc_score(found["labels"], corner) > 0.9) == (fault == "marker")


@pytest.mark.parametrize("fault", ["", "outcome"])
def test_the_table_of_assessments_shows_the_column_that_knows_the_outcome(fault, work_through):
    reader = work_through(fault, 1)["reader"]
    assert isinstance(reader, pd.DataFrame)
    one_class_each = bool(np.all((reader > 0).sum(axis=1) == 1))
    assert one_class_each == (fault == "outcome")


def test_an_unknown_fault_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fault: 'leek' is not one of"):
        write_demo_data(tmp_path / "out", patients=1, difficulty=Difficulty(fault="leek"))


def test_a_fault_of_a_table_leaves_the_pictures_alone(tmp_path):
    pictures = []
    for fault in ("", "outcome"):
        out = tmp_path / f"out{fault}"
        write_demo_data(out, patients=2, difficulty=Difficulty(fault=fault), n_jobs=1, progress=False)
        pictures.append({path.relative_to(out): path.read_bytes() for path in sorted(out.glob("jpeg/*/*.jpg"))})
    assert pictures[0] == pictures[1]
