"""Scores of new images: the run's own preprocessing and threshold, files that cannot be read, files with code."""

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline import predict
from shared.data import ImageSteps
from shared.run import DataError, UsageError, write_json

keras = pytest.importorskip("keras")
SIZE = 32


def network(corner=None):
    """A network whose score is the mean grey value over 255, or that of one corner."""
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs := keras.Input((SIZE, SIZE, 1))))
    shown = slice(None) if corner is None else slice(corner, corner + 1)
    return keras.Model(inputs, keras.ops.mean(pixels[:, shown], axis=1, keepdims=True))


def grey(height, width, value):
    """A picture of one grey value but for a pixel: without that it would be none."""
    picture = np.full((height, width), value, np.uint8)
    picture[0, 0] ^= 1
    return picture


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory with a model, its image steps and its threshold."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "models").mkdir()
    network().save(folder / "models/mean.keras")
    steps = {"size": SIZE, "window": "none", "keep_aspect": False, "breast_crop": False}
    write_json(folder / "data/images.json", {"steps": steps})
    write_json(folder / "results/metrics/mean.json", {"threshold": 0.35})
    split = {"split": "train", "images": 2, "patients": 2, "benign": 1, "malignant": 1, "prevalence": 0.5}
    write_json(folder / "data/audit.json", {"splits": [split]})
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A dark PNG, a bright NPZ, a PGM, a broken JPEG, and a file that is no image."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    cv2.imwrite(str(folder / "a_dark.png"), grey(40, 50, 51))
    np.savez(folder / "below/bright.npz", grey(64, 64, 204))
    cv2.imwrite(str(folder / "c.pgm"), grey(33, 33, 102))
    (folder / "d_broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_scores_words_and_problems(run_dir, pictures, tmp_path):
    lines = []
    result = predict.run(run_dir / "models/mean.keras", [pictures], out=tmp_path / "out.csv", echo=lines.append)
    by_name = result.set_index(result.image.str.rsplit("/").str[-1])
    assert list(by_name.index) == ["a_dark.png", "bright.npz", "c.pgm", "d_broken.jpg"]
    assert by_name.score["a_dark.png"] == pytest.approx(0.2, abs=0.01)
    assert by_name.score["bright.npz"] == pytest.approx(0.8, abs=0.01)
    assert list(by_name.prediction) == ["benign", "malignant", "malignant", ""]
    assert (by_name.threshold == 0.35).all()
    assert "d_broken.jpg" in by_name.problem["d_broken.jpg"]
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(written.columns) == list(predict.COLUMNS)
    assert list(written.prediction) == list(result.prediction)
    assert any("3 of 4 images scored" in line for line in lines)
    assert any("not for clinical use" in line for line in lines)
    assert not any("note" in line for line in lines)


def test_a_row_that_averages_files_and_turned_copies_does_so_for_new_images(run_dir, tmp_path):
    for name, corner in (("row", 0), ("row_seed1", SIZE - 1)):
        network(corner).save(run_dir / f"models/{name}.keras")
    metrics = {"threshold": 0.35, "files": ["row", "row_seed1"]}
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[0, 0] = 255  # one corner of four
    cv2.imwrite(str(tmp_path / "corner.png"), picture)
    for tta, expected in ((False, 0.5), (True, 0.25)):
        write_json(run_dir / "results/metrics/row.json", {**metrics, "tta": tta})
        model = predict.load(run_dir / "models/row.keras")
        assert predict.score_files(model, [tmp_path / "corner.png"]).score.item() == pytest.approx(expected)
    (run_dir / "models/row_seed1.keras").unlink()
    assert any("row_seed1.keras" in note for note in predict.load(run_dir / "models/row.keras").notes)


@pytest.fixture
def crops(tmp_path):
    """A run directory whose model was trained on crops of at most 40 × 50 pixels."""
    folder = tmp_path / "crops"
    (folder / "models").mkdir(parents=True)
    network().save(folder / "models/m.keras")
    steps = {"size": SIZE, "window": "none", "keep_aspect": False, "breast_crop": False}
    write_json(folder / "data/images.json", {"steps": steps, "largest": 2000})
    known = {"dataset": "cbis-ddsm", "task": "malignant", "input": "crop", "image_size": SIZE}
    write_json(folder / "results/metrics/m.json", {"threshold": 0.35, "weights": "imagenet", "trained_on": known})
    return folder


def test_what_a_model_was_trained_on_is_said(crops, run_dir, pictures):
    lines = []
    predict.run(crops / "models/m.keras", [pictures / "a_dark.png"], echo=lines.append)
    trained = "cbis-ddsm, crops of 32 px, task malignant (class 0 or class 1), weights imagenet"
    assert lines[0] == f"the model was trained on: {trained}"
    assert "not known" in predict.describe(predict.load(run_dir / "models/mean.keras"))


def test_a_whole_mammogram_for_a_model_of_crops_has_a_warning_or_is_cut(crops, pictures):
    picture = np.zeros((400, 300), np.uint8)
    picture[100:140, 50:90] = grey(40, 40, 255)
    cv2.imwrite(str(pictures / "whole.png"), picture)
    cv2.imwrite(str(pictures / "whole.jpg"), picture)  # which is read at a reduced size
    np.savez(pictures / "whole.npz", picture)
    lines = []
    out = pictures.parent / "out.csv"
    result = predict.run(crops / "models/m.keras", [pictures], out=out, echo=lines.append)
    warned = result[result.warning != ""]
    assert {path.rsplit("/")[-1] for path in warned.image} == {"whole.png", "whole.jpg", "whole.npz", "bright.npz"}
    assert warned.warning.str.contains("400 pixels, larger than any crop").sum() == 3
    assert (warned.problem == "").all()
    assert warned.score.notna().all()
    assert sum(line.startswith("warning: ") for line in lines) == 4
    cut = predict.run(crops / "models/m.keras", [pictures / "whole.png"], box="50,100,40,40", echo=lines.append)
    assert (cut.score.item(), cut.warning.item()) == (pytest.approx(1, abs=1e-3), "")
    model = predict.load(crops / "models/m.keras")
    outside = predict.score_files(model, [pictures / "whole.png"], box=(270, 0, 40, 40))
    assert "whole.png: --box 270,0,40,40 is not inside its 300 × 400 pixels" in outside.problem.item()


def test_one_grey_value_is_no_picture(run_dir, tmp_path):
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((40, 50), 90, np.uint8))
    model = predict.load(run_dir / "models/mean.keras")
    for box, place in ((None, "blank.png"), ((1, 2, 30, 20), "blank.png: --box 1,2,30,20")):
        row = predict.score_files(model, [tmp_path / "blank.png"], box=box).iloc[0]
        assert row.problem.startswith(f"{place}: one grey value in all")
        assert np.isnan(row.score)


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "-1,0,5,5", "0,0,0,5", "", "1,2,3,4,5"])
def test_what_is_no_box_is_refused(crops, pictures, box):
    with pytest.raises(UsageError, match=r"--box .*: not x,y,w,h in pixels"):
        predict.run(crops / "models/m.keras", [pictures], box=box)


