"""What several readers need: manifest rows with defaults, patients and views from file names."""

import re

import numpy as np
import pandas as pd

from shared.data import images
from shared.run import EXCLUDED, MANIFEST_COLUMNS, UsageError

SUBTYPES = (
    ("calcification", "BENIGN"),
    ("mass", "BENIGN"),
    ("calcification", "MALIGNANT"),
    ("mass", "MALIGNANT"),
)  # the position is the number of TASK="subtype"; -1 where a row has none

_PATIENT = re.compile(r"(P_\d+|[A-D]_\d{4}_\d)")
_SIDE_VIEW = re.compile(r"(LEFT|RIGHT)[_.]?(CC|MLO)?", re.IGNORECASE)


def build_manifest(rows, *, source):
    """Make a manifest from dicts that hold only what a reader knows.

    Args:
        rows: list of dicts with at least image_id, patient_id, label, image_path; `exclusion_reason` sets `split`
            to "excluded". Keys that are no manifest column become extra columns at the end.
        source: the data set's name.
    Returns:
        DataFrame with `schema.MANIFEST_COLUMNS` first; words are str ("" where unknown), label, fold and subtype int.
    """
    frame = pd.DataFrame(rows)
    for column in MANIFEST_COLUMNS:
        if column not in frame:
            frame[column] = ""
    frame["source"] = source
    frame["fold"] = -1
    frame["exclusion_reason"] = frame["exclusion_reason"].fillna("")
    frame["split"] = np.where(frame["exclusion_reason"] != "", EXCLUDED, "")
    numbers = [column for column in ("label", "fold", "subtype") if column in frame]
    words = [column for column in frame if column not in numbers]
    frame[words] = frame[words].fillna("").astype(str)
    frame[numbers] = frame[numbers].astype(int)
    extra = [column for column in frame if column not in MANIFEST_COLUMNS]
    return frame[[*MANIFEST_COLUMNS, *extra]]


def subtype_of(abnormality_type, pathology):
    """Return the position in `SUBTYPES` (int), -1 where the pair is not one of the four."""
    pair = (abnormality_type, "BENIGN" if pathology.startswith("BENIGN") else pathology)
    return SUBTYPES.index(pair) if pair in SUBTYPES else -1


def check_task(name, task, tasks):
    """Raise UsageError where the layout `name` cannot answer `task`."""
    if task not in tasks:
        raise UsageError(f"TASK {task!r}: the layout {name!r} has no such labels; choose {' or '.join(tasks)}")


def image_reader(data_dir):
    """Return a function (image_path, min_side=None) → grey plane, for layouts with one image a file."""
    return lambda path, min_side=None: images.read_grey(images.inside(data_dir, path), min_side=min_side)


def patient_from_name(name):
    """Find the patient in a file's name.

    `P_00001_LEFT_CC_1_M.png` (CBIS-DDSM) gives `P_00001`, `A_1141_1.RIGHT_CC.png` (DDSM) gives `A_1141_1`.

    Returns:
        str: "" where the name holds neither.
    """
    match = _PATIENT.search(name)
    return match.group(1) if match else ""


def side_and_view(name):
    """Find ("LEFT" or "RIGHT", "CC" or "MLO") in a file's name; "" where it is silent."""
    match = _SIDE_VIEW.search(name)
    return (match.group(1).upper(), (match.group(2) or "").upper()) if match else ("", "")
