"""Draw the pictures of docs/phantoms.md: `python docs/draw_phantoms.py`."""

from pathlib import Path

import cv2
import numpy as np

from phantoms.films import draw_film
from phantoms.patients import CALC, DISTORTION, VIEWS, Lesion, plan_patients
from phantoms.writing import draw_crops, resize_square, to_uint8

FOLDER = Path(__file__).parent
COLUMNS, SIDE, LABEL = 8, 112, 18
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 85]


def name_row(lesion: Lesion) -> str:
    """Return the words over the row of a finding."""
    words = lesion.shape if lesion.kind == CALC or lesion.shape == DISTORTION else f"mass, {lesion.margins}"
    return words.lower().replace("_", " ")


def draw_findings(patients: int = 400) -> np.ndarray:
    """Return eight crops of each margin of a mass, of distortions, and of each type of calcification: uint8 (h, w)."""
    rows: dict[str, list[np.ndarray]] = {}
    for patient in plan_patients(patients):
        if all(len(rows.get(name_row(lesion), ())) >= COLUMNS for lesion in patient.lesions):
            continue
        for film, _, lesion, crop in draw_crops(patient):
            crops = rows.setdefault(name_row(lesion), [])
            if film.endswith("_CC") and len(crops) < COLUMNS:
                crops.append(resize_square(to_uint8(crop), SIDE))
    strips = []
    for name, crops in sorted(rows.items()):
        label = np.full((LABEL, COLUMNS * SIDE), 255, np.uint8)
        cv2.putText(label, name, (3, LABEL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
        strips += [label, np.hstack(crops + [np.full((SIDE, SIDE), 255, np.uint8)] * (COLUMNS - len(crops)))]
    return np.vstack(strips)


def draw_views(patient: int = 5, height: int = 520) -> np.ndarray:
    """Return the four films of one woman, the lesions outlined: uint8 (height, w, 3)."""
    woman, shown = plan_patients(patient)[-1], []
    for view in VIEWS:
        for side in ("RIGHT", "LEFT"):
            film = draw_film(woman, side, view)
            image = cv2.cvtColor(to_uint8(film.image), cv2.COLOR_GRAY2BGR)
            for mask in film.masks:
                outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                cv2.drawContours(image, outlines, -1, (0, 159, 230), 3)
            wide = round(image.shape[1] * height / image.shape[0])
            shown.append(cv2.resize(image, (wide, height), interpolation=cv2.INTER_AREA))
    return np.hstack(shown)


if __name__ == "__main__":
    for stem, picture in (("phantoms_findings", draw_findings()), ("phantoms_views", draw_views())):
        cv2.imwrite(str(FOLDER / f"{stem}.jpg"), picture, QUALITY)
