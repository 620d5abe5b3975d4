"""Every row of the table is made the same way, and stays with its split."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phantoms import write_demo_data
from shared import data, evaluation, models
from shared.data import load_manifest, save_manifest
from shared.evaluation.results import save_predictions
from shared.run import MANIFEST_COLUMNS, PREDICTION_COLUMNS, TABLE_COLUMNS, DataError, Settings, write_csv, write_text
from tests.evaluation.recompute import check


@pytest.fixture
def prepared(tmp_path):
    """120 patients of two images; brightness says a little, BI-RADS says more."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(120), 2)
    labels = generator.integers(0, 2, 120)[patients]
    manifest = pd.DataFrame("", index=range(240), columns=list(MANIFEST_COLUMNS)).assign(
        patient_id=[f"P{p}" for p in patients], image_id=[f"I{i}" for i in range(240)], label=labels, side="LEFT",
        split=np.select([patients < 60, patients < 80], ["train", "validation"], "test"),
        fold=np.where(patients < 80, patients % 5, -1), shape=np.where(labels == 1, "IRREGULAR", "OVAL-ROUND"),
        birads=np.clip(labels + generator.integers(2, 5, 240), 2, 5).astype(str),
    )  # fmt: skip
    manifest.loc[::3, "shape"] = ""
    statistics = pd.DataFrame({"mean": generator.normal(labels * 0.8, 1), "problem": "", "content": ""})
    save_manifest(tmp_path, manifest)
    images = np.zeros((240, 8, 8), np.uint8)
    return data.Prepared(Settings(run_dir=tmp_path), manifest, images, None, statistics, ("benign", "malignant"))


def scores_of(prepared, noise=1.0):
    generator = np.random.default_rng(1)
    return 1 / (1 + np.exp(-(prepared.labels * 2 - 1 + generator.normal(0, noise, len(prepared.labels)))))


def test_row_and_files_agree(prepared):
    result = evaluation.evaluate(prepared, "m", scores_of(prepared), weights="random", parameters=7, extra={"k": 1})
    rows = evaluation.load_predictions(prepared.settings.run_dir, "m")
    assert list(rows.columns) == list(PREDICTION_COLUMNS)
    assert set(rows.split) == {"validation", "test"}  # a model's own training images are no result
    test = rows[rows.split == "test"]
    assert result["auc"] == pytest.approx(evaluation.auc(test.label, test.score), abs=1e-8)
    assert (result["n_test"], result["n_patients"], result["k"]) == (80, 40, 1)
    assert result["trained_on"] == {"dataset": "demo", "task": "malignant", "input": "auto", "image_size": 96}
    table = evaluation.load_table(prepared.settings.run_dir)
    assert (list(table.columns), table.auc[0]) == (list(TABLE_COLUMNS), pytest.approx(result["auc"]))
    assert result["auc_low"] < result["auc"] < result["auc_high"]
    shown = evaluation.show_results([result, result | {"model": "n"}])
    assert shown.index.tolist() == ["m", "n"]
    assert (shown.columns[0], shown["test AUC"].iloc[0][:7]) == ("test AUC", f"{result['auc']:.3f} [")
    rare = evaluation.show_results([result | {"prevalence": 0.02, "average_precision": 0.3}])
    assert (rare.columns[0], rare.iloc[0, 0]) == ("average precision (chance)", "0.300 (0.020)")


def test_out_of_fold_scores_of_train_are_kept_where_asked(prepared):
    prepared.manifest.loc[:3, "split"] = "excluded"
    scores = scores_of(prepared)
    evaluation.evaluate(prepared, "m", scores, splits=("train", "validation", "test"))
    saved = evaluation.load_predictions(prepared.settings.run_dir, "m")
    assert saved.split.value_counts().to_dict() == {"train": 116, "validation": 40, "test": 80}
    assert saved.score.to_numpy() == pytest.approx(scores[4:])


