"""Damaged inputs, layout by layout: one clear line or a named exclusion; never a traceback, never foreign code."""

import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import __main__
from pipeline import series as pipeline
from shared.data import images, manifests, preparation
from shared.data.readers import cbis_ddsm, ddsm_tfrecord, mini_mias
from shared.run import PATHOLOGIES, DataError, Settings, UsageError, files

SIZE = 16  # pixels of the image store
PATIENTS = 26  # even numbers malignant; the last six are the official test split where there is one
TASKS = {"png-npz": "original"}
MEMORY = 60e6  # bytes that reading one damaged file may take
CSV = "csv/mass_case_description_train_set.csv"
DESCRIPTIONS = {"crop": "cropped images", "mask": "ROI mask images"}
HEADER = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,"
    "mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path\r\n"
)


class RunsCode:
    """What a hostile pickle looks like."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (os.mkdir, (self.canary,))


# --------------------------------------------------------- good little trees
def picture(seed, height=24, width=20):
    return np.random.default_rng(seed).integers(30, 256, (height, width)).astype(np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".png" if path.suffix == ".jpg" and image.dtype == np.uint16 else path.suffix
    path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())


def write_dicom(path, image, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PixelRepresentation, file.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8 * image.dtype.itemsize
    file.HighBit = file.BitsStored - 1
    file.PixelData = image.tobytes()
    for name, value in values.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def write_cbis(folder, *, dicom=False):
    rows = {"train": [], "test": []}
    for number in range(PATIENTS):
        split = "test" if number >= PATIENTS - 6 else "train"
        film = f"Mass-{'Training' if split == 'train' else 'Test'}_P_{number:05d}_LEFT_CC"
        full, mask = picture(number, 48, 40), np.zeros((48, 40), np.uint8)
        mask[14:26, 12:24] = 255
        planes = {"full": full, "crop": full[10:34, 8:28].copy(), "mask": mask}
        for role, plane in planes.items():
            if dicom:
                subject = film if role == "full" else f"{film}_1"
                described = {} if role == "full" else {"SeriesDescription": DESCRIPTIONS[role]}
                write_dicom(folder / f"CBIS-DDSM/{subject}/1.{number}/2.{number}/{role}.dcm", plane, **described)
            else:
                write_image(folder / f"jpeg/{role}.{number}/1-001.jpg", plane)
        paths = [f"{film}/1.{number}/full.{number}/000000.dcm"]
        paths += [f"{film}_1/1.{number}/{role}.{number}/000000.dcm" for role in ("crop", "mask")]
        word = "BENIGN" if number % 2 else "MALIGNANT"
        rows[split].append(
            f"P_{number:05d},3,LEFT,CC,1,mass,OVAL,OBSCURED,{3 + number % 2},{word},3,{','.join(paths)}\r\n"
        )
    (folder / "csv").mkdir()
    for split, lines in rows.items():
        (folder / f"csv/mass_case_description_{split}_set.csv").write_text(HEADER + "".join(lines), newline="")


def record(**values):
    message = ddsm_tfrecord._example_class()()
    for name, value in values.items():
        feature = message.features.feature[name]
        (feature.int64_list if isinstance(value, int) else feature.bytes_list).value.append(value)
    payload = message.SerializeToString()
    return struct.pack("<Q", len(payload)) + b"\0" * 4 + payload + b"\0" * 4


def tile(number, **values):
    label = 1 + number % 4
    values = {"label": label, "label_normal": 1, "filename": f"P_{number:05d}_LEFT_CC.png".encode()} | values
    return record(**{"image": picture(number, 299, 299).tobytes()} | values)


def write_tfrecord(folder):
    path = folder / "training10_0/training10_0.tfrecords"
    path.parent.mkdir()
    path.write_bytes(b"".join(tile(number) for number in range(16)))
    for part, first in (("test10", 100), ("cv10", 200)):
        (folder / f"{part}_data").mkdir()
        pixels = np.stack([picture(first + number, 299, 299) for number in range(4)])[..., None]
        np.save(folder / f"{part}_data/{part}_data.npy", pixels)
        np.save(folder / f"{part}_data/{part}_labels.npy", np.array([2, 4, 2, 4] if part == "test10" else [1, 3, 1, 3]))


def write_png_npz(folder):
    (folder / "synthetic").mkdir()
    for number in range(PATIENTS // 2):
        write_image(folder / f"original/P_{number:05d}_LEFT_CC_1_{'BM'[number % 2]}.png", picture(number))
        np.savez(folder / f"synthetic/batch_{number}_0_benign.npz", picture(100 + number))


def write_npz(folder):
    for number in range(PATIENTS // 2):
        for offset, name in enumerate(("cancer", "non_cancer")):
            (folder / name).mkdir(exist_ok=True)
            np.savez(folder / f"{name}/P_{2 * number + offset:05d}_LEFT_CC_1.npz", picture(2 * number + offset))


def write_mias(folder):
    lines = []
    for number in range(1, PATIENTS + 1):
        write_image(folder / f"mdb{number:03d}.pgm", picture(number, 130, 120))
        lines.append(f"mdb{number:03d} G CIRC {'BM'[(number + 1) // 2 % 2]} 60 65 20\n")
    (folder / "Info.txt").write_text("".join(lines))


WRITERS = {
    "cbis-ddsm": write_cbis,
    "cbis-ddsm-dicom": lambda folder: write_cbis(folder, dicom=True),
    "ddsm-tfrecord": write_tfrecord,
    "png-npz": write_png_npz,
    "npz": write_npz,
    "mini-mias": write_mias,
}
PICTURES = {  # one training image of each layout that has an image a file
    "cbis-ddsm": "jpeg/crop.2/1-001.jpg",
    "cbis-ddsm-dicom": "CBIS-DDSM/Mass-Training_P_00002_LEFT_CC_1/1.2/2.2/crop.dcm",
    "png-npz": "original/P_00002_LEFT_CC_1_B.png",
    "npz": "cancer/P_00002_LEFT_CC_1.npz",
    "mini-mias": "mdb002.pgm",
}


@pytest.fixture(scope="session")
def good_trees(tmp_path_factory):
    """{layout: folder of a small data set without fault}."""
    folders = {}
    for layout, write in WRITERS.items():
        folders[layout] = tmp_path_factory.mktemp(layout)
        write(folders[layout])
    return folders


@pytest.fixture
def tree(good_trees, tmp_path):
    """Copy the good tree of a layout: tree("npz") -> its folder. Nothing in it is ever run."""
    canary = tmp_path / "canary"
    yield lambda layout: Path(shutil.copytree(good_trees[layout], tmp_path / "data", symlinks=True))
    assert not canary.exists(), "a pickle was run"


def attempt(layout, folder, run_dir, **options):
    """Do what the runner does with a data set: (Prepared, "") or (None, the error line)."""
    settings = Settings(layout, folder, run_dir, image_size=SIZE, n_folds=2, task=TASKS.get(layout, "malignant"))
    settings = Settings(**{**settings.__dict__, **options})
    try:
        preparation.check(settings)
        prepared, line = preparation.prepare(settings), ""
    except (DataError, UsageError) as error:
        prepared, line = None, str(error)
    check_whole(run_dir)
    return prepared, line


def check_whole(run_dir):
    """Whatever lies in the run directory can be read, and the manifest belongs to the store."""
    for path in run_dir.rglob("*"):
        assert not path.name.startswith(".part-"), path
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
    if (run_dir / "data/manifest.csv").exists():
        manifest = manifests.load_manifest(run_dir)
        assert len(manifest) == len(np.load(run_dir / "data/images.npy", mmap_mode="r"))
        assert manifest.image_id.is_unique
        assert ((manifest.split == "excluded") == (manifest.exclusion_reason != "")).all()


# ------------------------------------------------------------ kinds of damage
def halve(path, canary):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path, canary):
    path.write_bytes(b"")


def web_page(path, canary):
    path.write_text("<!doctype html><html><body>404: please log in</body></html>")


def link_out(path, canary):
    outside = canary.parent / path.name
    shutil.move(path, outside)
    path.symlink_to(outside)


def link_to_itself(path, canary):
    path.unlink()
    path.symlink_to(path)


def folder_instead(path, canary):
    path.unlink()
    path.mkdir()


def save(path, array):
    """Write an array in the file's own format."""
    if path.suffix == ".dcm":
        write_dicom(path, array, SeriesDescription="cropped images")
    elif path.suffix == ".npz":
        np.savez(path, array)
    else:
        write_image(path, array)


