"""The textures behind the demo weights, and the weights themselves."""

import numpy as np

from phantoms import pretraining as pretext
from phantoms.writing import load_tensorflow


def test_textures_are_repeatable_and_their_targets_are_shares():
    images, truth = pretext.draw_textures(12, seed=3, n_jobs=1)
    again, _ = pretext.draw_textures(12, seed=3, n_jobs=2)
    assert (images.shape, images.dtype) == ((12, pretext.SIDE, pretext.SIDE), np.uint8)
    assert np.array_equal(images, again)
    assert truth.shape == (12, len(pretext.TARGETS))
    assert 0 <= truth.min() < truth.max() <= 1
    _, truth = pretext.draw_textures(60, seed=0, n_jobs=1)  # an absent part has no numbers
    blob, dots = pretext.TARGETS.index("blob"), pretext.TARGETS.index("dots")
    assert (truth[truth[:, blob] == 0][:, blob:dots] == 0).all()
    assert (truth[truth[:, dots] == 0][:, dots:] == 0).all()


def test_the_committed_weights_are_small_load_into_keras_and_are_trained():
    assert pretext.WEIGHTS_FILE.stat().st_size < 3_000_000
    network = load_tensorflow().keras.applications.MobileNetV2
    trained = network(alpha=0.35, include_top=False, weights=str(pretext.WEIGHTS_FILE), input_shape=(96, 96, 3))
    values = [np.asarray(weight) for weight in trained.weights]
    assert all(np.array_equal(value, value.astype(np.float16).astype(np.float32)) for value in values)
    statistics = [np.asarray(w) for w in trained.weights if w.path.endswith("moving_mean")]
    assert np.abs(np.concatenate(statistics)).max() > 0.1  # zero in a network that never saw an image
