"""Build every network of the series by name, as one flat and serialisable Keras graph.

Each network takes images (S, S, 1) with values 0…255 (uint8 or float) and does its own preprocessing, so a saved
`.keras` file can be fed with pixels and nothing else. Every network ends in the layers `logit` and `probability`;
those with global pooling call its layer `pooled`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.models import pretrained
from shared.models.backend import Tensor, keras, layers
from shared.run import UsageError, check_choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG_BGR_MEAN = (103.939, 116.779, 123.68)


def grey_to_rgb(x: Tensor) -> Tensor:
    """Repeat the grey channel three times: (B, S, S, 1) to (B, S, S, 3)."""
    return layers.Concatenate(name="grey_to_rgb")([x, x, x])


def scale_for_mobilenet(x: Tensor) -> Tensor:
    """Scale 0…255 to [-1, 1], on which MobileNetV2 was trained."""
    return grey_to_rgb(layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x))


def subtract_bgr_mean(x: Tensor) -> Tensor:
    """Subtract the means of blue, green and red, as in VGG16's training; three equal channels need no swapping."""
    return layers.Rescaling(1.0, offset=[-mean for mean in VGG_BGR_MEAN], name="rescale")(grey_to_rgb(x))


def scale_for_efficientnet(x: Tensor) -> Tensor:
    """Multiply the normalised input by 1/sqrt(standard deviation), as EfficientNetB0's ImageNet weights need it.

    Keras adds this step for `weights="imagenet"` only; here every network is built empty and loaded afterwards.
    """
    gain = [std**-0.5 for std in IMAGENET_STD]
    shift = [255 * mean * (1 - factor) for mean, factor in zip(IMAGENET_MEAN, gain, strict=True)]
    return layers.Rescaling(gain, offset=shift, name="rescale")(grey_to_rgb(x))


def pool(x: Tensor, *, hidden: tuple[int, ...] = (), dropout: float = 0.3) -> Tensor:
    """Add global average pooling, dense layers of so many units, and dropout behind each, or behind the pooling."""
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden_{number}")(x)
        x = layers.Dropout(dropout, name=f"dropout_{number}")(x)
    return x if hidden else layers.Dropout(dropout, name="dropout")(x)


@dataclass(frozen=True)
class Backbone:
    """What the series needs to know about one network of `keras.applications`."""

    constructor: Callable  # keras.applications function
    prepare: Callable  # grey tensor 0…255 -> three channels as the network expects them
    feature_layer: str  # its output goes to the head
    fine_tune_from: str  # last layer that stays frozen in fine-tuning; everything behind it is trained
    hidden: tuple[int, ...] = ()  # units of the dense layers in its head
    orientations: tuple[int, ...] = tuple(range(8))  # flips and quarter turns whose features are worth their time


APPS = keras.applications
MIRRORED = (0, 4)  # the image and its mirror image, for backbones that take long
_CONVNEXT = ("convnext_tiny_downsampling_block_2", "convnext_tiny_downsampling_block_1")
BACKBONES = {
    "mobilenetv2": Backbone(APPS.MobileNetV2, scale_for_mobilenet, "block_16_expand_relu", "block_6_project_BN"),
    "efficientnetb0": Backbone(APPS.EfficientNetB0, scale_for_efficientnet, "block6a_expand_activation", "block4c_add"),
    "vgg16": Backbone(APPS.VGG16, subtract_bgr_mean, "block5_pool", "block4_pool", (256,), MIRRORED),
    "vgg16_medical": Backbone(APPS.VGG16, subtract_bgr_mean, "block5_pool", "block4_pool", (512, 256), MIRRORED),
    "efficientnetv2b0": Backbone(APPS.EfficientNetV2B0, grey_to_rgb, "block6a_expand_activation", "block4c_add"),
    "convnext_tiny": Backbone(APPS.ConvNeXtTiny, grey_to_rgb, *_CONVNEXT, orientations=MIRRORED),
}


def build_simple_cnn(x: Tensor) -> Tensor:
    """Add two convolutions with max pooling, dropout and one dense layer."""
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="conv_1")(x)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(4, name="pool_2")(x)
    x = layers.MaxPooling2D(2, name="pool_3")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.3, name="dropout_1")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return layers.Dropout(0.5, name="dropout_2")(x)


def add_block(x: Tensor, filters: int, name: str, *, kind: Callable = layers.Conv2D, strides: int = 1) -> Tensor:
    """Add a 3 × 3 convolution with batch normalisation and ReLU."""
    x = kind(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def build_small_cnn(x: Tensor) -> Tensor:
    """Add four convolutions with batch normalisation, the first three with pooling, then global pooling."""
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)
    for number, filters in enumerate((16, 32, 64, 128), start=1):
        x = add_block(x, filters, f"block_{number}", strides=2 if number == 1 else 1)
        if number < 4:
            x = layers.MaxPooling2D(2, name=f"block_{number}_pool")(x)
    return pool(x)


def build_deep_cnn(x: Tensor) -> Tensor:
    """Add seven convolution blocks, then a dense layer, as the "deep CNN on DDSM tiles" has."""
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)
    for number, filters in enumerate((16, 32, 32, 64, 64, 128, 128), start=1):
        x = add_block(x, filters, f"block_{number}")
        if min(x.shape[1:3]) >= 8:
            x = layers.MaxPooling2D(2, name=f"block_{number}_pool")(x)
    return pool(x, hidden=(128,), dropout=0.4)


