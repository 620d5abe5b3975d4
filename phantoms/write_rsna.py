"""RSNA 2023: train_images/<patient_id>/<image_id>.dcm and train.csv, all views of a patient.

Films are written at half the drawn size, of every other patient as JPEG 2000. About a quarter of the images are
positive, where the real set has 2 %: so each split and each fold of 40 patients has both classes. Kept from the real
set: the label of a breast on all its views, columns that know the outcome, no density and no BI-RADS at site 2, ages
that are missing, a view that is neither CC nor MLO, a patient with 13 images.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from phantoms.patients import Lesion, Patient
from phantoms.writing import draw_films, stream, write_dicom, write_rows

SIDES = ("LEFT", "RIGHT")
EXTRA = 9  # more images of one patient in twenty: 13 together
Row = dict[str, Any]


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write the images and train.csv."""
    write_rows(out / "train.csv", [row for rows in run(partial(write_patient, out), plans) for row in rows])


def write_patient(out: Path, patient: Patient) -> list[Row]:
    """Draw and write the images of a patient; return her rows of train.csv."""
    rng = stream(patient, 31)
    folder = 10000 + patient.number
    ids = iter(rng.choice(2**31 - 1, 5 + EXTRA, replace=False).tolist())
    age = "" if patient.number % 20 == 7 else int(rng.integers(40, 85))
    rows = []
    for side, view, film in draw_films(patient, SIDES):
        image = cv2.resize(film.image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        takes = [(view, image)]
        if patient.number % 20 == 5:  # other takes of a view, a little to the side
            count = EXTRA - 6 if (side, view) == ("LEFT", "CC") else 2
            takes += [(view, image[3 * number :]) for number in range(1, 1 + count)]
        if patient.number % 20 == 6 and (side, view) == ("LEFT", "CC"):
            takes.append(("AT", image[5:]))
        for name, picture in takes:
            image_id = next(ids)
            target = out / f"train_images/{folder}/{image_id}.dcm"
            write_take(target, picture, patient)
            image_words = {"patient_id": folder, "image_id": image_id, "laterality": side[0], "view": name, "age": age}
            rows.append(describe(patient, film.lesions, image_words))
    return rows


def write_take(target: Path, picture: np.ndarray, patient: Patient) -> None:
    """Write one image: JPEG 2000 of 16 bits, or plain with 12 bits; every third patient's MONOCHROME1."""
    is_compressed = patient.number % 2 == 0
    bits = 16 if is_compressed else 12
    is_inverted = patient.number % 3 == 0
    write_dicom(target, picture, bits=bits, is_inverted=is_inverted, is_compressed=is_compressed)


def describe(patient: Patient, lesions: tuple[Lesion, ...], image_words: Row) -> Row:
    """Return an image's row of train.csv; `lesions` are those of its breast."""
    site = 1 + patient.number // 2 % 2
    cancer = any(lesion.malignant for lesion in lesions)
    worked_up = cancer or any(lesion.assessment >= 4 for lesion in lesions)
    recall = 0 if worked_up else 1 + patient.number % 2
    return {
        "site_id": site,
        **image_words,
        "cancer": int(cancer),
        "biopsy": int(worked_up),
        "invasive": int(cancer and patient.number % 4 > 0),
        "BIRADS": recall if site == 1 else "",
        "implant": int(patient.number % 30 == 9),
        "density": "ABCD"[patient.density - 1] if site == 1 else "",
        "machine_id": (49, 48, 29, 21)[patient.number % 4],
        "difficult_negative_case": worked_up and not cancer,
    }