def shape_of(path):
    return (130, 120) if path.suffix == ".pgm" else (24, 20)


def one_grey_value(path, canary):
    save(path, np.full(shape_of(path), 90, np.uint8))


def one_pixel(path, canary):
    save(path, np.full((1, 1), 90, np.uint8))


def sixteen_bits(path, canary):
    save(path, picture(2, *shape_of(path)).astype(np.uint16) * 257)


def one_row(path, canary):
    save(path, np.random.default_rng(0).integers(0, 256, (1, 40_000)).astype(np.uint8))


def _png_header(width, height):
    chunk = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + check + b"\0\0\0\0IEND\xaeB`\x82"


def huge_header(path, canary):
    side = 30_000
    if path.suffix == ".dcm":
        write_dicom(path, picture(0), SeriesDescription="cropped images", Rows=side, Columns=side)
    elif path.suffix == ".npz":
        _zip_array(path, (side, side), b"\0" * 100)
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 255\n" % (side, side) + b"\1" * 100)
    else:
        path.write_bytes(_png_header(side, side))


def _zip_array(path, shape, content, descr="|u1"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + content)


def zip_bomb(path, canary):
    """40 kB that unpack to 40 MB, and a header that asks for 2.8 GB."""
    _zip_array(path, (18_000, 19_500), b"\0" * 40_000_000, "<f8")


