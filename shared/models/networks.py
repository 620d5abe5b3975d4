"""Build every network of the series by name, as one flat and serialisable Keras graph.

Each network takes images (S, S, 1) with values 0…255 (uint8 or float) and does its own preprocessing, so a saved
`.keras` file can be fed with pixels and nothing else. Every network ends in the layers `pooled` (where it has global
pooling), `logit` and `probability`.
"""

import collections
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.models import pretrained
from shared.models.backend import keras, layers
from shared.run import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG_BGR_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Backbone:
    """What the series needs to know about one network of `keras.applications`."""

    constructor: Callable  # keras.applications function
    prepare: Callable  # (grey tensor 0…255, weights) -> tensor with three channels as the network expects them
    tap: str  # layer whose output goes to the head
    cut: str  # last layer that stays frozen in fine-tuning; everything behind it is trained
    head: Callable = None  # (tensor, dropout) -> tensor; None is global average pooling and dropout
    views: tuple[int, ...] = tuple(range(8))  # turned and flipped views whose features are worth their time


# ------------------------------------------------------------- preprocessing
def _grey_to_rgb(x):
    return layers.Concatenate(name="grey_to_rgb")([x, x, x])


def _to_minus_one_one(x, weights):
    """MobileNetV2 was trained on [-1, 1]."""
    return _grey_to_rgb(layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x))


def _minus_bgr_mean(x, weights):
    """VGG16 was trained on BGR values minus their means; with three equal channels only the means' order matters."""
    return layers.Rescaling(1.0, offset=[-mean for mean in VGG_BGR_MEAN], name="rescale")(_grey_to_rgb(x))


def _as_it_is(x, weights):
    """These networks carry their own rescaling and take 0…255."""
    return _grey_to_rgb(x)


def _efficientnet(x, weights):
    """EfficientNetB0 rescales inputs itself, but for one step that Keras adds for `weights="imagenet"` only.

    Keras multiplies the normalised input by 1/sqrt(standard deviation), because its ImageNet weights were converted
    from a network that did. Here every network is built empty and the weights are loaded afterwards, so the step is
    done before the network, whether they come from Keras' cache or from a file.
    """
    x = _grey_to_rgb(x)
    if weights == "none":
        return x
    gain = [std**-0.5 for std in IMAGENET_STD]
    shift = [255 * mean * (1 - factor) for mean, factor in zip(IMAGENET_MEAN, gain, strict=True)]
    return layers.Rescaling(gain, offset=shift, name="rescale")(x)


# --------------------------------------------------------------------- heads
def _pool(x, dropout):
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    return layers.Dropout(dropout, name="dropout")(x) if dropout else x


def _two_dense(x, dropout):
    """The head of projects B and D: one hidden dense layer before the output."""
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    return layers.Dropout(dropout or 0.3, name="dropout")(x)


def _large_head(x, dropout):
    """The "enhanced medical" head of project B: two hidden layers, each with dropout."""
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    for number, units in enumerate((512, 256), start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden_{number}")(x)
        x = layers.Dropout(dropout or 0.5, name=f"dropout_{number}")(x)
    return x


_APPS = keras.applications
MIRRORED = (0, 4)  # the image and its mirror image, for backbones that take long
BACKBONES = {
    "mobilenetv2": Backbone(_APPS.MobileNetV2, _to_minus_one_one, "block_16_expand_relu", "block_6_project_BN"),
    "efficientnetb0": Backbone(_APPS.EfficientNetB0, _efficientnet, "block6a_expand_activation", "block4c_add"),
    "vgg16": Backbone(_APPS.VGG16, _minus_bgr_mean, "block5_pool", "block4_pool", _two_dense, MIRRORED),
    "vgg16_medical": Backbone(_APPS.VGG16, _minus_bgr_mean, "block5_pool", "block4_pool", _large_head, MIRRORED),
    "efficientnetv2b0": Backbone(_APPS.EfficientNetV2B0, _as_it_is, "block6a_expand_activation", "block4c_add"),
    "convnext_tiny": Backbone(
        _APPS.ConvNeXtTiny,
        _as_it_is,
        "convnext_tiny_downsampling_block_2",
        "convnext_tiny_downsampling_block_1",
        views=MIRRORED,
    ),
}


# ------------------------------------------------------- networks from scratch
def _normalised(x):
    """0…255 to about -1…1."""
    return layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)


