"""TensorFlow Lite files: written, scored like the model they come from, refused where there is no run."""

import numpy as np
import pandas as pd
import pytest

from pipeline import __main__, export
from shared.data import manifests
from shared.run import MANIFEST_COLUMNS, UsageError, files

keras = pytest.importorskip("keras")
SIZE = 32


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory with 40 noisy pictures, brighter ones of class 1, and a small untrained network."""
    folder = tmp_path_factory.mktemp("run")
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).integers(0, 120, (40, SIZE, SIZE))
    files.write_array(folder / "data/images.npy", (noise + 100 * labels[:, None, None]).astype(np.uint8))
    manifest = pd.DataFrame("", index=range(40), columns=list(MANIFEST_COLUMNS))
    manifest = manifest.assign(image_id=[f"i{i}" for i in range(40)], label=labels, fold=-1)
    manifests.save_manifest(folder, manifest.assign(split=np.repeat(["train", "test"], 20)))
    files.write_json(folder / "data/images.json", {"steps": {"size": SIZE}})
    files.write_json(folder / "results/metrics/tiny.json", {"threshold": 0.5})
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(1, activation="sigmoid")(x)
    (folder / "models").mkdir()
    keras.Model(inputs, outputs).save(folder / "models/tiny.keras")
    return folder


def test_both_kinds_score_like_the_model(run_dir, tmp_path, capfd):
    table = export.export(run_dir / "models/tiny.keras", out=tmp_path).set_index("form")
    assert list(table.index) == ["keras", "float16", "int8"]
    assert table.delta_auc["keras"] == 0
    assert table.largest_score_change["float16"] < 0.005
    assert table.largest_score_change["int8"] < 0.05
    assert (table.ms_per_image > 0).all()
    for kind in export.KINDS:
        content = (tmp_path / f"tiny.{kind}.tflite").read_bytes()
        assert content[4:8] == b"TFL3"
        assert len(content) / 1e6 == pytest.approx(table.megabytes[kind])
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err == ""


def test_a_model_without_its_run(run_dir, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.keras").write_bytes((run_dir / "models/tiny.keras").read_bytes())
    with pytest.raises(UsageError, match="export a model of a run"):
        export.export(tmp_path / "models/tiny.keras")


def test_command_line(run_dir, tmp_path, capsys):
    command = ["export", "--model", str(run_dir / "models/tiny.keras"), "--out", str(tmp_path), "--kind", "float16"]
    assert __main__.main(command) == 0
    out = capsys.readouterr().out
    assert "delta_auc" in out
    assert "tiny.float16.tflite" in out
    assert __main__.main(["export", "--model", str(tmp_path / "none.keras")]) == 2
