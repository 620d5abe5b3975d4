"""Exported files: written by Keras, scored like the model they come from, refused where there is no run."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline import __main__, export
from shared.data import save_manifest
from shared.run import MANIFEST_COLUMNS, UsageError, write_json

keras = pytest.importorskip("keras")
SIZE = 32


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory with 40 noisy pictures, brighter ones of class 1, and a small untrained network."""
    folder = tmp_path_factory.mktemp("run")
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).integers(0, 120, (40, SIZE, SIZE))
    manifest = pd.DataFrame("", index=range(40), columns=list(MANIFEST_COLUMNS))
    manifest = manifest.assign(image_id=[f"i{i}" for i in range(40)], label=labels, fold=-1)
    save_manifest(folder, manifest.assign(split=np.repeat(["train", "test"], 20)))
    np.save(folder / "data/images.npy", (noise + 100 * labels[:, None, None]).astype(np.uint8))
    write_json(folder / "data/images.json", {"steps": {"size": SIZE}})
    write_json(folder / "results/metrics/tiny.json", {"threshold": 0.5})
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    (folder / "models").mkdir()
    keras.Model(inputs, outputs).save(folder / "models/tiny.keras")
    return folder


def test_all_kinds_score_like_the_model(run_dir, tmp_path, capfd):
    kinds = ("float32", "float16", "int8")
    table = export.run(run_dir / "models/tiny.keras", out=tmp_path, kinds=kinds, echo=lambda line: None)
    table = table.set_index("form")
    assert (list(table.index), table.delta_auc["keras"]) == (["keras", *kinds], 0)
    for kind, largest in zip(kinds, (1e-5, 0.005, 0.05), strict=True):
        assert table.largest_score_change[kind] < largest
        content = (tmp_path / f"tiny{export.KINDS[kind][0]}").read_bytes()
        assert (content[4:8], len(content) / 1e6) == (b"TFL3", pytest.approx(table.megabytes[kind]))
    assert table.largest_score_change["int8"] > 0
    assert (table.ms_per_image > 0).all()
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


def test_four_subtypes_become_one_score():
    scores, _ = export.time_scores(lambda batch: np.array([[0.1, 0.2, 0.3, 0.4]]), np.zeros((2, 1, SIZE, SIZE, 1)))
    np.testing.assert_allclose(scores, [0.7, 0.7])


def test_a_package_that_is_missing_is_named(run_dir, monkeypatch):
    def lacking(*arguments, **options):
        raise ImportError("No module named 'onnx'")

    monkeypatch.setattr(keras.Model, "export", lacking)
    with pytest.raises(UsageError, match="--kind onnx: No module named 'onnx'; install it with pip"):
        export.run(run_dir / "models/tiny.keras", kinds=["onnx"])


def test_command_line(run_dir, tmp_path, capsys):
    command = ["export", "--model", str(run_dir / "models/tiny.keras"), "--out", str(tmp_path), "--kind", "float16"]
    assert __main__.main(command) == 0
    out = capsys.readouterr().out
    assert "delta_auc" in out
    assert "tiny.float16.tflite" in out
    with pytest.raises(SystemExit):
        __main__.main([*command[:-1], "openvino"])
    (choices,) = re.findall(r"choose from (.*)\)", capsys.readouterr().err)
    assert re.findall(r"\w+", choices) == list(export.KINDS)
