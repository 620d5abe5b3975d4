"""Networks: graph, preprocessing, weights files."""

import shutil

import keras
import numpy as np
import pytest

from shared.models import networks as models
from shared.models import pretrained
from shared.run import UsageError

SIZE = 32


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """Random weights of MobileNetV2 alpha 0.35, in the format that keras.applications reads."""
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    keras.utils.set_random_seed(7)
    keras.applications.MobileNetV2(weights=None, include_top=False, alpha=0.35, input_shape=(64, 64, 3)).save_weights(
        path
    )
    return path


def inner_range(model, layer):
    """Return (min, max) of a layer's output for images of 0 and 255."""
    images = np.zeros((2, SIZE, SIZE, 1), np.uint8)
    images[1] = 255
    output = keras.Model(model.input, model.get_layer(layer).output).predict(images, verbose=0)
    return output.min(axis=(0, 1, 2)), output.max(axis=(0, 1, 2))


def assert_flat(model):
    assert model.input_shape == (None, SIZE, SIZE, 1)
    assert model.output_shape == (None, 1)
    assert [layer.name for layer in model.layers[-2:]] == ["logit", "probability"]
    assert not any(isinstance(layer, keras.Model | keras.layers.Lambda) for layer in model.layers)


@pytest.mark.parametrize("name", models.SCRATCH)
def test_every_network_is_flat_and_ends_in_logit_and_probability(name):
    assert_flat(models.build(name, image_size=SIZE))


@pytest.mark.parametrize("name", models.BACKBONES)
def test_every_backbone_is_flat_and_can_be_split_where_fine_tuning_starts(name):
    model = models.build(name, image_size=SIZE)
    _, upper = models.split(model, models.BACKBONES[name].fine_tune_from)
    assert upper.output_shape == (None, 1)
    if name != "convnext_tiny":  # Keras builds its downsampling blocks as small Sequential models
        assert_flat(model)


def test_mobilenet_gets_minus_one_to_one():
    low, high = inner_range(models.build("mobilenetv2", image_size=SIZE), "grey_to_rgb")
    np.testing.assert_allclose(low, -1)
    np.testing.assert_allclose(high, 1)


def test_vgg_gets_bgr_minus_means():
    low, _ = inner_range(models.build("vgg16", image_size=SIZE), "rescale")
    expected = keras.applications.vgg16.preprocess_input(np.zeros((1, 1, 1, 3), np.float32))[0, 0, 0]
    np.testing.assert_allclose(low, expected, rtol=1e-5)


def test_efficientnet_rescales_once_and_imagenet_weights_get_the_step_that_keras_adds_for_them():
    low, high = inner_range(models.build("efficientnetb0", image_size=SIZE), "grey_to_rgb")
    assert (low.min(), high.max()) == (0, 255)
    mean, std = np.array(models.IMAGENET_MEAN), np.array(models.IMAGENET_STD)
    x = keras.Input((SIZE, SIZE, 1))
    graph = keras.Model(x, models.scale_for_efficientnet(x))
    prepared = graph.predict(np.full((1, SIZE, SIZE, 1), 90.0), verbose=0)
    normalised = (prepared[0, 0, 0] / 255 - mean) / std
    np.testing.assert_allclose(normalised, (90 / 255 - mean) / std / np.sqrt(std), rtol=1e-4)


