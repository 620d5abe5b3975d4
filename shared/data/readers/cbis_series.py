"""CBIS-DDSM keeps crop and mask of a lesion in one series: which file is which, and where the crop was cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shared.data import decoding, images
from shared.run import DataError


def tell_apart(files: list[str], role: Callable[[str], str], full: str, data_dir: Path) -> tuple[str, str]:
    """Return (crop, mask) of a series that holds both, or one of them.

    The descriptions decide. Where they are silent or contradict each other, the content does.
    """
    if not files:
        return "", ""
    known = {path: role(path) for path in files}
    if len(files) == 1:
        is_mask = known[files[0]] == "mask" if known[files[0]] else looks_like_mask(files[0], full, data_dir)
        return ("", files[0]) if is_mask else (files[0], "")
    crops, masks = ([path for path in files if known[path] == part] for part in ("crop", "mask"))
    if max(len(crops), len(masks)) != 1:
        crops, masks = [files[1] if looks_like_mask(files[0], full, data_dir) else files[0]], []
    crop = crops[0] if crops else next(path for path in files if path not in masks)
    return crop, masks[0] if masks else next(path for path in files if path != crop)


def looks_like_mask(path: str, full: str, data_dir: Path) -> bool:
    """Tell a mask from a crop: it has the size of the full image, or only two values (smeared a little by JPEG)."""
    try:
        if full:
            return decoding.read_header(data_dir / path)[1:] == decoding.read_header(data_dir / full)[1:]
        plane = decoding.read_grey(data_dir / path)
    except DataError:
        return False  # an unreadable file is named when its image is read
    return bool(((plane < 16) | (plane > 239)).mean() > 0.98 and np.ptp(plane) > 128)


def mask_reader(read_image: Callable[..., np.ndarray], input: str) -> Callable[[Any], np.ndarray]:
    """Return a function manifest row → lesion mask in the frame of that row's crop or mammogram."""

    def read_all(row: Any) -> np.ndarray:
        masks = [read_image(path) > 127 for path in row.all_masks.split(";") if path]
        if len({mask.shape for mask in masks}) != 1:
            raise DataError(f"{row.image_id}: its lesions' masks differ in size; fetch the files again")
        return np.logical_or.reduce(masks)

    def read(row: Any) -> np.ndarray:
        mask = read_image(row.mask_path) > 127
        crop = read_image(row.image_path)
        if mask.shape == crop.shape:
            return mask
        if not row.full_image_path:
            return np.zeros(crop.shape, bool)
        top, left = locate_crop(read_image(row.full_image_path), crop, mask)
        return mask[top : top + crop.shape[0], left : left + crop.shape[1]]

    return read_all if input == "full" else read


def locate_crop(full: np.ndarray, crop: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Find where `crop` was cut from `full`, near the lesion; the files do not say it.

    Normalised cross-correlation over the places at which the crop holds the mask's centre, at reduced size.

    Args:
        full, mask: (H, W) of one size; crop: (h, w) with h ≤ H, w ≤ W.
    Returns (top, left) in pixels of `full`
    """
    height, width = crop.shape
    if height > full.shape[0] or width > full.shape[1] or mask.shape != full.shape or not mask.any():
        raise DataError("a crop larger than its mammogram, or a mask of another size; fetch the files again")
    left, top, box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))
    middle_y, middle_x = top + box_height // 2, left + box_width // 2
    y0, y1 = max(0, middle_y - height), min(full.shape[0], middle_y + height)
    x0, x1 = max(0, middle_x - width), min(full.shape[1], middle_x + width)
    if y1 - y0 < height or x1 - x0 < width:
        return y0, x0
    scale = max(1, min(crop.shape) // 48)
    window, pattern = (
        images.resize(plane.astype(np.float32), max(1, plane.shape[0] // scale), max(1, plane.shape[1] // scale))
        for plane in (full[y0:y1, x0:x1], crop)
    )
    _, _, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(window, pattern, cv2.TM_CCOEFF_NORMED))
    return y0 + min(y * scale, y1 - y0 - height), x0 + min(x * scale, x1 - x0 - width)
