"""INbreast: DICOM mammograms, contours as property lists, and one table.

On disk, at any depth: `INbreast.xls` (or the csv form, with `;`), the images as
`AllDICOMs/<file>_<patient>_MG_<side>_<view>_ANON.dcm`, and `AllXML/<file>.xml`. The
table reads `removed` where the patient should stand: the patient is the second token of the image's name. The
table's view counts; the names write `ML` for MLO.

There is no biopsy. The label is the BI-RADS category that radiologists gave the image, 4 and above being positive, so
it is no descriptor either. Source: Moreira et al. 2012, doi 10.1016/j.acra.2011.09.014 (on request, for research).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.data import decoding
from shared.data.readers import common, inbreast_contours, tables
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "inbreast"
TASKS = ("malignant",)
NEEDED = ("laterality", "view", "file_name", "acr", "bi-rads")
VIEWS = ("CC", "MLO")


def load(data_dir: Path, *, task: str = "malignant", input: str = "full") -> Dataset:
    """Read the table and the contours: one row an image (`input="full"`) or a lesion (`input="crop"`).

    A lesion is a contour, or several close together; its crop is a square 1.5 times its box, never below
    18 mm, and its path ends in `#lesion=x,y,side`. An image without a contour has no crop and is excluded.
    Raises DataError: no table, one that cannot be read, or no image; UsageError: a task without labels.
    """
    common.check_task(NAME, task, TASKS)
    found = common.list_files(data_dir, "inbreast.xls", "inbreast.xlsx") or common.list_files(data_dir, "inbreast.csv")
    if not found:
        raise DataError(f"{data_dir}: no INbreast.xls and no INbreast.csv; it lies beside AllDICOMs/ and AllXML/")
    table = tables.read_words(data_dir / found[0], NEEDED, separator=";")
    images = {Path(path).stem.split("_")[0]: path for path in common.list_files(data_dir, ".dcm")}
    if not images:
        raise DataError(f"{data_dir}: no *.dcm; expected AllDICOMs/<file>_<patient>_MG_R_CC_ANON.dcm")
    is_image = table.file_name.str.fullmatch(r"\d+")
    rows = list_images(table[is_image], images)
    contours = {Path(path).stem: path for path in common.list_files(data_dir, ".xml")}
    rows = add_contours(data_dir, rows, contours, input)
    notes = ["No biopsy: BI-RADS 4 to 6, as radiologists read the image, passes for malignant, 1 to 3 for benign."]
    if not is_image.all():
        notes.append(f"{(~is_image).sum()} rows of the table, e.g. at its foot, name no image: left out.")
    other = table[is_image & ~table["view"].isin(VIEWS)]
    if len(other):
        names = ", ".join(f"{row[0]} ({row[1]})" for row in other[["file_name", "view"]].head().itertuples(index=False))
        notes.append(f"Neither CC nor MLO, so that the view is left empty: {names}.")
    if input == "crop":
        notes.append("A crop has the label of its whole image; which lesions of two views are one is not known.")
    dataset = common.make_dataset(NAME, data_dir, rows, ("BI-RADS 1-3", "BI-RADS 4-6"), notes=notes)
    return replace(
        dataset,
        read_image=lambda image_path, min_side=None: read_crop(data_dir, image_path),
        read_mask=partial(draw_mask, data_dir),
        facts={"rows_in_table": int(is_image.sum()), "other_rows_of_table": int((~is_image).sum())},
    )


def list_images(table: pd.DataFrame, images: dict[str, str]) -> pd.DataFrame:
    """Return one manifest row an image of the table, with the reason that rules it out."""
    file, category = table.file_name, table["bi-rads"].str.lower()
    path = file.map(images)
    stem = path.fillna("").map(lambda path: Path(path).stem)
    patient = stem.str.split("_").str[1].fillna("")
    readable = category.str.fullmatch("[1-6][abc]?")
    reasons = {
        "no image of this number in AllDICOMs": path.isna(),
        "its name does not tell the patient (<file>_<patient>_MG_…)": patient == "",
        "its Bi-Rads is none of 1 to 6": ~readable,
    }
    return pd.DataFrame(
        {
            "image_id": file,
            "file": file,
            "patient_id": patient.where(patient != "", file),
            "side": table.laterality.str.upper().map(tables.SIDES),
            "view": table["view"].where(table["view"].isin(VIEWS), ""),
            "pathology": "BI-RADS " + category,
            "label": (readable & (category >= "4")).astype(int),
            "image_path": path.fillna(file + ".dcm"),
            "breast_density": table.acr,
            "exclusion_reason": np.select(list(reasons.values()), list(reasons), ""),
        }
    ).reset_index(drop=True)


def add_contours(data_dir: Path, rows: pd.DataFrame, paths: dict[str, str], input: str) -> pd.DataFrame:
    """Add `mask_path` and `abnormality_type`; with `input="crop"` turn each image into one row a lesion."""
    rows["mask_path"] = rows.file.map(paths).fillna("")

    def read(path: str) -> tuple[inbreast_contours.Contours, str]:
        try:
            return (inbreast_contours.read(data_dir / path) if path else []), ""
        except DataError as error:  # the image stays; its mask, or its crop, is what cannot be had
            return [], str(error)

    with ThreadPoolExecutor(decoding.READERS) as pool:
        found = list(pool.map(read, rows.mask_path))
    lists = []
    for row, (contours, problem) in zip(rows.to_dict("records"), found, strict=True):
        row["mask_path"] = row["mask_path"] if contours or problem else ""
        if input == "full":
            lists.append(row | {"abnormality_type": inbreast_contours.kind_of(contours)})
            continue
        squares = inbreast_contours.find_lesions(contours)
        for number, (lesion, square) in enumerate(squares, 1):
            lists.append(
                row
                | {
                    "image_id": f"{row['file']}_{number}",
                    "lesion": f"{row['view']}_{number}".strip("_"),
                    "abnormality_type": inbreast_contours.kind_of(lesion),
                    "image_path": f"{row['image_path']}#lesion={square}",
                }
            )
        if not squares:
            reason = row["exclusion_reason"] or problem or "no contour that encloses anything: no crop"
            lists.append(row | {"exclusion_reason": reason})
    return pd.DataFrame(lists).drop(columns="file")


def read_crop(data_dir: Path, image_path: str) -> np.ndarray:
    """Read an image, or the square that `#lesion=x,y,side` after its path asks for."""
    file, place = split_place(image_path)
    image = decoding.read_grey(decoding.inside(data_dir, file))
    return np.ascontiguousarray(image[common.square_at(image.shape, *place, file)]) if place else image


def draw_mask(data_dir: Path, row: Any) -> np.ndarray:
    """Draw all contours in the frame of the row's image: uint8 of 0 and 1."""
    file, place = split_place(row.image_path)
    _, height, width = decoding.read_header(decoding.inside(data_dir, file))
    mask = inbreast_contours.draw(inbreast_contours.read(decoding.inside(data_dir, row.mask_path)), height, width)
    return mask[common.square_at(mask.shape, *place, file)] if place else mask


def split_place(image_path: str) -> tuple[str, tuple[int, int, int] | None]:
    """Split `file#lesion=x,y,side` into the file and (row, column, side) in pixels; None where it asks for no crop."""
    file, _, place = image_path.partition("#lesion=")
    if not place:
        return file, None
    column, row, side = map(int, place.split(","))
    return file, (row, column, side)
