"""Fields cut from whole mammograms, wider than the lesion and with the lesion off-centre.

Crops of CBIS-DDSM have their lesion in the middle, so a map that always points to the middle looks like one that finds
lesions. Here the same lesions are cut anew with a random shift, and beside each a field of normal tissue of the same
size from the same mammogram.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd

from shared.data import images, preparation
from shared.data.preparation import Prepared
from shared.run import DataError

CLASS_NAMES = ("normal tissue", "lesion")
KEPT = ("image_id", "patient_id", "side", "split", "fold")
TRIES = 40  # places tried for a field of normal tissue


def can_cut(manifest):
    """Say for each row of a manifest of crops whether its mammogram and its lesion mask are on disk: bool (N,)."""
    if "full_image_path" not in manifest:
        return np.zeros(len(manifest), bool)
    return ((manifest.full_image_path != "") & (manifest.mask_path != "") & (manifest.split != "excluded")).to_numpy()


def cut_wide_fields(dataset, prepared, *, share=0.3, seed=0, n_jobs=None):
    """Cut a field around every lesion, and one of normal tissue beside it where there is room.

    Args:
        dataset: datasets.Dataset that reads the mammograms.
        prepared: preparation.Prepared, the crops with their splits; those for which `can_cut` is False are left out.
        share: side of a field as a share of the mammogram's height; wider where a lesion does not fit in.
        seed: of the shifts; each mammogram has its own stream.
        n_jobs: threads; default: the cores there are.
    Returns:
        Prepared: the fields in place of the crops, label 0 normal tissue and 1 lesion (`malignant` keeps the crop's
        own label), masks of all lesions in a field; no statistics.
    Raises:
        DataError: there is no mammogram with a mask.
    """
    steps = replace(preparation.image_steps(prepared.settings), breast_crop=False)
    mammograms = {}
    for row in prepared.manifest[can_cut(prepared.manifest)].itertuples(index=False):
        mammograms.setdefault(row.full_image_path, []).append(row)
    groups = list(mammograms.values())
    if not groups:
        raise DataError("no whole mammogram with a lesion mask on disk: wide fields cannot be cut from this copy")

    def work(number):
        return _cut_mammogram(dataset, groups[number], steps, share, np.random.default_rng((seed, number)))

    with ThreadPoolExecutor(n_jobs or os.cpu_count()) as pool:
        fields = [field for found in pool.map(work, range(len(groups))) for field in found]
    manifest = pd.DataFrame([field[0] for field in fields])
    fields, masks = (np.stack([field[part] for field in fields]) for part in (1, 2))
    return Prepared(prepared.settings, manifest, fields, masks, pd.DataFrame(), CLASS_NAMES)


def _cut_mammogram(dataset, rows, steps, share, random):
    """Return [(row of the manifest, image, mask)] for all lesions of one mammogram."""
    min_side = round(steps.size / share)  # a JPEG of many megapixels need not be decoded at its full size
    full = dataset.read_image(rows[0].full_image_path, min_side=min_side)
    planes = [dataset.read_image(row.mask_path, min_side=min_side) for row in rows]
    masks = [images.resize((plane > plane.max() / 2).astype(np.uint8), *full.shape) > 0 for plane in planes]
    lesions = np.maximum.reduce(masks)
    covered, breast = _sums(lesions), _sums(_tissue(full))
    fields = []
    for row, mask in zip(rows, masks, strict=True):
        if not mask.any():
            continue
        place = place_around(mask, side=round(share * full.shape[0]), random=random)
        kept = {name: getattr(row, name) for name in KEPT}
        kept["malignant"] = row.label
        fields.append(({**kept, "label": 1}, *_cut(full, lesions, place, steps)))
        place = place_beside(covered, breast, side=place[2], like=_share(breast, place), random=random)
        if place is not None:
            kept["image_id"] += "_normal"
            fields.append(({**kept, "label": 0}, *_cut(full, lesions, place, steps)))
    return fields


def place_around(mask, *, side, random):
    """Choose a square that holds the whole lesion, anywhere in it with equal probability.

    Args:
        mask: bool (H, W), not empty.
        side: pixels; enlarged to 1.25 times the lesion's larger side, and at most the image's shorter side.
        random: numpy.random.Generator
    Returns:
        (top, left, side) in pixels; the square lies within the image where its size allows it.
    """
    spans = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    side = min(max(side, *(int(1.25 * (last - first + 1)) for first, last in spans)), *mask.shape)
    start = []
    for (first, last), length in zip(spans, mask.shape, strict=True):
        low, high = max(0, last + 1 - side), min(first, length - side)
        start.append(
            int(random.integers(low, high, endpoint=True)) if low <= high else int(np.clip(first, 0, length - side))
        )
    return *start, side


def place_beside(covered, breast, *, side, like, random):
    """Choose a square without a lesion that shows about as much of the breast as another one.

    Args:
        covered, breast: running sums over the rows and columns of lesions and of breast, int (H + 1, W + 1), as
            `cv2.integral` gives them.
        side: pixels.
        like: share of tissue that is looked for; without it, the dark background would tell the fields apart.
        random: numpy.random.Generator
    Returns:
        (top, left, side), or None where none of the places tried is free of lesions.
    """
    tops, lefts = (random.integers(0, length - side, TRIES) for length in covered.shape)
    places = [(int(top), int(left), side) for top, left in zip(tops, lefts, strict=True)]
    free = [place for place in places if _share(covered, place) == 0]
    return min(free, key=lambda place: abs(_share(breast, place) - like), default=None)


def _sums(mask):
    return cv2.integral(mask.astype(np.uint8))


def _share(sums, place):
    """Return the share of a square that is set, from running sums."""
    top, left, side = place
    corners = sums[top + side, left + side] - sums[top, left + side] - sums[top + side, left] + sums[top, left]
    return corners / side**2


def _tissue(full):
    """Tell breast from film: what is brighter than half the mean of the breast's box, bool (H, W)."""
    top, bottom, left, right = images.breast_box(full)
    grey = images.to_uint8(full, "minmax")
    return grey > 0.5 * grey[top:bottom, left:right].mean()


def _cut(full, lesions, place, steps):
    top, left, side = place
    square = np.s_[top : top + side, left : left + side]
    field = full[square]
    return images.prepare_image(field, steps), images.prepare_mask(lesions[square], field, steps)
