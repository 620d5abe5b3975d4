"""CBIS-DDSM as the JPEG repack lays it out: `csv/` with the case files, `jpeg/<series uid>/<n-NNN>.jpg`.

Source: Lee et al., Sci Data 2017;4:170177, doi 10.7937/K9/TCIA.2016.7O02S9CY (CC BY 3.0).
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from shared.data import images
from shared.data.readers import Dataset
from shared.run import EXCLUDED, MANIFEST_COLUMNS, PATHOLOGIES, DataError, UsageError

CASE_FILES = {
    ("mass", "train"): "mass_case_description_train_set.csv",
    ("mass", "test"): "mass_case_description_test_set.csv",
    ("calcification", "train"): "calc_case_description_train_set.csv",
    ("calcification", "test"): "calc_case_description_test_set.csv",
}
COLUMNS = {
    "patient_id": "patient_id",
    "breast_density": "breast_density",
    "left_or_right_breast": "side",
    "image_view": "view",
    "abnormality_id": "abnormality_id",
    "abnormality_type": "abnormality_type",
    "assessment": "birads",
    "pathology": "pathology",
    "subtlety": "subtlety",
    "image_file_path": "full_source",
    "cropped_image_file_path": "crop_source",
    "roi_mask_file_path": "mask_source",
}
DESCRIPTORS = {
    "mass_shape": "shape",
    "mass_margins": "margins",
    "calc_type": "calc_type",
    "calc_distribution": "calc_distribution",
}
ROLES = {"full mammogram images": "full", "cropped images": "crop", "roi mask images": "mask"}
SUBTYPES = {("calcification", 0): 0, ("mass", 0): 1, ("calcification", 1): 2, ("mass", 1): 3}


def load(data_dir, *, task="malignant", input="crop"):
    """Read the case files, join them with the files on disk and return a Dataset.

    One row per abnormality (`input="crop"`) or per mammogram (`input="full"`: malignant where any of its
    abnormalities is). `manifest.full_image_path` and `mask_path` lead to the whole mammogram and to the mask of
    the lesion in it; empty where the copy does not hold them.

    Raises:
        DataError: no case file, a column or a pathology word that is not known, no image on disk.
        UsageError: a task this data set has no label for.
    """
    check_task(task)
    cases = read_cases(data_dir)
    series = list_series(data_dir)
    joined = join_files(cases, series, describe_files(data_dir), data_dir)
    return build_dataset(
        "cbis-ddsm", data_dir, joined, read_image=image_reader(data_dir), task=task, input=input
    )  # fmt: skip


def check_task(task):
    """Raise UsageError for a task that CBIS-DDSM cannot answer: each of its images shows an abnormality."""
    if task not in ("malignant", "subtype"):
        raise UsageError(f"TASK: {task!r} has no label in CBIS-DDSM, which holds abnormal images only; use malignant")


def image_reader(data_dir):
    """Return a function image_path → grey plane for files below `data_dir`."""
    return lambda path, min_side=None: images.read_grey(images.inside(data_dir, path), min_side=min_side)


# --------------------------------------------------------------- case files
def read_cases(data_dir):
    """Read the case files that are there into one frame with one set of column names.

    They differ (`breast density`, `breast_density`), hold line breaks inside quoted paths, and end rows with CRLF.

    Returns:
        DataFrame of str: the values of `COLUMNS` and `DESCRIPTORS`, `official_split`, `source_row`.
    """
    folder = data_dir / "csv" if (data_dir / "csv").is_dir() else data_dir
    frames = [
        _read_case_file(folder / name, kind, split)
        for (kind, split), name in CASE_FILES.items()
        if (folder / name).is_file()
    ]
    if not frames:
        raise DataError(
            f"{data_dir}: not a CBIS-DDSM copy: none of {', '.join(CASE_FILES.values())} in it or in its csv/ folder"
        )
    cases = pd.concat(frames, ignore_index=True)
    if cases.empty:
        raise DataError(f"{folder}: the case files hold no rows; fetch them again")
    return cases


def _read_case_file(path, kind, split):
    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path.name}: not a UTF-8 csv file ({str(error)[:80]}); fetch it again") from None
    header = [str(word).strip().lower().replace(" ", "_") for word in raw.iloc[0]]
    raw = raw.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)
    repeated = [column for column in (*COLUMNS, *DESCRIPTORS) if header.count(column) > 1]
    if repeated:
        raise DataError(f"{path.name}: the column {repeated[0]} stands there twice; keep one")
    missing = [column for column in COLUMNS if column not in raw]
    if missing:
        raise DataError(f"{path.name}: no column {', '.join(missing)}; fetch the file again")
    names = {**COLUMNS, **DESCRIPTORS}
    frame = raw.reindex(columns=list(names), fill_value="").rename(columns=names)
    frame = frame.map(lambda value: " ".join(value.split()) if isinstance(value, str) else "")
    frame["pathology"] = frame.pathology.str.upper()
    unknown = ~frame.pathology.isin(PATHOLOGIES)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{path.name}: row {row + 2}: pathology {frame.pathology[row]!r} is not one of {', '.join(PATHOLOGIES)}"
        )
    if frame.patient_id.eq("").any():
        raise DataError(f"{path.name}: row {int(np.flatnonzero(frame.patient_id.eq(''))[0]) + 2}: no patient_id")
    return frame.assign(
        abnormality_type=kind, official_split=split, source_row=[f"{path.name}:{i + 2}" for i in range(len(frame))]
    )


def series_uid(source):
    """Return the series UID, the third part of a path of the case files; "" where there is none."""
    parts = source.split("/")
    return parts[2] if len(parts) == 4 else ""


# ------------------------------------------------------------ files on disk
def list_series(data_dir):
    """List `jpeg/`: {series uid: [paths relative to data_dir]}."""
    root = data_dir / "jpeg"
    if not root.is_dir():
        raise DataError(f"{data_dir}: no folder jpeg/ beside the case files; it holds one folder a series")
    series = {}
    for folder in sorted(os.scandir(root), key=lambda entry: entry.name):
        if folder.is_dir():
            with os.scandir(folder.path) as files:
                names = sorted(file.name for file in files if file.name.lower().endswith((".jpg", ".jpeg", ".png")))
            series[folder.name] = [f"jpeg/{folder.name}/{name}" for name in names]
    return series


def describe_files(data_dir):
    """Read `dicom_info.csv`, where there is one: {`<uid>/<file>`: full | crop | mask}, rows that say it."""
    folder = data_dir / "csv" if (data_dir / "csv").is_dir() else data_dir
    path = folder / "dicom_info.csv"
    if not path.is_file():
        return {}
    try:
        info = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=["image_path", "SeriesDescription"])
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name}: cannot be read ({str(error)[:80]}); fetch it again, or remove it: files are then told "
            "apart by their content"
        ) from None
    roles = info.SeriesDescription.str.strip().str.lower().map(ROLES)
    keys = info.image_path.str.strip().str.split("/").str[-2:].str.join("/")
    return dict(zip(keys[roles.notna()], roles.dropna(), strict=True))


def join_files(cases, series, roles, data_dir):
    """Find full image, crop and mask of each row.

    Where crop and mask share a series of two files, `dicom_info.csv` says which is which; where it is silent or
    contradicts itself, their content does: a mask has the size of the full image, and two values.

    Returns:
        `cases` with `full_path`, `crop_path`, `mask_path` ("" where not on disk).
    """

    def join(row):
        full_files = series.get(series_uid(row.full_source), [])
        crop_uid, mask_uid = series_uid(row.crop_source), series_uid(row.mask_source)
        full = full_files[0] if full_files else ""
        if crop_uid == mask_uid:
            crop, mask = _tell_apart(series.get(crop_uid, []), roles, full, data_dir)
        else:
            crop, mask = _only(series.get(crop_uid, []), "crop", roles), _only(series.get(mask_uid, []), "mask", roles)
        return full, crop, mask

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(join, cases.itertuples(index=False), chunksize=64))
    return cases.assign(**dict(zip(("full_path", "crop_path", "mask_path"), zip(*found, strict=True), strict=True)))


def _role(path, roles):
    return roles.get("/".join(path.split("/")[-2:]), "")


def _only(files, role, roles):
    """Return the file of a series of its own: the one described as `role`, else the first."""
    return next((path for path in files if _role(path, roles) == role), files[0] if files else "")


def _tell_apart(files, roles, full, data_dir):
    """Return (crop, mask) of a series that holds both, or one of them."""
    if not files:
        return "", ""
    known = [_role(path, roles) for path in files]
    if len(files) == 1:
        is_mask = known[0] == "mask" if known[0] else _looks_like_mask(files[0], full, data_dir)
        return ("", files[0]) if is_mask else (files[0], "")
    if known.count("crop") == 1 and known.count("mask") <= 1:
        crop = known.index("crop")
        mask = known.index("mask") if "mask" in known else 1 - min(crop, 1)
    elif known.count("mask") == 1 and "crop" not in known:
        mask = known.index("mask")
        crop = 1 - min(mask, 1)
    else:
        mask = 0 if _looks_like_mask(files[0], full, data_dir) else 1
        crop = 1 - mask
    return files[crop], files[mask]


def _looks_like_mask(path, full, data_dir):
    """Tell a mask from a crop: it has the size of the full image, or only two values (smeared a little by JPEG)."""
    try:
        file = images.inside(data_dir, path)
        if full:
            return images.image_size(file) == images.image_size(images.inside(data_dir, full))
        plane = images.read_grey(file)
    except DataError:
        return False  # an unreadable file is named when its image is read
    return bool(((plane < 16) | (plane > 239)).mean() > 0.98 and np.ptp(plane) > 128)


# ------------------------------------------------------------------ manifest
def build_dataset(name, data_dir, joined, *, read_image, task, input):
    """Make the Dataset from joined rows; shared with the DICOM form of the same data set.

    Args:
        joined: what `join_files` returns.
        read_image: see `datasets.Dataset`.
    """
    joined = joined.assign(label=joined.pathology.map(PATHOLOGIES).astype(int))
    coverage = count_coverage(joined)
    column = f"{input}_path"
    present = joined[joined[column] != ""].copy()
    if present.empty:
        raise DataError(
            f"{data_dir}: none of the {len(joined):,} rows of the case files finds its {input} image on disk; "
            "is the copy complete, and is INPUT (crop or full) what it holds?"
        )
    absent = joined[(joined.full_path == "") | (joined.crop_path == "") | (joined.mask_path == "")]
    rows = present if input == "crop" else _one_row_per_mammogram(present)
    manifest = _as_manifest(rows, input)
    if task == "subtype":
        manifest["subtype"] = [SUBTYPES[key] for key in zip(manifest.abnormality_type, manifest.label, strict=True)]
    shared = shared_patients(joined)
    return Dataset(
        name=name,
        data_dir=data_dir,
        manifest=manifest,
        class_names=("benign", "malignant"),
        read_image=read_image,
        read_mask=_mask_reader(read_image, input) if (manifest.mask_path != "").any() else None,
        coverage=coverage,
        facts={
            "rows_in_case_files": len(joined),
            f"rows_with_{input}_on_disk": len(present),
            "rows_without_crop_mask_or_full": len(absent),
            "first_of_these": _names(absent)[:10],
            "official_shared_patients": shared,
            "official_shared_test_rois": int(
                (joined.patient_id.isin(shared) & (joined.official_split == "test")).sum()
            ),
        },
        notes=_notes(joined, present, absent, input, shared),
    )


def shared_patients(joined):
    """Return the patients that stand in both official splits of the case files, sorted."""
    splits = joined.groupby("patient_id").official_split.nunique()
    return sorted(splits.index[splits > 1])


def count_coverage(joined):
    """Count rows of the case files and the files found for them: one row per official split and type."""
    found = joined.assign(
        **{part: joined[f"{part}_path"] != "" for part in ("crop", "mask", "full")}, patients=joined.patient_id
    )
    counts = found.groupby(["official_split", "abnormality_type"], sort=False).agg(
        rows=("label", "size"),
        patients=("patients", "nunique"),
        malignant=("label", "sum"),
        crop=("crop", "sum"),
        mask=("mask", "sum"),
        full=("full", "sum"),
    )
    return counts.reset_index()


def row_name(row):
    """Return the name CBIS-DDSM gives an abnormality: `Mass-Training_P_00001_LEFT_CC_1`."""
    kind = "Mass" if row.abnormality_type == "mass" else "Calc"
    part = "Training" if row.official_split == "train" else "Test"
    return f"{kind}-{part}_{row.patient_id}_{row.side}_{row.view}_{row.abnormality_id}"


def _names(rows):
    return [row_name(row) for row in rows.itertuples(index=False)]


def _one_row_per_mammogram(rows):
    """Keep one row a mammogram: the worst abnormality's, with all masks."""
    ordered = rows.sort_values("label", ascending=False, kind="stable")
    masks = ordered.groupby("full_path").mask_path.agg(lambda paths: ";".join(path for path in paths if path))
    first = ordered.drop_duplicates("full_path").sort_index()
    return first.assign(all_masks=first.full_path.map(masks))


