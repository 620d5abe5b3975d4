"""Heatmaps: against closed forms, finite differences, and over the kinds of network a reader may bring."""

import keras
import numpy as np
import pytest

from shared import explain
from shared.explain import heatmaps, inspection
from shared.run import UsageError

SIDE = 8
CHANNELS = np.array([1.0, 2.0, -0.5], "float32")  # what the one convolution of `linear_network` multiplies with
PLACES = np.random.default_rng(1).normal(size=(SIDE, SIDE, 3)).astype("float32")  # and its last layer
IMAGES = np.random.default_rng(0).uniform(1, 2, (3, SIDE, SIDE)).astype("float32")
SMALL = np.random.default_rng(2).uniform(0.5, 1.5, (2, 8, 8, 1)).astype("float32")


def scores(network, images, **options):
    return inspection.score_and_slopes(network, images.shape[1:], **options)(images.astype("float32"))[0]


@pytest.fixture(scope="module")
def linear_network():
    """features[..., c] = CHANNELS[c] * image; logit = sum(PLACES * features) + 0.3; all maps are known."""
    steps = [keras.layers.Conv2D(3, 1, use_bias=False), keras.layers.Flatten()]
    network = keras.Sequential([keras.Input((SIDE, SIDE, 1)), *steps, keras.layers.Dense(1, activation="sigmoid")])
    network.set_weights([CHANNELS.reshape(1, 1, 1, 3), PLACES.reshape(-1, 1), np.array([0.3])])
    return network


def mean_under_squares(plane, side=2):
    """Give each pixel the mean, over the squares that cover it, of what the plane sums up to in the square."""
    total, count = np.zeros_like(plane), np.zeros_like(plane)
    for top, left in np.ndindex(*(length - side + 1 for length in plane.shape)):
        square = slice(top, top + side), slice(left, left + side)
        total[square] += plane[square].sum()
        count[square] += 1
    return total / count


def expected_maps(image):
    """The map of every method for one image, from its definition: {method: map}."""
    features, slope, rising = image[..., None] * CHANNELS, PLACES, np.maximum(PLACES, 0)
    share = slope**2 / (2 * slope**2 + features.sum((0, 1)) * slope**3)
    masks = (features - features.min((0, 1))) / np.ptp(features, axis=(0, 1))
    per_pixel = (slope * CHANNELS).sum(-1)
    logits = np.exp((per_pixel[..., None] * image[..., None] * masks).sum((0, 1)))
    weights = {
        "gradcam": slope.mean((0, 1)), "hirescam": slope, "layercam": rising, "scorecam": logits / logits.sum(),
        "gradcam++": (share * rising).sum((0, 1)),
    }  # fmt: skip
    maps = {method: np.maximum((features * weight).sum(-1), 0) for method, weight in weights.items()}
    above = per_pixel * (image - image.mean())
    maps |= {"integrated_gradients": above, "occlusion": mean_under_squares(above)}
    return maps | {"eigencam": image * np.linalg.norm(CHANNELS)}


@pytest.mark.parametrize("method", explain.METHODS)
def test_each_method_gives_the_map_known_in_closed_form(method, linear_network, monkeypatch):
    monkeypatch.setattr(heatmaps, "BATCH_SIZE", 2)
    maps = explain.heatmap(linear_network, IMAGES, method=method, normalise=False)
    expected = np.stack([expected_maps(image)[method] for image in IMAGES])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=2e-4, atol=2e-5)


def curved_network(*, activation="sigmoid", units=1):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(6, 3, activation="tanh", name="first")(inputs)
    hidden = keras.layers.Conv2D(4, 3, activation="tanh", name="second")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation, name="head")(hidden))


