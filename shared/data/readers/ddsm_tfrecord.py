"""Reader of the DDSM TFRecords (Kaggle `skooch/ddsm-mammography`).

On disk: `training10_<n>/training10_<n>.tfrecords`, whose records are `tf.train.Example` messages with `label` (int64),
`label_normal` (int64), `image` (299 × 299 bytes) and, in some copies, `filename`; and `test10_data/test10_data.npy`,
`cv10_data/cv10_data.npy` (N, 299, 299, 1) with `test10_labels.npy`, `cv10_labels.npy` beside them or at the top.
`test10` holds masses only and `cv10` calcifications only, so both together are the official test split here.
One pass over the records notes where each one starts; pixels are read one record at a time.
"""

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from shared.data import decoding
from shared.data.readers import common
from shared.data.readers.common import Dataset
from shared.run import DataError, refuse_damage
from shared.run.native_output import quiet_native_output
from shared.run.progress import is_watched

NAME = "ddsm-tfrecord"
TASKS = ("malignant", "abnormal", "subtype")
SIDE = 299  # pixels, height and width of every image
MAX_RECORD = 4 * SIDE**2  # bytes; a record holds one image and a few words
LESIONS = (("normal", "NORMAL"), *common.SUBTYPES)  # position = the source's `label`
DAMAGED = "{}: record {} at byte {} is cut short, damaged, or no tile; fetch the shard again"
UNNAMED = (
    "images carry no file name: patients cannot be told apart, and each image counts as one. Each lesion was cropped "
    "three times in each view, so near-copies stand in train and validation: validation scores are inflated."
)


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """Index the records and arrays; image paths end in `#<byte offset>` (shards) or `#<row>` (arrays).

    Task "malignant" excludes normal tiles, "abnormal" sets any lesion against them, "subtype" is as malignant.

    Raises DataError, UsageError: no shards, a shard that is damaged, labels that do not fit, a task without labels.
    """
    common.check_task(NAME, task, TASKS)
    shards = common.list_files(data_dir, ".tfrecords")
    if not shards:
        raise DataError(f"{data_dir}: no *.tfrecords below it; expected training10_<n>/training10_<n>.tfrecords")
    rows = [row for shard in shards for row in index_shard(data_dir, shard, task)]
    held_out = [row for part in ("test10", "cv10") for row in index_array(data_dir, part, task)]
    rows = rows + held_out
    notes = ["Every image is a tile of 299 × 299 pixels: INPUT has no effect."]
    unnamed = sum(row["patient_id"] == row["image_id"] for row in rows)
    if unnamed:
        notes.append(f"{unnamed} of {len(rows)} {UNNAMED}")
    if not held_out:
        notes.append("No test10_data.npy and no cv10_data.npy: the test split is drawn from the training records.")
    if task == "abnormal":
        notes.append("Normal tiles went through another file pipeline than lesions: part of any score is not anatomy.")
    else:
        notes.append(f"Normal tiles are excluded: task {task} compares benign with malignant lesions.")
    class_names = ("normal", "abnormal") if task == "abnormal" else ("benign", "malignant")
    dataset = common.make_dataset(NAME, data_dir, rows, class_names, notes=notes)
    return replace(dataset, read_image=lambda image_path, min_side=None: read_tile(data_dir, image_path))


