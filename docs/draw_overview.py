"""Put three figures of a finished demo run into the README's picture: `python docs/draw_overview.py runs/demo`."""

import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, MARGIN = 720, 12  # of the left column; px


def scale(path: Path, *, width: int = 0, height: int = 0) -> np.ndarray:
    """Read a figure, uint8 (h, w, 3), at a width or a height."""
    image = cv2.imread(str(path))
    factor = width / image.shape[1] if width else height / image.shape[0]
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    results = Path(sys.argv[1]) / "results"
    mammogram = scale(results / "figures/mammogram_and_crop.png", width=WIDTH)
    maps = scale(results / "gradcam_visualizations/cases.png", width=WIDTH)
    left = np.vstack([mammogram, np.full((MARGIN, WIDTH, 3), 255, np.uint8), maps])
    montage = np.hstack([left, scale(results / "figures/forest.png", height=len(left))])
    cv2.imwrite(str(Path(__file__).with_name("overview.png")), montage, [cv2.IMWRITE_PNG_COMPRESSION, 9])
