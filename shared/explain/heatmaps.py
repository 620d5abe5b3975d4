"""Where does a network look? Eight kinds of heatmap behind one call, and networks with randomised weights.

The network is taken apart into its single steps, inner networks included, and played again step by step. So it does
not matter whether it is Sequential, Functional or a network used as a layer of another one, and any feature map
within it can be watched: the error "graph disconnected" of other Grad-CAM code cannot come up.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from shared.models.backend import keras, ops, tf
from shared.run import UsageError

CAM_METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "scorecam", "eigencam")
METHODS = (*CAM_METHODS, "occlusion", "integrated_gradients")
_INPUT = 0  # key of the images among a network's values
_TRANSPARENT = ("Reshape", "Flatten", "Identity", "Dropout")  # steps that may follow the last activation


def heatmap(
    model,
    images,
    *,
    method="gradcam",
    layer=None,
    target="positive",
    output=0,
    batch_size=32,
    normalise=True,
    resize=True,
    channels=32,
    window=None,
    stride=None,
    steps=32,
    baseline=None,
):
    """Return one heatmap for each image: where the evidence for `target` comes from.

    What is explained is the logit, never the probability: a saturated sigmoid has no gradient left. Evidence for
    "negative" is the logit with its sign turned.

    Args:
        model: Keras network with one image input (Sequential, Functional, nested, several outputs); not a subclass of
            `keras.Model` with a `call` of its own.
        images: (N, H, W) or (N, H, W, C), any number type, in the range the network takes; one grey channel is
            repeated where the network wants three.
        method: one of `METHODS`:
            "gradcam" (Selvaraju 2017), "gradcam++" (Chattopadhyay 2018), "hirescam" (Draelos 2020), "layercam"
            (Jiang 2021), "scorecam" (Wang 2020), "eigencam" (Muhammad 2020; the same for each target), "occlusion"
            (Zeiler 2014), "integrated_gradients" (Sundararajan 2017).
        layer: name of the step whose output is the feature map, or "inner_network/step"; None takes
            `find_feature_layer(model)`. The last two methods need none.
        target: "positive", "negative", or the number of a class. For one output unit class 1 is positive; of two
            softmax classes the log-odds are taken; for more classes give the number.
        output: number or name of the output, where the network has several.
        batch_size: images in one step.
        normalise: negative values to 0, then divide by each map's largest value, so that it lies in [0, 1]; a map
            without a positive value stays 0 everywhere. False returns the method's own values ("occlusion" and
            "integrated_gradients" are then signed).
        resize: True enlarges the map to the images' size (bilinear); False keeps the size of the feature map.
        channels: "scorecam" only: how many channels, those of the largest range, are tried for each image.
        window: "occlusion": side of the square in pixels; None takes a quarter of the height.
        stride: "occlusion": pixels between squares; None takes half of `window`.
        steps: "integrated_gradients": points on the path from baseline to image.
        baseline: value of a pixel that is taken away, for "occlusion" and "integrated_gradients"; None takes each
            image's mean.
    Returns:
        float32 (N, H, W), or (N, h, w) of the feature map with `resize=False`.
    Raises:
        UsageError: unknown method, layer, target or output.
    """
    if method not in METHODS:
        raise UsageError(f"method: {method!r} is not one of {', '.join(METHODS)}")
    graph = _take_apart(model, output)
    images = _as_batch(images, model)
    if method == "occlusion":
        make_maps = _occlusion(graph, images, target, window=window, stride=stride, baseline=baseline)
    elif method == "integrated_gradients":
        make_maps = _integrated_gradients(graph, images, target, steps=steps, baseline=baseline)
    elif method == "scorecam":
        make_maps = _scorecam(graph, images, target, layer, channels=channels)
    elif method == "eigencam":
        make_maps = _eigencam(graph, images, layer)
    else:
        make_maps = _gradient_cam(graph, images, target, layer, weigh=_WEIGHERS[method])
    maps = np.concatenate([make_maps(images[at : at + batch_size]) for at in range(0, len(images), batch_size)])
    if resize and maps.shape[1:] != images.shape[1:3]:
        maps = enlarge(maps, images.shape[1:3])
    return normalise_maps(maps) if normalise else maps.astype("float32")


def target_scores(model, images, *, target="positive", output=0, batch_size=32):
    """Return what `heatmap` explains: the logit of `target`.

    Args:
        model, images, target, output, batch_size: as in `heatmap`.
    Returns:
        float32 (N,), unbounded.
    """
    graph = _take_apart(model, output)
    images = _as_batch(images, model)
    score = _compile(lambda batch: _score(graph, target, _play(graph.steps, {_INPUT: batch})), images)
    return np.concatenate([score(images[at : at + batch_size]).numpy() for at in range(0, len(images), batch_size)])


def find_feature_layer(model, *, output=0):
    """Return the name of the last step whose output is a map of more than one cell, on the way to `output`.

    Args:
        model: Keras network.
        output: number or name of the output.
    Returns:
        str: "step", or "inner_network/step".
    Raises:
        UsageError: the network has no such step.
    """
    return _last_map(_take_apart(model, output)).name


def randomise_weights(model, *, seed, depth=None, how="initialise"):
    """Return a copy of `model` whose top layers have random weights: the sanity check of Adebayo et al. (2018).

    A heatmap that stays the same after this says nothing about what the network has learnt.

    Args:
        model: Keras network; it is not changed.
        seed: int.
        depth: how many layers that have weights, counted from the output; None takes all.
        how: "initialise" draws new weights as before training; "shuffle" permutes the values within each array,
            which keeps their distribution.
    Returns:
        keras.Model, not compiled.
    """
    if how not in ("initialise", "shuffle"):
        raise UsageError(f"how: {how!r} is not one of initialise, shuffle")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    random = np.random.default_rng(seed)
    for operation in weighted_layers(copy)[:depth]:
        for variable in operation.weights:
            initialiser = _initialiser_of(operation, variable) if how == "initialise" else None
            if initialiser is None:
                values = random.permutation(variable.numpy().ravel()).reshape(variable.shape)
            else:
                config = initialiser.get_config()
                if "seed" in config:
                    initialiser = type(initialiser).from_config({**config, "seed": int(random.integers(2**31))})
                values = initialiser(variable.shape, dtype=variable.dtype)
            variable.assign(values)
    return copy


def weighted_layers(model):
    """Return the layers of `model` that have weights to learn, from the output to the input, inner networks opened.

    The statistics of a `Normalization` layer describe the data, so it is not among them.
    """
    operations = []
    for output in range(len(model.outputs)):
        graph = _take_apart(model, output)
        operations += [graph.dense, *(step.operation for step in reversed(graph.steps))]
    operations = [layer for layer in operations if isinstance(layer, keras.Layer) and layer.weights]
    operations = [layer for layer in operations if not isinstance(layer, keras.layers.Normalization)]
    return list(dict.fromkeys(operations))


def normalise_maps(maps):
    """Set negative values to 0 and divide each map by its largest value; a map without positive values becomes 0.

    Args:
        maps: float (N, H, W).
    Returns:
        float32 (N, H, W) in [0, 1].
    """
    maps = np.maximum(np.asarray(maps, "float32"), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def enlarge(maps, size):
    """Enlarge maps (N, h, w) to `size` (H, W), bilinear, and return float32 (N, H, W)."""
    height, width = size
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in np.float32(maps)])


# ------------------------------------------------------------ a network as a list of steps
@dataclass(frozen=True)
class _Step:
    name: str  # "step" or "inner_network/step"
    operation: object  # a layer, or a function of keras.ops
    arguments: object  # how it is called: Keras' SymbolicArguments
    inputs: dict  # id of a symbolic tensor in `arguments` -> key of its value
    outputs: tuple  # keys of the values it makes
    shape: tuple  # of the first of them


@dataclass(frozen=True)
class _Graph:
    steps: tuple  # those that lead to the output, in an order in which they can run
    names: dict  # name of a step, or of an inner network -> key of its (first) value
    logits: int  # key of what goes into the last activation
    activation: str  # "sigmoid", "softmax", or "" where the output is taken as it is
    dense: object = None  # the last Dense layer, where the activation is part of it; `logits` is then its input


def _take_apart(model, output):
    outer = _functional(model)
    if outer is None or len(outer.inputs) != 1:
        raise UsageError(f"network {model.name!r}: heatmaps need a built Sequential or Functional network of one input")
    steps, names = [], {}
    results = _list_steps(outer, [_INPUT], steps, names, prefix="")
    if output in outer.output_names:
        output = outer.output_names.index(output)
    if output not in range(len(results)):
        raise UsageError(f"output: {output!r} is not one of {', '.join(outer.output_names)}")
    logits, activation, dense = _find_logits(steps, results[output])
    return _Graph(tuple(_leading_to(steps, logits)), names, logits, activation, dense)


def _functional(operation):
    """Return the graph inside a Sequential or Functional network; None for any other layer."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, keras.Model) and hasattr(operation, "_nodes_by_depth") else None


