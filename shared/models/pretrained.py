"""Find and check pretrained weights. No TensorFlow here until weights are loaded."""

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from shared.run import UsageError, project_root

KEYWORDS = ("imagenet", "demo", "none")
DEMO_BACKBONE = "mobilenetv2"
DEMO_FILE = Path(__file__).parent / "weights/mobilenetv2_0.35_demo.weights.h5"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class WeightsSource:
    """Where Keras keeps the ImageNet weights of a backbone, and how large the network without top is."""

    url: str
    parameters: dict  # number of values -> width (alpha), 1.0 where there is only one


_VGG = WeightsSource(f"{KERAS_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", {14714688: 1.0})
SOURCES = {
    "mobilenetv2": WeightsSource(
        f"{KERAS_URL}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        {410208: 0.35, 706224: 0.5, 1382064: 0.75, 2257984: 1.0, 3766048: 1.3, 4363712: 1.4},
    ),
    "efficientnetb0": WeightsSource(f"{KERAS_URL}/efficientnetb0_notop.h5", {4049571: 1.0}),
    "vgg16": _VGG,
    "vgg16_medical": _VGG,
    "efficientnetv2b0": WeightsSource(f"{KERAS_URL}/efficientnet_v2/efficientnetv2-b0_notop.h5", {5919312: 1.0}),
    "convnext_tiny": WeightsSource(f"{KERAS_URL}/convnext/convnext_tiny_notop.h5", {27820128: 1.0}),
}


def parse_spec(spec):
    """Split `WEIGHTS` into {backbone: keyword or path}; a keyword or a lone path is kept under "".

    Args:
        spec: "imagenet", "demo" (also ""), "none", a path, or "backbone=path[,backbone=path]".
    Returns:
        dict
    Raises:
        UsageError: an unknown backbone.
    """
    if "=" not in spec:
        return {"": spec or "demo"}
    pairs = dict(part.strip().split("=", 1) if "=" in part else ("", part.strip()) for part in spec.split(","))
    for backbone in pairs:
        if backbone not in SOURCES:
            raise UsageError(f"WEIGHTS: {backbone!r} is not a backbone; take one of {', '.join(SOURCES)}")
    return pairs


def available_backbones(spec):
    """Return the backbones that `spec` gives weights for, in the order of `SOURCES`.

    "imagenet" and "none" serve all; "demo" only the one that is bundled; a file those whose network it fits.
    """
    pairs = parse_spec(spec)
    if "" in pairs and pairs[""] in ("imagenet", "none"):
        return tuple(SOURCES)
    if pairs.get("") == "demo":
        return (DEMO_BACKBONE,)
    if "" in pairs:
        size = _count_values(find_file(pairs[""]))
        return tuple(name for name, source in SOURCES.items() if size in source.parameters)
    given = set(pairs) | ({"vgg16_medical"} if "vgg16" in pairs else set())
    return tuple(name for name in SOURCES if name in given)


def choose_backbones(wanted, spec):
    """Return those of the wanted backbones that `spec` gives weights for, and why the others are left out.

    Args:
        wanted: names of `SOURCES`.
        spec: the parameter `WEIGHTS`.
    Returns:
        (list of names, {name: reason})
    Raises:
        UsageError: an unknown name, or none that there are weights for.
    """
    unknown = [name for name in wanted if name not in SOURCES]
    if unknown or not wanted:
        raise UsageError(f"BACKBONES: {', '.join(unknown) or 'none given'}; take some of {', '.join(SOURCES)}")
    available = available_backbones(spec)
    chosen = [name for name in wanted if name in available]
    if not chosen:
        raise UsageError(f"BACKBONES: WEIGHTS {spec!r} gives weights for {', '.join(available)} only; add one of them")
    left_out = [name for name in wanted if name not in available]
    return chosen, {name: f"WEIGHTS {label(spec, name) or 'given'} has none for it" for name in left_out}


def resolve_weights(spec, backbone):
    """Return what `models.build(weights=…)` takes for `backbone`: "imagenet", "none", or the path of a checked file.

    Args:
        spec: the parameter `WEIGHTS`.
        backbone: a name of `SOURCES`.
    Returns:
        str
    Raises:
        UsageError: no weights for this backbone, a missing or broken file, or a file of another network. One line
            that says which file is meant, where to get it and where to put it.
    """
    pairs = parse_spec(spec)
    value = pairs.get(backbone) or pairs.get("") or (pairs.get("vgg16") if backbone == "vgg16_medical" else None)
    if value is None:
        raise UsageError(f"WEIGHTS: {spec!r} gives none for {backbone}; add {backbone}=FILE")
    if value in ("imagenet", "none"):
        return value
    if value == "demo":
        if backbone != DEMO_BACKBONE:
            raise UsageError(f"WEIGHTS: the bundled demo weights are for {DEMO_BACKBONE} only, not for {backbone}")
        return str(check_file(DEMO_FILE, backbone))
    return str(check_file(find_file(value), backbone))


