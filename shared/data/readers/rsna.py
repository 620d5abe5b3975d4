"""Reader of the RSNA screening mammography data of 2023: `train.csv` and `train_images/<patient_id>/<image_id>.dcm`.

PNG copies are read too, called `<patient_id>/<image_id>.png` or `<patient_id>_<image_id>.png`, at any depth below the
data directory, with `train.csv` beside them. The label `cancer` is a breast's: each of its views has it.

What is known only after the reading stays out of the manifest: `biopsy`, `invasive`, `difficult_negative_case`, and
`BIRADS` (0 to 2, the recall; no breast with 1 or 2 has cancer). Source: RSNA Screening Mammography Breast Cancer
Detection, 2023; for non-commercial use, so no image of it is shipped.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shared.data.readers import common, tables
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "rsna-2023"
TASKS = ("malignant",)
TABLE = "train.csv"
NEEDED = ("patient_id", "image_id", "laterality", "view", "cancer")
OPTIONAL = ("site_id", "age", "implant", "density", "machine_id")  # known before the reading
VIEWS = ("CC", "MLO")
CLASS_NAMES = ("no cancer", "cancer")


def load(data_dir: Path, *, task: str = "malignant", input: str = "full") -> Dataset:
    """Read `train.csv` and list its mammograms that are on disk, one row each; no file is opened.

    Views that are neither CC nor MLO are excluded. Age, implant, site and machine are extra columns.
    Raises DataError: no `train.csv`, a column or a value in it that is not known, no image on disk; UsageError: a task
        without labels, or crops.
    """
    common.check_task(NAME, task, TASKS)
    if not (data_dir / TABLE).is_file():
        raise DataError(f"{data_dir}: no {TABLE}; expected it beside train_images/<patient_id>/<image_id>.dcm")
    table = tables.read_words(data_dir / TABLE, NEEDED, OPTIONAL)
    common.check_input(NAME, input)
    tables.check_column(TABLE, table.cancer, ("0", "1"))
    tables.check_column(TABLE, table.laterality, tables.SIDES)
    tables.check_filled(TABLE, table, "patient_id", "image_id")
    notes = [
        "The label says whether cancer was proven in this breast, not whether this view shows it.",
        "biopsy, invasive, difficult_negative_case and BIRADS know the outcome: they are not in the manifest.",
    ]
    present = tables.join_images(table, TABLE, "patient_id", data_dir, notes)
    rows = list_rows(present)
    return replace(common.make_dataset(NAME, data_dir, rows, CLASS_NAMES, notes=notes), facts=count(table))


def list_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return one manifest row a mammogram."""
    side = table.laterality.map(tables.SIDES)
    label = table.cancer.astype(int)
    is_other = ~table["view"].isin(VIEWS)
    return pd.DataFrame(
        {
            "image_id": table.patient_id + "_" + side + "_" + table["view"] + "_" + table.image_id,
            "patient_id": table.patient_id,
            "side": side,
            "view": table["view"].mask(is_other, ""),
            "pathology": label.map(dict(enumerate(word.upper() for word in CLASS_NAMES))),
            "label": label,
            "image_path": table.image_path,
            "breast_density": table.density.map(tables.DENSITIES),
            "exclusion_reason": np.where(is_other, "view " + table["view"] + " is neither CC nor MLO", ""),
            **{column: table[column] for column in OPTIONAL if column != "density"},
        }
    )


def count(table: pd.DataFrame) -> dict[str, int]:
    """Return what the audit should say about the whole of `train.csv`, on disk or not."""
    positive = table[table.cancer == "1"]
    return {
        "rows_in_table": len(table),
        "patients_in_table": table.patient_id.nunique(),
        "positive_images": len(positive),
        "positive_breasts": int((~positive.duplicated(["patient_id", "laterality"])).sum()),
        "positive_patients": positive.patient_id.nunique(),
        "views_neither_cc_nor_mlo": int((~table["view"].isin(VIEWS)).sum()),
        "images_without_density": int((table.density == "").sum()),
        "images_without_age": int((table.age == "").sum()),
        "most_images_of_a_patient": int(table.patient_id.value_counts().max()),
    }