def pickled(path, canary):
    np.savez(path, np.array([RunsCode(canary)], dtype=object), allow_pickle=True)


def bare_pickle(path, canary):
    path.write_bytes(pickle.dumps(RunsCode(canary)))


def nan(path, canary):
    array = picture(2).astype(np.float32)
    array[3, 3] = np.nan
    np.savez(path, array)


def beyond_float32(path, canary):
    np.savez(path, picture(2) * 1e300)


def words(path, canary):
    np.savez(path, np.array([["a", "b"], ["c", "d"]]))


def complex_numbers(path, canary):
    np.savez(path, picture(2) * 1j)


def four_axes(path, canary):
    np.savez(path, np.zeros((2, 24, 20, 3)))


def no_axis(path, canary):
    np.savez(path, np.float32(3))


def no_pixels(path, canary):
    np.savez(path, np.zeros((0, 20)))


def two_arrays(path, canary):
    np.savez(path, a=picture(1), b=picture(2))


def long_npy_header(path, canary):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b" " * 60_000)


def float_tiff(path, canary):
    array = picture(2).astype(np.float32)
    array[0, 0] = np.nan
    Image.fromarray(array).save(path, format="TIFF")


def many_frames(path, canary):
    file = pydicom.dcmread(path)
    file.NumberOfFrames = 60
    file.save_as(path)


def deflated_bomb(path, canary):
    """DICOM whose data set is compressed as a whole: 100 MB in 0.1 MB."""
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [squeeze.compress(b"\x09\x00\x10\x00OB\0\0" + struct.pack("<I", 100_000_000))]
    parts += [squeeze.compress(b"\0" * 10_000_000) for _ in range(10)]
    path.write_bytes(whole[: 132 + 12 + length] + b"".join(parts) + squeeze.flush())


COMMON = {  # damage: what the exclusion says; None where the image is usable
    halve: "truncated|cannot be decoded|not a readable|not an image",
    empty: "empty|not a readable",
    web_page: "not an image|not a readable",
    link_out: "symbolic link",
    one_grey_value: "one grey value",
    one_pixel: "one grey value|outside the image",
    huge_header: "larger|more than|up to|30000|30,000",
    sixteen_bits: None,
    one_row: "|larger than its mammogram|outside the image",
}
ARRAYS = {
    zip_bomb: "larger",
    pickled: "pickled",
    bare_pickle: "not a readable NumPy file",
    nan: "NaN",
    beyond_float32: "NaN|infinity",
    words: "numbers are expected",
    complex_numbers: "numbers are expected",
    four_axes: "one grey plane",
    no_axis: "one grey plane",
    no_pixels: "one grey plane",
    two_arrays: "2 arrays",
    long_npy_header: "not a readable",
}
SYNTHETIC = "synthetic/batch_2_0_benign.npz"
CASES = [
    *((layout, path, damage, reason) for layout, path in PICTURES.items() for damage, reason in COMMON.items()),
    *(
        (layout, path, damage, reason)
        for layout, path in (("npz", PICTURES["npz"]), ("png-npz", SYNTHETIC))
        for damage, reason in ARRAYS.items()
    ),
    ("cbis-ddsm", PICTURES["cbis-ddsm"], float_tiff, "NaN"),
    ("cbis-ddsm", PICTURES["cbis-ddsm"], link_to_itself, "link|no such file"),
    ("cbis-ddsm", PICTURES["cbis-ddsm"], folder_instead, "no such file"),
    ("cbis-ddsm-dicom", PICTURES["cbis-ddsm-dicom"], deflated_bomb, "compressed"),
    ("cbis-ddsm-dicom", PICTURES["cbis-ddsm-dicom"], many_frames, "60 frames"),
]  # fmt: skip


MASK_CASES = [
    ("jpeg/mask.2/1-001.jpg", halve, COMMON[halve]),
    ("jpeg/mask.2/1-001.jpg", link_out, "symbolic link"),
    ("jpeg/mask.2/1-001.jpg", one_pixel, "mask of another size"),
    ("jpeg/full.2/1-001.jpg", one_pixel, "crop larger than its mammogram"),
]


def _name(case):
    layout, _, damage, _ = case
    return f"{layout}-{damage.__name__}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layout", "file", "damage", "reason"), CASES, ids=map(_name, CASES))
def test_a_damaged_image_is_left_out_by_name(tree, tmp_path, layout, file, damage, reason):
    folder = tree(layout)
    damage(folder / file, tmp_path / "canary")
    with memory_limit(damage in (zip_bomb, deflated_bomb)):
        prepared, line = attempt(layout, folder, tmp_path / "run")
    assert line == ""
    manifest = prepared.manifest
    out = manifest[manifest.exclusion_reason != ""]
    if reason is None or (reason.startswith("|") and out.empty):  # "|…": some layouts cannot place it
        assert out.empty
        assert (prepared.images[manifest.image_path.str.startswith(file)] > 0).any()
    else:
        assert len(out) == 1
        assert re.search(reason, out.exclusion_reason.item())
        assert Path(file).name in out.exclusion_reason.item() + out.image_path.item()
        assert "\n" not in out.exclusion_reason.item()