def test_gradient_agrees_with_a_finite_difference():
    network = curved_network()
    slopes = inspection.score_and_slopes(network, SMALL.shape[1:], slopes=True)(SMALL)[2]
    for row, column in [(0, 0), (3, 4), (7, 2)]:
        step = np.zeros_like(SMALL)
        step[:, row, column] = 1e-2
        expected = (scores(network, SMALL + step) - scores(network, SMALL - step)) / 2e-2
        np.testing.assert_allclose(slopes[:, row, column, 0], expected, rtol=2e-2, atol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_from_the_image_s_mean():
    network = curved_network()
    maps = explain.heatmap(network, SMALL, method="integrated_gradients", normalise=False)
    even = np.broadcast_to(SMALL.mean((1, 2), keepdims=True), SMALL.shape)
    np.testing.assert_allclose(maps.sum((1, 2)), scores(network, SMALL) - scores(network, even), rtol=1e-3, atol=1e-5)


def test_scores_are_the_logit_behind_every_kind_of_last_activation():
    fused = curved_network()
    probability = fused.predict(SMALL, verbose=0)[:, 0]
    np.testing.assert_allclose(scores(fused, SMALL), np.log(probability / (1 - probability)), atol=1e-5)
    bare = curved_network(activation=None)
    apart = keras.Model(bare.input, keras.layers.Activation("sigmoid", dtype="float32")(bare.output))
    np.testing.assert_array_equal(scores(bare, SMALL, target="negative"), -scores(bare, SMALL))
    for network in (bare, apart):
        np.testing.assert_allclose(scores(network, SMALL), scores(fused, SMALL), atol=1e-6)


def test_softmax_of_two_classes_is_explained_by_the_log_odds_and_of_more_by_the_class():
    two = curved_network(activation="softmax", units=2)
    probability = two.predict(SMALL, verbose=0)
    np.testing.assert_allclose(scores(two, SMALL), np.log(probability[:, 1] / probability[:, 0]), atol=1e-5)
    three = curved_network(activation="softmax", units=3)
    logits = np.stack([scores(three, SMALL, target=number) for number in range(3)], axis=1)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(share, three.predict(SMALL, verbose=0), atol=1e-5)
    for target in ("positive", 3):
        with pytest.raises(UsageError, match="0 to 2"):
            explain.heatmap(three, SMALL, target=target)


def test_a_saturated_sigmoid_still_has_a_map_and_a_dead_network_an_empty_one(linear_network):
    kernel, dense, _ = linear_network.get_weights()
    other = keras.models.clone_model(linear_network)
    other.set_weights([kernel, dense, np.array([500.0])])
    assert (other.predict(IMAGES, verbose=0) == 1).all()
    np.testing.assert_allclose(explain.heatmap(other, IMAGES), explain.heatmap(linear_network, IMAGES), rtol=1e-4)
    other.set_weights([0 * kernel, 0 * dense, np.array([0.0])])
    for method in explain.METHODS:
        np.testing.assert_array_equal(explain.heatmap(other, IMAGES, method=method), np.zeros_like(IMAGES))


def blocks(inputs):
    first = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    branch = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="branch")(first)
    return keras.layers.MaxPooling2D(name="pool")(keras.layers.Add(name="sum")([first, branch]))


def nested_and_flat(kind):
    """The same network twice: with inner networks, and laid flat."""
    keras.utils.set_random_seed(1)
    units, activation = (2, "softmax") if kind == "softmax" else (1, "sigmoid")
    inputs = keras.Input((16, 16, 3))
    body = keras.Model(inputs, blocks(inputs), name="body")
    top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(units, activation=activation)]
    outer = keras.Input((16, 16, 3))
    scaled = keras.layers.Rescaling(1 / 255)(outer)
    if kind == "sequential":
        nested = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), body, *top])
    else:
        nested = keras.Model(outer, keras.Sequential(top)(body(scaled)))
    pooled = keras.layers.GlobalAveragePooling2D()(blocks(scaled))
    flat = keras.Model(outer, keras.layers.Dense(units, activation=activation)(pooled))
    flat.set_weights(nested.get_weights())
    return nested, flat


@pytest.mark.parametrize("kind", ["functional", "sequential", "softmax"])
def test_a_nested_network_has_the_maps_of_the_same_network_laid_flat(kind):
    nested, flat = nested_and_flat(kind)
    images = np.random.default_rng(3).uniform(0, 255, (2, 16, 16)).astype("uint8")
    weights = nested.get_weights()
    assert explain.find_feature_layer(nested) == "body/pool"
    assert explain.find_feature_layer(flat) == "pool"
    assert explain.find_feature_layer(nested, cells=9) == "body/sum"
    for method in explain.METHODS:
        expected = explain.heatmap(flat, images, method=method, normalise=False)
        found = explain.heatmap(nested, images, method=method, normalise=False)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    inside = explain.heatmap(nested, images, layer="body/branch", resize=False)  # beside a shortcut
    assert inside.max() == 1
    np.testing.assert_allclose(inside, explain.heatmap(flat, images, layer="branch"), atol=1e-5)
    assert all(np.array_equal(old, new) for old, new in zip(weights, nested.get_weights(), strict=True))
    colours = np.repeat(images[..., None], 3, axis=-1)
    np.testing.assert_allclose(nested.predict(colours, verbose=0), flat.predict(colours, verbose=0), rtol=1e-5)
    with pytest.raises(UsageError, match=r"nowhere.*body/branch"):
        explain.heatmap(nested, images, layer="nowhere")