def build_simple_cnn(x):
    """Project C's network: two convolutions with max pooling, dropout, one dense layer."""
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for number, filters in enumerate((16, 32), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{number}")(x)
        x = layers.MaxPooling2D(2 * number, name=f"pool_{number}")(x)
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D(2, name="pool_3")(x))
    x = layers.Dropout(0.3, name="dropout_1")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return layers.Dropout(0.5, name="dropout_2")(x)


def _conv_block(x, filters, name, *, convolution=layers.Conv2D, strides=1):
    x = convolution(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def build_small_cnn(x):
    """Four convolutions with batch normalisation, each halving the image, global average pooling, dropout."""
    x = _normalised(x)
    for number, filters in enumerate((16, 32, 64, 128), start=1):
        x = _conv_block(x, filters, f"block_{number}", strides=2 if number == 1 else 1)
        x = layers.MaxPooling2D(2, name=f"block_{number}_pool")(x) if number < 4 else x
    return _pool(x, 0.3)


def build_deep_cnn(x):
    """Project E's idea: seven convolution blocks, then a dense layer; meant for 0/1 or several classes."""
    x = _normalised(x)
    for number, filters in enumerate((16, 32, 32, 64, 64, 128, 128), start=1):
        x = _conv_block(x, filters, f"block_{number}")
        if min(x.shape[1:3]) >= 8:
            x = layers.MaxPooling2D(2, name=f"block_{number}_pool")(x)
    x = layers.Dense(128, activation="relu", name="hidden")(layers.GlobalAveragePooling2D(name="pooled")(x))
    return layers.Dropout(0.4, name="dropout")(x)


def build_synthetic_cnn(x):
    """Project A1's question (synthetic or original?) needs fine texture: no pooling before the second convolution."""
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for number, filters in enumerate((16, 32, 32), start=1):
        x = _conv_block(x, filters, f"block_{number}", strides=1 if number == 1 else 2)
    return _pool(x, 0.2)


def build_lightweight_cnn(x):
    """Project B's light network: depthwise-separable convolutions, a few thousand parameters."""
    x = _conv_block(_normalised(x), 16, "block_0", strides=2)
    for number, filters in enumerate((32, 64, 64, 128), start=1):
        x = layers.MaxPooling2D(2, padding="same", name=f"block_{number}_pool")(x) if number < 4 else x
        x = _conv_block(x, filters, f"block_{number}", convolution=layers.SeparableConv2D)
    return _pool(x, 0.3)


SCRATCH = {
    "simple_cnn": build_simple_cnn,
    "small_cnn": build_small_cnn,
    "deep_cnn": build_deep_cnn,
    "synthetic_cnn": build_synthetic_cnn,
    "lightweight_cnn": build_lightweight_cnn,
}
NAMES = (*SCRATCH, *BACKBONES)


# --------------------------------------------------------------------- build
def build(name, *, image_size, weights="none", tap=None, n_classes=2, seed=0, dropout=0.3, softmax=False, alpha=None):
    """Build a network by name; the same seed gives the same first weights.

    Sets Python's, NumPy's and Keras' random seeds (`keras.utils.set_random_seed`) for this.

    Args:
        name: one of `NAMES`.
        image_size: pixels, height and width of the input (S, S, 1), values 0…255.
        weights: "none", "imagenet", or the path of a weights file without top, as `pretrained.resolve_weights` gives
            it. Networks from scratch take "none" only.
        tap: name of the backbone's layer where the head starts; None takes the default of `BACKBONES`. Middle layers
            transfer better to this kind of texture than the last one.
        n_classes: 2 gives one sigmoid unit (probability of class 1), more give a softmax over all classes.
        seed: decides the first weights and the dropout.
        dropout: share of pooled features dropped while training a backbone's head.
        softmax: True gives a softmax over two classes too (project E).
        alpha: width of MobileNetV2; None takes what the weights file has, or 1.0.
    Returns:
        keras.Model: flat, named `name`, not compiled; backbone layers frozen where weights were loaded.
    Raises:
        UsageError: unknown name or tap, or weights that do not fit.
    """
    if name not in SCRATCH and name not in BACKBONES:
        raise UsageError(f"model {name!r} is not one of {', '.join((*SCRATCH, *BACKBONES))}")
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((image_size, image_size, 1), name="image")
    if name in SCRATCH:
        if weights != "none":
            raise UsageError(f"model {name!r} is trained from scratch: weights must be 'none', not {weights!r}")
        features = SCRATCH[name](inputs)
    else:
        features = _tapped_backbone(inputs, name, weights=weights, tap=tap, dropout=dropout, alpha=alpha)
    model = keras.Model(inputs, _output(features, n_classes, softmax), name=name)
    if name in BACKBONES and weights != "none":
        freeze_backbone(model)
    return model


def _output(x, n_classes, softmax):
    """End in float32 also under mixed precision; the logit has a layer of its own, for saliency maps."""
    several = softmax or n_classes > 2
    x = layers.Dense(n_classes if several else 1, dtype="float32", name="logit")(x)
    return layers.Activation("softmax" if several else "sigmoid", dtype="float32", name="probability")(x)


def _tapped_backbone(inputs, name, *, weights, tap, dropout, alpha):
    network = _backbone_network(inputs, name, weights, alpha)
    tap = tap or BACKBONES[name].tap
    if tap not in [layer.name for layer in network.layers]:
        raise UsageError(f"TAP: {name} has no layer {tap!r}; take one of those that {name}.summary() lists")
    return (BACKBONES[name].head or _pool)(network.get_layer(tap).output, dropout)


def _backbone_network(inputs, name, weights, alpha=None):
    """Return the flat network of `keras.applications` on `inputs`, with its preprocessing and weights."""
    options = {"alpha": alpha or pretrained.alpha_of(weights)} if name == "mobilenetv2" else {}
    prepared = BACKBONES[name].prepare(inputs, weights)
    network = BACKBONES[name].constructor(include_top=False, weights=None, input_tensor=prepared, **options)
    pretrained.load_into(network, name, weights, **options)
    return network


def build_taps(name, taps, *, image_size, weights="none", seed=0, alpha=None):
    """Build a backbone that pools the output of several of its layers, to compare where a head should start.

    Args:
        name: one of `BACKBONES`.
        taps: names of layers.
        image_size, weights, seed, alpha: as in `build`.
    Returns:
        keras.Model: image -> layer `taps`, the pooled outputs side by side; and {tap: slice of its columns}.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((image_size, image_size, 1), name="image")
    network = _backbone_network(inputs, name, weights, alpha)
    pooled = [layers.GlobalAveragePooling2D()(network.get_layer(tap).output) for tap in taps]
    ends = np.cumsum([0, *(part.shape[-1] for part in pooled)]).tolist()
    model = keras.Model(inputs, layers.Concatenate(name="taps")(pooled), name=name)
    return model, {tap: slice(*ends[number : number + 2]) for number, tap in enumerate(taps)}


def head_layers(model):
    """Return the layers behind the backbone: `pooled` and what follows it."""
    names = [layer.name for layer in model.layers]
    return model.layers[names.index("pooled") :]


def has_linear_head(model):
    """True where nothing but dropout lies between `pooled` and `logit`."""
    return {layer.name for layer in head_layers(model)} <= {"pooled", "dropout", "logit", "probability"}


def freeze_backbone(model):
    """Leave only the head of a transfer model trainable."""
    head = set(head_layers(model))
    for layer in model.layers:
        layer.trainable = layer in head


def unfreeze_behind(model, cut):
    """Train every layer behind the layer named `cut`, but no batch normalisation.

    A frozen batch normalisation runs with its stored statistics, which small batches of one kind of texture would
    spoil.

    Args:
        model: a model of `build`.
        cut: name of the last layer that stays frozen.
    Returns:
        int: number of trainable values.
    """
    behind = set(split(model, cut)[1].layers)
    for layer in model.layers:
        layer.trainable = layer in behind and not isinstance(layer, layers.BatchNormalization)
    return int(sum(math.prod(weight.shape) for weight in model.trainable_weights))


def split(model, cut):
    """Split a flat model at a layer through which everything flows.

    Both parts share their layers with `model`: training the second part trains the model.

    Args:
        model: a model of `build`.
        cut: name of a layer.
    Returns:
        (keras.Model, keras.Model): image -> output of `cut`; output of `cut` -> probability.
    Raises:
        UsageError: no such layer, or a shortcut leads past it.
    """
    if cut not in [layer.name for layer in model.layers]:
        raise UsageError(f"{model.name}: no layer {cut!r} before its head; choose a TAP behind {cut!r}")
    middle = model.get_layer(cut).output
    try:
        return keras.Model(model.input, middle), keras.Model(middle, model.output)
    except ValueError:  # Keras: "not connected"
        raise UsageError(f"{model.name}: a shortcut leads past {cut!r}; cut where everything flows through") from None


def fold_batch_norm(model):
    """Return a faster copy for inference: each batch normalisation becomes part of the convolution before it.

    With its stored statistics a batch normalisation multiplies and shifts each channel, which the kernel and bias of
    the convolution can do as well (Jacob et al. 2018, section 3.2). Outputs differ by rounding alone.

    Args:
        model: a functional model of plain layers, as from `build` or `split`.
    Returns:
        keras.Model: with the same layer names and weights of its own; `model` itself where there is nothing to fold.
    """
    config = model.get_config()
    sources = {
        entry["name"]: re.findall(r'"keras_history": \["([^"]+)"', json.dumps(entry["inbound_nodes"]))
        for entry in config["layers"]
    }
    outputs = re.findall(r'"([^"]+)"', json.dumps(config["output_layers"]))
    uses = collections.Counter(itertools.chain(*sources.values(), outputs))
    by_name = {layer.name: layer for layer in model.layers}
    folded = {  # batch normalisation: its convolution
        layer.name: sources[layer.name][0]
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
        and _is_plain_convolution(by_name.get(sources[layer.name][0]))
        and uses[sources[layer.name][0]] == 1
    }
    if not folded:
        return model

    def copy(layer):
        if layer.name in folded:
            return layers.Identity(name=layer.name)
        bias = {"use_bias": True} if layer.name in folded.values() else {}
        return layer.__class__.from_config(layer.get_config() | bias)

    def call(layer, *args, **kwargs):
        return layer(*args) if layer.name in folded else layer(*args, **kwargs)

    fast = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for layer in model.layers:
        if layer.name not in {*folded, *folded.values()}:
            fast.get_layer(layer.name).set_weights(layer.get_weights())
    for name, source in folded.items():
        fast.get_layer(source).set_weights(_folded_weights(model.get_layer(source), model.get_layer(name)))
    return fast


def _is_plain_convolution(layer):
    plain = type(layer) in (layers.Conv2D, layers.DepthwiseConv2D)
    return plain and layer.activation is keras.activations.linear


def _folded_weights(convolution, normalisation):
    kernel, *bias = convolution.get_weights()
    mean, variance = normalisation.moving_mean.numpy(), normalisation.moving_variance.numpy()
    factor = 1 / np.sqrt(variance + normalisation.epsilon)
    factor = factor * normalisation.gamma.numpy() if normalisation.scale else factor
    shift = ((bias[0] if bias else 0) - mean) * factor
    shift = shift + normalisation.beta.numpy() if normalisation.center else shift
    depthwise = type(convolution) is layers.DepthwiseConv2D  # its kernel ends in (channels, multiplier)
    return [kernel * (factor.reshape(kernel.shape[2:]) if depthwise else factor), shift]
