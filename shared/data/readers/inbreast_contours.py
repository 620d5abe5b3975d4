"""The contours of INbreast: property lists of outlined findings, the lesions that they make up, and masks."""

import plistlib
import re
from pathlib import Path

import cv2
import numpy as np

from shared.run import refuse_damage

FACTOR = 1.5  # a crop's side, in sizes of the lesion's box: some of the surroundings belong to the picture
MIN_SIDE = 256  # pixels; 18 mm at 70 µm
NEAR = 28  # pixels, 2 mm: contours whose boxes come closer than twice this are one lesion
DOT = 4  # pixels, radius in which the mask shows a calcification that is a dot
FARTHEST = 20_000  # pixels; no detector is that large
KINDS = {"calc": "calcification", "cluster": "calcification", "mass": "mass", "spicul": "mass"}  # parts of the names
Contours = list[tuple[str, np.ndarray]]


def read(path: Path) -> Contours:
    """Read the contours of an image: (name, int (n, 2), x and y in pixels), without the pectoral muscle."""
    with refuse_damage(f"{path.name}: contours that cannot be read", "fetch it again"):
        found = []
        for region in plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)["Images"][0]["ROIs"]:
            numbers = re.findall(r"-?\d+(?:\.\d+)?", " ".join(region["Point_px"]))
            points = np.clip(np.array(numbers, float).reshape(-1, 2), 0, FARTHEST).round().astype(np.int32)
            if len(points) and "pector" not in region["Name"].lower():
                found.append((region["Name"].lower(), points))
    return found


def kind_of(contours: Contours) -> str:
    """Return mass or calcification as the names of the contours say; "" where they say both, or neither."""
    kinds = {kind for name, _ in contours for part, kind in KINDS.items() if part in name}
    return kinds.pop() if len(kinds) == 1 else ""


def find_lesions(contours: Contours) -> list[tuple[Contours, str]]:
    """Put contours that lie close together into one lesion, and return each with its square, `x,y,side`.

    Contours of one or two points are dots: they enclose nothing, and make no lesion of their own.
    """
    areas = [(name, points) for name, points in contours if len(points) > 2]
    if not areas:
        return []
    scale = 8  # the boxes are drawn on a smaller map
    boxes = np.array([[*points.min(axis=0), *points.max(axis=0)] for _, points in areas])
    near = np.clip(np.add(boxes, [-NEAR, -NEAR, NEAR, NEAR]), 0, None) // scale
    canvas = np.zeros(tuple(near[:, [3, 2]].max(axis=0) + 1), np.uint8)
    for left, top, right, bottom in near:
        canvas[top : bottom + 1, left : right + 1] = 1
    _, regions = cv2.connectedComponents(canvas)
    groups = regions[near[:, 1], near[:, 0]]
    lesions = []
    for group in dict.fromkeys(groups.tolist()):
        left, top = boxes[groups == group, :2].min(axis=0)
        right, bottom = boxes[groups == group, 2:].max(axis=0)
        side = max(MIN_SIDE, round(FACTOR * max(right - left, bottom - top)))
        square = f"{(left + right) // 2},{(top + bottom) // 2},{side}"
        lesions.append(([area for area, own in zip(areas, groups, strict=True) if own == group], square))
    return lesions


def draw(contours: Contours, height: int, width: int) -> np.ndarray:
    """Return the mask of contours in the frame of their image, uint8 of 0 and 1; a dot becomes a small disc."""
    mask = np.zeros((height, width), np.uint8)
    for _, points in contours:
        if len(points) > 2:
            cv2.fillPoly(mask, [points], 1)
        for x, y in points if len(points) < 3 else ():
            cv2.circle(mask, (int(x), int(y)), DOT, 1, thickness=-1)
    return mask
