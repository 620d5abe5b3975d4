"""Bring one grey plane to an 8-bit square: breast crop, resize, window, pad."""

from dataclasses import dataclass

import cv2
import numpy as np

from shared.run import CHOICES, DataError, check_choice


@dataclass(frozen=True)
class ImageSteps:
    """What is done to every image, in this order: breast crop, resize, window, pad."""

    size: int = 224  # pixels, height and width of the result
    window: str = "percentile"  # percentile | zscore | minmax | none
    keep_aspect: bool = True  # pad to a square, or stretch
    breast_crop: bool = False  # cut the dark background of full mammograms away


def to_uint8(image: np.ndarray, window: str = "percentile") -> np.ndarray:
    """Map intensities to 0–255.

    The image is (H, W) of any real dtype. The window `percentile` stretches the 0.5th to the 99.5th percentile of what
    is not background (zero); `zscore` maps mean ± 3 standard deviations; `minmax` the extremes; `none` keeps the scale
    of the file (16 bit is divided by 257, floats in [0, 1] are multiplied by 255).
    Returns uint8 (H, W); a constant image becomes 0 (with `none`: stays what it is).

    >>> to_uint8(np.array([[0, 1000], [2000, 4000]], np.uint16), "minmax").tolist()
    [[0, 64], [128, 255]]
    """
    check_choice("WINDOW", window, CHOICES["window"])
    values = np.asarray(image, dtype=np.float32)
    if window == "none":
        return np.clip(np.rint(values * raw_scale(image)), 0, 255).astype(np.uint8)
    if window == "percentile":
        foreground = values[values > 0]
        low, high = np.percentile(foreground if foreground.size > 16 else values, (0.5, 99.5))
    elif window == "zscore":
        low, high = values.mean() - 3 * values.std(), values.mean() + 3 * values.std()
    else:
        low, high = values.min(), values.max()
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)


def refuse_blank(image: np.ndarray, name: str) -> None:
    """Raise DataError where an image (H, W), called `name`, has the same grey value everywhere."""
    if image.min() == image.max():
        raise DataError(f"{name}: one grey value in all {image.size:,} pixels, no picture; leave it out")


def raw_scale(image: np.ndarray) -> float:
    """Return the factor that brings the file's own scale to 0–255."""
    if image.dtype == np.uint8:
        return 1.0
    if image.dtype == np.uint16:
        return 1 / 257
    return 255.0 if image.size and image.max() <= 1.0 else 1.0


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with antialiasing: area averaging where it shrinks, bilinear where it grows.

    `image` is uint8, uint16 or float32 (H, W), the result of the same dtype (height, width).
    """
    shrinks = height < image.shape[0] or width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def breast_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Find the breast: the largest region brighter than half of Otsu's threshold on a small copy.

    Returns (top, bottom, left, right) in pixels; the whole image where nothing stands out.
    """
    scale = max(1, max(image.shape) // 256)
    small = to_uint8(resize(image, max(1, image.shape[0] // scale), max(1, image.shape[1] // scale)), "minmax")
    threshold, _ = cv2.threshold(small, 0, 255, cv2.THRESH_OTSU)
    mask = (small > threshold * 0.5).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return 0, image.shape[0], 0, image.shape[1]
    left, top, width, height = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), :4] * scale
    return int(top), min(int(top + height), image.shape[0]), int(left), min(int(left + width), image.shape[1])


def fit_square(image: np.ndarray, size: int, keep_aspect: bool = True) -> np.ndarray:
    """Resize so that the image fits into a square: (h, w) with h, w ≤ size, or (size, size) where it is stretched."""
    height = width = size
    if keep_aspect:
        ratio = size / max(image.shape)
        height, width = (max(1, round(side * ratio)) for side in image.shape)
    return resize(image, height, width)


def pad(image: np.ndarray, size: int) -> np.ndarray:
    """Put the image in the middle of a square of zeros: (size, size)."""
    before = [(size - side) // 2 for side in image.shape]
    return np.pad(image, [(first, size - side - first) for first, side in zip(before, image.shape, strict=True)])


def prepare_image(image: np.ndarray, steps: ImageSteps) -> np.ndarray:
    """Take one image (H, W), any real dtype, through all steps: uint8 (size, size); padding is 0.

    >>> prepare_image(np.ones((40, 20)), ImageSteps(size=4, window="none")).tolist()
    [[0, 255, 255, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 255, 255, 0]]
    """
    if steps.breast_crop:
        top, bottom, left, right = breast_box(image)
        image = image[top:bottom, left:right]
    return pad(to_uint8(fit_square(image, steps.size, steps.keep_aspect), steps.window), steps.size)


def prepare_mask(mask: np.ndarray, image: np.ndarray, steps: ImageSteps) -> np.ndarray:
    """Take a lesion mask (H, W) the way its image went: uint8 (size, size) of 0 and 1."""
    mask = (mask > 0).astype(np.float32)
    if mask.shape != image.shape:
        mask = resize(mask, *image.shape)
    if steps.breast_crop:
        top, bottom, left, right = breast_box(image)
        mask = mask[top:bottom, left:right]
    return pad((fit_square(mask, steps.size, steps.keep_aspect) >= 0.5).astype(np.uint8), steps.size)
