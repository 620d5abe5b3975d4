"""What notebooks 03 and 04 build in their cells is what `shared.models` builds afterwards."""

from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest

from shared import models
from shared.models.networks import freeze_all_but
from shared.run import Settings

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def run_cells(notebook, wanted, names):
    """Run the cells of a notebook that hold one of the wanted words, and return the names they define."""
    names |= {"keras": keras, "layers": keras.layers, "np": np, "models": models, "settings": Settings(seed=3)}
    for cell in nbformat.read(NOTEBOOKS / notebook, as_version=4).cells:
        if cell.cell_type == "code" and any(word in cell.source for word in wanted):
            exec(cell.source, names)
    return names


@pytest.fixture(scope="module")
def lesson():
    wanted = ("keras.Input(", "keras.Model(image,", "def add_output(", "def add_block(", "augment = keras.Sequential(")
    return run_cells("03_simple_cnn.ipynb", wanted, {"size": 64})


def configurations(model):
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [(type(layer), layer.get_config()) for layer in layers]


@pytest.mark.parametrize("name", ["simple_cnn", "small_cnn"])
def test_the_networks_have_the_same_layers_first_weights_and_scores(name, lesson):
    shown = lesson[name]
    built = models.build(name, image_size=64, seed=3)
    assert (configurations(shown), shown.name) == (configurations(built), built.name)
    for ours, theirs in zip(shown.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
    np.testing.assert_array_equal(shown.predict(images, verbose=0), built.predict(images, verbose=0))


def test_the_augmentation_is_the_same(lesson):
    expected = [layer.get_config() | {"name": ""} for layer in models.make_augmentation(seed=3).layers]
    assert [layer.get_config() | {"name": ""} for layer in lesson["augment"].layers] == expected


def test_the_transfer_network_is_the_same_and_unfreezes_the_same_layers():
    weights, known = models.Weights("none", "none", 0.35), models.BACKBONES["mobilenetv2"]
    given = {"size": 64, "main": "mobilenetv2", "weights": weights, "feature_layer": known.feature_layer}
    wanted = ("include_top=False", "by_hand = ", "last_frozen =")
    shown = run_cells("04_transfer_learning.ipynb", wanted, given)["by_hand"]
    built = models.build("mobilenetv2", image_size=64, alpha=0.35, seed=3)
    assert configurations(shown) != configurations(built), "frozen or not is part of a layer's configuration"
    freeze_all_but(built, models.split(built, known.fine_tune_from)[1].layers)
    assert configurations(shown) == configurations(built)
    for ours, theirs in zip(shown.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
