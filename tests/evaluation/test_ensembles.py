"""Members out of fold, on one machine and on a cluster, and their combination."""

import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from shared.data import manifests, preparation
from shared.evaluation import ensembles, metrics, result_files
from shared.evaluation import scoring as evaluation
from shared.run import UsageError
from shared.run import names as schema
from shared.run import settings as config


@pytest.fixture
def problem():
    """240 images of 80 patients, 60 more images without a fold: features, labels, patients, folds."""
    generator = np.random.default_rng(0)
    patients = np.arange(300) // 3
    labels = np.repeat(generator.permutation(np.arange(100) % 2), 3)
    features = {
        "good": labels[:, None] * 0.8 + generator.normal(size=(300, 4)),
        "other": labels[:, None] * 0.5 + generator.normal(size=(300, 3)),
    }
    folds = {seed: ensembles.make_folds(labels, patients, range(240), n_folds=4, seed=seed) for seed in (0, 1)}
    return features, labels, patients, folds


MEMBERS = (
    ensembles.Member("linear", "good", LogisticRegression()),
    ensembles.Member("network", "other", MLPClassifier((4,), max_iter=40, tol=1e9)),
)


def test_folds_keep_patients_together_and_cover_their_rows(problem):
    _, labels, patients, folds = problem
    for fold in folds.values():
        assert (fold[240:] == -1).all()
        assert set(fold[:240]) == {0, 1, 2, 3}
        assert all(len(set(fold[patients == patient])) == 1 for patient in range(80))
        assert all(abs(labels[fold == k].mean() - 0.5) < 0.1 for k in range(4))
    assert (folds[0] != folds[1]).any()
    by_image = ensembles.make_folds(labels, patients, range(240), n_folds=4, seed=0, by_group=False)
    assert any(len(set(by_image[patients == patient])) > 1 for patient in range(80))


def test_out_of_fold_scores_equal_scikit_learn(problem):
    features, labels, _, folds = problem
    found = ensembles.cross_validate(MEMBERS[:1], features, labels, folds, n_jobs=1)["linear"]
    x, rows = features["good"], np.arange(240)
    for i, fold in enumerate(folds.values()):
        cuts = [(rows[fold[:240] != k], rows[fold[:240] == k]) for k in range(4)]
        expected = cross_val_predict(LogisticRegression(), x[:240], labels[:240], cv=cuts, method="predict_proba")
        assert found.by_seed[i, :240] == pytest.approx(expected[:, 1])
        models = [LogisticRegression().fit(x[train], labels[train]) for train, _ in cuts]
        assert found.by_seed[i, 240:] == pytest.approx(
            np.mean([model.predict_proba(x[240:])[:, 1] for model in models], axis=0)
        )
    assert found.scores == pytest.approx(found.by_seed.mean(axis=0))


def test_no_row_is_scored_by_a_model_that_saw_its_patient():
    """Random labels and a memory (one nearest neighbour): out of fold it knows nothing."""
    generator = np.random.default_rng(3)
    patients = np.arange(1200) // 3
    labels = np.repeat(generator.integers(0, 2, 400), 3)
    features = {"all": generator.normal(size=(400, 8))[patients] + generator.normal(0, 0.01, (1200, 8))}
    memory = [ensembles.Member("memory", "all", KNeighborsClassifier(1))]
    areas = {}
    for by_group in (True, False):
        folds = {0: ensembles.make_folds(labels, patients, range(1200), n_folds=5, seed=0, by_group=by_group)}
        scores = ensembles.cross_validate(memory, features, labels, folds, n_jobs=1)["memory"].scores
        areas[by_group] = metrics.auc(labels, scores)
    assert areas[True] == pytest.approx(0.5, abs=0.08)
    assert areas[False] > 0.98


def test_processes_and_seeds(problem):
    features, labels, _, folds = problem
    serial = ensembles.cross_validate(MEMBERS, features, labels, folds, n_jobs=1)
    parallel = ensembles.cross_validate(MEMBERS, features, labels, folds, n_jobs=2)
    for name in ("linear", "network"):
        assert np.array_equal(serial[name].by_seed, parallel[name].by_seed)
        assert not np.array_equal(serial[name].by_seed[0], serial[name].by_seed[1])


