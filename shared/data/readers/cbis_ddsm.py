"""CBIS-DDSM as the JPEG repack lays it out: `csv/` with the case files, `jpeg/<series uid>/<n-NNN>.jpg`.

Source: Lee et al., Sci Data 2017;4:170177, doi 10.7937/K9/TCIA.2016.7O02S9CY (CC BY 3.0).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from shared.data import decoding
from shared.data.readers import cbis_series, common, tables
from shared.data.readers.common import Dataset
from shared.run import PATHOLOGIES, DataError, refuse_damage

NAME = "cbis-ddsm"
TASKS = ("malignant", "subtype")  # each image shows an abnormality
CASE_FILES = {
    (kind, split): f"{kind[:4]}_case_description_{split}_set.csv"
    for kind in ("mass", "calcification")
    for split in ("train", "test")
}
RENAMED = {  # the words of the case files: the manifest's
    "left_or_right_breast": "side", "image_view": "view", "assessment": "birads", "image_file_path": "full_source",
    "cropped_image_file_path": "crop_source", "roi_mask_file_path": "mask_source",
    "mass_shape": "shape", "mass_margins": "margins",
}  # fmt: skip
NEEDED = (
    "patient_id", "breast_density", "left_or_right_breast", "image_view", "abnormality_id", "abnormality_type",
    "assessment", "pathology", "subtlety", "image_file_path", "cropped_image_file_path", "roi_mask_file_path",
)  # fmt: skip
DESCRIPTORS = ("mass_shape", "mass_margins", "calc_type", "calc_distribution")  # the two kinds have two each
ROLES = {"full mammogram images": "full", "cropped images": "crop", "roi mask images": "mask"}


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """Read the case files and join them with the files on disk.

    One row per abnormality (`input="crop"`) or per mammogram (`input="full"`: malignant where any of its
    abnormalities is). `manifest.full_image_path` and `mask_path` lead to the whole mammogram and to the mask of
    the lesion in it; empty where the copy does not hold them.
    Raises DataError: no case file, a column or a pathology word that is not known, no image on disk; UsageError: a task
        this data set has no label for.
    """
    common.check_task(NAME, task, TASKS)
    cases = read_cases(data_dir)
    if not (data_dir / "jpeg").is_dir():
        raise DataError(f"{data_dir}: no folder jpeg/ beside the case files; it holds one folder a series")
    files: dict[str, list[str]] = {}
    for path in common.list_files(data_dir / "jpeg", ".jpg", ".jpeg", ".png"):
        files.setdefault(path.split("/")[0], []).append(f"jpeg/{path}")
    roles = read_roles(data_dir)

    def role(path: str) -> str:
        return roles.get("/".join(path.split("/")[-2:]), "")

    def find(row: Any) -> tuple[str, str, str]:
        uids = (row.full_source.split("/"), row.crop_source.split("/"), row.mask_source.split("/"))
        fulls, crops, masks = (files.get(parts[2], []) if len(parts) == 4 else [] for parts in uids)
        full = fulls[0] if fulls else ""
        return full, *cbis_series.tell_apart(list(dict.fromkeys(crops + masks)), role, full, data_dir)

    return build_dataset(NAME, data_dir, join_files(cases, find), task=task, input=input)


def read_cases(data_dir: Path) -> pd.DataFrame:
    """Read the case files that are there into one frame with one set of column names.

    They differ (`breast density`, `breast_density`), hold line breaks inside quoted paths, and end rows with CRLF.
    Returns words: `NEEDED` and `DESCRIPTORS` under the manifest's names, and `official_split`.
    """
    folder = data_dir / "csv" if (data_dir / "csv").is_dir() else data_dir
    frames = [
        read_case_file(folder / name).assign(abnormality_type=kind, official_split=split)
        for (kind, split), name in CASE_FILES.items()
        if (folder / name).is_file()
    ]
    if not frames:
        names = ", ".join(CASE_FILES.values())
        raise DataError(f"{data_dir}: not a CBIS-DDSM copy: none of {names} in it or in its csv/ folder")
    cases = pd.concat(frames, ignore_index=True)
    if cases.empty:
        raise DataError(f"{folder}: the case files hold no rows; fetch them again")
    return cases


def read_case_file(path: Path) -> pd.DataFrame:
    """Read one case file, its blanks and line breaks settled; raises DataError with the row that is wrong."""
    frame = tables.read_words(path, NEEDED, DESCRIPTORS).rename(columns=RENAMED)
    frame["pathology"] = frame.pathology.str.upper()
    tables.check_column(path.name, frame.pathology, PATHOLOGIES)
    tables.check_filled(path.name, frame, "patient_id")
    return frame


def read_roles(data_dir: Path) -> dict[str, str]:
    """Read `dicom_info.csv`, where there is one: {`<uid>/<file>`: full | crop | mask}, rows that say it."""
    folder = data_dir / "csv" if (data_dir / "csv").is_dir() else data_dir
    path = folder / "dicom_info.csv"
    if not path.is_file():
        return {}
    way_out = "fetch it again, or remove it: files are then told apart by their content"
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}  # rows may be longer
    with refuse_damage(f"{path.name}: cannot be read", way_out):
        info = pd.read_csv(path, usecols=["image_path", "SeriesDescription"], **options)
    roles = info.SeriesDescription.str.strip().str.lower().map(ROLES)
    keys = info.image_path.str.strip().str.split("/").str[-2:].str.join("/")
    return dict(zip(keys[roles.notna()], roles.dropna(), strict=True))


def join_files(cases: pd.DataFrame, find: Callable[[Any], tuple[str, str, str]]) -> pd.DataFrame:
    """Add `full_path`, `crop_path` and `mask_path` ("" where not on disk), as `find` gives them for a row of cases."""
    with ThreadPoolExecutor(decoding.READERS) as pool:
        found = list(pool.map(find, cases.itertuples(index=False)))
    return cases.join(pd.DataFrame(found, columns=["full_path", "crop_path", "mask_path"], index=cases.index))


def build_dataset(name: str, data_dir: Path, joined: pd.DataFrame, *, task: str, input: str) -> Dataset:
    """Make the Dataset from what `join_files` returns; shared with the DICOM form of the same data set."""
    joined = joined.assign(label=joined.pathology.map(PATHOLOGIES).astype(int))
    parts = {part: joined[f"{part}_path"] != "" for part in ("crop", "mask", "full")}
    present, absent = joined[parts[input]], joined[~(parts["crop"] & parts["mask"] & parts["full"])]
    if present.empty:
        message = f"{data_dir}: none of the {len(joined):,} rows of the case files finds its {input} image on disk"
        raise DataError(f"{message}; is the copy complete, and is INPUT (crop or full) what it holds?")
    splits = joined.groupby("patient_id").official_split.nunique()
    shared = sorted(splits.index[splits > 1])
    names = [row_name(row) for row in absent.itertuples()]
    notes = []
    if len(present) < len(joined):
        counts = f"{len(present):,} of {len(joined):,} rows of the case files"
        notes.append(f"A partial copy: {counts} have their {input} on disk; the series goes on with those.")
    if 0 < len(absent) <= 5:
        notes.append(f"Crop, mask or mammogram is missing for {', '.join(names)}.")
    if shared:
        both = f"{len(shared)} patients stand in both official splits once masses and calcifications are pooled"
        notes.append(f"{both}; their rows leave train.")
    rows = list_images(present, task, input)
    dataset = common.make_dataset(name, data_dir, rows, ("benign", "malignant"), notes=notes)
    read_mask = cbis_series.mask_reader(dataset.read_image, input) if (rows.mask_path != "").any() else None
    coverage = joined.assign(**parts).groupby(["official_split", "abnormality_type"], sort=False)
    counted = {"rows": ("label", "size"), "patients": ("patient_id", "nunique"), "malignant": ("label", "sum")}
    facts = {
        "rows_in_case_files": len(joined),
        f"rows_with_{input}_on_disk": len(present),
        "rows_without_crop_mask_or_full": len(absent),
        "first_of_these": names[:10],
        "official_shared_patients": shared,
        "official_shared_test_rois": int((joined.patient_id.isin(shared) & joined.official_split.eq("test")).sum()),
    }
    table = coverage.agg(**counted, **{part: (part, "sum") for part in parts}).reset_index()
    return replace(dataset, read_mask=read_mask, coverage=table, facts=facts)


def row_name(row: Any) -> str:
    """Return the name CBIS-DDSM gives an abnormality: `Mass-Training_P_00001_LEFT_CC_1`."""
    kind = "Mass" if row.abnormality_type == "mass" else "Calc"
    part = "Training" if row.official_split == "train" else "Test"
    return f"{kind}-{part}_{row.patient_id}_{row.side}_{row.view}_{row.abnormality_id}"


def list_images(rows: pd.DataFrame, task: str, input: str) -> pd.DataFrame:
    """Keep what the manifest needs; of mammograms, one row each: the worst abnormality's, with all masks."""
    rows = rows.assign(
        image_id=[row_name(row) for row in rows.itertuples()],
        image_path=rows[f"{input}_path"],
        full_image_path=rows.full_path,
        lesion=rows.abnormality_type + "_" + rows.abnormality_id,  # masses and calcifications are counted apart
    )
    if input == "full":
        ordered = rows.sort_values("label", ascending=False, kind="stable")
        masks = ordered.groupby("full_path").mask_path.agg(lambda paths: ";".join(path for path in paths if path))
        rows = ordered.drop_duplicates("full_path").sort_index()
        rows = rows.assign(all_masks=rows.full_path.map(masks), lesion="")
        rows["image_id"] = rows.image_id.str.rsplit("_", n=1).str[0]
    if task == "subtype":
        rows["subtype"] = [common.subtype_of(row.abnormality_type, row.pathology) for row in rows.itertuples()]
    sources = ["abnormality_id", "full_source", "crop_source", "mask_source", "full_path", "crop_path"]
    return rows.drop(columns=sources)