def _list_steps(functional, inputs, steps, names, *, prefix):
    """Append the steps of `functional`, called on the values `inputs`, and return the keys of its outputs."""
    keys = {id(tensor): key for tensor, key in zip(functional.inputs, inputs, strict=True)}
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input:
                continue
            used = [keys[id(tensor)] for tensor in node.arguments.keras_tensors]
            name = prefix + node.operation.name
            inner = _functional(node.operation)
            if inner is not None:
                made = _list_steps(inner, used, steps, names, prefix=f"{name}/")
            else:
                first = 1 + (steps[-1].outputs[-1] if steps else _INPUT)
                made = tuple(range(first, first + len(node.outputs)))
                sources = {id(tensor): key for tensor, key in zip(node.arguments.keras_tensors, used, strict=True)}
                shape = tuple(node.outputs[0].shape)
                steps.append(_Step(name, node.operation, node.arguments, sources, made, shape))
            keys.update((id(tensor), key) for tensor, key in zip(node.outputs, made, strict=True))
            names[name] = made[0]
            names.setdefault(node.operation.name, made[0])
    return [keys[id(tensor)] for tensor in functional.outputs]


def _leading_to(steps, key):
    """Return those steps that the value `key` depends on, in order."""
    wanted, kept = {key}, []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs.values())
            kept.append(step)
    return kept[::-1]


