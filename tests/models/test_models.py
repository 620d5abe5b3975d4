"""Networks: graph, preprocessing, weights files."""

import shutil

import h5py
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
    source = keras.applications.MobileNetV2(weights=None, include_top=False, alpha=0.35, input_shape=(64, 64, 3))
    source.save_weights(path)
    return path


def inner_range(name, layer):
    """A layer's output for an image of 0 and one of 255: the three colours of one pixel."""
    model = models.build(name, image_size=SIZE)
    images = np.array([0, 255], np.uint8)[:, None, None, None] * np.ones((SIZE, SIZE, 1), np.uint8)
    return keras.Model(model.input, model.get_layer(layer).output).predict(images, verbose=0)[:, 0, 0]


@pytest.mark.parametrize("name", [*models.SCRATCH, *models.BACKBONES])
def test_every_network_is_flat_and_a_backbone_can_be_split_where_fine_tuning_starts(name):
    model = models.build(name, image_size=SIZE)
    assert model.input_shape == (None, SIZE, SIZE, 1)
    assert model.output_shape == (None, 1)
    assert [layer.name for layer in model.layers[-2:]] == ["logit", "probability"]
    nested = keras.layers.Lambda if name == "convnext_tiny" else keras.Model | keras.layers.Lambda  # Keras nests blocks
    assert not any(isinstance(layer, nested) for layer in model.layers)
    if name in models.BACKBONES:
        assert models.split(model, models.BACKBONES[name].fine_tune_from)[1].output_shape == (None, 1)


@pytest.mark.parametrize(("name", "layer"), [("mobilenetv2", "grey_to_rgb"), ("vgg16", "rescale")])
def test_the_preprocessing_is_that_of_keras(name, layer):
    module = {"mobilenetv2": keras.applications.mobilenet_v2, "vgg16": keras.applications.vgg16}[name]
    expected = module.preprocess_input(np.array([[0] * 3, [255] * 3], np.float32))
    np.testing.assert_allclose(inner_range(name, layer), expected, rtol=1e-5)


def test_efficientnet_rescales_once_and_imagenet_weights_get_the_step_that_keras_adds_for_them():
    assert inner_range("efficientnetb0", "grey_to_rgb").tolist() == [[0] * 3, [255] * 3]
    mean, std = np.array(models.IMAGENET_MEAN), np.array(models.IMAGENET_STD)
    x = keras.Input((1, 1, 1))
    prepared = keras.Model(x, models.scale_for_efficientnet(x)).predict(np.full((1, 1, 1, 1), 90.0), verbose=0)
    normalised = (prepared[0, 0, 0] / 255 - mean) / std
    np.testing.assert_allclose(normalised, (90 / 255 - mean) / std / np.sqrt(std), rtol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2", "vgg16", "efficientnetb0"])
def test_weights_are_loaded_width_included_and_the_backbone_is_frozen(name, tmp_path):
    path, width = tmp_path / f"{name}.weights.h5", {"alpha": 0.35} if name == "mobilenetv2" else {}
    source = models.BACKBONES[name].constructor(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), **width)
    source.save_weights(path)
    model = models.build(name, image_size=SIZE, weights=pretrained.find_weights(f"{name}={path}", name).file)
    inner = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in (inner[0], inner[-1]):
        np.testing.assert_array_equal(model.get_layer(layer).get_weights()[0], source.get_layer(layer).get_weights()[0])
    trained = [layer.name for layer in model.layers if layer.trainable and layer.weights]
    assert trained == (["hidden_1", "logit"] if name == "vgg16" else ["logit"])


def test_wrong_names_are_refused_in_one_line():
    with pytest.raises(UsageError, match="nonsense"):
        models.build("nonsense", image_size=SIZE)
    with pytest.raises(UsageError, match="FEATURE_LAYER: mobilenetv2 has no layer 'block_99'"):
        models.build("mobilenetv2", image_size=SIZE, feature_layer="block_99")
    with pytest.raises(UsageError, match="from scratch"):
        models.build("small_cnn", image_size=SIZE, weights="imagenet")
    with pytest.raises(UsageError, match="shortcut"):
        models.split(models.build("mobilenetv2", image_size=SIZE), "block_7_expand")


def test_a_lone_file_serves_the_network_it_fits_and_named_files_the_backbones_named(backbone_file):
    lone = str(backbone_file)
    assert pretrained.available_backbones(lone) == ("mobilenetv2",)
    assert pretrained.find_weights(lone, "mobilenetv2") == pretrained.Weights(lone, "random.weights.h5", 0.35)
    pretrained.check_weights(lone)
    spec = f"mobilenetv2={backbone_file}"
    assert pretrained.available_backbones(spec) == ("mobilenetv2",)
    assert pretrained.find_weights(spec, "mobilenetv2").file == str(backbone_file)
    with pytest.raises(UsageError, match="none for vgg16"):
        pretrained.find_weights(spec, "vgg16")
    assert pretrained.available_backbones("vgg16=a.h5") == ("vgg16", "vgg16_medical")
    with pytest.raises(UsageError, match="'resnet' is not a backbone"):
        pretrained.parse_spec("resnet=a.h5")


@pytest.mark.parametrize("damage", ["missing", "truncated", "other network", "with top"])
def test_a_useless_file_gives_one_clear_line(damage, backbone_file, tmp_path):
    path, backbone = tmp_path / "w.weights.h5", "mobilenetv2"
    if damage == "truncated":
        path.write_bytes(backbone_file.read_bytes()[:100_000])
    elif damage == "other network":
        shutil.copy(backbone_file, path)
        backbone = "vgg16"
    elif damage == "with top":
        keras.applications.MobileNetV2(weights=None, alpha=0.35, input_shape=(32, 32, 3)).save_weights(path)
    for refuse in (lambda spec: pretrained.find_weights(spec, backbone), pretrained.check_weights):
        with pytest.raises(UsageError, match=r"\A.*w\.weights\.h5.*\Z"):
            refuse(f"{backbone}={path}")


@pytest.mark.filterwarnings("ignore:Skipping")
def test_a_file_of_the_right_size_but_another_shape_gives_one_clear_line(tmp_path):
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
    load = lambda weights: models.build("efficientnetb0", image_size=SIZE, weights=weights)  # noqa: E731
    for refuse in (pretrained.check_weights, load):
        with pytest.raises(UsageError, match=r"\A.*get https://.* and put it at .*models.*\Z"):
            refuse("imagenet")


def test_what_the_keywords_stand_for():
    demo = pretrained.find_weights("", "mobilenetv2")
    assert (demo.file, demo.label, demo.alpha) == (str(pretrained.DEMO_FILE), "demo", 0.35)
    assert pretrained.find_weights("none", "vgg16") == pretrained.Weights("none", "none")
    assert pretrained.find_weights("imagenet", "vgg16") == pretrained.Weights("imagenet", "imagenet")
    with pytest.raises(UsageError, match="bundled demo weights are for mobilenetv2 only"):
        pretrained.find_weights("demo", "vgg16")


def test_wanted_backbones_without_weights_are_left_out_with_a_reason():
    chosen, left_out = pretrained.choose_backbones(["vgg16", "mobilenetv2"], "demo")
    assert (chosen, left_out) == (["mobilenetv2"], {"vgg16": "WEIGHTS demo has none for it"})
    assert pretrained.choose_backbones(["vgg16"], "none") == (["vgg16"], {})
    for wanted in (["resnet"], [], ["vgg16"]):
        with pytest.raises(UsageError, match="BACKBONES"):
            pretrained.choose_backbones(wanted, "demo")
