"""Reader of VinDr-Mammo: two tables, and `images/<study_id>/<image_id>.dicom`, or a copy of it as PNG files.

`breast-level_annotations.csv` has a row an image, `finding_annotations.csv` one a finding, with its box in pixels of
the DICOM image, whose size both tables give. There is no patient id: a study, four views, is taken for a patient.
Source: Nguyen et al., Sci Data 2023;10:277; a restricted licence, so no image of it is shipped.

No biopsy was done: the label is the BI-RADS category that radiologists gave to the same images. It is no descriptor
here, therefore, and positive means 4 or 5, as referral for biopsy does, or 5 alone with the task `birads-5`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shared.data.readers import boxes, common, tables
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "vindr-mammo"
POSITIVE_FROM = {"malignant": 4, "birads-5": 5}  # task: the lowest BI-RADS category that is positive
BREASTS = "breast-level_annotations.csv"
FINDINGS = "finding_annotations.csv"
SPLITS = {"training": "train", "test": "test"}
CATEGORIES = tuple(f"BI-RADS {number}" for number in range(1, 6))
SIZE = ("width", "height")
NEEDED = ("study_id", "image_id", "laterality", "view_position", *SIZE, "breast_birads", "breast_density", "split")
SIDES = ["xmin", "ymin", "xmax", "ymax"]  # of a box


def load(data_dir: Path, *, task: str = "malignant", input: str = "full") -> Dataset:
    """List mammograms (`input="full"`, labelled by breast) or findings with a box (`input="crop"`, by finding).

    No image is opened. Masks are boxes; without `finding_annotations.csv` there are no masks and no crops. For the
    paths of crops see `boxes`.
    Raises DataError: no table, a column or a value in it that is not known, no image on disk; UsageError: a task
        without labels.
    """
    common.check_task(NAME, task, tuple(POSITIVE_FROM))
    table = read_table(data_dir / BREASTS)
    notes: list[str] = []
    present = tables.join_images(table, BREASTS, "study_id", data_dir, notes)
    facts = {"rows_in_table": len(table), "studies_in_table": table.study_id.nunique()}
    findings = None
    if input == "crop" or (data_dir / FINDINGS).is_file():
        findings, counts = read_findings(data_dir / FINDINGS)
        facts |= counts
        findings = findings.merge(present[["study_id", "image_id", "image_path"]])
    lowest = POSITIVE_FROM[task]
    notes += [
        f"No biopsy: positive is BI-RADS {lowest} or more, read by radiologists from the same images.",
        "BI-RADS is the label here, so it is no descriptor and no baseline.",
        "No patient id: a study is taken for a patient.",
    ]
    if input == "crop":
        notes.append("Findings are numbered in each view: which are the same lesion in CC and MLO is not known.")
        rows = list_crops(findings, lowest)
    else:
        rows = list_mammograms(present, findings, lowest)
    names = (f"BI-RADS below {lowest}", f"BI-RADS {lowest} or more" if lowest < 5 else "BI-RADS 5")
    dataset = common.make_dataset(NAME, data_dir, rows, names, notes=notes)
    return replace(
        dataset,
        facts=facts,
        read_image=lambda image_path, min_side=None: boxes.read_crop(data_dir, image_path, min_side=min_side),
        read_mask=None if findings is None else lambda row: boxes.draw_mask(data_dir, row),
    )


def read_table(path: Path, more: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read `NEEDED` and `more` of one of the two tables as words, checked."""
    if not path.is_file():
        raise DataError(f"{path.parent}: no {path.name}; expected it beside images/<study_id>/<image_id>.dicom")
    table = tables.read_words(path, NEEDED + more)
    for column, allowed in {"laterality": tables.SIDES, "breast_birads": CATEGORIES, "split": SPLITS}.items():
        tables.check_column(path.name, table[column], allowed)
    tables.check_filled(path.name, table, "study_id", "image_id")
    return table