def _find_logits(steps, key):
    """Walk back from an output over its activation: (key, activation, Dense layer that holds the activation)."""
    made_by = {made: step for step in steps for made in step.outputs}
    at = key
    while at in made_by:
        step = made_by[at]
        activation = _activation_name(step.operation)
        if activation in ("sigmoid", "softmax"):
            if isinstance(step.operation, keras.layers.Dense):
                return next(iter(step.inputs.values())), activation, step.operation
            if not hasattr(step.operation, "kernel"):
                return next(iter(step.inputs.values())), activation, None
        elif activation != "linear" and type(step.operation).__name__ not in _TRANSPARENT:
            break
        if hasattr(step.operation, "kernel"):
            break
        at = next(iter(step.inputs.values()))
    return key, "", None


def _activation_name(operation):
    function = getattr(operation, "activation", None) or type(operation)
    return getattr(function, "__name__", type(function).__name__).lower()


def _play(steps, values):
    """Run `steps` on `values` (key -> tensor) and return all values."""
    values = dict(values)
    for step in steps:
        arguments, options = step.arguments.fill_in({name: values[key] for name, key in step.inputs.items()})
        made = step.operation(*arguments, **options)
        values.update(zip(step.outputs, keras.tree.flatten(made), strict=True))
    return values


def _score(graph, target, values):
    """Return the logit of the target, float32 (N,)."""
    logits = values[graph.logits]
    if graph.dense is not None:
        logits = ops.matmul(logits, graph.dense.kernel)
        logits = logits + graph.dense.bias if graph.dense.use_bias else logits
    logits = tf.cast(tf.reshape(logits, (tf.shape(logits)[0], -1)), "float32")
    n_units = logits.shape[-1] or _units(graph)
    if n_units == 1 or (n_units == 2 and graph.activation != "sigmoid"):
        signs = {"positive": 1.0, "negative": -1.0, 1: 1.0, 0: -1.0}
        if target not in signs:
            raise UsageError(f"target: {target!r} is not one of positive, negative, 0, 1")
        return signs[target] * (logits[:, 0] if n_units == 1 else logits[:, 1] - logits[:, 0])
    if isinstance(target, str) or target not in range(n_units):
        raise UsageError(f"target: {target!r} is not the number of a class, 0 to {n_units - 1}")
    return logits[:, target]


