"""One registry of data layouts; `load(name, data_dir)` is the one line that changes from data set to data set."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shared.run import EXCLUDED, DataError, UsageError

READERS = {
    "demo": "shared.data.readers.cbis_ddsm",
    "cbis-ddsm": "shared.data.readers.cbis_ddsm",
    "cbis-ddsm-dicom": "shared.data.readers.cbis_dicom",
    "ddsm-tfrecord": "shared.data.readers.ddsm_tfrecord",
    "png-npz": "shared.data.readers.png_npz",
    "npz": "shared.data.readers.npz_folders",
    "mini-mias": "shared.data.readers.mini_mias",
}


# layouts that can hold the same patients, under the same names
FAMILIES = dict.fromkeys(("cbis-ddsm", "cbis-ddsm-dicom", "ddsm-tfrecord", "png-npz", "npz"), "DDSM")


@dataclass(frozen=True)
class Dataset:
    """What a reader returns.

    Attributes:
        name: the layout's name in `READERS`.
        data_dir: absolute folder that all paths of the manifest are relative to.
        manifest: one row per image, `schema.MANIFEST_COLUMNS` (and, after them, what the layout adds). `split` is
            "" or, where the reader itself rules a row out, "excluded" with `exclusion_reason`; `fold` is −1.
        class_names: the words for label 0 and label 1.
        read_image: (image_path, min_side=None) → (H, W) grey plane of uint8, uint16 or float; raises DataError; safe
            in threads. A reader may return a smaller image whose shorter side is at least `min_side` pixels.
        read_mask: manifest row → (H, W) lesion mask in the frame of that row's image; None where there are none.
        coverage: per split and type, how many rows the source lists and how many images are on disk; or None.
        facts: what else the audit should echo, by name (numbers, lists).
        notes: sentences for the reader of the audit.
    """

    name: str
    data_dir: Path
    manifest: pd.DataFrame
    class_names: tuple[str, str]
    read_image: Callable[..., np.ndarray]
    read_mask: Callable | None = None
    coverage: pd.DataFrame | None = None
    facts: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load(name, data_dir, *, task="malignant", input="crop"):
    """Read the layout `name` below `data_dir`.

    Args:
        name: one of `READERS`.
        data_dir: the folder that holds the data set.
        task: which question the label answers (`malignant`, `abnormal`, `original`, `subtype`).
        input: `crop` (lesions) or `full` (whole mammograms) where a source has both.
    Returns:
        Dataset
    Raises:
        UsageError: an unknown layout, or a task the layout cannot answer.
        DataError: no such folder, another layout, or nothing in it that can be used.
    """
    check_name(name)
    data_dir = Path(data_dir).expanduser()
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such directory; DATA_DIR is the folder that holds the {name} data")
    dataset = importlib.import_module(READERS[name]).load(data_dir.resolve(), task=task, input=input)
    if dataset.manifest.empty:
        raise DataError(f"{data_dir}: no image of layout {name!r} found; see the README for what is expected there")
    manifest = _settle(dataset.manifest)
    if name == "demo":  # drawn, and so of no patient of the data set whose form it has
        manifest["source"] = name
    return replace(dataset, name=name, manifest=manifest)


def check_name(name):
    """Raise UsageError where `name` is no layout of `READERS`; says which there are."""
    if name not in READERS:
        raise UsageError(f"DATASET: {name!r} is not one of {', '.join(READERS)}")


def _settle(manifest):
    """Leave out what no csv file can hold: file names that are no text, and images called like an earlier one."""
    manifest = manifest.copy()
    garbled = np.array([_is_garbled(path) for path in manifest.image_path])
    if garbled.any():
        words = manifest.select_dtypes(exclude="number").columns
        manifest[words] = manifest[words].map(lambda word: word.encode("utf-8", "replace").decode("utf-8"))
        _leave_out(manifest, garbled, "the file's name is not UTF-8; rename it")
    copies = manifest.groupby("image_id").cumcount().to_numpy()
    if copies.any():
        manifest["image_id"] += np.where(copies > 0, [f"#{copy + 1}" for copy in copies], "")
        _leave_out(manifest, copies > 0, "an image of this name stands twice")
    return manifest


def _is_garbled(path):
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _leave_out(manifest, mask, reason):
    mask = mask & (manifest.split != EXCLUDED).to_numpy()
    manifest.loc[mask, ["split", "exclusion_reason"]] = [EXCLUDED, reason]