def test_the_threshold_never_sees_test(prepared):
    scores = scores_of(prepared)
    first = evaluation.evaluate(prepared, "m", scores)["threshold"]
    scores[prepared.rows("test")] = 1 - scores[prepared.rows("test")]
    assert evaluation.evaluate(prepared, "m", scores)["threshold"] == first
    rows = prepared.rows("validation")
    assert first == pytest.approx(evaluation.choose_threshold(prepared.labels[rows], scores[rows]), abs=1e-9)
    assert evaluation.evaluate(prepared, "constant", np.full(240, 0.2))["threshold"] == 0.5


def test_an_independent_recomputation_of_a_run_agrees(prepared):
    run_dir = prepared.settings.run_dir
    prepared.manifest["lesion"] = np.arange(240) // 2 % 3  # some sides hold two lesions
    save_manifest(run_dir, prepared.manifest)
    evaluation.score_baselines(prepared)
    evaluation.evaluate(prepared, "good", scores_of(prepared))
    weighted = 1 / (1 + 20 * (1 / scores_of(prepared, 1.5) - 1))  # as if class 0 had been given a large weight
    assert evaluation.evaluate(prepared, "weighted", weighted)["calibration"] == "intercept"
    test = {name: evaluation.load_predictions(run_dir, name) for name in ("good", "weighted", "birads", "majority")}
    test = {name: rows[rows.split == "test"] for name, rows in test.items()}
    rows, scores = test["good"], {name: part.score.to_numpy() for name, part in test.items()}
    pairs = [("good", "weighted"), ("good", "birads"), ("birads", "majority")]
    options = {"pairs": pairs, "primary": pairs[:2]}
    differences = evaluation.paired_differences(rows.label, scores, rows.patient_id, **options)
    write_csv(run_dir / "results/paired_differences.csv", differences)
    assert check(run_dir, draws=200) == []
    write_csv(run_dir / "results/paired_differences.csv", differences.assign(p_holm=0.5))
    assert sum("Holm" in line for line in check(run_dir, draws=40)) == 3


def test_every_held_out_image_needs_a_score_and_every_table_its_columns(prepared):
    scores = scores_of(prepared)
    scores[prepared.rows("test")[3]] = np.nan
    with pytest.raises(ValueError, match="79 scores for 80 test images"):
        evaluation.evaluate(prepared, "m", scores)
    with pytest.raises(ValueError, match="probabilities"):
        evaluation.evaluate(prepared, "m", scores_of(prepared) * 3)
    run_dir = prepared.settings.run_dir
    write_csv(run_dir / "results/predictions/m.csv", pd.DataFrame({"image_id": ["a"], "score": [0.5]}))
    for name, error, words in (("m", DataError, "no column patient_id"), ("n", FileNotFoundError, "run the notebook")):
        with pytest.raises(error, match=words):
            evaluation.load_predictions(run_dir, name)


def test_baselines(prepared):
    results = evaluation.score_baselines(prepared)
    assert list(results) == ["majority", "mean_intensity", "birads", "descriptors"]
    assert results["majority"]["auc"] == results["majority"]["case_auc"] == 0.5
    assert {results["majority"]["sensitivity"], results["majority"]["specificity"]} == {0.0, 1.0}
    assert 0.5 < results["mean_intensity"]["auc"] < results["birads"]["auc"] < results["descriptors"]["auc"]
    assert results["descriptors"]["parameters"] == 4  # IRREGULAR, OVAL, ROUND and the constant
    assert evaluation.choose_image_model(results) is None
    better = {"cnn": {"val_auc": 0.6}, "both": {"val_auc": 0.9, "inputs": ["image", "birads"]}, "net": {"val_auc": 0.7}}
    assert evaluation.choose_image_model(results | better) == "net"
    prepared.manifest["birads"] = prepared.manifest["shape"] = ""  # what the source does not have
    assert list(evaluation.score_baselines(prepared)) == ["majority", "mean_intensity"]