def test_a_cluster_gives_the_same_predictions(problem):
    distributed = pytest.importorskip("dask.distributed")
    features, labels, _, folds = problem
    serial = ensembles.cross_validate(MEMBERS, features, labels, folds, n_jobs=1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        clustered = ensembles.cross_validate(MEMBERS, features, labels, folds, scheduler=cluster.scheduler_address)
        places = ensembles.run_members(range(8), where, scheduler=cluster.scheduler_address)
    for name in ("linear", "network"):
        assert np.array_equal(serial[name].by_seed, clustered[name].by_seed)
    assert places
    assert where(0) not in places


def where(task):
    """Which process runs a task."""
    import os

    return os.getpid()


def test_a_cluster_that_does_not_answer_is_one_clear_line(monkeypatch):
    pytest.importorskip("dask.distributed")
    monkeypatch.setattr(ensembles, "SCHEDULER_SECONDS", 0.5)
    with pytest.raises(UsageError, match=r"SCHEDULER 'tcp://127\.0\.0\.1:9': no Dask scheduler answers") as caught:
        ensembles.run_members([1], where, scheduler="tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="SCHEDULER 'nonsense://x'"):
        ensembles.run_members([1], where, scheduler="nonsense://x")


def test_means_by_hand():
    scores = {"a": np.array([0.2, 0.9]), "b": np.array([0.4, 0.5])}
    assert ensembles.mean_probability(scores) == pytest.approx([0.3, 0.7])
    # odds 1/4 and 2/3, 9 and 1: the geometric mean of the odds
    odds = np.sqrt([1 / 4 * 2 / 3, 9])
    assert ensembles.mean_logit(scores) == pytest.approx(odds / (1 + odds))
    assert ensembles.weighted_probability(scores, [3, 1]) == pytest.approx([0.25, 0.8])
    assert ensembles.mean_logit(np.array([[0.0, 1.0], [0.0, 1.0]])) == pytest.approx([0, 1], abs=1e-6)


def test_weights_follow_validation_only():
    labels = np.array([0, 0, 1, 1, 0, 1])
    scores = {
        "right": np.array([0.1, 0.2, 0.8, 0.9, 0.9, 0.1]),  # perfect on the first four, wrong on the last two
        "half": np.array([0.5, 0.5, 0.5, 0.6, 0.0, 1.0]),
        "wrong": np.array([0.9, 0.8, 0.2, 0.1, 0.0, 1.0]),
    }
    assert ensembles.validation_weights(scores, labels, range(4)) == pytest.approx([2 / 3, 1 / 3, 0])
    hopeless = {"a": scores["wrong"], "b": scores["wrong"]}
    assert ensembles.validation_weights(hopeless, labels, range(4)).tolist() == [0.5, 0.5]


def test_stacking_weighs_members_and_leaves_no_label_in_its_own_score(problem):
    _, labels, _, folds = problem
    generator = np.random.default_rng(1)
    good, noise = labels * 1.5 + generator.normal(size=300), generator.normal(size=300)
    stacked = ensembles.stack(np.column_stack([good, noise]), labels, folds[0])
    assert metrics.auc(labels[240:], stacked[240:]) == pytest.approx(metrics.auc(labels[240:], good[240:]), abs=0.05)
    everything = LogisticRegression().fit(((good - good[:240].mean()) / good[:240].std())[:240, None], labels[:240])
    alone = ensembles.stack(good[:, None], labels, folds[0])
    expected = everything.predict_proba(((good - good[:240].mean()) / good[:240].std())[:, None])[:, 1]
    assert alone[240:] == pytest.approx(expected[240:], abs=1e-4)
    # many columns of nothing: a fit on its own rows would score well above chance
    nothing = ensembles.stack(generator.normal(size=(300, 60)), labels, folds[0], strength=100)
    assert metrics.auc(labels[:240], nothing[:240]) == pytest.approx(0.5, abs=0.12)
    holes = good.copy()
    holes[[3, 250]] = np.nan
    assert np.flatnonzero(np.isnan(ensembles.stack(holes[:, None], labels, folds[0]))).tolist() == [3, 250]
    assert ((special.logit(stacked[240:]) > -10) & (stacked <= 1)[240:]).all()


def test_out_of_fold_scores_are_written_and_excluded_images_are_not(problem, tmp_path):
    features, labels, patients, folds = problem
    split = np.where(folds[0] == 0, "validation", np.where(folds[0] > 0, "train", "test"))
    split[-3:] = "excluded"
    columns = dict.fromkeys(schema.MANIFEST_COLUMNS, "") | {
        "image_id": [f"image_{i}" for i in range(300)], "patient_id": patients.astype(str), "label": labels,
        "split": split, "fold": folds[0],
    }  # fmt: skip
    manifest = pd.DataFrame(columns, index=range(300))
    manifests.save_manifest(tmp_path, manifest)
    settings = config.Settings(run_dir=tmp_path)
    prepared = preparation.Prepared(settings, manifest, None, None, None, ("benign", "malignant"))
    scores = ensembles.cross_validate(MEMBERS[:1], features, labels, folds, n_jobs=1)["linear"].scores
    result = evaluation.evaluate(prepared, "cv_linear", scores, out_of_fold=True)
    saved = result_files.load_predictions(tmp_path, "cv_linear")
    assert saved.split.value_counts().to_dict() == {"train": 180, "validation": 60, "test": 57}
    assert saved.score.to_numpy() == pytest.approx(scores[:297])
    assert result["auc"] == pytest.approx(metrics.auc(labels[240:297], scores[240:297]))
    evaluation.evaluate(prepared, "plain", scores)
    assert set(result_files.load_predictions(tmp_path, "plain").split) == {"validation", "test"}
