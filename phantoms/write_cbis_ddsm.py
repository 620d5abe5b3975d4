"""CBIS-DDSM, as the JPEG repack (csv/, jpeg/<series uid>/) and as the archive's DICOM tree (csv/, CBIS-DDSM/).

Kept from the real set: case files with line breaks inside path fields, a full image for each kind of finding, crop and
mask that only their content or size tells apart, masks in series of their own, poor rows of dicom_info.csv, one series
that is missing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from phantoms import writing
from phantoms.films import Film
from phantoms.patients import CALC, MASS, TABLES, TEST, TRAIN, VIEWS, Lesion, Patient
from phantoms.writing import crop, draw_films, image_id, stream, to_uint8, write_image, write_rows

DICOM_COLUMNS = tuple(TABLES["files"]["dicom_info"])
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
FULL, CROP, ROI = "full mammogram images", "cropped images", "ROI mask images"
CASE_FILES = {
    (kind, split): f"{kind[:4]}_case_description_{split}_set.csv" for kind in (MASS, CALC) for split in (TRAIN, TEST)
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One image and how it is filed."""

    patient: Patient
    side: str
    view: str
    role: str  # FULL, CROP or ROI
    image: np.ndarray  # float32 (h, w), 0 ... 1
    folder: str  # of the archive: Mass-Training_P_00001_LEFT_CC, with the number of the lesion for crop and mask
    series: tuple[str, ...]  # what tells its series from others of the patient
    number: int = 0  # the file's within the series, as the archive counts
    first: bool = True  # its name in the repack begins with 1, not with 2

    def uid(self, *key: str) -> str:
        """Return a DICOM UID that depends on the patient, the series and `key` alone; at most 64 characters."""
        return writing.dicom_uid(self.patient, key[0], *self.series, *key[1:])

    @property
    def path(self) -> str:
        """The path that stands in the case file."""
        return f"{self.folder}/{self.uid('study')}/{self.uid('series')}/{self.number:06d}.dcm"

    def attributes(self) -> Row:
        """Return the DICOM attributes that both layouts hold."""
        bits = 8 if self.role == ROI else 16
        return {
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": 0,
            "SamplesPerPixel": 1,
            "Rows": self.image.shape[0],
            "Columns": self.image.shape[1],
            "PhotometricInterpretation": "MONOCHROME2",
            "Modality": "MG",
            "BodyPartExamined": "BREAST",
            "Laterality": self.side[0],
            "PatientOrientation": self.view,
            "PatientID": self.folder,
            "PatientName": self.folder,
            "StudyInstanceUID": self.uid("study"),
            "SeriesInstanceUID": self.uid("series"),
            "SeriesNumber": 1,
            "SeriesDescription": self.role,
            "SOPClassUID": SECONDARY_CAPTURE,
            "SOPInstanceUID": self.uid("image", self.role),
        }