def test_results_of_another_split_stay_out_of_the_table(prepared):
    evaluation.evaluate(prepared, "old", scores_of(prepared))
    prepared.manifest.loc[prepared.rows("train")[:4], "split"] = "excluded"
    save_manifest(prepared.settings.run_dir, prepared.manifest)
    evaluation.evaluate(prepared, "new", scores_of(prepared))
    assert evaluation.load_table(prepared.settings.run_dir).model.tolist() == ["new"]
    assert list(evaluation.load_results(prepared.settings.run_dir)) == ["new"]


@pytest.mark.parametrize("change", [
    {"auc": None}, {"auc": "high"}, {"brier": True}, {"val_auc": [0.5]}, {"case_auc": "<b>"}, {"threshold": {}},
    {"threshold": None}, {"model": "other"}, {"files": 5}, {"files": ["../m"]}, {"inputs": None},
])  # fmt: skip
def test_metrics_of_another_shape_are_refused_in_one_line(prepared, change):
    run_dir = prepared.settings.run_dir
    metrics = evaluation.evaluate(prepared, "m", scores_of(prepared))
    write_text(run_dir / "results/metrics/m.json", json.dumps(metrics | change, default=float))
    with pytest.raises(DataError, match=r"m\.json: not the metrics of a model of this run; delete it"):
        evaluation.load_results(run_dir)


def test_external_validation_wants_other_patients_and_pictures_and_applies_saved_networks_unchanged(tmp_path):
    same, other = (tmp_path / name for name in "ab")
    for seed, folder in enumerate((same, other)):
        data.provide_demo(folder, layout="mini-mias", patients=16, seed=1 + seed)
    settings = Settings("mini-mias", same, tmp_path / "run", image_size=32, n_folds=2, seeds=(0,))
    data.prepare(settings)
    for words in ("patients", "pictures"):
        with pytest.raises(DataError, match=f"of its {words} stand in the first data set"):
            evaluation.validate_externally(settings, "mini-mias", same, {})
        manifest = load_manifest(settings.run_dir)
        save_manifest(settings.run_dir, manifest.assign(patient_id="x" + manifest.patient_id))
    network = models.build("small_cnn", image_size=32)
    models.save_model(network, settings.run_dir / "models/one.keras")
    results = {"one": {"threshold": 0.5}, "averaged": {"files": ["one", "one"], "tta": True, "threshold": 0.5}}
    results["lost"] = {"threshold": 0.5}  # its network was not saved
    home = data.load_manifest(settings.run_dir)
    for name in results:
        save_predictions(settings.run_dir, name, home, np.linspace(0, 1, len(home)))
    third = write_demo_data(tmp_path / "c", layout="npz", patients=8, n_jobs=1, progress=False)
    sets, table = evaluation.validate_externally(settings, "mini-mias,npz", f"{other},{third}", results)
    assert table.dataset.tolist() == ["mini-mias"] * 2 + ["npz"] * 2
    assert list(sets) == ["mini-mias", "npz"]
    external, table = sets["mini-mias"], table[table.dataset == "mini-mias"]
    assert (table.sensitivity_low <= table.sensitivity_high).all()
    assert table.model.tolist() == ["one", "averaged"]
    assert set(external.manifest.split) == {"test", "excluded"}  # what the reader itself leaves out stays out
    rows = external.rows("test")
    for name, orientations in (("averaged", models.ORIENTATIONS), ("one", (0,))):
        scored = pd.read_csv(settings.run_dir / f"results/external/mini-mias/{name}.csv")
        expected = models.predict(network, external.images, rows, orientations=orientations)
        assert scored.score.to_numpy() == pytest.approx(expected, abs=1e-6)
    assert table.n.tolist() == [len(rows)] * 2
    assert table.auc[0] == pytest.approx(evaluation.auc(scored.label, scored.score), abs=1e-6)
    assert replace(external.settings, dataset="mini-mias", data_dir=settings.data_dir) == settings
    for path in third.rglob("*.npz"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"EXTERNAL_DATASET npz: none of its \d+ images .* the first: .*\.npz"):
        evaluation.validate_externally(settings, "npz", third, results)
