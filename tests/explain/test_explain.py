"""Heatmaps: against closed forms, finite differences, and over the kinds of network a reader may bring."""

import keras
import numpy as np
import pytest

from shared.explain import heatmaps as explain
from shared.run import UsageError

SIDE = 4
CHANNELS = np.array([1.0, 2.0, -0.5], "float32")  # what the one convolution of `linear_network` multiplies with


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(1, 2, (3, SIDE, SIDE)).astype("float32")


@pytest.fixture(scope="module")
def place_weights():
    return np.random.default_rng(1).normal(size=(SIDE, SIDE, 3)).astype("float32")


@pytest.fixture(scope="module")
def linear_network(place_weights):
    """features[..., c] = CHANNELS[c] * image; logit = sum(place_weights * features) + 0.3; all maps are known."""
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.Conv2D(3, 1, use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.set_weights([CHANNELS.reshape(1, 1, 1, 3), place_weights.reshape(-1, 1), np.array([0.3])])
    return network


def expected_map(method, image, weights):
    features, slope = image[..., None] * CHANNELS, weights
    if method == "gradcam":
        return np.maximum((features * slope.mean((0, 1))).sum(-1), 0)
    if method == "hirescam":
        return np.maximum((features * slope).sum(-1), 0)
    if method == "layercam":
        return np.maximum((features * np.maximum(slope, 0)).sum(-1), 0)
    if method == "gradcam++":
        share = slope**2 / (2 * slope**2 + features.sum((0, 1)) * slope**3)
        return np.maximum((features * (share * np.maximum(slope, 0)).sum((0, 1))).sum(-1), 0)
    if method == "eigencam":
        return image * np.linalg.norm(CHANNELS)
    per_pixel = (slope * CHANNELS).sum(-1)
    if method == "scorecam":
        span = np.ptp(features, axis=(0, 1))
        masks = (features - features.min((0, 1))) / span
        scores = (per_pixel[..., None] * image[..., None] * masks).sum((0, 1))
        share = np.exp(scores) / np.exp(scores).sum()
        return np.maximum((features * share).sum(-1), 0)
    if method == "integrated_gradients":
        return per_pixel * (image - image.mean())
    effect = (per_pixel * (image - image.mean())).reshape(2, 2, 2, 2).sum((1, 3))
    return effect.repeat(2, 0).repeat(2, 1)  # occlusion by squares of 2 × 2


@pytest.mark.parametrize("method", explain.METHODS)
def test_each_method_gives_the_map_known_in_closed_form(method, linear_network, images, place_weights):
    maps = explain.heatmap(
        linear_network, images, method=method, normalise=False, window=2, stride=2, steps=3, batch_size=2
    )
    expected = np.stack([expected_map(method, image, place_weights) for image in images])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "occlusion", "integrated_gradients"])
def test_evidence_for_benign_is_evidence_for_malignant_with_its_sign_turned(method, linear_network, images):
    turned = keras.models.clone_model(linear_network)
    kernel, dense, bias = linear_network.get_weights()
    turned.set_weights([kernel, -dense, -bias])
    negative = explain.heatmap(linear_network, images, method=method, target="negative")
    np.testing.assert_allclose(negative, explain.heatmap(turned, images, method=method), rtol=1e-5)
    np.testing.assert_allclose(negative, explain.heatmap(linear_network, images, method=method, target=0), rtol=1e-5)


def curved_network(*, activation="sigmoid", units=1, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(6, 3, activation="tanh", name="first")(inputs)
    hidden = keras.layers.Conv2D(4, 3, activation="tanh", name="second")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation, name="head")(hidden))


@pytest.fixture(scope="module")
def small_images():
    return np.random.default_rng(2).uniform(0.5, 1.5, (2, 8, 8, 1)).astype("float32")


def test_gradient_agrees_with_a_finite_difference(small_images):
    network, half = curved_network(), small_images / 2
    # one step from a baseline of 0 is the image times the gradient at half the image
    maps = explain.heatmap(network, small_images, method="integrated_gradients", steps=1, baseline=0, normalise=False)
    for row, column in [(0, 0), (3, 4), (7, 2)]:
        step = np.zeros_like(half)
        step[:, row, column] = 1e-2
        difference = explain.target_scores(network, half + step) - explain.target_scores(network, half - step)
        np.testing.assert_allclose(
            maps[:, row, column], small_images[:, row, column, 0] * difference / 2e-2, rtol=2e-2, atol=1e-5
        )


def test_integrated_gradients_add_up_to_the_change_of_the_logit(small_images):
    network = curved_network()
    maps = explain.heatmap(network, small_images, method="integrated_gradients", steps=64, baseline=0, normalise=False)
    change = explain.target_scores(network, small_images) - explain.target_scores(network, 0 * small_images)
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-3, atol=1e-5)


