"""Find and check pretrained weights. No TensorFlow here until weights are loaded."""

import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from shared.run import UsageError, full_path, project_root

if TYPE_CHECKING:
    import keras

KEYWORDS = ("imagenet", "demo", "none")
DEMO_BACKBONE = "mobilenetv2"
DEMO_FILE = Path(__file__).parent / "weights/mobilenetv2_0.35_demo.weights.h5"
_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
_VGG = (f"{_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", {14714688: 1.0})
SOURCES = {  # backbone: where Keras gets its ImageNet weights, {number of values without top: width}
    "mobilenetv2": (
        f"{_URL}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        {410208: 0.35, 706224: 0.5, 1382064: 0.75, 2257984: 1.0, 3766048: 1.3, 4363712: 1.4},
    ),
    "efficientnetb0": (f"{_URL}/efficientnetb0_notop.h5", {4049571: 1.0}),
    "vgg16": _VGG,
    "vgg16_medical": _VGG,
    "efficientnetv2b0": (f"{_URL}/efficientnet_v2/efficientnetv2-b0_notop.h5", {5919312: 1.0}),
    "convnext_tiny": (f"{_URL}/convnext/convnext_tiny_notop.h5", {27820128: 1.0}),
}


@dataclass(frozen=True)
class Weights:
    """The first weights of one backbone."""

    file: str  # "none", "imagenet" or a path: what `build(weights=…)` takes
    label: str  # for the table: a keyword, or the file's name
    alpha: float = 1.0  # width of MobileNetV2


def parse_spec(spec: str) -> dict[str, str]:
    """Split the parameter `WEIGHTS` into {backbone: keyword or path}; a lone keyword or path is kept under "".

    `spec` is "imagenet", "demo" (also ""), "none", a path, or "backbone=path[,backbone=path]".
    """
    if "=" not in spec:
        return {"": spec or "demo"}
    pairs = {name.strip(): path for name, _, path in (part.strip().partition("=") for part in spec.split(","))}
    for backbone in pairs:
        if backbone not in SOURCES:
            raise UsageError(f"WEIGHTS: {backbone!r} is not a backbone; take one of {', '.join(SOURCES)}")
    if "vgg16" in pairs:
        pairs.setdefault("vgg16_medical", pairs["vgg16"])
    return pairs


def available_backbones(spec: str) -> tuple[str, ...]:
    """Return the backbones that `spec` gives weights for; a lone file serves those whose network it fits."""
    pairs = parse_spec(spec)
    if "" not in pairs:
        return tuple(name for name in SOURCES if name in pairs)
    if pairs[""] in ("imagenet", "none"):
        return tuple(SOURCES)
    if pairs[""] == "demo":
        return (DEMO_BACKBONE,)
    size = count_values(find_file(pairs[""]))
    return tuple(name for name, (_, sizes) in SOURCES.items() if size in sizes)


def choose_backbones(wanted: Sequence[str], spec: str) -> tuple[list[str], dict[str, str]]:
    """Return those of the wanted backbones that `spec`, `WEIGHTS`, gives weights for, and {name: reason} of the others.

    Raises UsageError: an unknown name, or none that there are weights for.
    """
    unknown = [name for name in wanted if name not in SOURCES]
    if unknown or not wanted:
        raise UsageError(f"BACKBONES: {', '.join(unknown) or 'none given'}; take some of {', '.join(SOURCES)}")
    available = available_backbones(spec)
    chosen = [name for name in wanted if name in available]
    if not chosen:
        raise UsageError(f"BACKBONES: WEIGHTS {spec!r} gives weights for {', '.join(available)} only; add one of them")
    lone = parse_spec(spec).get("", "given")
    reason = f"WEIGHTS {lone if lone in KEYWORDS else Path(lone).name} has none for it"
    return chosen, {name: reason for name in wanted if name not in available}


def find_weights(spec: str, backbone: str) -> Weights:
    """Find the weights that `spec` gives for `backbone`; UsageError for none, a broken file, or another network's."""
    pairs = parse_spec(spec)
    value = pairs.get(backbone, pairs.get(""))
    if value is None:
        raise UsageError(f"WEIGHTS: {spec!r} gives none for {backbone}; add {backbone}=FILE")
    if value in ("imagenet", "none"):
        return Weights(value, value)
    if value == "demo" and backbone != DEMO_BACKBONE:
        raise UsageError(f"WEIGHTS: the bundled demo weights are for {DEMO_BACKBONE} only, not for {backbone}")
    path = DEMO_FILE if value == "demo" else find_file(value)
    return Weights(str(path), "demo" if value == "demo" else path.name, check_file(path, backbone))


