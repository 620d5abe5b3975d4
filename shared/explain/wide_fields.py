"""Fields cut from whole mammograms, wider than the lesion and with the lesion off-centre.

Crops of CBIS-DDSM have their lesion in the middle, so a map that always points to the middle looks like one that finds
lesions. Here the same lesions are cut anew with a random shift, and beside each a field of normal tissue.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd

from shared.data import Dataset, ImageSteps, Prepared, breast_box, image_steps, prepare_image, resize, to_uint8
from shared.run import EXCLUDED, DataError

KEPT = ["image_id", "patient_id", "side", "split", "fold"]
SHARE = 0.3  # side of a field, in heights of its mammogram
TRIES = 40  # places tried for a field of normal tissue
Place = tuple[int, int, int]  # top, left, side of a square in pixels


def cut_wide_fields(dataset: Dataset, prepared: Prepared, *, seed: int = 0) -> Prepared:
    """Cut a field around every lesion of `prepared`, and one of normal tissue beside it where there is room.

    `dataset` reads the mammograms. Crops of `prepared` without a mammogram or a mask on disk are left out, as are those
    of a mammogram that cannot be read, or one of whose masks cannot. The side of a field is `SHARE` of the mammogram's
    height, and wider where a lesion does not fit in. `seed` is that of the shifts; each mammogram has its own stream.
    Returns Prepared: the fields in place of the crops, label 0 normal tissue and 1 lesion (`malignant` keeps the crop's
        own label), masks of all lesions in a field; no statistics.
    Raises DataError: there is no mammogram with a mask, or none that can be read.
    """
    steps = replace(image_steps(prepared.settings), breast_crop=False)
    crops = prepared.manifest
    usable = (crops.get("full_image_path", "") != "") & (crops.mask_path != "") & (crops.split != EXCLUDED)
    mammograms = [rows for _, rows in crops[usable].groupby("full_image_path", sort=False)] if usable.any() else []
    streams = [np.random.default_rng((seed, number)) for number in range(len(mammograms))]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda rows, random: cut_mammogram(dataset, rows, steps, random), mammograms, streams)
        cuts = [field for part in found for field in part]
    if not cuts:
        raise DataError("no whole mammogram with a lesion mask on disk: wide fields cannot be cut from this copy")
    rows, fields, masks = zip(*cuts, strict=True)
    names = ("normal tissue", "lesion")
    return Prepared(prepared.settings, pd.DataFrame(rows), np.stack(fields), np.stack(masks), pd.DataFrame(), names)


def cut_mammogram(
    dataset: Dataset, rows: pd.DataFrame, steps: ImageSteps, random: np.random.Generator
) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """Return (row of the manifest, image, mask) for each field of one mammogram's lesions; [] where it is damaged."""
    min_side = round(steps.size / SHARE)  # a JPEG of many megapixels need not be decoded at its full size
    try:
        full = dataset.read_image(rows.full_image_path.iloc[0], min_side=min_side)
        planes = [dataset.read_image(path, min_side=min_side) for path in rows.mask_path]
    except DataError:  # without one of the masks, what is normal tissue is not known
        return []
    masks = [resize((plane > plane.max() / 2).astype(np.uint8), *full.shape) > 0 for plane in planes]
    lesions = np.maximum.reduce(masks)
    top, bottom, left, right = breast_box(full)
    grey = to_uint8(full, "minmax")
    breast = grey > 0.5 * grey[top:bottom, left:right].mean()  # and not film
    fields = []
    for row, mask in zip(rows.to_dict("records"), masks, strict=True):
        if not mask.any():
            continue
        around = place_around(mask, side=round(SHARE * full.shape[0]), random=random)
        beside = place_beside(lesions, breast, around, random=random)
        for place, label, ending in ((around, 1, ""), (beside, 0, "_normal")):
            if place is not None:
                kept = {name: row[name] for name in KEPT} | {"malignant": row["label"], "label": label}
                kept["image_id"] += ending
                small = resize(cut(lesions, place).astype(np.float32), steps.size, steps.size)
                fields.append((kept, prepare_image(cut(full, place), steps), (small >= 0.5).astype(np.uint8)))
    return fields


def place_around(mask: np.ndarray, *, side: int, random: np.random.Generator) -> Place:
    """Choose a square that holds the whole lesion, anywhere in it with equal probability.

    `side` is enlarged to 1.25 times the lesion's larger side, and at most the image's shorter side.
    """
    spans = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    side = min(max(side, *(int(1.25 * (last - first + 1)) for first, last in spans)), *mask.shape)
    start = []
    for (first, last), length in zip(spans, mask.shape, strict=True):
        low, high = max(0, last + 1 - side), min(first, length - side)
        fits = low <= high
        start.append(int(random.integers(low, high, endpoint=True) if fits else np.clip(first, 0, length - side)))
    return start[0], start[1], side


def place_beside(lesions: np.ndarray, breast: np.ndarray, place: Place, *, random: np.random.Generator) -> Place | None:
    """Choose a square of the size of `place` without a lesion, or None where none of those tried is free.

    It shows about as much of the breast; otherwise the dark background would tell the fields apart.
    """
    side = place[2]
    like = cut(breast, place).mean()
    tops, lefts = (random.integers(0, length + 1 - side, TRIES).tolist() for length in lesions.shape)
    tried = [(top, left, side) for top, left in zip(tops, lefts, strict=True)]
    free = [place for place in tried if not cut(lesions, place).any()]
    return min(free, key=lambda place: abs(cut(breast, place).mean() - like), default=None)


def cut(plane: np.ndarray, place: Place) -> np.ndarray:
    """Return the square of a plane (H, W)."""
    top, left, side = place
    return plane[top : top + side, left : left + side]
