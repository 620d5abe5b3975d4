"""Reader of the DDSM TFRecords (Kaggle `skooch/ddsm-mammography`), without TensorFlow.

On disk: `training10_<n>/training10_<n>.tfrecords`, whose records are `tf.train.Example` messages with `label` (int64),
`label_normal` (int64), `image` (299 × 299 bytes) and, in some copies, `filename`; and `test10_data/test10_data.npy`,
`cv10_data/cv10_data.npy` (N, 299, 299, 1) with `test10_labels.npy`, `cv10_labels.npy` beside them or at the top.
`label`: 0 normal, 1 benign calcification, 2 benign mass, 3 malignant calcification, 4 malignant mass.

`test10` holds masses only and `cv10` calcifications only, so both together are the official test split here.

A record is framed as length (uint64, little endian), its CRC-32C, the message, its CRC-32C
(https://www.tensorflow.org/tutorials/load_data/tfrecord). The first pass notes where each record starts; pixels are
read one record at a time, when `read_image` asks for them, so that memory does not grow with the data set. Lengths are
checked against the file's size, checksums are not.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from tqdm import tqdm

from shared.data import images
from shared.data.readers import Dataset
from shared.data.readers.common import (
    build_manifest,
    check_task,
    patient_from_name,
    side_and_view,
    subtype_of,
)
from shared.run import DataError

NAME = "ddsm-tfrecord"
TASKS = ("malignant", "abnormal", "subtype")
SIDE = 299  # pixels, height and width of every image
EXPECTED = "training10_<n>/training10_<n>.tfrecords, test10_data/test10_data.npy, cv10_data/cv10_data.npy and labels"

LESIONS = (
    ("normal", "NORMAL"),
    ("calcification", "BENIGN"),
    ("mass", "BENIGN"),
    ("calcification", "MALIGNANT"),
    ("mass", "MALIGNANT"),
)  # position = the source's `label`
UNKNOWN = -1  # a label that a record does not have

_HEADER, _FOOTER = 12, 4  # bytes around each message


def load(data_dir, *, task="malignant", input="crop"):
    """Index the records and arrays of the DDSM TFRecord layout.

    Args:
        data_dir: the folder that holds the shards and the `.npy` files.
        task: "malignant" (lesions only: normal tiles are excluded), "abnormal" (any lesion against normal) or
            "subtype" (as malignant, with the column `subtype`).
        input: has no effect; every image is a tile of 299 × 299 already.
    Returns:
        Dataset whose image paths end in `#<byte offset>` (shards) or `#<row>` (arrays).
    Raises:
        DataError: no shards, a shard that is cut short, labels that do not fit; names the file.
        UsageError: a task that this layout has no labels for.
    """
    check_task(NAME, task, TASKS)
    shards = sorted(path for path in data_dir.rglob("*.tfrecords") if path.is_file())
    if not shards:
        raise DataError(f"{data_dir}: no *.tfrecords below it; expected {EXPECTED}")
    shards = [images.inside(data_dir, path.relative_to(data_dir).as_posix()) for path in shards]
    records = _index_all(shards, data_dir)
    held_out = [record for part in ("test10", "cv10") for record in _array_records(data_dir, part)]
    rows = [_manifest_row(record, task) for record in records + held_out]
    return Dataset(
        name=NAME,
        data_dir=data_dir,
        manifest=build_manifest(rows, source=NAME),
        class_names=("normal", "abnormal") if task == "abnormal" else ("benign", "malignant"),
        read_image=lambda image_path, min_side=None: _read_image(data_dir, image_path),
        read_mask=None,
        notes=_notes(records, held_out, task),
    )


# ------------------------------------------------------------------- shards
def read_records(path):
    """Yield (byte offset, message bytes) for each record of a TFRecord file.

    Raises:
        DataError: the file ends inside a record; names file, record and offset.
    """
    path = Path(path)
    size, offset, number = path.stat().st_size, 0, 0
    with path.open("rb") as stream:
        while offset < size:
            length = _record_length(stream.read(_HEADER), path, number, offset, size)
            yield offset, stream.read(length)
            stream.seek(_FOOTER, 1)
            offset += _HEADER + length + _FOOTER
            number += 1


def _record_length(header, path, number, offset, size):
    length = int.from_bytes(header[:8], "little")
    if len(header) < _HEADER or offset + _HEADER + length + _FOOTER > size:
        raise DataError(
            f"{path}: record {number} at byte {offset} runs past the end of the file ({size} bytes); "
            "the shard is cut short or damaged, fetch it again"
        )
    return length


@cache
def _example_class():
    """Build the message class of tf.train.Example (tensorflow/core/example/example.proto) in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="ddsm", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    lists = {"BytesList": field.TYPE_BYTES, "FloatList": field.TYPE_FLOAT, "Int64List": field.TYPE_INT64}
    for name, kind in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=field.LABEL_REPEATED, type=kind)

    def add(owner, name, number, type_name, label=field.LABEL_OPTIONAL):
        return owner.field.add(
            name=name, number=number, label=label, type=field.TYPE_MESSAGE, type_name=f".ddsm.{type_name}"
        )

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(lists, start=1):
        add(feature, name.lower().replace("list", "_list"), number, name).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    add(entry, "value", 2, "Feature")
    add(features, "feature", 1, "Features.FeatureEntry", label=field.LABEL_REPEATED)
    add(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ddsm.Example"))


def _parse(payload):
    """Return ({name: int or bytes}, problem) of one message."""
    try:
        features = _example_class().FromString(payload).features.feature
    except message.DecodeError:
        return {}, "not a tf.train.Example message"
    values = {}
    for name, feature in features.items():
        held = feature.int64_list.value or feature.bytes_list.value
        if len(held) == 1:
            values[name] = held[0]
    return values, ""


def _image_problem(values):
    pixels = values.get("image")
    if not isinstance(pixels, bytes):
        return "no image in the record"
    if len(pixels) != SIDE * SIDE:
        return f"image of {len(pixels)} bytes; expected {SIDE} × {SIDE} = {SIDE * SIDE}"
    return ""


def _index_shard(path, data_dir, bar):
    relative = path.relative_to(data_dir).as_posix()
    records = []
    for number, (offset, payload) in enumerate(read_records(path)):
        values, problem = _parse(payload)
        name = values.get("filename", b"")
        records.append(
            {
                "image_id": f"{path.stem}_{number:06d}",
                "image_path": f"{relative}#{offset}",
                "official_split": "train",
                "filename": name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
                "problem": problem or _image_problem(values),
                **_labels(values.get("label", UNKNOWN), values.get("label_normal", UNKNOWN)),
            }
        )
        bar.update(len(payload) + _HEADER + _FOOTER)
    if not records:
        raise DataError(f"{path}: no records; the file is empty, fetch it again")
    return records


def _index_all(shards, data_dir):
    size = sum(path.stat().st_size for path in shards)
    with (
        tqdm(total=size, desc="Indexing records", unit="B", unit_scale=True, leave=False, disable=None) as bar,
        ThreadPoolExecutor() as pool,
    ):
        parts = list(pool.map(lambda path: _index_shard(path, data_dir, bar), shards))
    return [record for part in parts for record in part]


def _labels(label, label_normal):
    """Return the two labels as ints, `UNKNOWN` for what is no number or out of range."""
    label = label if isinstance(label, int) and 0 <= label < len(LESIONS) else UNKNOWN
    if label_normal not in (0, 1):
        label_normal = UNKNOWN if label == UNKNOWN else int(label > 0)
    return {"label": label, "label_normal": label_normal}


# ------------------------------------------------------------------- arrays
def _array_records(data_dir, part):
    """Return the records of `test10` or `cv10`; none where the copy has no such file."""
    data = _find(data_dir, part, f"{part}_data.npy")
    if data is None:
        return []
    labels_path = _find(data_dir, part, f"{part}_labels.npy")
    if labels_path is None:
        raise DataError(f"{data}: {part}_labels.npy is neither beside it nor in {data_dir}; fetch it")
    pixels, labels = _open_array(data), _open_array(labels_path)
    if pixels.shape[1:] not in ((SIDE, SIDE, 1), (SIDE, SIDE)) or pixels.dtype.kind not in "uif":
        raise DataError(f"{data}: shape {pixels.shape} of {pixels.dtype}; expected numbers (N, {SIDE}, {SIDE}, 1)")
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iub":
        raise DataError(f"{labels_path}: shape {labels.shape} of {labels.dtype}; expected {len(pixels)} numbers")
    labels = np.asarray(labels).astype(int)
    binary = labels.max(initial=0) <= 1  # some copies hold label_normal here; five classes reach 3 or 4
    names = _names(data_dir, part, len(pixels))
    relative = data.relative_to(data_dir).as_posix()
    return [
        {
            "image_id": f"{part}_{row:06d}",
            "image_path": f"{relative}#{row}",
            "official_split": "test",
            "filename": names[row],
            "problem": "",
            **_labels(UNKNOWN if binary and label else int(label), int(label > 0)),
        }
        for row, label in enumerate(labels)
    ]


def _find(data_dir, part, name):
    for relative in (f"{part}_data/{name}", f"{part}_labels/{name}", name):
        if (data_dir / relative).is_file():
            return images.inside(data_dir, relative)
    return None


def _open_array(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header parser raises many types on damaged files
        raise DataError(f"{path}: not a readable array of numbers ({error}); fetch it again") from None


def _names(data_dir, part, n):
    """Return the file names of `<part>_filenames.npy` where a copy has it, else ""s."""
    path = _find(data_dir, part, f"{part}_filenames.npy")
    names = None if path is None else _open_array(path)
    return [str(name) for name in names] if names is not None and names.shape == (n,) else [""] * n


# ----------------------------------------------------------------- manifest
def _patient(filename):
    """Return the group of a file name: a CBIS-DDSM or DDSM patient, else all up to the first number, else the stem."""
    stem = Path(filename.replace("\\", "/")).stem
    leading = re.match(r".*?\d+", stem)
    return patient_from_name(stem) or (leading.group(0) if leading else stem) or filename


def _manifest_row(record, task):
    abnormality, pathology = LESIONS[record["label"]] if record["label"] != UNKNOWN else ("", "")
    side, view = side_and_view(record["filename"])
    return {
        "image_id": record["image_id"],
        "patient_id": _patient(record["filename"]) if record["filename"] else record["image_id"],
        "side": side,
        "view": view,
        "abnormality_type": abnormality,
        "pathology": pathology,
        "label": max(record["label_normal"], 0) if task == "abnormal" else int(pathology == "MALIGNANT"),
        "official_split": record["official_split"],
        "image_path": record["image_path"],
        "exclusion_reason": record["problem"] or _reason(record, task),
        "subtype": subtype_of(abnormality, pathology),
    }


def _reason(record, task):
    if task == "abnormal":
        return "" if record["label_normal"] != UNKNOWN else "no label in the record"
    if record["label"] == UNKNOWN:
        return "no label that tells benign from malignant"
    return "" if record["label"] else f"normal tile: task {task} compares lesions with lesions"


def _notes(records, held_out, task):
    notes = ["Every image is a tile of 299 × 299 pixels: INPUT has no effect."]
    unnamed = sum(not record["filename"] for record in records + held_out)
    if unnamed:
        notes.append(
            f"{unnamed} of {len(records) + len(held_out)} images carry no file name, so patients cannot be told apart: "
            "each image counts as a patient of its own. Each lesion was cropped three times, and a lesion has two "
            "views, so near-copies lie on both sides of the split between train and validation: validation scores are "
            "inflated, intervals too narrow."
        )
    if not held_out:
        notes.append("No test10_data.npy and no cv10_data.npy: the test split is drawn from the training records.")
    if task == "abnormal":
        notes.append(
            "Normal tiles come from other patients and another file pipeline than the lesions, so traces of the file "
            "format separate the classes: part of any score is not anatomy."
        )
    else:
        notes.append(f"Normal tiles are excluded: task {task} compares benign with malignant lesions.")
    return tuple(notes)


# ------------------------------------------------------------------- pixels
def _read_image(data_dir, image_path):
    relative, _, position = image_path.rpartition("#")
    if not position.isdigit():
        raise DataError(f"{image_path}: expected <file>#<byte offset or row>")
    path = images.inside(data_dir, relative)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".npy":
        return _read_row(path, int(position))
    return _read_record(path, int(position))


def _read_row(path, row):
    array = _open_array(path)
    if row >= len(array):
        raise DataError(f"{path}: no image {row}; the array has shape {array.shape}")
    return images.as_grey(np.array(array[row]), f"{path.name}#{row}")


def _read_record(path, offset):
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(offset)
        payload = stream.read(_record_length(stream.read(_HEADER), path, "asked for", offset, size))
    values, problem = _parse(payload)
    problem = problem or _image_problem(values)
    if problem:
        raise DataError(f"{path}: record at byte {offset}: {problem}")
    return np.frombuffer(values["image"], np.uint8).reshape(SIDE, SIDE)
