"""Does a heatmap point at the lesion? Measures against masks, trivial baselines, and intervals by patient.

Shapes, the same in every function:
    maps: float (N, H, W), 0 or more, the larger the more important; masks: bool or 0/1 (N, H, W), none of them empty.
A map that is 0 everywhere says nothing, and is scored as what it amounts to: a map that is the same everywhere.
"""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from shared.evaluation import metrics
from shared.run import UsageError

FILE = "results/gradcam_visualizations/localisation.csv"
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


def measure(maps, masks, *, cell=1):
    """Score each map against its mask.

    Ties are shared out: of k equal highest pixels each counts 1/k, and where the last of the highest pixels are equal
    each counts its share. So a constant map scores what a random choice of pixels would.

    Args:
        maps, masks: see above.
        cell: pixels of the image a cell of the feature map is wide, for `pointing_one_cell`.
    Returns:
        DataFrame of N rows with the columns `MEASURES`, each in [0, 1] but for `energy_ratio`.
    Raises:
        UsageError: shapes that differ, an empty mask.
    """
    maps, masks = np.maximum(np.asarray(maps, "float32"), 0), np.asarray(masks) > 0
    if maps.shape != masks.shape or maps.ndim != 3:
        raise UsageError(f"maps {maps.shape} and masks {masks.shape}: both must be (N, H, W)")
    near = np.stack([_grow(mask, cell) for mask in masks]) if len(masks) else masks
    values, inside, near = (array.reshape(len(maps), -1) for array in (maps, masks, near))
    size, area = inside.sum(1), inside.mean(1)
    if (size == 0).any():
        raise UsageError(f"mask {int(np.argmin(size))} is empty: leave images without a lesion out")
    highest = values == values.max(1, keepdims=True)
    total = values.sum(1)
    energy = np.divide((values * inside).sum(1), total, out=area.copy(), where=total > 0)
    shared = _chosen_shares(values, size, inside)
    ranks = rankdata(values, axis=1)
    outside = inside.shape[1] - size
    with np.errstate(invalid="ignore"):
        auc = ((ranks * inside).sum(1) - size * (size + 1) / 2) / (size * outside)
    return pd.DataFrame(
        {
            "pointing": (highest & inside).sum(1) / highest.sum(1),
            "pointing_one_cell": (highest & near).sum(1) / highest.sum(1),
            "energy": energy,
            "energy_ratio": energy / area,
            "iou": shared / (2 * size - shared),
            "pixel_auc": auc,
        }
    )


def _grow(mask, cell):
    side = 2 * round(cell) + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _chosen_shares(values, size, inside):
    """Count the lesion's pixels among the `size` highest of each map, float (N,)."""
    ordered = -np.sort(-values, axis=1)
    limit = np.take_along_axis(ordered, size[:, None] - 1, axis=1)
    above, level = values > limit, values == limit
    left = size - above.sum(1)
    return (above & inside).sum(1) + left * (level & inside).sum(1) / level.sum(1)


def baseline_maps(images, masks, *, grid, seed=0):
    """Make the maps that a heatmap has to beat, and the best one its resolution allows.

    Args:
        images: (N, H, W), 0–255.
        masks: (N, H, W).
        grid: (h, w), cells of the feature map.
        seed: of the random maps.
    Returns:
        dict of float32 (N, H, W): "centre", a Gaussian bell on the middle (standard deviation a sixth of the side);
        "brightest", how far each spot of about a cell's size is brighter than the image's mean; "random", noise of
        the feature map's size, enlarged; "ceiling", the mask itself at the feature map's size, enlarged.
    """
    images, masks = np.asarray(images, "float32"), np.asarray(masks, "float32")
    count, height, width = images.shape
    y, x = np.ogrid[:height, :width]
    y, x = (y - (height - 1) / 2) / (height / 6), (x - (width - 1) / 2) / (width / 6)
    bell = np.exp(-(y**2 + x**2) / 2).astype("float32")
    noise = np.random.default_rng(seed).random((count, *grid), dtype="float32")
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), max(height / grid[0] / 2, 0.5)) for image in images])
    cells = [cv2.resize(mask, tuple(grid)[::-1], interpolation=cv2.INTER_AREA) for mask in masks]
    return {
        "centre": np.broadcast_to(bell, images.shape),
        "brightest": np.maximum(smooth - smooth.mean(axis=(1, 2), keepdims=True), 0),
        "random": _enlarge(noise, (height, width)),
        "ceiling": _enlarge(cells, (height, width)),
    }


def _enlarge(maps, size):
    return np.stack([cv2.resize(one, tuple(size)[::-1], interpolation=cv2.INTER_LINEAR) for one in maps])