@pytest.mark.parametrize(("file", "damage", "reason"), MASK_CASES)
def test_a_damaged_mask_costs_the_mask_not_the_image(tree, tmp_path, file, damage, reason):
    folder = tree("cbis-ddsm")
    damage(folder / file, tmp_path / "canary")
    prepared, line = attempt("cbis-ddsm", folder, tmp_path / "run")
    assert line == ""
    assert not (prepared.manifest.exclusion_reason != "").any()
    hit = prepared.statistics.mask_problem != ""
    assert hit.sum() == 1
    assert re.search(reason, prepared.statistics.mask_problem[hit].item())
    assert prepared.images[hit].any()
    assert not prepared.masks[hit].any()
    report = files.read_json(tmp_path / "run/data/audit.json")
    assert list(report["unreadable_masks"]) == prepared.manifest.image_id[hit].tolist()


@contextmanager
def memory_limit(is_bomb):
    """Fail where more than MEMORY is asked for; slow, so for bombs only."""
    if is_bomb:
        tracemalloc.start()
    yield
    if is_bomb:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY


# -------------------------------------------------- what lists the images
def edit(path, old, new, count=-1):
    content = path.read_bytes()
    assert old in content, "the damage does not apply"
    path.write_bytes(content.replace(old, new, count))


def append(path, line):
    path.write_bytes(path.read_bytes() + line)


def recode(path, encoding):
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))


def duplicate_last_line(path):
    append(path, path.read_bytes().splitlines(keepends=True)[-1])


def relabel_last_line(path, old, new, number):
    """Add a second abnormality that has the same files and another pathology."""
    line = path.read_bytes().splitlines(keepends=True)[-1]
    append(path, line.replace(old, new).replace(b",CC,1,", b",CC,%d," % number))


def one_patient(path):
    """The same woman in each row, as one lesion more."""
    path.write_bytes(re.sub(rb"(?m)^P_(\d+)(.*?,CC),1,", rb"P_00001\2,\1,", path.read_bytes()))


def huge_field(path):
    edit(path, b"OVAL", b"O" * 300_000, 1)


CASE_FILE = {  # damage of a case file: the error line, or the exclusion, or None where it does not matter
    "empty": (lambda path: path.write_bytes(b""), "error: mass_case.*not a UTF-8 csv"),
    "header_only": (lambda path: path.write_text(HEADER), "error: at least 5"),
    "no_column": (lambda path: edit(path, b"pathology", b"diagnosis", 1), "error: mass_case.*no column pathology"),
    "column_twice": (lambda path: edit(path, b"mass shape", b"Pathology", 1), "error: mass_case.*pathology.*twice"),
    "columns_that_collide": (lambda path: edit(path, b"mass shape", b"side", 1), None),
    "other_separator": (lambda path: edit(path, b",", b";"), "error: mass_case.*no column"),
    "field_too_many": (lambda path: edit(path, b"\r\nP_", b"\r\nx,P_"), "error: mass_case.*Expected 14 fields"),
    "one_row_too_long": (lambda path: edit(path, b"OVAL", b"OVAL,x", 1), "error: mass_case.*Expected 14 fields"),
    "row_too_short": (lambda path: append(path, b"P_00090,3,LEFT\r\n"), "error: mass_case.*pathology ''"),
    "unknown_word": (
        lambda path: edit(path, b"MALIGNANT", b"CANCER", 1),
        "error: mass_.*row 2: pathology 'CANCER'",
    ),
    "no_patient": (lambda path: edit(path, b"P_00003,", b","), "error: mass_case.*row 5: no patient_id"),
    "utf16": (lambda path: recode(path, "utf-16"), "error: mass_case.*not a UTF-8 csv"),
    "latin1": (lambda path: edit(path, b"OVAL", b"OVAL\xe9", 1), "error: mass_case.*not a UTF-8 csv"),
    "nul_bytes": (lambda path: edit(path, b"OVAL", b"OV\0AL", 1), None),
    "byte_order_mark": (lambda path: recode(path, "utf-8-sig"), None),
    "open_quote": (lambda path: edit(path, b"OVAL", b'"OVAL', 1), "error: mass_case.*(not a UTF-8 csv|pathology)"),
    "carriage_return": (lambda path: edit(path, b"OVAL", b'"OV\rAL"', 1), None),
    "huge_field": (huge_field, None),
    "web_page": (lambda path: web_page(path, None), "error: mass_case.*no column"),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 20), "error: mass_case"),
    "absolute_path": (lambda path: edit(path, b"Mass-Training_P_00002_LEFT_CC_1/1.2", b"/etc/passwd", 1), None),
    "dots_in_path": (lambda path: edit(path, b"Mass-Training_P_00002_LEFT_CC_1/1.2", b"../../etc", 1), None),
    "row_twice": (duplicate_last_line, "excluded: stands twice"),
    "label_conflict": (lambda path: relabel_last_line(path, b"BENIGN", b"MALIGNANT", 2), "excluded: another label"),
    "one_class": (
        lambda path: edit(path, b"MALIGNANT", b"BENIGN"),
        "error: only one class on disk outside the official test split",
    ),
    "one_patient": (one_patient, "error: 1 patients are too few"),
    "folder_instead": (lambda path: folder_instead(path, None), "error: "),
    "link_to_itself": (lambda path: link_to_itself(path, None), "error: "),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["cbis-ddsm", "cbis-ddsm-dicom"])
