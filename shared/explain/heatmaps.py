"""Where does a network look? Eight kinds of heatmap behind one call."""

from collections.abc import Callable

import cv2
import numpy as np

from shared.explain import inspection
from shared.models.backend import keras
from shared.run import UsageError, check_choice

CHANNELS = 32  # tried by Score-CAM for each image, those of the largest range
STEPS = 32  # points on the way from the baseline to the image, in integrated gradients
BATCH_SIZE = 32  # images that go through the network at once
Watched = Callable[[np.ndarray], list[np.ndarray]]  # images -> score, feature map, slopes: see `score_and_slopes`


def weigh_gradcam_plus_plus(features: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Weigh each channel with its positive slopes g, each times g^2 / (2 g^2 + total g^3) (Chattopadhyay 2018)."""
    below = 2 + features.sum(axis=(1, 2), keepdims=True) * slopes
    shares = np.divide(1, below, out=np.zeros_like(below), where=below != 0)
    return features * (shares * np.maximum(slopes, 0)).sum(axis=(1, 2), keepdims=True)


WEIGHERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {  # feature map, slopes, both (n, h, w, c)
    "gradcam": lambda features, slopes: features * slopes.mean(axis=(1, 2), keepdims=True),  # Selvaraju 2017
    "gradcam++": weigh_gradcam_plus_plus,
    "hirescam": lambda features, slopes: features * slopes,  # Draelos 2020
    "layercam": lambda features, slopes: features * np.maximum(slopes, 0),  # Jiang 2021
}


def score_channels(watched: Watched, batch: np.ndarray) -> np.ndarray:
    """Score-CAM: weigh each channel with the score of the part of the image that it lets through (Wang 2020)."""
    maps = []
    for image, features in zip(batch, watched(batch)[1], strict=True):
        chosen = features[..., np.argsort(-np.ptp(features, axis=(0, 1)), kind="stable")[:CHANNELS]]
        masks = enlarge(np.moveaxis(chosen, -1, 0), image.shape[:2])
        masks = normalise_maps(masks - masks.min(axis=(1, 2), keepdims=True))
        scores = watched(image * masks[..., None])[0]
        weights = np.exp(scores - scores.max())
        maps.append(chosen @ (weights / weights.sum()))
    return np.maximum(maps, 0)


def project_channels(watched: Watched, batch: np.ndarray) -> np.ndarray:
    """Eigen-CAM: project the channels on their first singular vector, whatever the target (Muhammad 2020)."""
    features = watched(batch)[1]
    left, values, _ = np.linalg.svd(features.reshape(len(batch), -1, features.shape[-1]), full_matrices=False)
    maps = (left[..., 0] * values[:, :1]).reshape(features.shape[:3])
    signs = np.where(maps.sum(axis=(1, 2), keepdims=True) < 0, -1, 1)  # arbitrary: take the more positive map
    return np.maximum(signs * maps, 0)


def occlude(watched: Watched, batch: np.ndarray) -> np.ndarray:
    """Cover squares of the image, and give each pixel the mean fall of the score under them (Zeiler 2014).

    A square is a quarter of the shorter side wide, and moves by half of that.
    """
    height, width = batch.shape[1:3]
    window = max(1, round(min(height, width) / 4))
    stride = max(1, window // 2)
    before = watched(batch)[0]
    empty = batch.mean(axis=(1, 2), keepdims=True)
    drop, covered = np.zeros(batch.shape[:3], "float32"), np.zeros((height, width), "float32")
    tops, lefts = (sorted({*range(0, side - window, stride), side - window}) for side in (height, width))
    for top, left in ((top, left) for top in tops for left in lefts):
        rows, columns = slice(top, top + window), slice(left, left + window)
        changed = batch.copy()
        changed[:, rows, columns] = empty
        drop[:, rows, columns] += (before - watched(changed)[0])[:, None, None]
        covered[rows, columns] += 1
    return drop / covered


def integrate_gradients(watched: Watched, batch: np.ndarray) -> np.ndarray:
    """Add up the slopes at the pixels on the way from each image's mean to the image (Sundararajan 2017)."""
    path = batch - batch.mean(axis=(1, 2), keepdims=True)
    points = (np.arange(STEPS, dtype="float32") + 0.5) / STEPS  # midpoints of the steps
    return (path * sum(watched(batch - (1 - point) * path)[2] for point in points) / STEPS).sum(-1)


CAM_METHODS = (*WEIGHERS, "scorecam", "eigencam")
METHODS = (*CAM_METHODS, "occlusion", "integrated_gradients")
OTHERS: dict[str, Callable[[Watched, np.ndarray], np.ndarray]] = {
    "scorecam": score_channels,
    "eigencam": project_channels,
    "occlusion": occlude,
    "integrated_gradients": integrate_gradients,
}


def heatmap(
    model: keras.Model,
    images: np.ndarray,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    target: str | int = "positive",
    normalise: bool = True,
    resize: bool = True,
) -> np.ndarray:
    """Return one heatmap for each image: where the evidence for `target` comes from.

    What is explained is the logit, never the probability: a saturated sigmoid has no gradient left.

    Args:
        model: built Sequential or Functional network with one input and one output; it may hold inner networks.
        images: (N, H, W) or (N, H, W, C) in the range the network takes; grey is repeated where it wants three.
        method: one of `METHODS`.
        layer: whose output is the feature map of `CAM_METHODS`, "layer" or "inner/layer" (the layers around the inner
            network must be a chain); None takes `find_feature_layer(model)`.
        target: "positive" or "negative" (of two softmax classes the log-odds are taken), or the number of a class.
        normalise: False returns the method's own values (the last two methods' are signed); see `normalise_maps`.
        resize: True enlarges the map to the images' size (bilinear).
    Returns float32 (N, H, W), or (N, h, w) of the feature map with `resize=False`.
    Raises UsageError: unknown method, layer or target, or a network that cannot be explained.
    """
    check_choice("method", method, METHODS)
    images = as_batch(images, model)
    layer = (layer or inspection.find_feature_layer(model)) if method in CAM_METHODS else ""
    slopes = method in WEIGHERS or method == "integrated_gradients"
    watched = inspection.score_and_slopes(model, images.shape[1:], layer=layer, target=target, slopes=slopes)
    maps = []
    for batch in np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE)):
        if method in WEIGHERS:
            maps.append(np.maximum(WEIGHERS[method](*watched(batch)[1:]).sum(-1), 0))
        else:
            maps.append(OTHERS[method](watched, batch))
    found = enlarge(np.concatenate(maps), images.shape[1:3]) if resize else np.concatenate(maps).astype("float32")
    return normalise_maps(found) if normalise else found


def as_batch(images: np.ndarray, model: keras.Model) -> np.ndarray:
    """Return images as float32 (N, H, W, C), with the network's number of channels."""
    if len(getattr(model, "inputs", ())) != 1 or len(model.outputs) != 1:
        needed = "a built Sequential or Functional one is needed, with one input and output"
        raise UsageError(f"network {model.name!r}: {needed}")
    images = np.asarray(images, "float32")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images: shape {images.shape} is not (N, H, W) or (N, H, W, C)")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 and model.input_shape[-1] == 3 else images


def normalise_maps(maps: np.ndarray) -> np.ndarray:
    """Set negative values of maps (N, H, W) to 0 and divide each map by its largest value: float32 in [0, 1]."""
    maps = np.maximum(np.asarray(maps, "float32"), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def enlarge(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize maps (N, h, w) to `size` (H, W), bilinear: float32 (N, H, W)."""
    maps = maps.astype("float32")
    return np.stack([cv2.resize(one, tuple(size)[::-1], interpolation=cv2.INTER_LINEAR) for one in maps])
