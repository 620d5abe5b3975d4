"""INbreast: 14-bit DICOM files, contours as property lists, and `INbreast.xls` with the BI-RADS category of each image.

Kept from the real set: the patient stands in the file's name alone, `ML` there is MLO in the table, one view is FB, one
ACR is blank, two rows at the table's foot are no images, single calcifications are dots, contours have many names, some
a pectoral muscle. There is no biopsy: BI-RADS 4 and above passes for positive. The reader's opinion of the phantoms is
above 3 for about half of the findings; breasts without findings are BI-RADS 1: a third of the images are positive.
"""

import plistlib
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.films import Film
from phantoms.patients import ACQUISITIONS, CALC, MM, Patient
from phantoms.writing import MAMMOGRAM, dicom_uid, draw_films, save_dicom, stream

FOLDER = "INbreast Release 1.0"
COLUMNS = ("Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads")
FIRST_FILE = 20586908
NAMES = {"SPICULATED": "Espiculated Region", "OBSCURED": "Asymmetry", "ILL_DEFINED": "Assymetry"}  # Mass else
CATEGORIES = {0: ["3"], 1: ["1"], 2: ["2"], 3: ["3"], 4: ["4a", "4b", "4c"], 5: ["5", "6"]}


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write images, contours and the table."""
    rows: list[list] = [row for rows in run(partial(write_patient, out / FOLDER), plans) for row in rows]
    rows[-1][3] = "FB"
    rows[len(rows) // 2][6] = ""
    foot = [[""] * len(COLUMNS), ["Total", "", "", "", "", "", "", f"{len(rows)} images"]]
    write_workbook(out / FOLDER / "INbreast.xls", [list(COLUMNS), *rows, *foot])


def write_patient(out: Path, patient: Patient) -> list[list]:
    """Write the images and contours of a patient and return her rows of the table; one patient in five has a breast."""
    rng = stream(patient, 14)
    number = patient.number - ACQUISITIONS[patient.acquisition].first_patient
    sides = patient.sides() if number % 5 == 4 else ("LEFT", "RIGHT")
    rows = []
    for position, (side, view, film) in enumerate(draw_films(patient, sides)):
        file = FIRST_FILE + 37 * (4 * number + position)
        name = f"{file}_{int(dicom_uid(patient).split('.')[-1]):x}"[:25]  # the patient: 16 hexadecimal digits
        attributes = {
            "SOPClassUID": MAMMOGRAM,
            "SOPInstanceUID": dicom_uid(patient, side, view),
            "BitsStored": 14,
            "PatientID": "removed",
            "PatientName": "removed",
        }
        pixels = np.round(film.image * 16383).astype(np.uint16)
        short = "ML" if view == "MLO" else view
        save_dicom(out / f"AllDICOMs/{name}_MG_{side[0]}_{short}_ANON.dcm", pixels, attributes)
        regions = list_regions(rng, film, view)
        if regions:
            write_regions(out / f"AllXML/{file}.xml", regions)
        worst = max((lesion.assessment for lesion in film.lesions), default=1)
        category = str(rng.choice(CATEGORIES[worst]))
        rows.append(["removed", "removed", side[0], view, 200801 + number % 12, file, patient.density, category])
    return rows


def list_regions(rng: Generator, film: Film, view: str) -> list[tuple[str, np.ndarray]]:
    """Return (name, contour) of what is drawn on a film: float (n, 2), x and y in px; grains are dots."""
    regions = []
    for lesion, mask in zip(film.lesions, film.masks, strict=True):
        outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        outline = max(outlines, key=cv2.contourArea)[:, 0].astype(float)
        if lesion.kind != CALC:
            regions.append((NAMES.get(lesion.margins, "Mass"), outline))
            continue
        regions.append(("Cluster", outline))
        for position, dot in enumerate(outline[rng.integers(0, len(outline), 4)]):
            points = [dot] if position % 2 == 0 else [dot, np.add(dot, (1, 0))]
            regions.append(("Calcification", np.array(points)))
    if view == "MLO" and film.lesions:
        regions.append(("Pectoral Muscle", np.array([[0.0, 0.0], [60 * MM, 0.0], [0.0, 90 * MM]])))
    return regions


def write_regions(path: Path, regions: list[tuple[str, np.ndarray]]) -> None:
    """Write contours as the property list that the data set has."""
    found = [
        {"Name": name, "NumberOfPoints": len(points), "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in points]}
        for name, points in regions
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": len(found), "ROIs": found}]}))


def write_workbook(path: Path, rows: list[list]) -> None:
    """Write rows as an .xls file of the oldest kind, BIFF2: a chain of records, each (type, length, content)."""
    parts = [struct.pack("<4H", 0x0009, 4, 7, 0x0010)]
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            if isinstance(value, int):
                parts.append(struct.pack("<4H3xd", 0x0003, 15, row, column, value))
            elif value:
                text = value.encode("ascii")
                parts.append(struct.pack("<4H3xB", 0x0004, 8 + len(text), row, column, len(text)) + text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts) + struct.pack("<2H", 0x000A, 0))
