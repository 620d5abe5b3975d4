"""Every row of the table is made the same way."""

import numpy as np
import pandas as pd
import pytest

import phantoms as demo_data
from shared.data import manifests, preparation
from shared.data.preparation import Prepared
from shared.evaluation import metrics, result_files
from shared.evaluation import scoring as evaluation
from shared.run import MANIFEST_COLUMNS, PREDICTION_COLUMNS, TABLE_COLUMNS, DataError, Settings, files
from shared.run import settings as config


@pytest.fixture
def prepared(tmp_path):
    """120 patients of two images; brightness says a little, BI-RADS says more."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(120), 2)
    labels = generator.integers(0, 2, 120)[patients]
    manifest = pd.DataFrame({"patient_id": [f"P{p}" for p in patients], "label": labels})
    manifest["image_id"] = [f"I{i}" for i in range(240)]
    manifest["split"] = np.select([patients < 60, patients < 80], ["train", "validation"], "test")
    manifest["fold"] = np.where(patients < 80, patients % 5, -1)
    manifest["side"], manifest["official_split"] = "LEFT", ""
    manifest["birads"] = np.clip(labels + generator.integers(2, 5, 240), 2, 5).astype(str)
    manifest["shape"] = np.where(labels == 1, "IRREGULAR", "OVAL-ROUND")
    manifest.loc[::3, "shape"] = ""
    manifest = manifest.reindex(columns=[*MANIFEST_COLUMNS], fill_value="")
    statistics = pd.DataFrame({"mean": generator.normal(labels * 0.8, 1), "problem": "", "content": ""})
    manifests.save_manifest(tmp_path, manifest)
    images = np.zeros((240, 8, 8), np.uint8)
    return Prepared(Settings(run_dir=tmp_path), manifest, images, None, statistics, ("benign", "malignant"))


def scores_of(prepared, noise=1.0):
    generator = np.random.default_rng(1)
    return 1 / (1 + np.exp(-(prepared.labels * 2 - 1 + generator.normal(0, noise, len(prepared.labels)))))


def test_row_and_files_agree(prepared):
    scores = scores_of(prepared)
    result = evaluation.evaluate(prepared, "m", scores, weights="random", parameters=7)
    rows = result_files.load_predictions(prepared.settings.run_dir, "m")
    assert list(rows.columns) == list(PREDICTION_COLUMNS)
    assert set(rows.split) == {"validation", "test"}  # a model's own training images are no result
    test = rows[rows.split == "test"]
    assert result["auc"] == pytest.approx(metrics.auc(test.label, test.score), abs=1e-8)
    assert result["n_test"] == 80
    assert result["n_patients"] == 40
    table = result_files.load_table(prepared.settings.run_dir)
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert table.auc[0] == pytest.approx(result["auc"])
    assert result["auc_low"] < result["auc"] < result["auc_high"]


def test_the_threshold_never_sees_test(prepared):
    scores = scores_of(prepared)
    first = evaluation.evaluate(prepared, "m", scores)["threshold"]
    scores[prepared.rows("test")] = 1 - scores[prepared.rows("test")]
    assert evaluation.evaluate(prepared, "m", scores)["threshold"] == first
    rows = prepared.rows("validation")
    assert first == pytest.approx(metrics.choose_threshold(prepared.labels[rows], scores[rows]), abs=1e-9)


def test_every_held_out_image_needs_a_score(prepared):
    scores = scores_of(prepared)
    scores[prepared.rows("test")[3]] = np.nan
    with pytest.raises(ValueError, match="79 scores for 80 test images"):
        evaluation.evaluate(prepared, "m", scores)
    with pytest.raises(ValueError, match="probabilities"):
        evaluation.evaluate(prepared, "m", scores_of(prepared) * 3)


def test_baselines(prepared):
    results = evaluation.score_baselines(prepared)
    assert list(results) == ["majority", "mean_intensity", "birads", "descriptors"]
    assert results["majority"]["auc"] == results["majority"]["case_auc"] == 0.5
    assert {results["majority"]["sensitivity"], results["majority"]["specificity"]} == {0.0, 1.0}
    assert 0.5 < results["mean_intensity"]["auc"] < results["birads"]["auc"] < results["descriptors"]["auc"]


def test_baselines_leave_out_what_the_source_does_not_have(prepared):
    prepared.manifest["birads"] = prepared.manifest["shape"] = ""
    assert list(evaluation.score_baselines(prepared)) == ["majority", "mean_intensity"]


def test_results_of_another_split_stay_out_of_the_table(prepared):
    evaluation.evaluate(prepared, "old", scores_of(prepared))
    prepared.manifest.loc[prepared.rows("train")[:4], "split"] = "excluded"
    manifests.save_manifest(prepared.settings.run_dir, prepared.manifest)
    evaluation.evaluate(prepared, "new", scores_of(prepared))
    assert result_files.load_table(prepared.settings.run_dir).model.tolist() == ["new"]


def test_one_hot_sets_every_word_of_a_combination():
    frame = evaluation.one_hot(pd.Series(["OVAL-LOBULATED", "OVAL", ""]))
    assert frame.sum(axis=1).tolist() == [2, 1, 0]


# ----------------------------------------------------------------- artifacts
def test_a_file_that_is_there_is_whole(tmp_path):
    path = tmp_path / "a/b.txt"
    files.write_text(path, "first")
    with pytest.raises(RuntimeError), files.atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["b.txt"]


def test_json_holds_plain_values_only(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"n": np.int64(3), "x": np.array([1.5, np.nan]), 4: {"t": (1, 2)}, "p": tmp_path})
    assert files.read_json(path) == {"n": 3, "x": [1.5, None], "4": {"t": [1, 2]}, "p": tmp_path.as_posix()}
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        files.read_json(path)


def test_predictions_without_a_column_are_refused(tmp_path):
    files.write_csv(result_files.predictions_path(tmp_path, "m"), pd.DataFrame({"image_id": ["a"], "score": [0.5]}))
    with pytest.raises(DataError, match="no column patient_id"):
        result_files.load_predictions(tmp_path, "m")
    with pytest.raises(FileNotFoundError, match="run the notebook"):
        result_files.load_predictions(tmp_path, "absent")


@pytest.fixture
def two_hospitals(tmp_path):
    """A prepared run on class folders, and two folders that hold some of its pictures and none."""
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        demo_data.write_demo_data(folder, layout="mini-mias", patients=16, seed=seed, n_jobs=1, progress=False)
    settings = config.resolve_settings(
        {"DATASET": "mini-mias", "DATA_DIR": str(folders[0]), "RUN_DIR": str(tmp_path / "run"), "IMAGE_SIZE": 32,
         "N_FOLDS": 2}
    )  # fmt: skip
    preparation.prepare(settings)
    return settings, *folders[1:]


def test_external_validation_refuses_patients_and_pictures_of_the_first_data_set(two_hospitals):
    settings, same, _ = two_hospitals
    with pytest.raises(DataError, match="of its patients stand in the first data set"):
        evaluation.prepare_external(settings, "mini-mias", same)
    manifest = manifests.load_manifest(settings.run_dir)
    manifests.save_manifest(settings.run_dir, manifest.assign(patient_id="x" + manifest.patient_id))
    with pytest.raises(DataError, match="of its pictures stand in the first data set"):
        evaluation.prepare_external(settings, "mini-mias", same)


def test_external_validation_takes_other_patients_as_one_test_set(two_hospitals):
    settings, _, other = two_hospitals
    manifest = manifests.load_manifest(settings.run_dir)
    manifests.save_manifest(settings.run_dir, manifest.assign(patient_id="x" + manifest.patient_id))
    external = evaluation.prepare_external(settings, "mini-mias", other)
    assert set(external.manifest.split) == {"test", "excluded"}  # what the reader itself leaves out stays out
    assert external.images[external.rows("test")].any(axis=(1, 2)).all()
    assert external.images.shape[1:] == (32, 32)
