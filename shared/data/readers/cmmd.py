"""CMMD, the Chinese Mammography Database, as The Cancer Imaging Archive gives it.

On disk, at any depth below the data directory: `CMMD_clinicaldata_revision.xlsx`, one row a breast, and one folder a
patient, `D1-0001/<date>/<series>/1-1.dcm`, 8 bit. Side and view stand in the DICOM headers alone. The label is a
breast's and comes from biopsy. Most patients have images of the other breast too, which has no row: those are excluded.

Source: Cui et al. 2021, doi 10.7937/tcia.eqde-4b16 (CC BY 4.0).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shared.data import decoding
from shared.data.readers import common, tables
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "cmmd"
TASKS = ("malignant", "subtype")
TABLES = ("cmmd_clinicaldata_revision.xlsx", "cmmd_clinicaldata_revision.csv")
NEEDED = ("id1", "leftright", "abnormality", "classification")  # the molecular subtype is known for cancers alone
VIEWS = {"399162004": "CC", "399368009": "MLO", "R-10242": "CC", "R-10226": "MLO"}  # SNOMED CT; its older codes
TYPES = {"mass": "mass", "calcification": "calcification"}  # `both`: ""
TAGS = ["ImageLaterality", "ViewCodeSequence"]
NO_LABEL = "the table has no label for this breast (the other one was biopsied)"


def load(data_dir: Path, *, task: str = "malignant", input: str = "full") -> Dataset:
    """Read the workbook and the headers of all DICOM files, and join them by patient and side: one row an image.

    Raises DataError: no workbook, one that cannot be read, or no DICOM file; UsageError: a task without labels, or
        `input="crop"`, as no lesion is marked.
    """
    common.check_task(NAME, task, TASKS)
    found = common.list_files(data_dir, *TABLES)
    if not found:
        raise DataError(f"{data_dir}: no CMMD_clinicaldata_revision.xlsx; it comes beside the images")
    breasts = read_breasts(data_dir / found[0])
    files = common.list_files(data_dir, ".dcm")
    if not files:
        raise DataError(f"{data_dir}: no *.dcm; expected CMMD/D1-0001/<date>/<series>/1-1.dcm")
    common.check_input(NAME, input)
    rows = list_images(data_dir, files, breasts, task)
    both = breasts.groupby("patient_id").label.nunique()
    on_disk = pd.MultiIndex.from_frame(rows[["patient_id", "side"]])
    missing = (~pd.MultiIndex.from_frame(breasts[["patient_id", "side"]]).isin(on_disk)).sum()
    facts = {
        "breasts_in_table": len(breasts),
        "patients_in_table": len(both),
        "images_on_disk": len(rows),
        "patients_with_a_benign_and_a_malignant_breast": int((both > 1).sum()),
        "images_of_breasts_without_label": int((rows.exclusion_reason == NO_LABEL).sum()),
        "breasts_without_image": int(missing),
    }
    notes = ["The label is a breast's, benign or malignant by biopsy; each view of the breast carries it."]
    if facts["images_of_breasts_without_label"]:
        notes.append(f"{facts['images_of_breasts_without_label']} images show a breast without a label: excluded.")
    if missing:
        notes.append(f"A partial copy: {missing:,} of {len(breasts):,} breasts of the table have no image on disk.")
    dataset = common.make_dataset(NAME, data_dir, rows, ("benign", "malignant"), notes=notes)
    return replace(dataset, facts=facts)


def read_breasts(path: Path) -> pd.DataFrame:
    """Read the workbook: patient_id, side, pathology, label, abnormality_type, one row a breast.

    Where a breast stands there twice it is malignant if either row is.
    """
    table = tables.read_words(path, NEEDED)
    for column, known in (("leftright", ("L", "R")), ("classification", ("BENIGN", "MALIGNANT"))):
        table[column] = table[column].str.upper()
        tables.check_column(path.name, table[column], known)
    breasts = pd.DataFrame(
        {
            "patient_id": table.id1.str.upper(),
            "side": table.leftright.map(tables.SIDES),
            "pathology": table.classification,
            "label": (table.classification == "MALIGNANT").astype(int),
            "abnormality_type": table.abnormality.str.lower().map(TYPES).fillna(""),
        }
    )
    return breasts.sort_values("label", ascending=False, kind="stable").drop_duplicates(["patient_id", "side"])


def read_header(path: Path) -> tuple[str, str, str]:
    """Return (side, view, problem) of a DICOM file, "" where its header is silent."""
    try:
        header = decoding.open_dicom(path, stop_before_pixels=True, specific_tags=TAGS)
        codes = header.get("ViewCodeSequence") or [{}]
        side = tables.SIDES.get(str(header.get("ImageLaterality", "")), "")
        return side, VIEWS.get(str(codes[0].get("CodeValue", "")), ""), ""
    except DataError as error:
        return "", "", str(error)


def list_images(data_dir: Path, files: list[str], breasts: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return one manifest row a file, with the reason that rules it out."""
    with ThreadPoolExecutor(decoding.READERS) as pool:
        headers = list(pool.map(read_header, [data_dir / path for path in files]))
    rows = pd.DataFrame(headers, columns=["side", "view", "problem"])
    rows["image_path"] = files
    rows["patient_id"] = rows.image_path.str.extract(r"(?:^|/)(D[12]-\d+)/", expand=False).str.upper()
    rows = rows.merge(breasts, on=["patient_id", "side"], how="left", sort=False)
    pairs = zip(rows.abnormality_type, rows.pathology.fillna(""), strict=True)
    rows["subtype"] = [common.subtype_of(*pair) for pair in pairs]
    reasons = {
        "its folder names no patient (D1-0001)": rows.patient_id.isna(),
        "its header names no side": (rows.side == "") & (rows.problem == ""),
        NO_LABEL: rows.label.isna() & (rows.problem == ""),
        "neither mass nor calcification, or both": (rows.subtype < 0) & (task == "subtype"),
    }
    reason = np.select(list(reasons.values()), list(reasons), "")
    rows["exclusion_reason"] = rows.problem.where(rows.problem != "", reason)
    rows["label"] = rows.label.fillna(0)
    rows["patient_id"] = rows.patient_id.fillna(rows.image_path.str.removesuffix(".dcm"))
    rows["image_id"] = (rows.patient_id + "_" + rows.side + "_" + rows["view"]).str.strip("_")
    number = rows.groupby("image_id").cumcount()
    rows["image_id"] += np.where(number > 0, "_" + (number + 1).astype(str), "")
    return rows.drop(columns="problem")