def build_synthetic_cnn(x: Tensor) -> Tensor:
    """Add three convolutions; none is pooled before the second, because synthetic images differ in fine texture."""
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    for number, filters in enumerate((16, 32, 32), start=1):
        x = add_block(x, filters, f"block_{number}", strides=1 if number == 1 else 2)
    return pool(x, dropout=0.2)


def build_lightweight_cnn(x: Tensor) -> Tensor:
    """Add depthwise-separable convolutions: a network of a few thousand parameters."""
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(x)
    x = add_block(x, 16, "block_0", strides=2)
    for number, filters in enumerate((32, 64, 64, 128), start=1):
        if number < 4:
            x = layers.MaxPooling2D(2, padding="same", name=f"block_{number}_pool")(x)
        x = add_block(x, filters, f"block_{number}", kind=layers.SeparableConv2D)
    return pool(x)


SCRATCH = {
    "simple_cnn": build_simple_cnn, "small_cnn": build_small_cnn, "deep_cnn": build_deep_cnn,
    "synthetic_cnn": build_synthetic_cnn, "lightweight_cnn": build_lightweight_cnn,
}  # fmt: skip
NAMES = (*SCRATCH, *BACKBONES)


def build(
    name: str,
    *,
    image_size: int,
    weights: str = "none",
    feature_layer: str | None = None,
    n_classes: int = 2,
    seed: int = 0,
    alpha: float | None = None,
) -> keras.Model:
    """Build a network by name; the same seed gives the same first weights.

    Args:
        name: one of `NAMES`.
        image_size: pixels, height and width of the input (S, S, 1), values 0…255.
        weights: "none", "imagenet", or the path of a weights file without top: `file` of `find_weights`.
        feature_layer: name of the backbone's layer where the head starts; None takes the default of `BACKBONES`.
        n_classes: 2 gives one sigmoid unit (probability of class 1), more give a softmax over all classes.
        seed: decides the first weights; Python's, NumPy's and Keras' random seeds are set to it.
        alpha: width of MobileNetV2; None takes what the weights file has, or 1.0.
    Returns keras.Model: flat, named `name`, not compiled; backbone layers frozen where weights were loaded.
    Raises UsageError: unknown name or layer, or weights that do not fit.
    """
    check_choice("model", name, (*SCRATCH, *BACKBONES))  # also what was added since
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((image_size, image_size, 1), name="image")
    if name in BACKBONES:
        x = build_backbone(inputs, name, weights, feature_layer, alpha)
        x = pool(x, hidden=BACKBONES[name].hidden)
    elif weights == "none":
        x = SCRATCH[name](inputs)
    else:
        raise UsageError(f"model {name!r} is trained from scratch: weights must be 'none', not {weights!r}")
    # float32 also under mixed precision; the logit has a layer of its own, for saliency maps
    x = layers.Dense(1 if n_classes == 2 else n_classes, dtype="float32", name="logit")(x)
    x = layers.Activation("sigmoid" if n_classes == 2 else "softmax", dtype="float32", name="probability")(x)
    model = keras.Model(inputs, x, name=name)
    if weights != "none":
        freeze_all_but(model, behind_backbone(model))
    return model


def build_backbone(
    inputs: Tensor, name: str, weights: str, feature_layer: str | None = None, alpha: float | None = None
) -> Tensor:
    """Put preprocessing and a network of `keras.applications` on `inputs`, and return what its feature layer gives."""
    backbone = BACKBONES[name]
    options = {}
    if name == "mobilenetv2":
        from_file = weights not in ("none", "imagenet")
        options["alpha"] = alpha or (pretrained.check_file(weights, name) if from_file else 1.0)
    as_trained = grey_to_rgb if name == "efficientnetb0" and weights == "none" else backbone.prepare
    network = backbone.constructor(include_top=False, weights=None, input_tensor=as_trained(inputs), **options)
    pretrained.load_into(network, name, weights, **options)
    feature_layer = feature_layer or backbone.feature_layer
    if feature_layer not in [layer.name for layer in network.layers]:
        raise UsageError(f"FEATURE_LAYER: {name} has no layer {feature_layer!r}; its summary() lists those it has")
    return network.get_layer(feature_layer).output


def behind_backbone(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of the head: `pooled` and what follows it."""
    names = [layer.name for layer in model.layers]
    return model.layers[names.index("pooled") :]


def freeze_all_but(model: keras.Model, trained: list[keras.Layer]) -> None:
    """Freeze every layer but those listed, and all batch normalisation: small batches would spoil its statistics."""
    for layer in model.layers:
        layer.trainable = layer in trained and not isinstance(layer, layers.BatchNormalization)


def split(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Split a flat model at a layer through which everything flows.

    Both parts share their layers with `model`, of `build`: training the second part trains the model.
    Returns (lower, upper): image -> output of `layer`; output of `layer` -> probability.
    Raises UsageError: no such layer, or a shortcut leads past it.
    """
    if layer not in [part.name for part in model.layers]:
        raise UsageError(f"{model.name}: no layer {layer!r} before its head; choose a FEATURE_LAYER behind {layer!r}")
    middle = model.get_layer(layer).output
    try:
        return keras.Model(model.input, middle), keras.Model(middle, model.output)
    except ValueError:  # Keras: "not connected"
        raise UsageError(f"{model.name}: a shortcut leads past {layer!r}; split it somewhere else") from None
