"""Lesions given as boxes: a path ends in `#box=<width>x<height>:<left>,<top>,<right>,<bottom>`, several joined by ";".

Pixels are those of an image of the size that stands in front, so that the boxes fit a copy of another size.
"""

from pathlib import Path
from typing import Any

import numpy as np

from shared.data import decoding

MARK = "#box="
FACTOR = 1.5  # a crop's side, in the longer sides of the box: some of the surroundings belong to the picture
MIN_SHARE = 1 / 16  # a crop's smallest side, share of the image's height: about 19 mm


def read_crop(data_dir: Path, image_path: str, *, min_side: int | None = None) -> np.ndarray:
    """Read an image, or the square about the box that its path names; moved inside the image where it sticks out."""
    relative, _, fragment = image_path.partition(MARK)
    path = decoding.inside(data_dir, relative)
    if not fragment:
        return decoding.read_grey(path, min_side=min_side)
    image = decoding.read_grey(path)
    return np.ascontiguousarray(image[place_crop(fragment, image.shape)])


def draw_mask(data_dir: Path, row: Any) -> np.ndarray:
    """Fill the boxes of `row.mask_path`, in the frame of the picture `row.image_path`: uint8 of 0 and 1."""
    relative, _, fragment = row.mask_path.partition(MARK)
    _, height, width = decoding.read_header(decoding.inside(data_dir, relative))
    mask = np.zeros((height, width), np.uint8)
    for left, top, right, bottom in scale_boxes(fragment, mask.shape):
        mask[top:bottom, left:right] = 1
    _, _, of_image = row.image_path.partition(MARK)
    return mask[place_crop(of_image, mask.shape)] if of_image else mask


def place_crop(fragment: str, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of the crop of the first box in an image of `shape`."""
    left, top, right, bottom = scale_boxes(fragment, shape)[0]
    side = round(max(FACTOR * max(right - left, bottom - top), MIN_SHARE * shape[0]))
    starts = [
        int(np.clip(middle - side // 2, 0, max(length - side, 0)))
        for middle, length in zip(((top + bottom) // 2, (left + right) // 2), shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def scale_boxes(fragment: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the boxes int (n, 4), left, top, right, bottom, in pixels of an image of `shape`."""
    size, _, words = fragment.partition(":")
    width, height = map(int, size.split("x"))
    boxes = np.array([[int(word) for word in box.split(",")] for box in words.split(";")])
    boxes = np.rint(boxes * np.array([shape[1] / width, shape[0] / height] * 2)).astype(int)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)  # a box is never empty
    return boxes
