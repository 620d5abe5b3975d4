"""What notebook 03 builds in its cells is what `shared.models` builds afterwards."""

from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest

from shared import models
from shared.run import Settings

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/03_simple_cnn.ipynb"


@pytest.fixture(scope="module", params=[2, 4])
def lesson(request):
    """The names that the notebook's cells on layers define."""
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    wanted = ("keras.Input(", "def add_output(", "def add_block(", "augment = keras.Sequential(")
    names = {"keras": keras, "layers": keras.layers, "settings": Settings(seed=3), "size": 64}
    names["n_classes"] = request.param
    for source in cells:
        if any(word in source for word in wanted):
            exec(source, names)
    return names


def configurations(model):
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [(type(layer), layer.get_config()) for layer in layers]


@pytest.mark.parametrize("name", ["simple_cnn", "small_cnn"])
def test_the_networks_have_the_same_layers_first_weights_and_scores(name, lesson):
    shown = lesson[name]
    built = models.build(name, image_size=64, n_classes=lesson["n_classes"], seed=3)
    assert configurations(shown) == configurations(built)
    assert shown.name == built.name
    for ours, theirs in zip(shown.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
    np.testing.assert_array_equal(shown.predict(images, verbose=0), built.predict(images, verbose=0))


def test_the_augmentation_is_the_same(lesson):
    expected = [layer.get_config() | {"name": ""} for layer in models.make_augmentation(seed=3).layers]
    assert [layer.get_config() | {"name": ""} for layer in lesson["augment"].layers] == expected