@pytest.mark.parametrize("damage", CASE_FILE)
def test_a_damaged_case_file(tree, tmp_path, layout, damage):
    folder = tree(layout)
    change, outcome = CASE_FILE[damage]
    change(folder / CSV)
    check_outcome(*attempt(layout, folder, tmp_path / "run"), outcome)


def check_outcome(prepared, line, outcome):
    """Compare with "error: regex", "excluded: regex" or None (usable as it is)."""
    kind, _, pattern = (outcome or "").partition(": ")
    if kind == "error":
        assert re.search(pattern, line)
        assert len(line.splitlines()) == 1
        return
    assert line == ""
    if kind == "excluded":
        assert prepared.manifest.exclusion_reason.str.contains(pattern).any()


def _npy(folder, name, array, **options):
    np.save(next(folder.rglob(name)), array, **options)


def cut_shard(folder, canary):
    path = folder / "training10_0/training10_0.tfrecords"
    path.write_bytes(path.read_bytes()[:-5])


def add_record(folder, payload):
    append(folder / "training10_0/training10_0.tfrecords", payload)


def copy_shard(folder, canary):
    shutil.copytree(folder / "training10_0", folder / "copy/training10_0")


def pairs_of_one_class(folder, canary):
    for path in folder.rglob("*.npz"):
        path.unlink()


def same_name_twice(folder, canary):
    write_image(folder / "original/synthetic_batch_2_0_benign.png", picture(50))


def same_folder_name_twice(folder, canary):
    np.savez(folder / "cancer/P_00050_LEFT_CC_1.npz", picture(60))
    (folder / "non_cancer").rename(folder / "cancer_P")
    np.savez(folder / "cancer_P/00050_LEFT_CC_1.npz", picture(61))


def same_picture(folder, canary):
    shutil.copy(folder / PICTURES["npz"], folder / "non_cancer/P_00003_LEFT_CC_1.npz")


def few_patients(folder, canary):
    for path in sorted(folder.glob("*/*.npz")):
        path.rename(path.with_name(f"P_00001_{path.name}"))


def link_folder_out(folder, canary):
    shutil.move(folder / "cancer", canary.parent / "cancer")
    (folder / "cancer").symlink_to(canary.parent / "cancer")


def name_with_line_break(folder, canary):
    path = folder / "cancer/P_00002_LEFT_CC_1.npz"
    path.rename(path.with_name('P_00002\nLEFT,"CC.npz'))


def broken_name_with_line_break(folder, canary):
    name_with_line_break(folder, canary)
    next(folder.glob("cancer/*\n*")).write_bytes(b"x")


def name_that_is_no_text(folder, canary):
    path = os.fsencode(folder / "cancer/P_00002_LEFT_CC_1.npz")
    os.rename(path, path.replace(b"CC", b"\xff\xfe"))


def info(text):
    return lambda folder, canary: append(folder / "Info.txt", text)


def replace_info(content):
    return lambda folder, canary: (folder / "Info.txt").write_bytes(content)


def pickled_labels(folder, canary):
    _npy(folder, "cv10_labels.npy", np.array([RunsCode(canary)] * 4, dtype=object), allow_pickle=True)


def pickled_names(folder, canary):
    np.save(folder / "cv10_data/cv10_filenames.npy", np.array([RunsCode(canary)] * 4, dtype=object), allow_pickle=True)