def test_same_seed_same_weights_and_another_seed_others():
    first, second, other = (models.build("lightweight_cnn", image_size=SIZE, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_more_than_two_classes_get_a_softmax():
    images = np.zeros((2, SIZE, SIZE, 1), np.uint8)
    scores = models.build("deep_cnn", image_size=SIZE, n_classes=4).predict(images, verbose=0)
    assert scores.shape == (2, 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_weights_are_loaded_width_included_and_the_backbone_is_frozen(backbone_file):
    model = models.build("mobilenetv2", image_size=SIZE, weights=str(backbone_file))
    source = keras.applications.MobileNetV2(weights=str(backbone_file), include_top=False, alpha=0.35)
    kernel = source.get_layer("block_13_expand").get_weights()[0]
    np.testing.assert_array_equal(model.get_layer("block_13_expand").get_weights()[0], kernel)
    assert [layer.name for layer in model.layers if layer.trainable and layer.weights] == ["logit"]


def test_unfreezing_leaves_batch_normalisation_and_the_lower_layers_alone():
    model = models.build("mobilenetv2", image_size=SIZE)
    models.train_only(model, models.split(model, "block_6_project_BN")[1].layers)
    trained = {layer.name for layer in model.layers if layer.trainable and layer.weights}
    assert {"block_7_expand", "block_13_expand", "logit"} <= trained
    assert not any(name.endswith("BN") or name.startswith(("block_6_", "Conv1")) for name in trained)


def test_both_parts_of_a_split_make_the_whole():
    model = models.build("mobilenetv2", image_size=SIZE, alpha=0.35)
    lower, upper = models.split(model, "block_6_project_BN")
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), dtype=np.uint8)
    parts = upper.predict(lower.predict(images, verbose=0), verbose=0)
    np.testing.assert_allclose(parts, model.predict(images, verbose=0), atol=1e-5)


def test_wrong_names_are_refused_in_one_line():
    with pytest.raises(UsageError, match="nonsense"):
        models.build("nonsense", image_size=SIZE)
    with pytest.raises(UsageError, match="FEATURE_LAYER: mobilenetv2 has no layer 'block_99'"):
        models.build("mobilenetv2", image_size=SIZE, feature_layer="block_99")
    with pytest.raises(UsageError, match="from scratch"):
        models.build("small_cnn", image_size=SIZE, weights="imagenet")
    with pytest.raises(UsageError, match="shortcut"):
        models.split(models.build("mobilenetv2", image_size=SIZE), "block_7_expand")


# ------------------------------------------------------------------- weights
def test_a_lone_file_serves_the_network_it_fits(backbone_file):
    assert pretrained.available_backbones(str(backbone_file)) == ("mobilenetv2",)
    found = pretrained.find_weights(str(backbone_file), "mobilenetv2")
    assert found == pretrained.Weights(str(backbone_file), "random.weights.h5", 0.35)
    pretrained.check_weights(str(backbone_file))


def test_named_files_serve_only_the_backbones_named(backbone_file):
    spec = f"mobilenetv2={backbone_file}"
    assert pretrained.available_backbones(spec) == ("mobilenetv2",)
    assert pretrained.find_weights(spec, "mobilenetv2").file == str(backbone_file)
    with pytest.raises(UsageError, match="none for vgg16"):
        pretrained.find_weights(spec, "vgg16")
    assert pretrained.available_backbones("vgg16=a.h5") == ("vgg16", "vgg16_medical")
    with pytest.raises(UsageError, match="'resnet' is not a backbone"):
        pretrained.parse_spec("resnet=a.h5")


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "other network", "with top"])
def test_a_useless_file_gives_one_clear_line(damage, backbone_file, tmp_path):
    path, backbone = tmp_path / "w.weights.h5", "mobilenetv2"
    if damage == "truncated":
        path.write_bytes(backbone_file.read_bytes()[:100_000])
    elif damage == "text":
        path.write_text("not weights")
    elif damage == "other network":
        shutil.copy(backbone_file, path)
        backbone = "vgg16"
    elif damage == "with top":
        keras.applications.MobileNetV2(weights=None, alpha=0.35, input_shape=(32, 32, 3)).save_weights(path)
    with pytest.raises(UsageError) as caught:
        pretrained.find_weights(f"{backbone}={path}", backbone)
    assert "w.weights.h5" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError):
        pretrained.check_weights(f"{backbone}={path}")


@pytest.mark.filterwarnings("ignore:Skipping")
def test_a_file_of_the_right_size_but_another_shape_gives_one_clear_line(tmp_path):
    import h5py

    path = tmp_path / "odd.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(410208, np.float32)
    with pytest.raises(UsageError, match="not the weights of mobilenetv2"):
        models.build("mobilenetv2", image_size=SIZE, weights=str(path))


def test_imagenet_without_network_names_file_source_and_place(monkeypatch, tmp_path):
    def no_network(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", no_network)
    monkeypatch.setattr(keras.utils, "get_file", no_network)
    for call in (
        lambda: pretrained.check_weights("imagenet"),
        lambda: models.build("efficientnetb0", image_size=SIZE, weights="imagenet"),
    ):
        with pytest.raises(UsageError, match=r"get https://.* and put it at .*models") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_what_the_keywords_stand_for():
    demo = pretrained.find_weights("", "mobilenetv2")
    assert (demo.file, demo.label, demo.alpha) == (str(pretrained.DEMO_FILE), "demo", 0.35)
    assert pretrained.find_weights("none", "vgg16") == pretrained.Weights("none", "none")
    assert pretrained.find_weights("imagenet", "vgg16") == pretrained.Weights("imagenet", "imagenet")
    with pytest.raises(UsageError, match="bundled demo weights are for mobilenetv2 only"):
        pretrained.find_weights("demo", "vgg16")


def test_wanted_backbones_without_weights_are_left_out_with_a_reason():
    chosen, left_out = pretrained.choose_backbones(["vgg16", "mobilenetv2"], "demo")
    assert chosen == ["mobilenetv2"]
    assert left_out == {"vgg16": "WEIGHTS demo has none for it"}
    assert pretrained.choose_backbones(["vgg16"], "none") == (["vgg16"], {})
    for wanted in (["resnet"], [], ["vgg16"]):
        with pytest.raises(UsageError, match="BACKBONES"):
            pretrained.choose_backbones(wanted, "demo")


@pytest.mark.parametrize("name", ["vgg16", "efficientnetb0"])
def test_files_in_the_format_of_keras_load_into_the_larger_backbones(name, tmp_path):
    path = tmp_path / f"{name}.weights.h5"
    constructor = models.BACKBONES[name].constructor
    source = constructor(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    source.save_weights(path)
    model = models.build(name, image_size=SIZE, weights=pretrained.find_weights(f"{name}={path}", name).file)
    last = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    np.testing.assert_array_equal(model.get_layer(last).get_weights()[0], source.get_layer(last).get_weights()[0])
