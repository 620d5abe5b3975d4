"""Cached features: the same as the network gives, computed once, resumed, and used for training."""

import keras
import numpy as np
import pytest

from shared.models import features, input_pipeline, training
from shared.models import networks as models
from tests.models.test_training import SIZE, make_prepared


@pytest.fixture
def prepared(tmp_path):
    return make_prepared(tmp_path, n=48)


def small_mobilenet(seed=0):
    return models.build("mobilenetv2", image_size=SIZE, alpha=0.35, seed=seed, tap="block_6_expand_relu")


def test_features_are_what_the_network_gives_for_each_view(prepared):
    model = small_mobilenet()
    cached = features.extract(prepared, model, "pooled")
    network = keras.Model(model.input, model.get_layer("pooled").output)
    for view in (0, 5):
        pixels = input_pipeline.read_images(prepared.images, np.arange(4), np.full(4, view))
        np.testing.assert_allclose(
            cached.read(np.arange(4), np.full(4, view)), network.predict(pixels, verbose=0), rtol=2e-3, atol=2e-3
        )
    assert cached.averaged().shape == (48, *model.get_layer("pooled").output.shape[1:])


def test_features_are_computed_once_and_anew_for_other_weights_or_images(prepared):
    folder = prepared.settings.run_dir / "data/features"
    features.extract(prepared, small_mobilenet(), "pooled", views=(0,))
    (first,) = folder.glob("*.npy")
    stamp = first.stat().st_mtime_ns
    features.extract(prepared, small_mobilenet(), "pooled", views=(0,))
    assert first.stat().st_mtime_ns == stamp
    features.extract(prepared, small_mobilenet(seed=1), "pooled", views=(0,))
    prepared.images[0, 0, 0] ^= 1
    features.extract(prepared, small_mobilenet(), "pooled", views=(0,))
    assert len(list(folder.glob("*.npy"))) == 3


def test_an_interrupted_computation_goes_on_where_it_was(prepared, monkeypatch):
    model = small_mobilenet()
    whole = features.extract(prepared, model, "pooled", views=(0,)).array.copy()
    (path,) = (prepared.settings.run_dir / "data/features").glob("*.npy")
    path.unlink()
    calls = []
    original = input_pipeline.read_images

    def fail_late(images, rows, views):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(images, rows, views)

    monkeypatch.setattr(features, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(features, "PIXELS_A_STEP", 0)
    monkeypatch.setattr(input_pipeline, "read_images", fail_late)
    with pytest.raises(KeyboardInterrupt):
        features.extract(prepared, model, "pooled", views=(0,))
    assert not path.exists()
    again = features.extract(prepared, model, "pooled", views=(0,)).array
    np.testing.assert_array_equal(again, whole)
    assert calls[3][0] == 2 * features.images_a_step(prepared.images.shape[1])  # not from the start
    assert not list(path.parent.glob("*.part*"))


def test_a_linear_head_acts_on_raw_features_like_the_regression_on_standardised_ones():
    random = np.random.default_rng(0)
    values = random.normal(5, 3, (200, 6))
    labels = (values[:, 0] + random.normal(0, 1, 200) > 5).astype(int)
    head = features.fit_linear_head(values, labels, np.arange(150), strength=1.0)
    scores = features.head_scores(values, *head)
    assert ((scores[150:] > 0.5) == labels[150:]).mean() > 0.8
    assert head[0].shape == (6, 1)


def test_frozen_stage_gives_the_scores_of_the_saved_model_from_pixels(prepared):
    model = small_mobilenet()
    result, scores = training.train_frozen(model, prepared, name="frozen")
    rows = prepared.rows("test")
    saved = training.load_model(prepared.settings.run_dir, "frozen")
    np.testing.assert_allclose(training.predict_scores(saved, prepared.images, rows, tta=True), scores[rows], atol=5e-3)
    assert result.val_auc > 0.5


def test_a_head_with_a_hidden_layer_is_trained_by_fit(prepared):
    model = models.build("vgg16", image_size=SIZE, tap="block2_pool")
    kernel = model.get_layer("block1_conv1").get_weights()[0]
    result, scores = training.train_frozen(model, prepared, name="vgg16", epochs=2)
    assert len(result.history) == 2
    assert np.isfinite(scores[prepared.rows("validation", "test")]).all()
    np.testing.assert_array_equal(model.get_layer("block1_conv1").get_weights()[0], kernel)


def test_fine_tuning_on_a_cached_layer_changes_the_whole_model_behind_it_only(prepared):
    model = small_mobilenet()
    before = {
        name: model.get_layer(name).get_weights()[0]
        for name in ("block_3_expand", "block_6_expand", "block_5_expand_BN")
    }
    _, scores = training.fine_tune(model, prepared, name="tuned", cut="block_5_add", epochs=2, learning_rate=1e-3)
    after = {name: model.get_layer(name).get_weights()[0] for name in before}
    assert not np.array_equal(before["block_6_expand"], after["block_6_expand"])
    np.testing.assert_array_equal(before["block_3_expand"], after["block_3_expand"])
    np.testing.assert_array_equal(before["block_5_expand_BN"], after["block_5_expand_BN"])
    rows = prepared.rows("test")
    saved = training.load_model(prepared.settings.run_dir, "tuned", optimizer=True)
    np.testing.assert_allclose(training.predict_scores(saved, prepared.images, rows, tta=True), scores[rows], atol=5e-3)
    assert int(saved.optimizer.iterations) > 0
