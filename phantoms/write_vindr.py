"""VinDr-Mammo: images/<study_id>/<image_id>.dicom, four views a study, and two tables.

Films are written at half the drawn size, 12 bits in 16, some MONOCHROME1. The categories are one reader's, and about
half of the studies hold a breast of BI-RADS 4 or 5, where the real set has one in ten: so each split and each fold of
40 studies has both classes. Kept from the real set: hashes for names and no patient id, lists of categories in words,
rows without a finding and so without a box, findings below BI-RADS 3 that have no box, boxes that leave the image.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from phantoms.patients import CALC, DISTORTION, TRAIN, VIEWS, Lesion, Patient
from phantoms.writing import draw_films, stream, write_dicom, write_rows

SIDES = ("LEFT", "RIGHT")
LOWEST = 3  # BI-RADS category from which a finding has a box
Row = dict[str, Any]


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write the images and both tables."""
    results = run(partial(write_patient, out), plans)
    write_rows(out / "breast-level_annotations.csv", [row for rows, _ in results for row in rows])
    write_rows(out / "finding_annotations.csv", [row for _, rows in results for row in rows])


def write_patient(out: Path, patient: Patient) -> tuple[list[Row], list[Row]]:
    """Draw and write the four views of a patient; return her rows of both tables."""
    study = code(patient, "study")
    breasts = []
    findings = []
    split = "training" if patient.split[patient.lesions[0].kind] == TRAIN else "test"
    for side, view, film in draw_films(patient, SIDES):
        rng = stream(patient, 21, SIDES.index(side), VIEWS.index(view))
        image = cv2.resize(film.image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        image_id = code(patient, side, view)
        is_inverted = patient.number % 3 == 0
        write_dicom(out / f"images/{study}/{image_id}.dicom", image, bits=12, is_inverted=is_inverted)
        healthy = 1 + (patient.number + SIDES.index(side)) % 2
        category = max([grade(lesion) for lesion in film.lesions], default=healthy)
        image_words = {
            "study_id": study,
            "series_id": code(patient, "series"),
            "image_id": image_id,
            "laterality": side[0],
            "view_position": view,
            "height": image.shape[0],
            "width": image.shape[1],
            "breast_birads": f"BI-RADS {category}",
            "breast_density": f"DENSITY {'ABCD'[patient.density - 1]}",
        }
        breasts.append(image_words | {"split": split})
        boxes = []
        for lesion, mask in zip(film.lesions, film.masks, strict=True):
            if grade(lesion) >= LOWEST:
                leaves = patient.number % 10 == 0
                boxes.append(describe(rng, lesion) | find_box(mask, leaves=leaves))
        nothing = dict.fromkeys(("finding_birads", "xmin", "ymin", "xmax", "ymax"), "")
        for box in boxes or [{"finding_categories": "['No Finding']"} | nothing]:
            findings.append(image_words | box | {"split": split})
    return breasts, findings


def code(patient: Patient, *key: str) -> str:
    """Return the hash by which the data set calls a study, a series or an image."""
    words = "/".join(map(str, (*patient.seed, *key)))
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def grade(lesion: Lesion) -> int:
    """Return the BI-RADS category 2 to 5; a mass is 3 at least, so that enough benign findings have a box."""
    return max(lesion.assessment, 2 if lesion.kind == CALC else LOWEST)


def describe(rng: np.random.Generator, lesion: Lesion) -> Row:
    """Return a finding's categories, a list in words, and its BI-RADS category."""
    first = "Suspicious Calcification" if lesion.kind == CALC else "Mass"
    categories = ["Architectural Distortion" if lesion.shape == DISTORTION else first]
    if rng.random() < 0.2:
        categories.append("Focal Asymmetry" if lesion.kind == CALC else "Skin Retraction")
    return {"finding_categories": str(categories), "finding_birads": f"BI-RADS {grade(lesion)}"}


def find_box(mask: np.ndarray, *, leaves: bool) -> Row:
    """Return the box about a lesion in pixels of the written image; `leaves`: it reaches over the right border."""
    rows, columns = (np.flatnonzero(mask.any(axis)) / 2 for axis in (1, 0))
    right = mask.shape[1] / 2 + 7.5 if leaves else columns[-1] + 2
    box = {"xmin": columns[0] - 2, "ymin": rows[0] - 2, "xmax": right, "ymax": rows[-1] + 2}
    return {name: round(float(value), 2) for name, value in box.items()}