def write_jpegs(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write the JPEG repack."""
    results = run(partial(write_patient, write=partial(write_jpeg, out)), plans)
    rows = [row for rows, _ in results for row in rows]
    files = [file for _, files in results for file in files]
    write_case_files(out, rows)
    calcs = [row for row in rows if (row["abnormality type"], row["split"]) == (CALC, TRAIN)]
    if len(calcs) >= 20:  # the repack lacks one series: crop and mask of a calc row of train, a second abnormality
        row = next((row for row in calcs if row["abnormality id"] > 1), calcs[0])
        missing = row["cropped image file path"].split("/")[2]
        shutil.rmtree(out / "jpeg" / missing)
        files = [file for file in files if file["SeriesInstanceUID"] != missing]
    write_rows(out / "csv/dicom_info.csv", files)


def write_dicoms(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write the archive's DICOM tree."""
    results = run(partial(write_patient, write=partial(write_dicom, out)), plans)
    write_case_files(out, [row for rows, _ in results for row in rows])


def write_case_files(out: Path, rows: list[Row]) -> None:
    """Write the four tables of findings; `split` tells the table and is no column of it."""
    for (kind, split), name in CASE_FILES.items():
        chosen = [row for row in rows if (row["abnormality type"], row["split"]) == (kind, split)]
        if chosen:
            table = [{key: value for key, value in row.items() if key != "split"} for row in chosen]
            write_rows(out / "csv" / name, table, line_end="\r\n")


def write_patient(patient: Patient, *, write: Callable[[Picture, Generator], Row]) -> tuple[list[Row], list[Row]]:
    """Draw one patient and write her images; return rows of the case files, and what `write` returned."""
    rows, files = [], []
    for side, view, film in draw_films(patient):
        for kind in (MASS, CALC):
            positions = [position for position, lesion in enumerate(film.lesions) if lesion.kind == kind]
            if not positions:  # each kind has its own copy of the full image, as in CBIS-DDSM
                continue
            rng = stream(patient, side == "RIGHT", VIEWS.index(view), kind == CALC)
            folder = image_id(patient, film.lesions[positions[0]], view).rsplit("_", 1)[0]
            full = Picture(patient, side, view, FULL, film.image, folder, (folder,))
            files.append(write(full, rng))
            for position in positions:
                lesion_crop, mask = file_lesion(rng, full, film, position)
                files += [write(lesion_crop, rng), write(mask, rng)]
                rows.append(case_row(film.lesions[position], full, lesion_crop, mask))
    return rows, files


def file_lesion(rng: Generator, full: Picture, film: Film, position: int) -> tuple[Picture, Picture]:
    """Decide where crop and mask of a lesion are filed."""
    lesion = film.lesions[position]
    folder = f"{full.folder}_{lesion.number}"
    # mass: crop 000000, mask 000001; calc the other way round; some rows give each a series of its own
    own_series = rng.random() < 0.03 and lesion.kind == MASS
    mask_first = rng.random() < 0.5  # the names 1-NNN and 2-NNN do not tell crop from mask
    number = 0 if lesion.kind == MASS or own_series else 1
    mask = film.masks[position].astype(np.float32)
    base = replace(full, folder=folder, series=(folder,), number=number, first=own_series or not mask_first)
    mask_series, mask_number = ((folder, "mask"), 0) if own_series else ((folder,), 1 - number)
    return (
        replace(base, role=CROP, image=crop(film, position)),
        replace(base, role=ROI, image=mask, series=mask_series, number=mask_number, first=own_series or mask_first),
    )


def case_row(lesion: Lesion, full: Picture, lesion_crop: Picture, mask: Picture) -> Row:
    """Return one row of a case file, with its line breaks inside the path fields, and the split that names the file."""
    mass = lesion.kind == MASS
    shape, margins = ("mass shape", "mass margins") if mass else ("calc type", "calc distribution")
    words = {shape: lesion.shape_words, margins: lesion.margins_words}
    if mass and (lesion.shape, lesion.margins) == ("IRREGULAR", "SPICULATED") and lesion.subtlety > 3:
        words[shape] = "IRREGULAR-ARCHITECTURAL_DISTORTION"
    if not mass and not words[margins]:
        words[margins] = "N/A"
    return {
        "split": full.patient.split[lesion.kind],
        "patient_id": full.patient.patient_id,
        "breast_density" if mass else "breast density": full.patient.density,
        "left or right breast": lesion.side,
        "image view": full.view,
        "abnormality id": lesion.number,
        "abnormality type": lesion.kind,
        **words,
        "assessment": lesion.assessment,
        "pathology": lesion.pathology,
        "subtlety": lesion.subtlety,
        "image file path": full.path,
        "cropped image file path": lesion_crop.path + ("" if mass else "\n"),
        "ROI mask file path": mask.path + ("\n" if mass else ""),
    }


def write_jpeg(out: Path, picture: Picture, rng: Generator) -> Row:
    """Write one image of the repack and return its row of dicom_info.csv, which says little in some rows."""
    name = f"{picture.uid('series')}/{1 if picture.first else 2}-{int(rng.integers(1, 300)):03d}"
    pixels = to_uint8(picture.image)
    write_image(out / f"jpeg/{name}.jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    scale = 1 if picture.role == ROI else 257  # 16 bits before
    row = (
        dict.fromkeys(DICOM_COLUMNS, "")
        | picture.attributes()
        | {
            "file_path": f"CBIS-DDSM/dicom/{name}.dcm",
            "image_path": f"CBIS-DDSM/jpeg/{name}.jpg",
            "SmallestImagePixelValue": int(pixels.min()) * scale,
            "LargestImagePixelValue": int(pixels.max()) * scale,
            "ConversionType": "WSD",
            "InstanceNumber": 1,
            "SpecificCharacterSet": "ISO_IR 100",
            "StudyID": "DDSM",
        }
    )
    if picture.role != FULL and rng.random() < 0.05:
        patient = picture.patient.patient_id
        row |= {
            "SeriesDescription": "",
            "Laterality": "",
            "BodyPartExamined": f"{picture.side.title()} Breast",
            "PatientID": f"{picture.folder.split('_', 1)[1]}.dcm",
            "PatientName": f"{patient}^{patient}",
        }
    return row


def write_dicom(out: Path, picture: Picture, rng: Generator) -> Row:
    """Write one image of the archive's tree; some full images are MONOCHROME1. Needs no row in a table: returns {}."""
    deep, inverted = picture.role != ROI, picture.role == FULL and rng.random() < 0.3
    pixels = np.round(picture.image * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    if inverted:
        pixels = 65535 - pixels
    attributes = picture.attributes() | {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
    if picture.role == FULL:
        attributes |= {"WindowCenter": 32768, "WindowWidth": 65536}
    writing.save_dicom(out / "CBIS-DDSM" / picture.path, pixels, attributes)
    return {}