def _as_manifest(rows, input):
    ids = pd.Series(_names(rows), index=rows.index)
    if input == "full":
        ids = ids.str.rsplit("_", n=1).str[0]
    copies = ids.groupby(ids).cumcount()
    manifest = rows.assign(
        image_id=np.where(copies > 0, ids + "#" + (copies + 1).astype(str), ids),
        source="cbis-ddsm",
        split=np.where(copies > 0, EXCLUDED, ""),
        exclusion_reason=np.where(copies > 0, "the same abnormality stands twice in the case files", ""),
        fold=-1,
        image_path=rows[f"{input}_path"],
        full_image_path=rows.full_path,
    )
    extra = ["full_image_path"] + (["all_masks"] if input == "full" else [])
    return manifest[[*MANIFEST_COLUMNS, *extra]].reset_index(drop=True)


def _notes(joined, present, absent, input, shared):
    notes = []
    if len(present) < len(joined):
        notes.append(
            f"A partial copy: {len(present):,} of {len(joined):,} rows of the case files have their {input} on disk; "
            "the series goes on with those."
        )
    if 0 < len(absent) <= 5:
        notes.append(f"Crop, mask or mammogram is missing for {', '.join(_names(absent))}.")
    if shared:
        notes.append(
            f"{len(shared)} patients stand in both official splits once masses and calcifications are pooled; "
            "their rows leave train."
        )
    return tuple(notes)