def _units(graph):
    if graph.dense is not None:
        return graph.dense.units
    shape = next(step.shape for step in graph.steps if graph.logits in step.outputs)
    return int(np.prod(shape[1:]))


def _as_batch(images, model):
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images: shape {images.shape} is not (N, H, W) or (N, H, W, C)")
    if images.shape[-1] == 1 and model.inputs[0].shape[-1] == 3:
        images = np.repeat(images, 3, axis=-1)
    return images.astype("float32")


def _compile(function, images, *more):
    """Compile `function` once for batches of any length; `more` are the specifications of further arguments."""
    specification = [tf.TensorSpec((None, *images.shape[1:]), tf.float32), *more]
    compiled = tf.function(function, input_signature=specification, autograph=False).get_concrete_function()
    return lambda *arguments: compiled(*(tf.convert_to_tensor(argument) for argument in arguments))


def _initialiser_of(layer, variable):
    """Return the initialiser of a layer's array, or None where it cannot be told."""
    name = variable.name.removesuffix("_kernel")
    candidates = (f"{variable.name}_initializer", f"{name}_initializer", "depthwise_initializer")
    return next((getattr(layer, candidate) for candidate in candidates if hasattr(layer, candidate)), None)


# ------------------------------------------------------------ methods that weigh a feature map
def _last_map(graph):
    """Return the last step that makes a map of more than one cell."""
    maps = [step for step in graph.steps if len(step.shape) == 4 and step.shape[1:3] != (1, 1)]
    if not maps:
        raise UsageError("the network has no feature map: use method 'occlusion' or 'integrated_gradients'")
    return maps[-1]


def _split_at(graph, layer):
    """Return (key of the feature map, steps up to it, the others)."""
    if layer is None:
        key = _last_map(graph).outputs[0]
    elif layer in graph.names:
        key = graph.names[layer]
    else:
        raise UsageError(f"layer: the network has no {layer!r}; its steps are {', '.join(graph.names)}")
    lower = _leading_to(graph.steps, key)
    if not lower or len(next(step.shape for step in lower if key in step.outputs)) != 4:
        raise UsageError(f"layer: {layer!r} makes no feature map (N, h, w, channels) on the way to the output")
    return key, lower, [step for step in graph.steps if step not in lower]


def _gradient_cam(graph, images, target, layer, *, weigh):
    key, lower, upper = _split_at(graph, layer)

    def cam(batch):
        values = _play(lower, {_INPUT: batch})
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values[key])
            score = _score(graph, target, _play(upper, values))
        gradients = tape.gradient(score, values[key])
        return weigh(tf.cast(values[key], "float32"), tf.cast(gradients, "float32"))

    cam = _compile(cam, images)
    return lambda batch: cam(batch).numpy()


def _weigh_gradcam(features, gradients):
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))


def _weigh_gradcam_plus_plus(features, gradients):
    # The paper explains exp(logit), whose derivatives are exp(logit) times powers of the gradient g. That factor is
    # the same for a whole map, so it is left out; and g^2 / (2 g^2 + total g^3) is 1 / (2 + total g).
    total = tf.reduce_sum(features, axis=(1, 2), keepdims=True)
    share = tf.math.reciprocal_no_nan(2 + total * gradients)
    weights = tf.reduce_sum(share * tf.nn.relu(gradients), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))


def _weigh_hirescam(features, gradients):
    return tf.nn.relu(tf.reduce_sum(gradients * features, axis=-1))


def _weigh_layercam(features, gradients):
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradients) * features, axis=-1))


_WEIGHERS = {
    "gradcam": _weigh_gradcam,
    "gradcam++": _weigh_gradcam_plus_plus,
    "hirescam": _weigh_hirescam,
    "layercam": _weigh_layercam,
}


