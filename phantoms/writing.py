"""What several layouts need: drawn films and crops, image files, csv files, and the oracle's table."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.films import Film, draw_film
from phantoms.patients import MASS, TRAIN, VIEWS, Lesion, Patient

ORACLE_FILE = "oracle.csv"
UID_ROOT = "1.2.826.0.1.3680043.10.543."  # not the root of any archive of mammograms
MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"  # Digital Mammography X-Ray Image Storage - For Presentation


def stream(patient: Patient, *key: int) -> Generator:
    """Return the random stream for what a writer decides about one patient."""
    return np.random.default_rng((*patient.seed, 200, *key))


def draw_films(patient: Patient, sides: Iterable[str] = ()) -> Iterator[tuple[str, str, Film]]:
    """Yield (side, view, drawn film) of the sides with findings, or of `sides`."""
    for side in sides or patient.sides():
        for view in VIEWS:
            yield side, view, draw_film(patient, side, view)


def draw_crops(patient: Patient) -> Iterator[tuple[str, int, Lesion, np.ndarray]]:
    """Yield (`SIDE_VIEW`, number on the film, lesion, its crop as float 0 ... 1) of each finding on each film."""
    for side, view, film in draw_films(patient):
        for position, lesion in enumerate(film.lesions):
            yield f"{side}_{view}", position + 1, lesion, crop(film, position)


def crop(film: Film, position: int) -> np.ndarray:
    """Return the crop of the lesion at `position`, float 0 ... 1."""
    top, bottom, left, right = film.boxes[position]
    return film.image[top:bottom, left:right]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Turn 0 ... 1 into 0 ... 255."""
    return cv2.convertScaleAbs(image, alpha=255)


def resize_square(image: np.ndarray, side: int) -> np.ndarray:
    """Resize to (side, side) without aliasing."""
    smaller = min(image.shape) > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def write_image(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """Write an image in the format that its suffix names; OSError where the disk is full or the folder read-only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f"OpenCV could not write {path.name}")


def dicom_uid(patient: Patient, *words: object) -> str:
    """Return a DICOM UID that depends on the patient and on `words` alone; at most 64 characters."""
    text = "/".join(map(str, (*patient.seed, *words)))
    return UID_ROOT + str(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=15).digest(), "big"))


def save_dicom(path: Path, pixels: np.ndarray, attributes: Mapping[str, Any], *, is_compressed: bool = False) -> None:
    """Write a plane of uint8 or uint16 as a DICOM file, `is_compressed` as JPEG 2000 without loss.

    `attributes` are named by their DICOM keywords, SOPClassUID and SOPInstanceUID among them; what describes the pixels
    (Rows, BitsStored, …) is filled in where they are silent.
    """
    from PIL import Image
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

    bits = 8 * pixels.itemsize
    described = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PixelRepresentation": 0,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": attributes.get("BitsStored", bits) - 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Modality": "MG",
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(attributes["SOPClassUID"])
    meta.MediaStorageSOPInstanceUID = UID(attributes["SOPInstanceUID"])
    meta.TransferSyntaxUID = JPEG2000Lossless if is_compressed else ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in {**described, **attributes}.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() + b"\0" * (pixels.nbytes % 2)
    if is_compressed:
        stream_of_bytes = io.BytesIO()
        Image.fromarray(pixels).save(stream_of_bytes, "JPEG2000", no_jp2=True, irreversible=False)
        dataset.PixelData = encapsulate([stream_of_bytes.getvalue()])
        dataset["PixelData"].is_undefined_length = True
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_dicom(
    path: Path, image: np.ndarray, *, bits: int, is_inverted: bool = False, is_compressed: bool = False
) -> None:
    """Write a float image 0 ... 1 as a DICOM file of `bits` bits in 16.

    `is_inverted` stores it as MONOCHROME1, `is_compressed` as JPEG 2000 without loss, which takes `bits` = 16.
    """
    pixels = np.round(np.clip(image, 0, 1) * (2**bits - 1)).astype(np.uint16)
    digest = hashlib.blake2b("/".join(path.parts[-2:]).encode(), digest_size=15).digest()
    attributes = {
        "SOPClassUID": MAMMOGRAM,
        "SOPInstanceUID": UID_ROOT + str(int.from_bytes(digest, "big")),
        "BitsStored": bits,
        "PhotometricInterpretation": "MONOCHROME1" if is_inverted else "MONOCHROME2",
        "WindowCenter": 2 ** (bits - 1),
        "WindowWidth": 2**bits,
    }
    save_dicom(path, 2**bits - 1 - pixels if is_inverted else pixels, attributes, is_compressed=is_compressed)


def write_rows(path: Path, rows: Sequence[dict[str, Any]], *, line_end: str = "\n") -> None:
    """Write dicts as csv in UTF-8; `line_end` ends rows, line breaks inside fields stay as they are."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())


def image_id(patient: Patient, lesion: Lesion, view: str) -> str:
    """Return the name of a lesion's image as CBIS-DDSM has it: Mass-Training_P_00001_LEFT_CC_1."""
    kind = "Mass" if lesion.kind == MASS else "Calc"
    official = "Training" if patient.split[lesion.kind] == TRAIN else "Test"
    return f"{kind}-{official}_{patient.patient_id}_{lesion.side}_{view}_{lesion.number}"


def oracle_rows(plans: Iterable[Patient]) -> list[dict[str, Any]]:
    """Return what each lesion image was drawn from, one dict a row of the oracle's table."""
    return [
        {
            "image_id": image_id(patient, lesion, view),
            "patient_id": patient.patient_id,
            "official_split": patient.split[lesion.kind],
            "label": int(lesion.malignant),
            "oracle_score": round(lesion.oracle_score, 6),
            "abnormality_type": lesion.kind,
            "shape_or_type": lesion.shape,
            "margins_or_distribution": lesion.margins,
            "diameter_px": round(lesion.diameter, 2),
            "contrast": round(lesion.contrast, 4),
            "softness": round(lesion.edge, 4),
            "breast_density": patient.density,
        }
        for patient in plans
        for lesion in patient.lesions
        for view in VIEWS
    ]


def load_tensorflow() -> Any:
    """Import TensorFlow without the notices that its native code prints while it loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    return tensorflow