def test_many_files_come_in_order(run_dir, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, predict.BATCH * 2 + 3)
    for i, value in enumerate(values):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), grey(8, 8, value))
    model = predict.load(run_dir / "models/mean.keras")
    assert model.steps == ImageSteps(SIZE, "none", False, False)
    result = predict.score_files(model, predict.find_images([tmp_path]))
    np.testing.assert_allclose(result.score, values / 255, atol=1e-3)


def test_a_model_alone_says_what_it_assumes(tmp_path, pictures):
    network().save(tmp_path / "alone.keras")
    model = predict.load(tmp_path / "alone.keras")
    assert model.threshold == 0.5
    assert model.class_names == ("class 0", "class 1")
    assert len(model.notes) == 2
    assert predict.load(tmp_path / "alone.keras", threshold=0.7).threshold == 0.7


def test_code_in_a_model_is_refused(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 1))
    outputs = keras.layers.Lambda(lambda x: keras.ops.mean(x, axis=(1, 2)))(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "code.keras")
    with pytest.raises(DataError, match=r"code\.keras: not a Keras model .*Lambda"):
        predict.load(tmp_path / "code.keras")


def test_other_files_are_no_models(tmp_path):
    network().save(tmp_path / "whole.keras")
    whole = (tmp_path / "whole.keras").read_bytes()
    for content in (b"hello", b"", whole[:-100], whole[:1000] + bytes(200) + whole[1200:]):
        (tmp_path / "broken.keras").write_bytes(content)
        with pytest.raises(DataError, match="not a Keras model") as caught:
            predict.load(tmp_path / "broken.keras")
        assert "\n" not in str(caught.value)
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]).save(tmp_path / "flat.keras")
    with pytest.raises(UsageError, match="not one grey square"):
        predict.load(tmp_path / "flat.keras")


def test_places(tmp_path, pictures):
    twice = predict.find_images([pictures / "c.pgm", pictures, pictures / "notes.txt"])
    assert [path.name for path in twice] == ["c.pgm", "a_dark.png", "bright.npz", "d_broken.jpg", "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        predict.find_images([tmp_path / "empty"])