def check_weights(spec: str) -> None:
    """Check `WEIGHTS` without TensorFlow: raise UsageError where a later training would fail on it."""
    lone = parse_spec(spec).get("", "")
    backbones = available_backbones(spec)
    if not backbones:
        path = find_file(lone)
        raise UsageError(f"{path}: its {count_values(path):,} values fit none of {', '.join(SOURCES)} without top")
    for backbone in backbones:
        find_weights(spec, backbone)
    if lone == "imagenet" and not imagenet_cache(DEMO_BACKBONE).exists():
        try:
            request = urllib.request.Request(SOURCES[DEMO_BACKBONE][0], method="HEAD")
            urllib.request.urlopen(request, timeout=10).close()
        except OSError as error:
            raise missing_imagenet(DEMO_BACKBONE, error) from None


def imagenet_cache(backbone: str) -> Path:
    """Return where Keras keeps the ImageNet weights of `backbone`."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models" / SOURCES[backbone][0].rsplit("/", 1)[1]


def missing_imagenet(backbone: str, error: Exception) -> UsageError:
    """Return an error that says where to get the ImageNet weights of `backbone` and where to put them."""
    reason = " ".join(str(error).split())[:120]
    way_out = f"get {SOURCES[backbone][0]} and put it at {imagenet_cache(backbone)}"
    other = f"choose WEIGHTS demo, none or {backbone}=FILE"
    return UsageError(f"WEIGHTS: no ImageNet weights for {backbone} ({reason}): {way_out}, or {other}")


def find_file(value: str) -> Path:
    """Return the path of a weights file, relative to the current folder or to the project's."""
    for start in (Path.cwd(), project_root()):
        if (path := full_path(value, "WEIGHTS", start=start)).is_file():
            return path
    raise UsageError(f"WEIGHTS: no file {value!r}; give a Keras weights file without top, or {', '.join(KEYWORDS)}")


def check_file(path: Path | str, backbone: str) -> float:
    """Return the width of the network whose weights a file holds; UsageError if it is not `backbone` without top."""
    if not Path(path).is_file():
        raise UsageError(f"WEIGHTS: {path} is missing; restore it from the project, or choose WEIGHTS none")
    size, sizes = count_values(path), SOURCES[backbone][1]
    if size not in sizes:
        expected = " or ".join(f"{count:,}" for count in sizes)
        fitting = [name for name, (_, others) in SOURCES.items() if size in others]
        hint = f"it fits {fitting[0]}" if fitting else "take a file without top (include_top=False)"
        raise UsageError(f"{path}: holds {size:,} values, {backbone} without top has {expected}; {hint}")
    return sizes[size]


def load_into(network: "keras.Model", backbone: str, weights: str, alpha: float = 1.0) -> None:
    """Load weights ("none", "imagenet" or a path) into a network of `keras.applications` without top, of width `alpha`.

    Raises UsageError: not to be had, broken, or of another network.
    """
    path = weights
    if weights == "none":
        return
    if weights == "imagenet":
        from shared.models.backend import keras

        url = SOURCES[backbone][0].replace("_1.0_", f"_{float(alpha)}_")
        try:
            path = keras.utils.get_file(origin=url, cache_subdir="models")
        except Exception as error:  # get_file raises a bare Exception where there is no network
            raise missing_imagenet(backbone, error) from None
    else:
        check_file(weights, backbone)
    try:
        network.load_weights(path)
    except Exception as error:  # Keras and h5py raise many types on damaged files
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{path}: not the weights of {backbone} without top ({reason})") from None


def count_values(path: Path | str) -> int:
    """Count the values of a Keras weights file (`.weights.h5` or the older `.h5`), without optimiser state."""
    sizes: dict[str, int] = {}
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: sizes.update({name: getattr(item, "size", 0)}))
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py raises what HDF5 stumbles on
        reason = "truncated" if "truncated" in str(error) else "not an HDF5 file, or broken"
        raise UsageError(f"{path}: {reason}; get the weights file again") from None
    return sum(size for name, size in sizes.items() if not name.startswith("optimizer"))
