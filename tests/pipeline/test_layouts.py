"""Every layout goes through notebook 01 by parameters alone, two through the training and the comparison too."""

import pandas as pd
import pytest

from phantoms import LAYOUTS as WRITTEN
from phantoms import write_demo_data
from pipeline.__main__ import main
from shared.data import READERS
from shared.run import TABLE_COLUMNS

LAYOUTS = {  # layout: patients, task, notebooks
    "cbis-ddsm": (36, "malignant", ("01",)),
    "cbis-ddsm-dicom": (36, "malignant", ("01",)),
    "ddsm-tfrecord": (24, "abnormal", ("01", "03", "07")),
    "png-npz": (24, "original", ("01",)),
    "npz": (36, "malignant", ("01",)),
    "mini-mias": (36, "abnormal", ("01", "03", "07")),
    "vindr-mammo": (40, "malignant", ("01",)),
    "rsna-2023": (40, "malignant", ("01",)),
    "cmmd": (40, "malignant", ("01", "03", "07")),
    "inbreast": (40, "malignant", ("01",)),
}


def test_every_reader_has_a_layout_to_run():
    assert set(LAYOUTS) == set(WRITTEN) == set(READERS) - {"demo"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_runs(layout, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MAMMO_RUN_DIR", raising=False)
    patients, task, notebooks = LAYOUTS[layout]
    data = write_demo_data(tmp_path / "data", layout=layout, patients=patients, n_jobs=1, progress=False)
    tiny = ["-p", "TASK", task, "-p", "IMAGE_SIZE", "32", "-p", "EPOCHS", "1", "-p", "N_FOLDS", "2"]
    run = ["run", "--dataset", layout, "--data-dir", str(data), "--run-dir", str(tmp_path / "run"), "--profile", "demo"]
    assert main([*run, "--only", *notebooks, *tiny]) == 0, capfd.readouterr().err
    assert (tmp_path / "run/index.html").exists()
    rows = pd.read_csv(tmp_path / "run/data/manifest.csv")
    assert (set(rows.source), set(rows.label[rows.split == "test"])) == ({layout}, {0, 1})
    if len(notebooks) > 1:
        table = pd.read_csv(tmp_path / "run/results/model_comparison_table.csv")
        assert list(table) == list(TABLE_COLUMNS)
        assert {"majority", "mean_intensity", "simple_cnn", "small_cnn"} <= set(table.model)
