"""CMMD: an 8-bit DICOM tree of both breasts, and a workbook that gives the biopsied breast its label.

Kept from the real set: side and view stand in the headers alone, most patients have images of the other breast, which
has no row in the workbook, some have two rows, a malignant and a benign breast among them, the molecular subtype is
known for cancers alone. Of the breasts with a row 40 to 50 % are malignant (70 % in the real set), so that few patients
still have both classes in each part of a split.
"""

import io
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from phantoms.patients import ACQUISITIONS, Patient
from phantoms.writing import MAMMOGRAM, dicom_uid, draw_films, save_dicom, stream, to_uint8

TABLE = "CMMD_clinicaldata_revision.xlsx"
COLUMNS = ("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")
SUBTYPES = ("Luminal A", "Luminal B", "HER2-enriched", "triple negative")
VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}  # SNOMED CT


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write the DICOM tree and the workbook."""
    rows = [row for rows in run(partial(write_patient, out), plans) for row in rows]
    write_workbook(out / TABLE, [list(COLUMNS), *([row[column] for column in COLUMNS] for row in rows)])


def write_patient(out: Path, patient: Patient) -> list[dict[str, Any]]:
    """Write the images of a patient and return her rows of the workbook, one a breast with findings."""
    rng = stream(patient, 13)
    number = patient.number - ACQUISITIONS[patient.acquisition].first_patient + 1
    name = f"D1-{number:04d}" if number % 3 else f"D2-{number:04d}"  # two rounds of collection
    both = len(patient.sides()) == 2 or rng.random() < 0.8
    films = list(draw_films(patient, ("LEFT", "RIGHT") if both else patient.sides()))
    folder = out / f"CMMD/{name}/07-18-2010-NA-NA-{dicom_uid(patient)[-5:]}/1.000000-NA-{dicom_uid(patient, 1)[-5:]}"
    for position, (side, view, film) in enumerate(films, 1):
        attributes = describe(patient, name, side, view) | {"InstanceNumber": position}
        save_dicom(folder / f"1-{position}.dcm", to_uint8(film.image), attributes)
    rows = []
    age = int(rng.integers(25, 80))
    for side in patient.sides():
        lesions = [lesion for lesion in patient.lesions if lesion.side == side]
        kinds, malignant = {lesion.kind for lesion in lesions}, any(lesion.malignant for lesion in lesions)
        subtype = str(rng.choice(SUBTYPES)) if malignant and name.startswith("D2") else None
        rows.append(
            {
                "ID1": name,
                "LeftRight": side[0],
                "Age": age,
                "number": 2,
                "abnormality": "both" if len(kinds) == 2 else min(kinds),
                "classification": "Malignant" if malignant else "Benign",
                "subtype": subtype,
            }
        )
    if both and len(rows) == 1 and rows[0]["classification"] == "Malignant" and number % 4 == 0:
        other = "R" if rows[0]["LeftRight"] == "L" else "L"  # nothing is drawn there: a biopsy that found nothing
        rows.append(rows[0] | {"LeftRight": other, "classification": "Benign", "subtype": None})
    return rows


def describe(patient: Patient, name: str, side: str, view: str) -> dict[str, Any]:
    """Return the DICOM attributes of one image."""
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodeMeaning = VIEW_CODES[view]
    code.CodingSchemeDesignator = "SCT"
    return {
        "SOPClassUID": MAMMOGRAM,
        "SOPInstanceUID": dicom_uid(patient, side, view),
        "StudyInstanceUID": dicom_uid(patient),
        "SeriesInstanceUID": dicom_uid(patient, 1),
        "PatientID": name,
        "PatientName": name,
        "ImageLaterality": side[0],
        "ViewCodeSequence": [code],
        "WindowCenter": 128,
        "WindowWidth": 256,
    }


def write_workbook(path: Path, rows: list[list]) -> None:
    """Write rows as an .xlsx file that is the same whenever it is written: openpyxl puts the time into it."""
    from openpyxl import Workbook

    book, first = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(first) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2020-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