@cache
def load_tensorflow() -> Any:
    """Import TensorFlow without its notices; here, because the other layouts do without it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_native_output():
        import tensorflow as tf

        tf.config.list_physical_devices()  # says more than a reader wants to know where there is no GPU
    return tf


def index_shard(data_dir: Path, shard: str, task: str) -> list[dict]:
    """List the records of one shard as manifest rows; raises DataError where the file is cut short or damaged."""
    tf = load_tensorflow()
    path = data_dir / shard
    offsets = find_records(path)
    rows: list[dict] = []
    try:
        messages = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        bar = tqdm(messages, f"indexing {path.name}", len(offsets), leave=False, disable=not is_watched())
        for offset, message in zip(offsets, bar, strict=True):
            values, problem = parse_example(message)
            row = make_row(f"{path.stem}_{len(rows):06d}", values, task)
            rows.append(row | {"image_path": f"{shard}#{offset}", "official_split": "train"})
            rows[-1]["exclusion_reason"] = problem or row["exclusion_reason"]
    except (tf.errors.OpError, UnicodeEncodeError):  # or a name that is no text
        raise DataError(DAMAGED.format(path, len(rows), offsets[len(rows)])) from None
    if not rows:
        raise DataError(f"{path}: no records; the file is empty, fetch it again")
    return rows


def find_records(path: Path) -> list[int]:
    """Return the byte at which each record starts: length (8 bytes), its CRC-32C (4), message, its CRC-32C (4).

    Raises DataError where one says that it is longer than any, before TensorFlow makes room for it.
    """
    offsets = []
    end = 0
    with path.open("rb") as file:
        while end < path.stat().st_size:
            offsets.append(file.seek(end))
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_RECORD:
                raise DataError(DAMAGED.format(path, len(offsets) - 1, end))
            end += length + 16
    return offsets


def parse_example(message: bytes) -> tuple[dict, str]:
    """Return ({name: int or bytes}, what is wrong with the image or "") of one `tf.train.Example`."""
    from google.protobuf.message import DecodeError

    try:
        features = load_tensorflow().train.Example.FromString(message).features.feature
    except DecodeError:
        return {}, "not a tf.train.Example message"
    lists = {name: feature.int64_list.value or feature.bytes_list.value for name, feature in features.items()}
    values = {name: held[0] for name, held in lists.items() if len(held) == 1}
    pixels = values.get("image")
    if not isinstance(pixels, bytes):
        return values, "no image in the record"
    return values, "" if len(pixels) == SIDE**2 else f"image of {len(pixels)} bytes; expected {SIDE} × {SIDE}"


def make_row(image_id: str, values: dict, task: str) -> dict:
    """Return the manifest row of `label`, `label_normal` (0 normal, 1 lesion) and `filename`, as far as they are known.

    The patient is a CBIS-DDSM or DDSM one, else all up to the file name's first number, else the image.
    """
    name, label = values.get("filename", b""), values.get("label", -1)
    name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    name = "".join(filter(str.isprintable, name))  # a csv file holds no control characters
    stem = Path(name.replace("\\", "/")).stem
    leading = re.match(r".*?\d+", stem)
    is_known = isinstance(label, int) and 0 <= label < len(LESIONS)
    abnormality, pathology = LESIONS[label] if is_known else ("", "")
    normal = values.get("label_normal")
    lesion = normal if normal in (0, 1) else int(label > 0) if is_known else None
    if task == "abnormal":
        reason = "no label in the record" if lesion is None else ""
    elif not is_known:
        reason = "no label that tells benign from malignant"
    else:
        reason = "" if label else f"normal tile: task {task} compares lesions with lesions"
    patient = common.patient_from_name(stem) or (leading[0] if leading else stem) or name or image_id
    return {
        "image_id": image_id,
        "patient_id": patient,
        **common.side_and_view(name),
        "abnormality_type": abnormality,
        "pathology": pathology,
        "exclusion_reason": reason,
        "subtype": common.subtype_of(abnormality, pathology),
        "label": lesion or 0 if task == "abnormal" else int(pathology == "MALIGNANT"),
    }


def index_array(data_dir: Path, part: str, task: str) -> list[dict]:
    """List `test10` or `cv10` as manifest rows; none where the copy has no such file."""
    found = {Path(path).name: path for path in common.list_files(data_dir, ".npy")}
    data, names = found.get(f"{part}_data.npy"), found.get(f"{part}_labels.npy")
    if not data:
        return []
    if not names:
        raise DataError(f"{data_dir / data}: no {part}_labels.npy beside it or in {data_dir}; fetch it")
    pixels, labels = open_array(data_dir / data), open_array(data_dir / names)
    if pixels.shape[1:] not in ((SIDE, SIDE, 1), (SIDE, SIDE)) or pixels.dtype.kind not in "uif":
        raise DataError(f"{data_dir / data}: shape {pixels.shape} of {pixels.dtype}; expected (N, {SIDE}, {SIDE}, 1)")
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iub":
        raise DataError(f"{data_dir / names}: shape {labels.shape} of {labels.dtype}; expected {len(pixels)} numbers")
    is_binary = labels.max(initial=0) <= 1  # some copies hold label_normal here; five classes reach 3 or 4
    rows = []
    for number, label in enumerate(labels.astype(int).tolist()):
        known = {} if is_binary and label else {"label": label}
        row = make_row(f"{part}_{number:06d}", known | {"label_normal": int(label > 0)}, task)
        rows.append(row | {"image_path": f"{data}#{number}", "official_split": "test"})
    return rows


def open_array(path: Path) -> np.ndarray:
    """Map an array of numbers from disk; never unpickles."""
    with refuse_damage(f"{path}: not a readable array of numbers", "fetch it again"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_tile(data_dir: Path, image_path: str) -> np.ndarray:
    """Read one image, `<file>#<byte offset or row>`: uint8 (299, 299)."""
    relative, _, position = image_path.rpartition("#")
    path = decoding.inside(data_dir, relative)
    if not position.isdigit() or not path.is_file():
        raise DataError(f"{image_path}: expected <file>#<byte offset or row>, and a file that is there")
    if path.suffix == ".npy":
        array = open_array(path)
        if int(position) >= len(array):
            raise DataError(f"{path}: no image {position}; the array has shape {array.shape}")
        return decoding.as_grey(np.array(array[int(position)]), f"{path.name}#{position}")
    with path.open("rb") as stream:
        stream.seek(int(position))
        length = int.from_bytes(stream.read(8), "little")
        stream.seek(4, os.SEEK_CUR)  # the length's CRC-32C
        values, problem = parse_example(stream.read(min(length, MAX_RECORD)))
    if problem:
        raise DataError(f"{path}: record at byte {position}: {problem}")
    return np.frombuffer(values["image"], np.uint8).reshape(SIDE, SIDE)
