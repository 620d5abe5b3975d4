"""One registry of data layouts; `load_layout(name, data_dir)` is the line that changes from data set to data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shared.data.readers import (
    cbis_ddsm,
    cbis_dicom,
    cmmd,
    ddsm_tfrecord,
    demo,
    inbreast,
    mini_mias,
    npz_folders,
    png_npz,
    rsna,
    vindr,
)
from shared.data.readers.common import Dataset
from shared.data.readers.demo import provide_demo, score_ideal_observer
from shared.data.readers.detection import SIGNATURES, detect_layout
from shared.run import EXCLUDED, DataError, check_choice, resolve_input

READERS = {
    "demo": demo.load, "cbis-ddsm": cbis_ddsm.load, "cbis-ddsm-dicom": cbis_dicom.load,
    "ddsm-tfrecord": ddsm_tfrecord.load, "png-npz": png_npz.load, "npz": npz_folders.load, "mini-mias": mini_mias.load,
    "vindr-mammo": vindr.load, "rsna-2023": rsna.load,
    "cmmd": cmmd.load, "inbreast": inbreast.load,
}  # fmt: skip
# layouts that can hold the same patients, under the same names
FAMILIES = dict.fromkeys(("cbis-ddsm", "cbis-ddsm-dicom", "ddsm-tfrecord", "png-npz", "npz"), "DDSM")


def load_layout(name: str, data_dir: Path | str, *, task: str = "malignant", input: str = "auto") -> Dataset:
    """Read the layout `name` below `data_dir`.

    `name` is one of `READERS`. The label answers `task` (`malignant`, `abnormal`, `original`, `subtype`, `birads-5`);
    `input` is `crop` (lesions) or `full` (whole mammograms) where a source has both; `auto` takes what it is made of.
    Raises UsageError: an unknown layout, or a task the layout cannot answer; DataError: no such folder, another layout,
        or nothing in it that can be used.
    """
    check_layout_name(name)
    data_dir = Path(data_dir).expanduser()
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such directory; DATA_DIR is the folder that holds the {name} data")
    dataset = READERS[name](data_dir.resolve(), task=task, input=resolve_input(input, name))
    if dataset.manifest.empty:
        raise DataError(f"{data_dir}: no image of layout {name!r} found; see the README for what is expected there")
    return replace(dataset, manifest=settle_names(dataset.manifest))


def check_layout_name(name: str) -> None:
    """Raise UsageError where `name` is no layout of `READERS`; says which there are."""
    check_choice("DATASET", name, READERS)


def settle_names(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rule out what no csv file can hold: file names that are no text, and images called like an earlier one."""
    manifest = manifest.copy()
    words = manifest.select_dtypes(exclude="number").columns
    text = manifest[words].map(lambda word: word.encode("utf-8", "replace").decode("utf-8"))
    garbled = (text != manifest[words]).any(axis=1).to_numpy()
    manifest[words] = text
    copies = manifest.groupby("image_id").cumcount().to_numpy()
    manifest["image_id"] += np.where(copies > 0, [f"#{copy + 1}" for copy in copies], "")
    reasons = {"the file's name is not UTF-8; rename it": garbled, "an image of this name stands twice": copies > 0}
    for reason, mask in reasons.items():
        mask = mask & (manifest.split != EXCLUDED).to_numpy()
        manifest.loc[mask, ["split", "exclusion_reason"]] = [EXCLUDED, reason]
    return manifest