def test_scores_are_the_logit_behind_every_kind_of_last_activation(small_images):
    fused = curved_network()
    probability = fused.predict(small_images, verbose=0)[:, 0]
    np.testing.assert_allclose(
        explain.target_scores(fused, small_images), np.log(probability / (1 - probability)), atol=1e-5
    )
    bare = curved_network(activation=None)
    apart = keras.Model(bare.input, keras.layers.Activation("sigmoid", dtype="float32")(bare.output))
    function = keras.Model(bare.input, keras.layers.Reshape((1,))(keras.ops.sigmoid(bare.output)))
    for network in (bare, apart, function):
        np.testing.assert_allclose(
            explain.target_scores(network, small_images), explain.target_scores(fused, small_images), atol=1e-6
        )


def test_softmax_of_two_classes_is_explained_by_the_log_odds_and_of_more_by_the_class(small_images):
    two = curved_network(activation="softmax", units=2)
    probability = two.predict(small_images, verbose=0)
    np.testing.assert_allclose(
        explain.target_scores(two, small_images), np.log(probability[:, 1] / probability[:, 0]), atol=1e-5
    )
    three = curved_network(activation="softmax", units=3)
    scores = np.stack([explain.target_scores(three, small_images, target=number) for number in range(3)], axis=1)
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(share, three.predict(small_images, verbose=0), atol=1e-5)
    for target in ("positive", 3):
        with pytest.raises(UsageError, match="0 to 2"):
            explain.heatmap(three, small_images, target=target)


def test_a_saturated_sigmoid_still_has_a_map(linear_network, images):
    kernel, dense, _ = linear_network.get_weights()
    saturated = keras.models.clone_model(linear_network)
    saturated.set_weights([kernel, dense, np.array([500.0])])
    assert (saturated.predict(images, verbose=0) == 1).all()
    np.testing.assert_allclose(explain.heatmap(saturated, images), explain.heatmap(linear_network, images), rtol=1e-4)


@pytest.mark.parametrize("method", explain.METHODS)
def test_a_zero_map_is_a_zero_map(method, linear_network, images):
    kernel, dense, _ = linear_network.get_weights()
    dead = keras.models.clone_model(linear_network)
    dead.set_weights([0 * kernel, 0 * dense, np.array([0.0])])
    maps = explain.heatmap(dead, images, method=method)
    assert maps.shape == images.shape
    assert (maps == 0).all()


def backbone_of_two_blocks():
    inputs = keras.Input((16, 16, 3))
    first = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    branch = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="branch")(first)
    return keras.Model(
        inputs, keras.layers.MaxPooling2D(name="pool")(keras.layers.Add(name="sum")([first, branch])), name="body"
    )


def nested_and_flat():
    keras.utils.set_random_seed(1)
    body = backbone_of_two_blocks()
    inputs = keras.Input((16, 16, 1))
    rgb = keras.layers.Concatenate()([inputs] * 3)
    head = keras.Sequential(
        [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid")], name="head"
    )
    nested = keras.Model(inputs, head(body(rgb, training=False)))
    inner = keras.Model(body.input, body.get_layer("pool").output)
    flat_body, at = {layer.name: layer for layer in inner.layers}, rgb
    at = flat_body["stem"](at)
    at = flat_body["pool"](flat_body["sum"]([at, flat_body["branch"](at)]))
    flat = keras.Model(inputs, head.layers[-1](keras.layers.GlobalAveragePooling2D()(at)))
    return nested, flat


@pytest.mark.parametrize("method", explain.METHODS)
def test_a_nested_network_has_the_maps_of_the_same_network_laid_flat(method):
    nested, flat = nested_and_flat()
    images = np.random.default_rng(3).uniform(0, 255, (2, 16, 16)).astype("uint8")
    assert explain.find_feature_layer(nested) == "body/pool"
    assert explain.find_feature_layer(flat) == "pool"
    options = {"method": method, "steps": 2, "normalise": False}
    expected = explain.heatmap(flat, images, **options)
    np.testing.assert_allclose(explain.heatmap(nested, images, **options), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_inside_a_residual_block_of_a_nested_network_can_be_named():
    nested, _ = nested_and_flat()
    images = np.random.default_rng(3).uniform(0, 255, (2, 16, 16))
    maps = explain.heatmap(nested, images, layer="body/branch", resize=False)
    np.testing.assert_array_equal(maps, explain.heatmap(nested, images, layer="branch"))
    assert maps.shape == (2, 16, 16)
    assert explain.heatmap(nested, images, layer="body", resize=False).shape == (2, 8, 8)
    with pytest.raises(UsageError, match=r"nowhere.*body/branch"):
        explain.heatmap(nested, images, layer="nowhere")
    with pytest.raises(UsageError, match="no feature map"):
        explain.heatmap(nested, images, layer="head")


def test_explaining_leaves_the_network_as_it_was():
    nested, _ = nested_and_flat()
    layer = nested.get_layer("body").get_layer("branch")
    before, weights = len(layer._inbound_nodes), nested.get_weights()
    explain.heatmap(nested, np.ones((1, 16, 16)))
    explain.randomise_weights(nested, seed=0)
    assert len(layer._inbound_nodes) == before
    assert all(np.array_equal(old, new) for old, new in zip(weights, nested.get_weights(), strict=True))


def test_each_output_of_a_network_of_two_is_explained_by_itself():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 1))
    stem = keras.layers.Conv2D(3, 3, activation="relu", name="stem")(inputs)
    one = keras.layers.Dense(1, activation="sigmoid", name="one")(keras.layers.Flatten()(stem))
    wide = keras.layers.Conv2D(2, 3, activation="relu", name="wide")(stem)
    two = keras.layers.Dense(3, activation="softmax", name="two")(keras.layers.GlobalMaxPooling2D()(wide))
    network = keras.Model(inputs, {"one": one, "two": two})
    images = np.random.default_rng(4).normal(size=(2, 8, 8))
    alone = keras.Model(inputs, one)
    assert explain.find_feature_layer(network, output=network.output_names.index("one")) == "stem"
    assert explain.find_feature_layer(network, output="two") == "wide"
    np.testing.assert_allclose(
        explain.heatmap(network, images, output="one"), explain.heatmap(alone, images), rtol=1e-5
    )
    assert explain.heatmap(network, images, output="two", target=2).shape == (2, 8, 8)
    with pytest.raises(UsageError, match="output: 'three'"):
        explain.heatmap(network, images, output="three")