def test_layers_added_one_by_one_are_on_the_way_to_the_output(linear_network):
    network = keras.Sequential()  # Keras builds it anew with each layer, so each layer is called several times
    for layer in (keras.Input((SIDE, SIDE, 1)), *keras.models.clone_model(linear_network).layers):
        network.add(layer)
    network.set_weights(linear_network.get_weights())
    np.testing.assert_allclose(explain.heatmap(network, IMAGES), explain.heatmap(linear_network, IMAGES), atol=1e-6)


def test_networks_that_cannot_be_explained_and_wrong_use_are_refused_in_one_line(linear_network):
    inputs = keras.Input((8, 8, 1))
    stem = keras.layers.Conv2D(3, 3, name="stem")(inputs)
    pooled = keras.layers.GlobalMaxPooling2D()(stem)
    one, two = keras.layers.Dense(1)(pooled), keras.layers.Dense(1)(pooled)
    inner = keras.Model(inputs, stem, name="inner")
    outer = keras.Input((8, 8, 1))
    pools = [keras.layers.GlobalMaxPooling2D()(inner(outer)), keras.layers.GlobalAveragePooling2D()(inner(outer))]
    hidden = keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(inner(outer)))
    shortcut = keras.ops.add(hidden, keras.layers.Dense(3)(hidden))  # no layer, so the chain alone would pass it over
    dense_only = keras.Sequential([keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    for match, network, shown, options in [
        ("one input and output", keras.Model(inputs, [one, two]), SMALL, {}),
        ("one input and output", keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten()]), SMALL, {}),
        ("that of a Dense or Activation", keras.Model(inputs, keras.ops.sigmoid(one)), SMALL, {}),
        ("that of a Dense or Activation", keras.Model(inputs, keras.layers.Softmax()(one)), SMALL, {}),
        ("chain", keras.Model(outer, keras.layers.Dense(1)(keras.layers.Concatenate()(pools))), SMALL, {}),
        ("chain", keras.Model(outer, keras.layers.Dense(1)(shortcut)), SMALL, {}),
        ("no feature map", dense_only, IMAGES, {}),
        ("shape", linear_network, IMAGES[0], {}),
        ("method: 'magic' is not one of gradcam", linear_network, IMAGES, {"method": "magic"}),
        ("target: 'benign'", linear_network, IMAGES, {"target": "benign"}),
    ]:
        with pytest.raises(UsageError, match=match):
            explain.heatmap(network, shown, **options)
    assert explain.heatmap(keras.Model(inputs, one), SMALL).shape == (2, 8, 8)


def test_randomising_starts_at_the_output_and_goes_down():
    network = curved_network()
    names = [layer.name for layer in explain.weighted_layers(network)]
    assert names == ["head", "second", "first"]
    for depth in (1, 2, 3):
        changed = explain.randomise_weights(network, seed=3, depth=depth)
        kernels = [(network.get_layer(name).kernel, changed.get_layer(name).kernel) for name in names]
        assert [not np.array_equal(*pair) for pair in kernels] == [True] * depth + [False] * (3 - depth)
    again = explain.randomise_weights(network, seed=3)
    np.testing.assert_array_equal(again.get_layer("first").kernel, changed.get_layer("first").kernel)
    assert np.abs(explain.heatmap(network, SMALL) - explain.heatmap(changed, SMALL)).max() > 0.05


def test_randomising_opens_inner_networks_and_leaves_the_statistics_of_the_data_alone():
    inner = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.SeparableConv2D(2, 3, name="inside")])
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Normalization(mean=3.0, variance=4.0, name="data"), inner,
         keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    )  # fmt: skip
    assert len(explain.weighted_layers(network)) == 3
    network.layers[2].moving_mean.assign([5.0, 6.0])
    changed = explain.randomise_weights(network, seed=0)
    assert (changed.layers[2].moving_mean.numpy() == 0).all()  # as before training
    old, new = (one.layers[1].get_layer("inside").get_weights() for one in (network, changed))
    assert not any(np.array_equal(*pair) for pair in zip(old[:2], new[:2], strict=True))
    assert float(changed.get_layer("data").mean[0, 0, 0, 0]) == 3.0
