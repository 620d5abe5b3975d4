"""Does a heatmap point at the lesion? Measures against masks, trivial baselines, and intervals by patient.

In every function maps are float (N, H, W), the larger the more important, and masks bool or 0/1 (N, H, W), none empty.
A map that is 0 everywhere is scored as what it amounts to: one that is the same everywhere.
"""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from shared.evaluation import bootstrap_means
from shared.explain.heatmaps import enlarge
from shared.run import UsageError, check_choice

COLUMNS = ("model", "method", "measure", "value", "low", "high")
MEASURES = {
    "pointing": "share of images whose highest point lies in the lesion (Zhang 2018)",
    "pointing_one_cell": "the same, one cell of the feature map beside it allowed",
    "energy": "share of the map's sum that lies in the lesion (Wang 2020)",
    "energy_ratio": "that share divided by the lesion's share of the image; 1 is chance",
    "iou": "overlap of lesion and as many of the highest pixels",
    "pixel_auc": "probability that a pixel of the lesion is higher than one outside; 0.5 is chance",
}
BASELINES = ("centre", "brightest", "random", "ceiling")


def measure(maps: np.ndarray, masks: np.ndarray, *, cell: float = 1) -> pd.DataFrame:
    """Score each map against its mask: N rows with the columns `MEASURES`.

    Of k equal highest pixels each counts 1/k, so a constant map scores what a random choice of pixels would.
    A cell of the feature map is `cell` pixels of the image wide, for `pointing_one_cell`.
    """
    maps, masks = np.maximum(np.asarray(maps, "float32"), 0), np.asarray(masks) > 0
    if maps.shape != masks.shape or maps.ndim != 3:
        raise UsageError(f"maps {maps.shape} and masks {masks.shape}: both must be (N, H, W)")
    square = np.ones((2 * round(cell) + 1,) * 2, np.uint8)
    grown = np.stack([cv2.dilate(mask.astype(np.uint8), square) > 0 for mask in masks])
    values, inside, near = (array.reshape(len(maps), -1) for array in (maps, masks, grown))
    size, area, total = inside.sum(1), inside.mean(1), values.sum(1)
    if (size == 0).any():
        raise UsageError(f"mask {int(np.argmin(size))} is empty: leave images without a lesion out")
    highest = values == values.max(1, keepdims=True)
    energy = np.divide((values * inside).sum(1), total, out=area.copy(), where=total > 0)
    limit = np.take_along_axis(np.sort(values, axis=1), values.shape[1] - size[:, None], axis=1)
    above, level = values > limit, values == limit  # the highest pixels, as many as the lesion has
    shared = (above & inside).sum(1) + (size - above.sum(1)) * (level & inside).sum(1) / level.sum(1)
    with np.errstate(invalid="ignore"):  # a lesion that fills the image
        ranks = (rankdata(values, axis=1) * inside).sum(1) - size * (size + 1) / 2
        pixel_auc = ranks / (size * (inside.shape[1] - size))
    pointing, close = ((highest & place).sum(1) / highest.sum(1) for place in (inside, near))
    columns = (pointing, close, energy, energy / area, shared / (2 * size - shared), pixel_auc)
    return pd.DataFrame(dict(zip(MEASURES, columns, strict=True)))


def baseline_maps(
    images: np.ndarray, masks: np.ndarray, *, grid: tuple[int, ...], seed: int = 0
) -> dict[str, np.ndarray]:
    """Make the maps that a heatmap has to beat, and the best one its resolution allows.

    The feature map has `grid` (h, w) cells.
    Returns "centre", a Gaussian bell on the middle (standard deviation a sixth of the side); "brightest", how far each
        spot of about a cell's size is brighter than the image's mean; "random", noise of the feature map's size,
        enlarged; "ceiling", the mask at the feature map's size, enlarged.
    """
    images, masks = np.asarray(images, "float32"), np.asarray(masks, "float32")
    height, width = images.shape[1:]
    y, x = np.ogrid[:height, :width]
    y, x = (y - (height - 1) / 2) / (height / 6), (x - (width - 1) / 2) / (width / 6)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), max(height / grid[0] / 2, 0.5)) for image in images])
    noise = np.random.default_rng(seed).random((len(images), *grid), dtype="float32")
    cells = np.stack([cv2.resize(mask, tuple(grid)[::-1], interpolation=cv2.INTER_AREA) for mask in masks])
    return {
        "centre": np.broadcast_to(np.exp(-(y**2 + x**2) / 2).astype("float32"), images.shape),
        "brightest": np.maximum(smooth - smooth.mean(axis=(1, 2), keepdims=True), 0),
        "random": enlarge(noise, (height, width)),
        "ceiling": enlarge(cells, (height, width)),
    }


def summarise(measured: pd.DataFrame, patients: np.ndarray, *, model: str, method: str) -> pd.DataFrame:
    """Average what `measure` gives, each measure with its interval by bootstrap of patients: rows of `COLUMNS`."""
    intervals = bootstrap_means(measured.to_numpy(), patients, draws=2000, seed=0)
    rows = [(model, method, name, one.value, one.low, one.high) for name, one in zip(measured, intervals, strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compare(measured: pd.DataFrame, others: dict[str, pd.DataFrame], patients: np.ndarray) -> pd.DataFrame:
    """Give the mean paired difference `measured` minus each of `others`, of the same images, its interval by patient.

    Returns DataFrame against, measure, difference, low, high, better; better where the whole interval is above 0.
    """
    tables = [summarise(measured - other, patients, model="", method=name) for name, other in others.items()]
    table = pd.concat(tables, ignore_index=True).rename(columns={"method": "against", "value": "difference"})
    return table.drop(columns="model").assign(better=table.low > 0)


def deletion_insertion_curves(
    score: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    maps: np.ndarray,
    *,
    mode: str = "deletion",
    points: int = 11,
) -> np.ndarray:
    """Take pixels away from the most important on, or bring them back, and record the score (Petsiuk et al. 2018).

    A blurred copy of the image (standard deviation an eighth of the height) stands for what is taken away; it leaves
    less of an edge than black. Equal pixels come in a random order, always the same.

    Args:
        score: images float32 (n, H, W) -> (n,).
        mode: "deletion" (a good map lets the score fall early) or "insertion" (rise early).
        points: shares of pixels changed, evenly from 0 to 1.
    Returns float (N, points): the scores.
    """
    check_choice("mode", mode, ("deletion", "insertion"))
    images = np.asarray(images, "float32")
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), image.shape[0] / 8) for image in images])
    before, after = (images, blurred) if mode == "deletion" else (blurred, images)
    flat = np.asarray(maps, "float64").reshape(len(images), -1)
    order = np.lexsort((np.random.default_rng(0).random(flat.shape), -flat), axis=1)
    place = np.argsort(order, axis=1).reshape(images.shape)
    shares = np.linspace(0, 1, points)
    return np.stack([score(np.where(place < share * flat.shape[1], after, before)) for share in shares], axis=1)