def _scorecam(graph, images, target, layer, *, channels):
    key, lower, _ = _split_at(graph, layer)
    features_of = _compile(lambda batch: tf.cast(_play(lower, {_INPUT: batch})[key], "float32"), images)

    def channel_scores(image, maps):
        masks = tf.image.resize(maps[..., None], images.shape[1:3])
        masks -= tf.reduce_min(masks, axis=(1, 2), keepdims=True)
        masks = tf.math.divide_no_nan(masks, tf.reduce_max(masks, axis=(1, 2), keepdims=True))
        return _score(graph, target, _play(graph.steps, {_INPUT: image * masks}))

    channel_scores = _compile(channel_scores, images, tf.TensorSpec((None, None, None), tf.float32))

    def one_map(image, features):
        chosen = np.argsort(-np.ptp(features, axis=(0, 1)), kind="stable")[:channels]
        scores = channel_scores(image[None], np.moveaxis(features[..., chosen], -1, 0)).numpy()
        weights = np.exp(scores - scores.max())
        return np.maximum(features[..., chosen] @ (weights / weights.sum()), 0)

    def make_maps(batch):
        features = features_of(batch).numpy()
        return np.stack([one_map(*pair) for pair in zip(batch, features, strict=True)])

    return make_maps


def _eigencam(graph, images, layer):
    key, lower, _ = _split_at(graph, layer)
    features_of = _compile(lambda batch: tf.cast(_play(lower, {_INPUT: batch})[key], "float32"), images)

    def one_map(features):
        flat = features.reshape(-1, features.shape[-1]).astype("float64")
        # The projection on the first right singular vector, from the smaller of the two products of the matrix.
        if flat.shape[0] < flat.shape[1]:
            values, vectors = np.linalg.eigh(flat @ flat.T)
            projection = vectors[:, -1] * np.sqrt(max(values[-1], 0))
        else:
            projection = flat @ np.linalg.eigh(flat.T @ flat)[1][:, -1]
        # The sign of a singular vector is arbitrary: take the one that makes the map positive on the whole.
        projection = projection if projection.sum() >= 0 else -projection
        return np.maximum(projection, 0).reshape(features.shape[:2]).astype("float32")

    return lambda batch: np.stack([one_map(features) for features in features_of(batch).numpy()])


# ------------------------------------------------------------ methods that change the image
def _taken_away(batch, baseline):
    """Return what stands for "nothing there", broadcastable to the batch."""
    if baseline is None:
        return batch.mean(axis=(1, 2), keepdims=True)
    return np.full((len(batch), 1, 1, 1), baseline, "float32")


def _occlusion(graph, images, target, *, window, stride, baseline):
    height, width = images.shape[1:3]
    window = int(window or max(1, round(height / 4)))
    stride = int(stride or max(1, window // 2))
    if not 0 < stride <= window <= min(height, width):
        raise UsageError(f"window {window}, stride {stride}: 0 < stride <= window <= {min(height, width)} is needed")
    score = _compile(lambda batch: _score(graph, target, _play(graph.steps, {_INPUT: batch})), images)
    tops, lefts = (sorted({*range(0, side - window, stride), side - window}) for side in (height, width))

    def make_maps(batch):
        empty = _taken_away(batch, baseline)
        before = score(batch).numpy()
        drop = np.zeros(batch.shape[:3], "float32")
        covered = np.zeros(batch.shape[1:3], "float32")
        for top in tops:
            for left in lefts:
                square = np.s_[top : top + window, left : left + window]
                changed = batch.copy()
                changed[:, *square] = empty
                drop[:, *square] += (before - score(changed).numpy())[:, None, None]
                covered[square] += 1
        return drop / covered

    return make_maps


def _integrated_gradients(graph, images, target, *, steps, baseline):
    def gradient(batch):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch)
            score = _score(graph, target, _play(graph.steps, {_INPUT: batch}))
        return tape.gradient(score, batch)

    gradient = _compile(gradient, images)

    def make_maps(batch):
        path = batch - _taken_away(batch, baseline)
        points = (np.arange(steps) + 0.5) / steps  # midpoints: exact for a piecewise linear gradient of few pieces
        total = sum(gradient(np.float32(batch - (1 - point) * path)).numpy() for point in points)
        return (path * total / steps).sum(axis=-1)

    return make_maps
