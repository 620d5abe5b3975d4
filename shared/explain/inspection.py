"""Look into a Keras network: its logit, the feature maps on the way to it, and copies with random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from shared.models.backend import keras, tf
from shared.run import UsageError

PASSIVE = (keras.layers.Dropout, keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)


def list_layers(model: keras.Model, prefix: str = "") -> dict[str, keras.Layer]:
    """Return {name: layer} from the input to the output; a layer of an inner network is named "inner/layer"."""
    found: dict[str, keras.Layer] = {}
    for layer in model.layers:
        name = prefix + layer.name
        found |= list_layers(layer, f"{name}/") if isinstance(layer, keras.Model) else {name: layer}
    return found


def list_feature_layers(model: keras.Model) -> list[str]:
    """Return the names of the layers that make a map of more than one cell, from the input to the output."""
    no_maps = (keras.layers.InputLayer, keras.layers.ZeroPadding2D)  # a padded map no longer fits on the image
    layers = [pair for pair in list_layers(model).items() if not isinstance(pair[1], no_maps)]
    return [name for name, layer in layers if len(layer.output.shape) == 4 and layer.output.shape[1:3] != (1, 1)]


def find_feature_layer(model: keras.Model, *, cells: int = 1) -> str:
    """Name the last layer that makes a map of more than one cell, at least `cells` a side; UsageError for none."""
    names, known = list_feature_layers(model), list_layers(model)
    names = [name for name in names if min(known[name].output.shape[1:3]) >= cells]
    if not names:
        raise UsageError("the network has no feature map of that size: use 'occlusion' or 'integrated_gradients'")
    return names[-1]


def score_and_slopes(
    model: keras.Model, shape: tuple[int, ...], *, layer: str = "", target: str | int = "positive", slopes: bool = False
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile a function that tells what a network makes of images (N, *shape).

    Args:
        layer: whose output is the feature map (N, h, w, c); "" takes the images themselves.
        slopes: True adds the gradient of the score with respect to the feature map.
    Returns function: images -> [logit of `target` (N,), feature map, slopes], float32.
    Raises UsageError: a target, layer or network that cannot be explained.
    """
    if layer and layer not in (known := list_feature_layers(model)):
        raise UsageError(f"layer: {layer!r} is no feature map of the network; it has {', '.join(known)}")

    def observe(batch: tf.Tensor, path: str) -> list[tf.Tensor]:
        logits, features = follow(model, batch, path) if path else (model(batch), batch)
        score = choose_target(tf.cast(logits, "float32"), target, softmax=activation != "sigmoid")
        found = [score, features, *(tf.gradients(score, features) if slopes else ())]  # as a tape, from here on only
        return [tf.cast(tensor, "float32") for tensor in found]

    with linear_output(model) as activation:
        trace = tf.function(observe, autograph=False).get_concrete_function
        images = tf.TensorSpec((None, *shape), tf.float32)
        try:
            compiled, whole = trace(images, layer), trace(images, "") if "/" in layer else None
            if whole:  # the layers around an inner network have to be a chain
                example = tf.random.stateless_uniform((2, *shape), (0, 1))
                np.testing.assert_allclose(compiled(example)[0], whole(example)[0], rtol=0.02, atol=0.02)
        except UsageError:
            raise
        except (AssertionError, TypeError, ValueError) as error:
            raise UsageError(f"network {model.name!r}: heatmaps need a chain of layers around {layer!r}") from error
    return lambda batch: [tensor.numpy() for tensor in compiled(tf.constant(batch))]


def follow(part: keras.Layer, batch: tf.Tensor, path: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Call a layer or network and return its output and that of the layer `path` in it; "" is the part itself.

    In a flat network the feature map is a second output of the same graph. An inner network that holds it is called
    between the layers before and after it, so that the error "graph disconnected" cannot come up.
    """
    if not path:
        return (output := part(batch)), output
    name, _, rest = path.partition("/")
    inner = part.get_layer(name)
    at = part.layers.index(inner)
    chain = isinstance(part, keras.Sequential)
    if not chain and not rest:
        return tuple(keras.Model(part.inputs, [part.outputs[0], inner.output])(batch))
    for layer in part.layers[:at] if chain else [keras.Model(part.inputs, part.layers[at - 1].output)]:
        batch = layer(batch)
    batch, features = follow(inner, batch, rest)
    for layer in part.layers[at + 1 :]:
        batch = layer(batch)
    return batch, features


@contextmanager
def linear_output(model: keras.Model) -> Iterator[str]:
    """Switch the last "sigmoid" or "softmax" (yielded; else "") off while the context lasts, to get at the logits."""
    last = [layer for layer in list_layers(model).values() if not isinstance(layer, PASSIVE)][-1]
    if {type(step).__name__ for step in (last, getattr(model, "operations", [last])[-1])} & {"Sigmoid", "Softmax"}:
        raise UsageError(f"network {model.name!r}: its last sigmoid or softmax must be that of a Dense or Activation")
    before = getattr(last, "activation", None)
    name = {keras.activations.sigmoid: "sigmoid", keras.activations.softmax: "softmax"}.get(before, "")
    try:
        if name:
            last.activation = keras.activations.linear
        yield name
    finally:
        if name:
            last.activation = before


def choose_target(logits: tf.Tensor, target: str | int, *, softmax: bool) -> tf.Tensor:
    """Return the logit of the target, (N,); of two softmax units the log-odds."""
    logits = tf.reshape(logits, (-1, int(np.prod(logits.shape[1:]))))
    if logits.shape[1] == 2 and softmax:
        logits = logits[:, 1:] - logits[:, :1]
    signs = {"positive": 1, "negative": -1, 1: 1, 0: -1} if logits.shape[1] == 1 else {}
    if target not in (signs or range(logits.shape[1])):
        words = "positive, negative, 0, 1" if signs else f"the numbers of the classes, 0 to {logits.shape[1] - 1}"
        raise UsageError(f"target: {target!r} is not one of {words}")
    return signs[target] * logits[:, 0] if signs else logits[:, target]


def weighted_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers that have weights to learn, from the output to the input; `Normalization` has statistics."""
    layers = reversed(list_layers(model).values())
    return [layer for layer in layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]


def randomise_weights(model: keras.Model, *, seed: int, depth: int | None = None) -> keras.Model:
    """Return a copy of a network whose top layers have random weights: the sanity check of Adebayo et al. (2018).

    So many as `depth` of its `weighted_layers` are drawn anew, as before training; None takes all.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    random = np.random.default_rng(seed)
    drawn = weighted_layers(copy)[:depth]
    for owner, variable in ((layer, variable) for layer in drawn for variable in layer.weights):
        own = variable.name.removesuffix("_kernel")  # a separable convolution has depthwise_kernel
        names = (f"{own}_initializer", f"{variable.name}_initializer", "depthwise_initializer")
        initialiser = next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
        if initialiser is None:
            variable.assign(random.permutation(variable.numpy().ravel()).reshape(variable.shape))
        else:
            config = initialiser.get_config()
            fresh = {"seed": int(random.integers(2**31))} if "seed" in config else {}
            variable.assign(type(initialiser).from_config(config | fresh)(variable.shape, dtype=variable.dtype))
    return copy