# ------------------------------------------------------------ intervals, table
def summarise(measured, patients, *, model, method, draws=metrics.DRAWS, seed=0):
    """Average the measures over the images, each with its interval by bootstrap over patients.

    Args:
        measured: DataFrame (N rows) as `measure` returns it; NaN is left out.
        patients: (N,), any identifier.
        model, method: words for the table.
    Returns:
        DataFrame with `COLUMNS`, one row a measure.
    """
    intervals = metrics.bootstrap_means(measured.to_numpy(), patients, draws=draws, seed=seed)
    rows = [
        (model, method, name, interval.value, interval.low, interval.high)
        for name, interval in zip(measured.columns, intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def format_table(table, measures=("pointing", "energy", "iou", "pixel_auc")):
    """Return a readable form of `summarise`'s rows: one row a method, `value [low, high]` in each column."""
    text = table.assign(text=[f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()])
    wide = text.pivot(index="method", columns="measure", values="text")
    return wide.loc[list(dict.fromkeys(table.method)), list(measures)].rename_axis(columns=None)


def compare(measured, others, patients, *, draws=metrics.DRAWS, seed=0):
    """Give the mean paired difference `measured` minus each of `others` its interval by patient.

    Args:
        measured: DataFrame as `measure` returns it.
        others: {name: DataFrame of the same images}.
        patients: (N,).
    Returns:
        DataFrame `against, measure, difference, low, high, better`; better where the whole interval is above 0.
    """
    rows = []
    for name, other in others.items():
        intervals = metrics.bootstrap_means((measured - other).to_numpy(), patients, draws=draws, seed=seed)
        rows += [
            (name, column, interval.value, interval.low, interval.high, interval.low > 0)
            for column, interval in zip(measured.columns, intervals, strict=True)
        ]
    return pd.DataFrame(rows, columns=["against", "measure", "difference", "low", "high", "better"])


# ------------------------------------------------------------ what the network makes of it
def deletion_insertion_curves(score: Callable, images, maps, *, mode="deletion", points=11, blur=None, seed=0):
    """Take pixels away from the most important on, or bring them back, and record the score (Petsiuk et al. 2018).

    A pixel that is taken away is replaced by a blurred copy of the image, which leaves less of an edge than black.

    Args:
        score: images float32 (n, H, W) -> (n,).
        images: (N, H, W), 0–255.
        maps: (N, H, W); equal pixels are ordered at random.
        mode: "deletion" (a good map lets the score fall early) or "insertion" (rise early).
        points: shares of pixels changed, evenly from 0 to 1.
        blur: standard deviation in pixels; None takes an eighth of the height.
        seed: of the order of equal pixels.
    Returns:
        float (N, points): the scores.
    """
    if mode not in ("deletion", "insertion"):
        raise UsageError(f"mode: {mode!r} is not one of deletion, insertion")
    images = np.asarray(images, "float32")
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), blur or image.shape[0] / 8) for image in images])
    before, after = (images, blurred) if mode == "deletion" else (blurred, images)
    flat = np.asarray(maps, "float64").reshape(len(images), -1)
    ties = np.random.default_rng(seed).random(flat.shape)
    place = np.empty(flat.shape, int)
    np.put_along_axis(place, np.lexsort((ties, -flat), axis=1), np.arange(flat.shape[1])[None], axis=1)
    place = place.reshape(images.shape)
    shares = np.linspace(0, 1, points)
    return np.stack([score(np.where(place < share * flat.shape[1], after, before)) for share in shares], axis=1)


def area_under(curves):
    """Return the mean height of each curve (N, points) over evenly spaced points, by the trapezoid rule: (N,)."""
    return np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1)


def similarity(maps, others):
    """Say how alike two heatmaps of the same image are (Adebayo et al. 2018).

    Args:
        maps, others: float (N, H, W) in [0, 1].
    Returns:
        DataFrame `ssim` (structural similarity, Wang et al. 2004; 1 = equal) and `spearman` (rank correlation of the
        pixels; NaN where one map is the same everywhere).
    """
    from shared.models.backend import tf

    maps, others = np.asarray(maps, "float32"), np.asarray(others, "float32")
    ssim = tf.image.ssim(maps[..., None], others[..., None], max_val=1.0).numpy()
    first, second = (rankdata(array.reshape(len(array), -1), axis=1) for array in (maps, others))
    first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    spearman = np.divide((first * second).sum(1), scale, out=np.full(len(maps), np.nan), where=scale > 0)
    return pd.DataFrame({"ssim": ssim, "spearman": spearman})