LISTS = {
    "ddsm-tfrecord": {
        "truncated": (cut_shard, r"error: training10_0\.tfrecords: record \d+ at byte"),
        "empty_shard": (lambda f, c: empty(f / "training10_0/training10_0.tfrecords", c), "error: no records"),
        "web_page": (lambda f, c: web_page(f / "training10_0/training10_0.tfrecords", c), "error: record 0"),
        "no_message": (lambda f, c: add_record(f, struct.pack("<Q", 9) + b"\xff" * 17), "excluded: Example"),
        "wrong_size": (lambda f, c: add_record(f, tile(50, image=b"1" * 90)), "excluded: 90 bytes"),
        "no_image": (lambda f, c: add_record(f, record(label=1)), "excluded: no image"),
        "label_is_text": (lambda f, c: add_record(f, tile(50, label=b"1")), "excluded: no label"),
        "label_out_of_range": (lambda f, c: add_record(f, tile(50, label=-(2**60))), "excluded: no label"),
        "constant": (
            lambda f, c: add_record(f, tile(50, image=b"\x40" * 299 * 299)),
            "excluded: one grey value",
        ),
        "file_name_is_path": (lambda f, c: add_record(f, tile(50, filename=b"../../P_00050/etc")), None),
        "file_name_is_slash": (lambda f, c: add_record(f, tile(50, filename=b"/")), None),
        "file_name_is_bytes": (lambda f, c: add_record(f, tile(50, filename=b"\xff\x00\r\n\x1b[2J,\"")), None),
        "same_shard_twice": (copy_shard, "excluded: twice|another"),
        "label_conflict": (
            lambda f, c: add_record(f, tile(2, label=1)),
            "excluded: another label",
        ),
        "one_class": (lambda f, c: _npy(f, "test10_labels.npy", np.array([2] * 4)), None),
        "test_of_one_class": (
            lambda f, c: [_npy(f, f"{part}_labels.npy", np.array([2] * 4)) for part in ("cv10", "test10")],
            "error: only one class on disk in the official test split",
        ),
        "array_truncated": (lambda f, c: halve(f / "cv10_data/cv10_data.npy", c), r"error: cv10_data\.npy"),
        "array_empty": (lambda f, c: empty(f / "cv10_data/cv10_data.npy", c), r"error: cv10_data\.npy"),
        "array_wrong_shape": (lambda f, c: _npy(f, "cv10_data.npy", np.zeros((4, 8, 8))), r"error: cv10_data\.npy"),
        "array_no_axis": (lambda f, c: _npy(f, "cv10_data.npy", np.float32(3)), r"error: cv10_data\.npy"),
        "array_of_nan": (
            lambda f, c: _npy(f, "cv10_data.npy", np.full((4, 299, 299), np.nan, np.float32)),
            "excluded: NaN",
        ),
        "array_16_bit": (
            lambda f, c: _npy(f, "cv10_data.npy", np.stack([picture(i, 299, 299) for i in range(4)]) * np.uint16(257)),
            None,
        ),
        "array_of_words": (lambda f, c: _npy(f, "cv10_data.npy", np.full((4, 299, 299), "a")), "error: cv10_data"),
        "labels_pickled": (pickled_labels, r"error: cv10_labels\.npy"),
        "labels_of_words": (lambda f, c: _npy(f, "cv10_labels.npy", np.array(["a"] * 4)), r"error: cv10_labels\.npy"),
        "labels_too_few": (lambda f, c: _npy(f, "cv10_labels.npy", np.array([1])), r"error: cv10_labels\.npy"),
        "labels_no_axis": (lambda f, c: _npy(f, "cv10_labels.npy", np.array(1)), r"error: cv10_labels\.npy"),
        "labels_nan": (lambda f, c: _npy(f, "cv10_labels.npy", np.full(4, np.nan)), r"error: cv10_labels\.npy"),
        "names_pickled": (pickled_names, r"error: cv10_filenames\.npy"),
        "names_no_axis": (lambda f, c: np.save(f / "cv10_data/cv10_filenames.npy", np.array("a")), None),
        "array_link_out": (lambda f, c: link_out(f / "cv10_data/cv10_data.npy", c), "error: symbolic link"),
        "shard_link_out": (lambda f, c: link_out(f / "training10_0/training10_0.tfrecords", c), "error: symbolic link"),
    },
    "png-npz": {
        "no_synthetic": (pairs_of_one_class, r"error: no folder holds \*\.npz"),
        "two_folders": (
            lambda f, c: [shutil.copytree(f / "original", f / name) for name in ("a", "real")],
            "error: more than one folder",
        ),
        "same_name_twice": (same_name_twice, "excluded: twice"),
        "original_is_text": (lambda f, c: web_page(f / PICTURES["png-npz"], c), "excluded: not an image"),
    },
    "npz": {
        "one_class": (lambda f, c: shutil.rmtree(f / "cancer"), "error: only non_cancer/"),
        "unknown_word": (
            lambda f, c: [(f / a).rename(f / b) for a, b in (("cancer", "a"), ("non_cancer", "b"))],
            "error: folder a/ names no known class",
        ),
        "same_name_twice": (same_folder_name_twice, "excluded: twice"),
        "label_conflict": (same_picture, "excluded: another label"),
        "one_patient": (few_patients, "error: 1 patients are too few"),
        "folder_link_out": (link_folder_out, "error: symbolic link"),
        "line_break_in_name": (name_with_line_break, None),
        "line_break_in_broken_name": (broken_name_with_line_break, "excluded: not a readable"),
        "name_that_is_no_text": (name_that_is_no_text, None),
    },
    "mini-mias": {
        "empty": (replace_info(b""), r"error: Info\.txt"),
        "utf16": (replace_info("mdb001 G CIRC B 60 65 20\n".encode("utf-16")), r"error: Info\.txt"),
        "binary": (replace_info(bytes(range(256)) * 9), r"error: Info\.txt"),
        "unknown_word": (info(b"mdb040 G BLOB B 60 65 20\n"), "excluded: line 27 cannot be read"),
        "long_name": (info(b"mdb" + b"x" * 5000 + b"\n"), "excluded: line 27 cannot be read"),
        "long_number": (info(b"mdb" + b"1" * 5000 + b"\n"), "excluded: line 27 cannot be read"),
        "nul": (info(b"mdb\0\0\n"), "excluded: line 27 cannot be read"),
        "dots": (info(b"mdb/../../../etc/passwd\n"), "excluded: line 27 cannot be read"),
        "missing_image": (info(b"mdb040 G CIRC B 60 65 20\n"), "excluded: mdb040.pgm is missing"),
        "outside": (info(b"mdb001 G CIRC B 9000 9000 20\n"), "excluded: outside the image"),
        "beyond_int": (info(b"mdb001 G CIRC B 60 65 99999999999999\n"), "excluded: line 27|coordinates"),
        "beyond_text": (info(b"mdb001 G CIRC B 60 65 " + b"9" * 5000 + b"\n"), "excluded: line 27|coordinates"),
        "radius_zero": (info(b"mdb001 G CIRC B 60 65 0\n"), None),
        "negative": (info(b"mdb001 G CIRC B -60 65 20\n"), "excluded: coordinates|line 27"),
        "line_twice": (info(b"mdb001 G CIRC B 60 65 20\n"), None),
        "label_conflict": (info(b"mdb001 G CIRC M 60 65 20\nmdb001 G CIRC B 60 65 20\n"), "excluded: another label"),
        "name_like_a_number": (info(b"mdb001 G CIRC B 9 9 9\nmdb001_1 ?\n"), "excluded: cannot be read"),
        "one_class": (lambda f, c: edit(f / "Info.txt", b" M ", b" B "), "error: only one class"),
        "one_patient": (lambda f, c: replace_info(b"mdb001 G CIRC B 60 65 20\nmdb002 G CIRC M 60 65 20\n")(f, c),
                        "error: 1 patients are too few"),
        "link_out": (lambda f, c: link_out(f / "Info.txt", c), "error: symbolic link"),
    },
}  # fmt: skip
LIST_CASES = [(layout, name) for layout, cases in LISTS.items() for name in cases]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layout", "name"), LIST_CASES, ids=["-".join(case) for case in LIST_CASES])
def test_a_damaged_list_or_folder(tree, tmp_path, layout, name):
    folder = tree(layout)
    damage, outcome = LISTS[layout][name]
    damage(folder, tmp_path / "canary")
    check_outcome(*attempt(layout, folder, tmp_path / "run"), outcome)