def transfer_network(name):
    keras.utils.set_random_seed(0)
    body = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(64, 64, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(body.output)
    return keras.Model(body.input, keras.layers.Dense(1, activation="sigmoid")(hidden))


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "VGG16"])
def test_all_methods_run_on_the_networks_of_the_series(name):
    network = transfer_network(name)
    images = np.random.default_rng(5).uniform(0, 255, (2, 64, 64))
    for method in explain.METHODS:
        maps = explain.heatmap(network, images, method=method, steps=2, channels=4, window=32, stride=32)
        assert maps.shape == (2, 64, 64)
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        assert set(maps.max((1, 2))) <= {0.0, 1.0}


def test_maps_do_not_depend_on_the_size_of_the_batches(small_images):
    network = curved_network()
    many = np.concatenate([small_images] * 3)
    np.testing.assert_allclose(
        explain.heatmap(network, many, batch_size=4), explain.heatmap(network, many, batch_size=1), atol=1e-5
    )


def test_occlusion_covers_every_pixel_where_windows_overlap_or_do_not_fit(linear_network, images):
    maps = explain.heatmap(linear_network, images, method="occlusion", window=3, stride=2, baseline=0, normalise=False)
    assert maps.shape == images.shape
    assert np.isfinite(maps).all()
    with pytest.raises(UsageError, match="stride"):
        explain.heatmap(linear_network, images, method="occlusion", window=2, stride=3)


def test_randomising_starts_at_the_output_and_goes_down(small_images):
    network = curved_network()
    names = [layer.name for layer in explain.weighted_layers(network)]
    assert names == ["head", "second", "first"]
    for depth in (1, 2, 3):
        changed = explain.randomise_weights(network, seed=3, depth=depth)
        different = [
            not np.array_equal(network.get_layer(name).kernel, changed.get_layer(name).kernel) for name in names
        ]
        assert different == [True] * depth + [False] * (3 - depth)
    again = explain.randomise_weights(network, seed=3, depth=3)
    np.testing.assert_array_equal(again.get_layer("first").kernel, changed.get_layer("first").kernel)
    assert np.abs(explain.heatmap(network, small_images) - explain.heatmap(changed, small_images)).max() > 0.05


def test_shuffling_keeps_the_values_of_each_array():
    network = curved_network()
    shuffled = explain.randomise_weights(network, seed=0, how="shuffle")
    for old, new in zip(network.get_weights(), shuffled.get_weights(), strict=True):
        np.testing.assert_array_equal(np.sort(old.ravel()), np.sort(new.ravel()))


def test_randomising_leaves_the_statistics_of_the_data_alone():
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Normalization(mean=3.0, variance=4.0), keras.layers.Conv2D(2, 3),
         keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    )  # fmt: skip
    assert len(explain.weighted_layers(network)) == 3
    explain.randomise_weights(network, seed=0)


def test_wrong_use_is_refused_in_one_line(linear_network, images):
    with pytest.raises(UsageError, match="method: 'magic' is not one of gradcam"):
        explain.heatmap(linear_network, images, method="magic")
    with pytest.raises(UsageError, match="target: 'benign'"):
        explain.heatmap(linear_network, images, target="benign")
    with pytest.raises(UsageError, match="shape"):
        explain.heatmap(linear_network, images[0])
    with pytest.raises(UsageError, match="how"):
        explain.randomise_weights(linear_network, seed=0, how="hope")
    dense_only = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(UsageError, match="no feature map"):
        explain.find_feature_layer(dense_only)
