"""Every layout goes through the runner by parameters alone, and leaves the same columns behind."""

import csv

import pytest

import phantoms as demo_data
from pipeline.__main__ import main
from shared.data.readers import READERS
from shared.run import TABLE_COLUMNS

LAYOUTS = {  # layout: patients, task
    "cbis-ddsm": (36, "malignant"),
    "cbis-ddsm-dicom": (36, "malignant"),
    "ddsm-tfrecord": (24, "abnormal"),
    "png-npz": (24, "original"),
    "npz": (36, "malignant"),
    "mini-mias": (36, "abnormal"),
}


def test_every_reader_has_a_layout_to_run():
    assert set(LAYOUTS) == set(demo_data.LAYOUTS) == set(READERS) - {"demo"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_runs(layout, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MAMMO_RUN_DIR", raising=False)
    patients, task = LAYOUTS[layout]
    data = demo_data.write_demo_data(tmp_path / "data", layout=layout, patients=patients, n_jobs=1, progress=False)
    tiny = ["-p", "TASK", task, "-p", "IMAGE_SIZE", "32", "-p", "EPOCHS", "1", "-p", "N_FOLDS", "2"]
    run = ["run", "--dataset", layout, "--data-dir", str(data), "--run-dir", str(tmp_path / "run"), "--profile", "demo"]
    status = main([*run, "--only", "01", "03", "07", *tiny])
    assert status == 0, capfd.readouterr().err
    with open(tmp_path / "run/results/model_comparison_table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(TABLE_COLUMNS)
    assert {"majority", "mean_intensity", "simple_cnn", "small_cnn"} <= {row["model"] for row in rows}
    assert (tmp_path / "run/index.html").exists()
