"""Cached features: the same as the network gives, computed once, and used for training."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from shared import data, models
from shared.models import features, input_pipeline, networks, training
from tests.models.test_training import SIZE, make_prepared


@pytest.fixture
def prepared(tmp_path):
    return make_prepared(tmp_path, n=48)


def small_mobilenet(seed=0):
    return models.build("mobilenetv2", image_size=SIZE, alpha=0.35, seed=seed, feature_layer="block_6_expand_relu")


@pytest.mark.parametrize("through", ["", "block_5_add"])
def test_features_are_what_the_network_gives_for_each_orientation(through, prepared):
    model = small_mobilenet()
    cached = features.extract_features(prepared, model, "pooled", through=through)
    network = keras.Model(model.input, model.get_layer("pooled").output)
    for column in (0, 5):
        pixels = input_pipeline.read_inputs(prepared.images, np.arange(40, 48), np.full(8, column))
        expected = network.predict(pixels, verbose=0)
        np.testing.assert_allclose(cached.array[40:48, column], expected, rtol=2e-3, atol=2e-3)
    assert cached.columns == tuple(range(8))
    files = {path.name.rsplit("-", 1)[0] for path in (prepared.settings.run_dir / "data/features").glob("*.npy")}
    assert files == {f"mobilenetv2-{layer}" for layer in ("pooled", through) if layer}


def test_features_are_computed_once_and_anew_for_other_weights_or_images(prepared):
    folder = prepared.settings.run_dir / "data/features"
    seconds = models.extract_features(prepared, small_mobilenet(), "pooled", orientations=(0,)).seconds
    (first,) = folder.glob("*.npy")
    stamp = first.stat().st_mtime_ns
    assert models.extract_features(prepared, small_mobilenet(), "pooled", orientations=(0,)).seconds == seconds > 0
    assert first.stat().st_mtime_ns == stamp
    models.extract_features(prepared, small_mobilenet(seed=1), "pooled", orientations=(0,))
    prepared.images[0, 0, 0] ^= 1
    models.extract_features(prepared, small_mobilenet(), "pooled", orientations=(0,))
    assert len(list(folder.glob("*.npy"))) == 3


def test_an_interrupted_computation_leaves_no_file(prepared, monkeypatch):
    left = [input_pipeline.read_inputs] * 2
    monkeypatch.setattr(features, "PIXELS_A_STEP", 0)
    monkeypatch.setattr(features, "read_inputs", lambda *args: left.pop()(*args))
    with pytest.raises(IndexError):  # in the third step
        models.extract_features(prepared, small_mobilenet(), "pooled", orientations=(0,))
    assert not list((prepared.settings.run_dir / "data/features").iterdir())


def test_a_linear_head_acts_on_raw_features_like_the_regression_on_standardised_ones(prepared):
    random = np.random.default_rng(0)
    values = random.normal(5, 3, (48, 6)).astype(np.float32)
    values[:, 0] += 4 * prepared.labels
    cached = input_pipeline.CachedFeatures(values[:, np.newaxis])
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid", name="logit")])
    run = training.fit_linear(head, prepared, cached)
    assert run.history.strength.tolist() == list(training.LINEAR_STRENGTHS)
    assert run.best_epoch == run.history.cross_validated_auc.idxmax()
    rows, held_out = prepared.rows("train"), prepared.rows("validation")
    scores = models.predict(head, cached, held_out)
    assert run.val_auc == pytest.approx(roc_auc_score(prepared.labels[held_out], scores))
    strength = training.LINEAR_STRENGTHS[run.best_epoch]
    regression = data.make_logistic(balanced=True).set_params(logisticregression__C=strength)
    regression.fit(values[rows], prepared.labels[rows])
    np.testing.assert_allclose(scores, regression.predict_proba(values[held_out])[:, 1], atol=1e-4)


def test_validation_does_not_choose_the_penalty(prepared):
    values = np.random.default_rng(0).normal(size=(48, 1, 6)).astype(np.float32)
    cached = input_pipeline.CachedFeatures(values)
    logs = []
    for _ in range(2):
        head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid", name="logit")])
        logs.append(training.fit_linear(head, prepared, cached).history)
        values[prepared.rows("validation")] += 9
    assert logs[0].equals(logs[1])


def test_frozen_stage_gives_the_scores_of_the_saved_model_from_pixels(prepared):
    run, scores = models.train_frozen(small_mobilenet(), prepared, name="frozen")
    rows = prepared.rows("validation", "test")
    saved = models.load_model(prepared.settings.run_dir / "models/frozen.keras")
    again = models.predict_held_out(prepared, saved, orientations=models.ORIENTATIONS)
    np.testing.assert_allclose(again, scores, atol=5e-3)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(scores)), rows)
    assert run.val_auc > 0.5


def test_a_head_with_a_hidden_layer_is_trained_on_cached_features(prepared):
    model = models.build("vgg16", image_size=SIZE, feature_layer="block2_pool")
    kernels = [model.get_layer(name).get_weights()[0] for name in ("block1_conv1", "hidden_1")]
    options = models.training_options(prepared.settings, epochs=2)
    run, scores = models.train_frozen(model, prepared, options, name="vgg16")
    assert len(run.history) == 2
    assert np.isfinite(scores[prepared.rows("validation", "test")]).all()
    np.testing.assert_array_equal(model.get_layer("block1_conv1").get_weights()[0], kernels[0])
    assert not np.array_equal(model.get_layer("hidden_1").get_weights()[0], kernels[1])


def test_fine_tuning_on_a_cached_layer_changes_the_model_behind_it_only(prepared):
    model = small_mobilenet()
    names = ("block_3_expand", "block_6_expand", "block_6_expand_BN")
    before = {name: model.get_layer(name).get_weights()[0] for name in names}
    options = models.training_options(prepared.settings, epochs=2, learning_rate=1e-3)
    run, scores = models.fine_tune(model, prepared, options, name="tuned", fine_tune_from="block_5_add")
    same = [np.array_equal(old, model.get_layer(name).get_weights()[0]) for name, old in before.items()]
    assert same == [True, False, True]
    assert model.get_layer("dropout").rate == 0  # few epochs: from a head that was fitted, and fitted without dropout
    saved = models.load_model(prepared.settings.run_dir / "models/tuned.keras", optimizer=True)
    again = models.predict_held_out(prepared, saved, orientations=models.ORIENTATIONS)
    np.testing.assert_allclose(again, scores, atol=5e-3)
    assert int(saved.optimizer.iterations) > 0
    assert len(run.history) == 2
    assert networks.BACKBONES["mobilenetv2"].fine_tune_from == "block_6_project_BN"