def read_findings(path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read the findings and clip their boxes to the image.

    Returns the rows with a finding, with `finding` (its categories), `size` and `box` (words, "" where the box has no
    area in the image), and the counts for the audit.
    """
    table = read_table(path, ("finding_categories", "finding_birads", *SIDES))
    categories = table.finding_categories.str.findall("'([^']+)'").str.join("; ")  # "['Mass', 'Skin Retraction']"
    findings = table.assign(finding=categories)[categories != "No Finding"].reset_index(drop=True)
    corners = findings[SIDES].apply(pd.to_numeric, errors="coerce")
    sizes = findings[[*SIZE]].apply(pd.to_numeric, errors="coerce")
    sizes = sizes.where((sizes >= 1) & (sizes <= 100_000), 0).astype(int)
    inside = np.clip(corners, 0, sizes[[*SIZE, *SIZE]].to_numpy())
    clipped = (corners.notna() & (corners != inside)).any(axis=1)
    edges = pd.concat([np.floor(inside[SIDES[:2]]), np.ceil(inside[SIDES[2:]])], axis=1).fillna(0).astype(int)
    has_area = (edges.xmax > edges.xmin) & (edges.ymax > edges.ymin)
    findings["box"] = edges.astype(str).agg(",".join, axis=1).where(has_area, "")
    findings["size"] = sizes.width.astype(str) + "x" + sizes.height.astype(str)
    counts = {
        "rows_in_finding_table": len(table),
        "rows_without_finding": len(table) - len(findings),
        "boxes": int(corners.notna().all(axis=1).sum()),
        "boxes_clipped_to_the_image": int(clipped.sum()),
    }
    return findings, counts


def name_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest columns that mammograms and crops have in common."""
    side = table.laterality.map(tables.SIDES)
    rows = pd.DataFrame({"patient_id": table.study_id, "side": side, "view": table.view_position})
    rows["image_id"] = table.image_id + "_" + side + "_" + table.view_position
    rows["official_split"] = table.split.map(SPLITS)
    rows["breast_density"] = table.breast_density.str.removeprefix("DENSITY ").map(tables.DENSITIES)
    return rows


def list_mammograms(table: pd.DataFrame, findings: pd.DataFrame | None, lowest: int) -> pd.DataFrame:
    """Return one manifest row a mammogram; its label is the breast's, its mask all boxes in it."""
    rows = name_rows(table).assign(pathology=table.breast_birads, image_path=table.image_path)
    rows["label"] = table.breast_birads.str[-1].astype(int) >= lowest
    masks = {} if findings is None else join_boxes(findings)
    return rows.assign(mask_path=table.image_path.map(masks))


def list_crops(findings: pd.DataFrame, lowest: int) -> pd.DataFrame:
    """Return one manifest row a finding; its label is its own BI-RADS category."""
    number = (findings.groupby("image_path").cumcount() + 1).astype(str)
    category = findings.finding_birads.str.extract("([1-5])$")[0]
    rows = name_rows(findings).assign(pathology=findings.finding_birads, finding=findings.finding)
    rows["label"] = category.fillna("0").astype(int) >= lowest
    rows["image_id"] += "_" + number
    rows["lesion"] = findings.view_position + "_" + number
    is_mass, is_calcification = (findings.finding.str.contains(word) for word in ("Mass", "Calcification"))
    rows["abnormality_type"] = np.select([is_mass, is_calcification], ["mass", "calcification"], "")
    rows["image_path"] = findings.image_path + "#box=" + findings["size"] + ":" + findings.box
    rows["mask_path"] = findings.image_path.map(join_boxes(findings))
    reasons = ["no BI-RADS category of the finding", "no box in the image: no crop"]
    rows["exclusion_reason"] = np.select([category.isna(), findings.box == ""], reasons, "")
    return rows


def join_boxes(findings: pd.DataFrame) -> pd.Series:
    """Return {image_path: `<image_path>#box=<size>:<box>;<box>…`} of the images with a box."""
    placed = findings[findings.box != ""]
    joined = placed.groupby("image_path").agg(size=("size", "first"), boxes=("box", ";".join))
    return joined.index.to_series() + "#box=" + joined["size"] + ":" + joined.boxes