@pytest.mark.parametrize("layout", WRITERS)
def test_the_good_trees_are_good(good_trees, tmp_path, layout):
    """Else every case above would prove nothing."""
    prepared, line = attempt(layout, good_trees[layout], tmp_path / "run")
    assert line == ""
    assert (prepared.manifest.exclusion_reason == "").all()
    assert (prepared.masks is not None) == (layout in ("cbis-ddsm", "cbis-ddsm-dicom", "mini-mias"))
    assert (prepared.images[:].reshape(len(prepared.images), -1).std(axis=1) > 0).all()


@pytest.mark.parametrize(("layout", "other"), itertools.permutations(WRITERS, 2))
def test_another_layout_is_refused(good_trees, tmp_path, layout, other):
    _, line = attempt(layout, good_trees[other], tmp_path / "run")
    assert line
    assert len(line.splitlines()) == 1
    assert good_trees[other].name in line


def test_a_full_disk_is_said_before_anything_is_written(good_trees, tmp_path, monkeypatch):
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    _, line = attempt("npz", good_trees["npz"], tmp_path / "run")
    assert line.startswith("not enough disk space for the image store: ")
    assert not (tmp_path / "run/data").exists()


# --------------------------------------------------------------- the runner
@pytest.fixture
def run(tmp_path, write_notebook, monkeypatch, capsys):
    """Call the command line on one small notebook: run(folder, option, …) -> (status, stdout, stderr)."""
    source = (
        "from shared import config, preparation\nprepared = preparation.prepare(config.resolve_settings(globals()))"
    )
    write_notebook("01_prepare", source)
    monkeypatch.delenv("MAMMO_RUN_DIR", raising=False)
    monkeypatch.setitem(pipeline.run_series.__kwdefaults__, "notebooks_dir", tmp_path / "notebooks")

    def call(layout, folder, *more):
        options = ["--dataset", layout, "--data-dir", folder, "--run-dir", tmp_path / "run", *more]
        status = __main__.main(["run", *map(str, options)])
        return status, *capsys.readouterr()

    return call


def refuse_runs(result, pattern, run_dir):
    status, out, err = result
    assert (status, out) == (__main__.USAGE, "")
    assert re.search(pattern, err)
    assert len(err.splitlines()) == 1
    assert not run_dir.exists()