# --------------------------------------------------------------------- masks
def _mask_reader(read_image, input):
    if input == "full":
        return lambda row: np.maximum.reduce([read_image(path) > 127 for path in row.all_masks.split(";") if path])

    def read(row):
        mask = read_image(row.mask_path) > 127
        crop = read_image(row.image_path)
        if mask.shape == crop.shape:
            return mask
        if not row.full_image_path:
            return np.zeros(crop.shape, bool)
        top, left = locate_crop(read_image(row.full_image_path), crop, mask)
        return mask[top : top + crop.shape[0], left : left + crop.shape[1]]

    return read


def locate_crop(full, crop, mask):
    """Find where `crop` was cut from `full`, near the lesion.

    Normalised cross-correlation over the places at which the crop holds the mask's centre; on large images at
    reduced size first, since the files do not say where a crop comes from.

    Args:
        full, mask: (H, W) of one size; crop: (h, w) with h ≤ H, w ≤ W.
    Returns:
        (top, left) in pixels of `full`
    """
    height, width = crop.shape
    if height > full.shape[0] or width > full.shape[1] or mask.shape != full.shape or not mask.any():
        raise DataError("a crop larger than its mammogram, or a mask of another size; fetch the files again")
    left, top, box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))
    middle_y, middle_x = top + box_height // 2, left + box_width // 2
    y0, y1 = max(0, middle_y - height), min(full.shape[0], middle_y + height)
    x0, x1 = max(0, middle_x - width), min(full.shape[1], middle_x + width)
    window, pattern = (plane.astype(np.float32) for plane in (full[y0:y1, x0:x1], crop))
    scale = max(1, min(pattern.shape) // 48)
    if window.shape[0] < height or window.shape[1] < width:
        return y0, x0
    small = [
        images.resize(plane, max(1, plane.shape[0] // scale), max(1, plane.shape[1] // scale))
        for plane in (window, pattern)
    ]
    _, _, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(*small, cv2.TM_CCOEFF_NORMED))
    return (
        y0 + min(y * scale, window.shape[0] - height),
        x0 + min(x * scale, window.shape[1] - width),
    )