def check(spec):
    """Check `WEIGHTS` without TensorFlow: raise UsageError where a later training would fail on it."""
    pairs = parse_spec(spec)
    if pairs.get("") == "imagenet":
        check_imagenet(DEMO_BACKBONE)
    elif "" in pairs and pairs[""] not in KEYWORDS and not available_backbones(spec):
        path = find_file(pairs[""])
        raise UsageError(f"{path}: its {_count_values(path):,} values fit none of {', '.join(SOURCES)} without top")
    else:
        for backbone in available_backbones(spec):
            resolve_weights(spec, backbone)


def check_imagenet(backbone):
    """Raise UsageError where the ImageNet weights of `backbone` are neither in Keras' cache nor to be had."""
    source, path = SOURCES[backbone], imagenet_cache(backbone)
    if path.exists():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(source.url, method="HEAD"), timeout=10).close()
    except OSError as error:
        raise _missing_imagenet(backbone, error) from None


def imagenet_cache(backbone):
    """Return where Keras keeps the ImageNet weights of `backbone`."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models" / SOURCES[backbone].url.rsplit("/", 1)[1]


def _missing_imagenet(backbone, error):
    reason = " ".join(str(error).split())[:120]
    return UsageError(
        f"WEIGHTS: no ImageNet weights for {backbone} ({reason}): get {SOURCES[backbone].url} and put it at "
        f"{imagenet_cache(backbone)}, or choose WEIGHTS demo, none or {backbone}=FILE"
    )


def find_file(value):
    """Return the path of a weights file, relative to the current folder or to the project's."""
    path = Path(value).expanduser()
    for candidate in (path, project_root() / path):
        if candidate.is_file():
            return candidate.resolve()
    raise UsageError(
        f"WEIGHTS: no file {value!r}; give a Keras weights file without top, or one of {', '.join(KEYWORDS)}"
    )


def check_file(path, backbone):
    """Return `path` if it holds the weights of `backbone` without top; raise UsageError that says what is wrong."""
    if not Path(path).is_file():
        raise UsageError(f"WEIGHTS: {path} is missing; restore it from the project, or choose WEIGHTS none")
    size = _count_values(path)
    if size not in SOURCES[backbone].parameters:
        expected = " or ".join(f"{count:,}" for count in SOURCES[backbone].parameters)
        fitting = [name for name, source in SOURCES.items() if size in source.parameters]
        hint = f"it fits {fitting[0]}" if fitting else "take a file without top (include_top=False)"
        raise UsageError(f"{path}: holds {size:,} values, {backbone} without top has {expected}; {hint}")
    return path


def alpha_of(weights):
    """Return the width of MobileNetV2 that a weights file holds; 1.0 for "imagenet" and "none"."""
    if weights in ("imagenet", "none"):
        return 1.0
    return SOURCES["mobilenetv2"].parameters.get(_count_values(weights), 1.0)


def label(spec, backbone):
    """Return what the table's `weights` column says for `backbone`: a keyword, or the file's name."""
    pairs = parse_spec(spec)
    value = pairs.get(backbone) or pairs.get("") or pairs.get("vgg16", "")
    return value if value in KEYWORDS else Path(value).name


def load_into(network, backbone, weights, alpha=1.0):
    """Load weights into a network of `keras.applications` that was built without top.

    Args:
        network: keras.Model.
        backbone: its name in `SOURCES`.
        weights: "none", "imagenet" or a path.
        alpha: width of MobileNetV2.
    Raises:
        UsageError: not to be had, broken, or of another network.
    """
    if weights == "none":
        return
    path = weights
    if weights == "imagenet":
        from shared.models.backend import keras

        url = SOURCES[backbone].url.replace(
            "_1.0_", f"_{alpha:.1f}_" if alpha != 0.35 and alpha != 0.75 else f"_{alpha}_"
        )
        try:
            path = keras.utils.get_file(origin=url, cache_subdir="models")
        except Exception as error:  # get_file raises a bare Exception where there is no network
            raise _missing_imagenet(backbone, error) from None
    else:
        check_file(weights, backbone)
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{path}: not the weights of {backbone} without top ({reason})") from None


def _count_values(path):
    """Count the values of a Keras weights file (`.weights.h5` or the older `.h5`), without optimiser state."""
    import h5py

    total = 0

    def add(name, item):
        nonlocal total
        if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer", "optimizer_weights")):
            total += item.size

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "not an HDF5 file, or broken"
        raise UsageError(f"{path}: {reason}; get the weights file again") from None
    return total