def test_the_runner_names_a_truncated_image_and_goes_on(tree, tmp_path, run):
    folder = tree("cbis-ddsm")
    halve(folder / PICTURES["cbis-ddsm"], None)
    append(folder / PICTURES["cbis-ddsm"], b"\0" * 5000)
    status, _, err = run("cbis-ddsm", folder)
    assert (status, err) == (0, "")
    audit = files.read_json(tmp_path / "run/data/audit.json")
    (line,) = audit["unreadable"].values()
    assert re.search(COMMON[halve], line)
    assert manifests.load_manifest(tmp_path / "run").split.value_counts()["excluded"] == 1


def test_the_runner_finds_a_class_missing_from_the_test_split(tree, tmp_path, run):
    folder = tree("cbis-ddsm")
    edit(folder / CSV.replace("train", "test"), b"MALIGNANT", b"BENIGN")
    refuse_runs(run("cbis-ddsm", folder), "only one class on disk in the official test split", tmp_path / "run")


def test_the_runner_finds_too_little_disk(good_trees, tmp_path, run, monkeypatch):
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    refuse_runs(run("npz", good_trees["npz"]), "not enough disk space", tmp_path / "run")


@pytest.mark.parametrize("damage", [empty, web_page, folder_instead])
def test_the_runner_refuses_what_is_no_weights_file(good_trees, tmp_path, run, damage):
    path = tmp_path / "vgg16.weights.h5"
    path.touch()
    damage(path, None)
    result = run("npz", good_trees["npz"], "--weights", f"vgg16={path}")
    refuse_runs(result, r"vgg16\.weights\.h5", tmp_path / "run")


@pytest.mark.parametrize("layout", ["cbis-ddsm", "npz"])
def test_the_runner_refuses_a_file_as_data_directory(good_trees, tmp_path, run, layout):
    refuse_runs(run(layout, good_trees["mini-mias"] / "Info.txt"), "no such directory", tmp_path / "run")


# ------------------------------------------------------------ arbitrary bytes
def check_line(error, name=""):
    assert len(str(error).splitlines()) == 1
    assert name in str(error)


GOOD_ROW = b"P_1,3,LEFT,CC,1,mass,OVAL,OBSCURED,4,BENIGN,3,a/b/c/d,a/b/c/d,a/b/c/d\r\n"
QUICK = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
TEXT = st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))


@QUICK
@given(body=st.binary(max_size=300) | TEXT, keep_header=st.booleans())
@example(body=GOOD_ROW, keep_header=True)
@example(body=b"x," + GOOD_ROW, keep_header=True)
@example(body=b'"', keep_header=True)
def test_any_bytes_as_case_file(tmp_path, body, keep_header):
    path = tmp_path / Path(CSV).name
    path.write_bytes((HEADER.encode() if keep_header else b"") + body)
    try:
        cases = cbis_ddsm.read_cases(tmp_path)
    except DataError as error:
        check_line(error)
        return
    assert cases.pathology.isin(PATHOLOGIES).all()
    assert not cases.isna().any().any()
    files.write_csv(tmp_path / "again.csv", cases)
    again = pd.read_csv(tmp_path / "again.csv", dtype=str, keep_default_na=False)
    assert (again == cases).all().all()


@QUICK
@given(
    st.lists(
        st.tuples(*[st.text(max_size=12)] * 9, st.sampled_from([*PATHOLOGIES, "benign "]), *[st.text(max_size=12)] * 4),
        min_size=1,
        max_size=4,
    )
)
def test_any_words_in_a_case_file(tmp_path, rows):
    path = tmp_path / Path(CSV).name
    columns = HEADER.strip().split(",")
    text = pd.DataFrame(rows, columns=columns).to_csv(index=False)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        cases = cbis_ddsm.read_cases(tmp_path)
    except DataError as error:
        check_line(error)
        return
    files.write_csv(tmp_path / "again.csv", cases)
    again = pd.read_csv(tmp_path / "again.csv", dtype=str, keep_default_na=False)
    assert (again == cases).all().all()


@QUICK
@given(st.binary(max_size=200))
@example(b"mdb001 G CIRC B 60 65 \xb2\n")
def test_any_bytes_as_info_txt(good_trees, tmp_path_factory, body):
    folder = tmp_path_factory.mktemp("mias")
    (folder / "mdb001.pgm").write_bytes((good_trees["mini-mias"] / "mdb001.pgm").read_bytes())
    (folder / "Info.txt").write_bytes(b"mdb001 G CIRC B 60 65 20\nmdb" + body)
    for input in ("crop", "full"):
        manifest = mini_mias.load(folder, task="malignant", input=input).manifest
        assert manifest.image_id.str.startswith("mdb").all()


@QUICK
@given(st.binary(max_size=120), st.sampled_from([".png", ".jpg", ".pgm", ".npz", ".npy", ".dcm", ".tif"]))
@example(b"P5 8 8 255\n", ".pgm")
@example(b"\x93NUMPY\x01\x00\x05\x00{'a':", ".npy")
def test_any_bytes_as_an_image(tmp_path, body, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(body)
    try:
        image = images.read_grey(path)
    except DataError as error:
        check_line(error, path.name)
    else:
        assert image.ndim == 2
