"""Heads out of fold, on one machine and on a cluster."""

import os

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from shared import evaluation
from shared.data import group_folds
from shared.evaluation import cross_validation
from shared.run import UsageError

HEADS = {"linear": LogisticRegression(), "network": MLPClassifier((4,), max_iter=40, tol=1e9)}


@pytest.fixture
def problem():
    """240 images of 80 patients, 60 images without a fold; folds of two seeds."""
    generator = np.random.default_rng(0)
    patients = np.arange(300) // 3
    labels = np.repeat(generator.permutation(np.arange(100) % 2), 3)
    features = labels[:, None] * 0.8 + generator.normal(size=(300, 4))
    folds = {seed: group_folds(labels, patients, np.arange(240), count=4, seed=seed) for seed in (0, 1)}
    return features, labels, folds


def test_out_of_fold_scores_equal_scikit_learn(problem):
    features, labels, folds = problem
    found = evaluation.cross_validate_heads({"linear": HEADS["linear"]}, features, labels, folds)["linear"]
    for place, held_out in enumerate(folds.values()):
        cuts = [(np.setdiff1d(np.arange(240), held), held) for held in held_out]
        inside = slice(0, 240)
        expected = cross_val_predict(HEADS["linear"], features[inside], labels[inside], cv=cuts, method="predict_proba")
        assert found.by_seed[place, inside] == pytest.approx(expected[:, 1])
        models = [LogisticRegression().fit(features[train], labels[train]) for train, _ in cuts]
        mean = np.mean([model.predict_proba(features[240:])[:, 1] for model in models], axis=0)
        assert found.by_seed[place, 240:] == pytest.approx(mean)
    assert found.scores == pytest.approx(found.by_seed.mean(axis=0))
    assert found.seconds > 0


def test_no_row_is_scored_by_a_model_that_saw_its_patient():
    """Random labels and a memory (one nearest neighbour): out of fold it knows nothing."""
    generator = np.random.default_rng(3)
    patients = np.arange(1200) // 3
    labels = np.repeat(generator.integers(0, 2, 400), 3)
    features = generator.normal(size=(400, 8))[patients] + generator.normal(0, 0.01, (1200, 8))
    areas = []
    by_image = [held for _, held in KFold(5, shuffle=True, random_state=0).split(labels)]
    for folds in (group_folds(labels, patients, np.arange(1200), count=5, seed=0), by_image):
        found = evaluation.cross_validate_heads({"memory": KNeighborsClassifier(1)}, features, labels, {0: folds})
        areas.append(evaluation.auc(labels, found["memory"].scores))
    assert areas[0] == pytest.approx(0.5, abs=0.08)
    assert areas[1] > 0.98


def test_the_seed_reaches_the_head_and_the_place_changes_nothing(problem, recwarn):
    features, labels, folds = problem
    here = evaluation.cross_validate_heads(HEADS, features, labels, {7: folds[0], 8: folds[0]})
    with evaluation.parallel():
        spread = evaluation.cross_validate_heads(HEADS, features, labels, {7: folds[0], 8: folds[0]})
    for name, result in here.items():
        assert spread[name].by_seed == pytest.approx(result.by_seed, abs=1e-9)
    assert np.array_equal(*here["linear"].by_seed)
    assert not np.array_equal(*here["network"].by_seed)
    assert not [warning for warning in recwarn if "converge" in str(warning.message)]


def test_a_cluster_gives_the_same_predictions(problem):
    distributed = pytest.importorskip("dask.distributed")
    features, labels, folds = problem
    here = evaluation.cross_validate_heads(HEADS, features, labels, {0: folds[0]})
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, evaluation.parallel(cluster.scheduler_address):
        there = evaluation.cross_validate_heads(HEADS, features, labels, {0: folds[0]})
        places = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(8))
    for name, result in here.items():
        assert there[name].scores == pytest.approx(result.scores, abs=1e-9)
    assert os.getpid() not in places


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_cluster_that_does_not_answer_is_one_clear_line(monkeypatch, address):
    pytest.importorskip("dask.distributed")
    monkeypatch.setattr(cross_validation, "SCHEDULER_SECONDS", 0.5)
    refused = pytest.raises(UsageError, match=rf"\ASCHEDULER '{address}': no Dask scheduler answers.*\Z")
    with refused, evaluation.parallel(address):
        pass
