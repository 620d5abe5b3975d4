"""Damaged inputs, layout by layout, on trees that `phantoms` writes: one clear line, or an exclusion by name."""

import io
import itertools
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pydicom
import pytest
import xlrd

from phantoms import LAYOUTS, write_demo_data
from phantoms.write_cmmd import write_workbook
from shared import data
from shared.models.backend import tf
from shared.run import DataError, Settings, UsageError
from tests.data.test_readers import edit_dicom, example

TASKS = {"png-npz": "original"}
MEMORY = 60e6  # bytes that reading one damaged file may take
SIDE = 299  # pixels of a DDSM tile
MASS = "csv/mass_case_description_train_set.csv"
TEXT = (".csv", ".txt", ".tfrecords", ".npy")


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A function layout → (folder of a small data set without fault, its manifest)."""
    made = {}

    def make(layout):
        if layout not in made:
            place = tmp_path_factory.mktemp(layout)
            count, seed = (12, 0) if layout == "ddsm-tfrecord" else (20, 1)
            write_demo_data(place / "data", layout=layout, patients=count, seed=seed, n_jobs=1, progress=False)
            prepared, line = attempt(layout, place / "data", place / "run")
            assert line == ""
            made[layout] = place / "data", prepared.manifest
        return made[layout]

    return make


@pytest.fixture
def tree(good, tmp_path):
    """A function layout → a copy of its good tree, whose images are hard links: damage replaces files."""
    canary = tmp_path / "canary"

    def copy(source, target):
        (shutil.copy if source.endswith(TEXT) else os.link)(source, target)

    yield lambda layout: Path(shutil.copytree(good(layout)[0], tmp_path / "data", copy_function=copy))
    assert not canary.exists(), "a pickle was run"


def attempt(layout, folder, run_dir):
    """Do what a run does with a data set: (Prepared, "") or (None, the error line)."""
    asked = Settings(layout, folder, run_dir, image_size=16, n_folds=2, task=TASKS.get(layout, "malignant"))
    try:
        data.check_can_run(asked)
        prepared, line = data.prepare(asked), ""
    except (DataError, UsageError) as error:
        prepared, line = None, str(error)
        assert len(line.splitlines()) == 1
    assert not list(run_dir.rglob(".part-*"))
    if prepared:
        manifest = data.load_manifest(run_dir)
        assert len(manifest) == len(np.load(run_dir / "data/images.npy"))
        assert manifest.image_id.is_unique
        assert ((manifest.split == "excluded") == (manifest.exclusion_reason != "")).all()
    return prepared, line


def find(manifest, folder, target):
    """Return the file that the table names: a path, or what the first usable training image is made of."""
    if target not in ("IMAGE", "MASK", "FULL", "SYNTHETIC"):
        return folder / target
    paths = manifest[{"MASK": "mask_path", "FULL": "full_image_path"}.get(target, "image_path")]
    paths = paths[(manifest.split == "train") & (paths.str.contains("synthetic") == (target == "SYNTHETIC"))]
    return folder / paths.iloc[0].split("#")[0]


class RunsCode(str):
    """What a hostile pickle looks like."""

    def __reduce__(self):
        return (os.mkdir, (str(self),))


def hostile(outside):
    return np.array([RunsCode(outside / "canary")] * 4, dtype=object)


def write(content):
    def damage(path, outside):
        new = content(path.read_bytes()) if callable(content) else content
        path.unlink(missing_ok=True)  # a hard link to the good tree
        path.write_bytes(new)

    return damage


def append(content):
    return write(lambda old: old + content)


def recode(encoding):
    return write(lambda old: old.decode().encode(encoding))


def edit(pattern, new, count=1):
    return write(lambda old: re.sub(pattern, new, old, count=count))


def last_row(pattern, new):  # added once more, changed
    return write(lambda old: old + re.sub(pattern, new, old.split(b"\r\n")[-2]) + b"\r\n")


def each(pattern, change):
    return lambda folder, outside: [change(path, outside) for path in sorted(folder.glob(pattern))]


def place(old, new, move=os.link):
    """Link, copy or move the first file or folder that matches `old`."""
    return lambda folder, outside: move(sorted(folder.glob(old))[0], folder / new)


def both(*damages):
    return lambda folder, outside: [damage(folder, outside) for damage in damages]


def link_out(path, outside):
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)


def save(path, array, **values):  # in the file's own format
    if path.suffix in (".dcm", ".dicom"):
        edit_dicom(path, array, **values)
    elif path.suffix == ".npz":
        np.savez(path, array)
    else:
        path.write_bytes(cv2.imencode(".png" if array.dtype == np.uint16 else path.suffix, array)[1].tobytes())


def noise(*shape, kind="u1", **values):
    array = np.random.default_rng(0).integers(30, 256, shape).astype(kind) * np.array(257, "u2").astype(kind)
    return lambda path, outside: save(path, array, **values)


def npy(array):
    save = {".npy": np.save, ".npz": np.savez}
    return lambda path, outside: save[path.suffix](path, array(outside) if callable(array) else array)


def zipped(content, shape=None, descr="|u1"):
    header, file = io.BytesIO(), io.BytesIO()
    if shape:
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + content)
    return write(file.getvalue())


def huge_header(path, outside, side=30_000):
    chunk = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png = write(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    pgm = write(b"P5 %d %d 255\n" % (side, side) + b"\1" * 100)
    dcm, npz = noise(24, 20, Rows=side, Columns=side), zipped(bytes(100), (side, side))
    {".dcm": dcm, ".dicom": dcm, ".npz": npz, ".pgm": pgm}.get(path.suffix, png)(path, outside)


def deflated_bomb(path, outside):
    """DICOM whose data set is compressed as a whole: 100 MB in 0.1 MB."""
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file.save_as(path, enforce_file_format=True)
    start = path.read_bytes()[: 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = b"\x09\x00\x10\x00OB\0\0" + struct.pack("<I", 100_000_000)
    path.write_bytes(start + squeeze.compress(head + bytes(100_000_000)) + squeeze.flush())


def record(message=None, **values):
    def damage(path, outside):
        lesion = {"label": 1, "label_normal": 1, "image": bytes(range(256)) * 349 + bytes(57)} | values
        with tf.io.TFRecordWriter(str(outside / "one")) as writer:
            writer.write(message or example(**lesion))
        append((outside / "one").read_bytes())(path, outside)

    return damage


def array(change):
    return lambda path, outside: np.save(path, change(np.load(path)))


def cells(change):  # of the workbook of CMMD: a function of its rows
    def damage(path, outside):
        rows = [list(row) for row in openpyxl.load_workbook(path).active.iter_rows(values_only=True)]
        path.unlink()
        write_workbook(path, change(rows))

    return damage


def column(number, new, start=1, stop=None):  # of the rows from one to another
    def change(rows):
        return [[*row[:number], new, *row[number + 1 :]] for row in rows]

    return lambda rows: rows[:start] + change(rows[start:stop]) + (rows[stop:] if stop else [])


def zip_of_zeros(path, outside):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", bytes(200_000_000))


def to_csv(old):  # what an .xls of INbreast says, with `;`
    sheet = xlrd.open_workbook(file_contents=old, logfile=io.StringIO()).sheet_by_index(0)
    return [[str(cell).removesuffix(".0") for cell in sheet.row_values(row)] for row in range(sheet.nrows)]


def table(change):  # a csv file instead of the .xls
    def damage(path, outside):
        path.with_suffix(".csv").write_text("\n".join(map(";".join, change(to_csv(path.read_bytes())))))
        path.unlink()

    return damage


def compressed(path, outside):  # a video of one picture: nothing decodes that
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    file.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    file.save_as(path)


def not_utf8(folder, outside):
    path = os.fsencode(sorted(folder.glob("cancer/*"))[0])
    os.rename(path, re.sub(b"LEFT|RIGHT", b"\xff\xfe", path))


# file: [(outcome, {name: damage})]. Outcomes: "error: line"; "excluded: reason", "mask: reason"; "usable", where
# nothing is left out that was used before; "runs", where an image may be missing.
HTML = write(b"<!doctype html><html><body>404: please log in</body></html>")
NAN = np.full((24, 20), np.nan, np.float32)
TIFF = write(cv2.imencode(".tiff", NAN)[1].tobytes())
HALF, EMPTY = write(lambda old: old[: len(old) // 2]), write(b"")
LINK_TO_ITSELF = lambda path, out: (path.unlink(), path.symlink_to(path))  # noqa: E731
FOLDER = lambda path, out: (path.unlink(), path.mkdir())  # noqa: E731
REMOVED = lambda path, out: path.unlink()  # noqa: E731
PICTURES = [
    ("excluded: truncated|cannot be decoded|not a readable|not an image", {"halved": HALF}),
    ("excluded: empty", {"empty": EMPTY}),
    ("excluded: not an image|not a readable", {"web_page": HTML}),
    ("excluded: one grey value", {"grey": lambda path, out: save(path, np.full((1024, 1024), 90, np.uint8))}),
    ("excluded: one grey value|outside the image", {"one_pixel": noise(1, 1)}),
    ("excluded: larger|more than|up to|30,?000", {"huge_header": huge_header}),
    ("usable", {"link_out": link_out, "sixteen_bits": noise(1024, 1024, kind="u2")}),
]
ARRAYS = [
    ("excluded: larger", {"zip_bomb": zipped(bytes(40_000_000), (18_000, 19_500), "<f8")}),
    ("excluded: pickled", {"pickled": npy(hostile)}),
    ("excluded: NaN", {"nan": npy(NAN), "beyond_float32": npy(np.eye(9) * 1e300)}),
    ("excluded: numbers are expected", {"words": npy(np.array([["a", "b"]])), "complex": npy(np.eye(9) * 1j)}),
    ("excluded: one grey plane",
     {"four_axes": npy(np.zeros((2, 9, 9, 3))), "no_axis": npy(np.float32(3)), "no_pixels": npy(np.zeros((0, 20)))}),
    ("excluded: 2 arrays", {"two_arrays": lambda path, out: np.savez(path, a=np.eye(9), b=np.eye(8))}),
    ("excluded: not a readable NumPy",
     {"long_header": zipped(b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b" " * 60_000),
      "bare_pickle": lambda path, out: path.write_bytes(pickle.dumps(hostile(out)))}),
]  # fmt: skip
CASE_FILE = [
    ("error: mass_case.*not a UTF-8 csv",
     {"empty": EMPTY, "utf16": recode("utf-16"), "latin1": edit(b"OVAL", b"OVAL\xe9"),
      "binary": write(bytes(range(256)) * 20)}),
    ("error: mass_case.*no column", {"no_column": edit(b"pathology", b"diagnosis"), "web_page": HTML}),
    ("error: mass_case.*not a UTF-8 csv|no column", {"other_separator": edit(b",", b";", 0)}),
    ("error: mass_case.*pathology.*twice", {"column_twice": edit(b"mass shape", b"Pathology")}),
    ("error: mass_case.*Expected 14 fields",
     {"all_rows_too_long": edit(b"\r\nP_", b"\r\nx,P_", 0), "one_row_too_long": edit(b"OVAL", b"OVAL,x")}),
    ("error: mass_case.*pathology ''", {"row_too_short": append(b"P_00090,3,LEFT\r\n")}),
    (r"error: mass_case.*row \d+: pathology 'CANCER'", {"unknown_word": edit(b"MALIGNANT", b"CANCER")}),
    ("error: mass_case.*row 2: no patient_id", {"no_patient": edit(rb"(?m)^P_\d+,", b",")}),
    ("error: mass_case.*(not a UTF-8 csv|pathology)", {"open_quote": edit(b"OVAL", b'"OVAL')}),
    ("usable",
     {"byte_order_mark": recode("utf-8-sig"), "nul_bytes": edit(b"OVAL", b"OV\0AL"), "columns_that_collide":
      edit(b"mass shape", b"side"), "return": edit(b"OVAL", b'"OV\rAL"'), "huge": edit(b"OVAL", b"O" * 300_000)}),
    ("runs",
     {"absolute_path": edit(rb"Mass-Training_P_\d+_[A-Z]+_[A-Z]+_1/", b"/etc/passwd/"),
      "dots_in_path": edit(rb"Mass-Training_P_\d+_[A-Z]+_[A-Z]+_1/", b"../../etc/")}),
    ("runs",  # without these masses; what is left is little, but in each split there are both classes
     {"folder": FOLDER, "link_to_itself": LINK_TO_ITSELF, "header_only": edit(rb"(?s)\r\n.*", b"\r\n")}),
    ("excluded: stands twice", {"row_twice": last_row(b"^", b"")}),
    ("excluded: another label", {"conflict": last_row(rb",\d,mass,(.*),MALIGNANT,", rb",9,mass,\1,BENIGN,")}),
]  # fmt: skip
ONE_PATIENT = edit(rb"(?m)^P_(\d+)(.*?,(?:CC|MLO)),\d,", rb"P_00001\2,\1,", 0)
CASE_FILES = [("error: only one class .* outside", {"class": each("csv/*train*", edit(b"MALIGNANT", b"BENIGN", 0))}),
              ("error: patients", {"patient": each("csv/*case*", ONE_PATIENT)})]  # fmt: skip
ONE = b"mdb001 G CIRC B 500 500 "
TABLE = {
    "cbis-ddsm": {
        "IMAGE": [*PICTURES, ("usable", {"one_row": noise(1, 40_000)}), ("excluded: NaN", {"tiff": TIFF}),
                  ("runs", {"link_to_itself": LINK_TO_ITSELF, "folder": FOLDER})],
        "MASK": [("mask: truncated", {"halved": HALF}), ("usable", {"link_out": link_out}),
                 ("mask: mask of another size", {"one_pixel": noise(1, 1)})],
        "FULL": [("mask: crop larger than its mammogram", {"one_pixel": noise(1, 1)})],
        MASS: CASE_FILE,
        "": [*CASE_FILES, ("usable", {"jpeg_on_another_disk": lambda folder, out: link_out(folder / "jpeg", out)}),
             ("error: none of its .* can be used", {"no_readable_image": each("jpeg/*/*", write(b"x"))}),
             ("error: none of the .* rows", {"no_image": each("jpeg/*/*", REMOVED)})],
    },
    "cbis-ddsm-dicom": {
        "IMAGE": [*PICTURES, ("usable", {"row": noise(1, 40_000)}), ("excluded: compressed", {"bomb": deflated_bomb}),
                  ("excluded: 60 frames", {"frames": noise(24, 20, NumberOfFrames=60)})],
        MASS: [CASE_FILE[0], *CASE_FILE[-4:]],
        "": [*CASE_FILES, (r"error: no \*\.dcm", {"no_image": each("**/*.dcm", REMOVED)})],
    },
    "ddsm-tfrecord": {
        "training10_0/training10_0.tfrecords": [
            (r"error: training10_0\.tfrecords: record \d+", {"cut": write(lambda old: old[:-5]), "web_page": HTML}),
            ("error: no records", {"empty": EMPTY}),
            ("excluded: Example", {"no_message": record(b"\xff" * 9)}),
            ("excluded: 90 bytes", {"wrong_size": record(image=b"1" * 90)}),
            ("excluded: no image", {"no_image": record(image=None)}),
            ("excluded: no label", {"text": record(label=b"1"), "out_of_range": record(label=-(2**60))}),
            ("excluded: one grey value", {"constant": record(image=b"\x40" * SIDE**2)}),
            ("excluded: another label", {"label_conflict": both(record(), record(label=3))}),
            ("usable", {"link_out": link_out, "name_is_path": record(filename=b"../../P_00050/etc"),
                        "slash": record(filename=b"/"), "bytes": record(filename=b"\xff\x00\r\n\x1b[2J,\"")}),
        ],
        "cv10_data/cv10_data.npy": [
            (r"error: cv10_data\.npy", {"halved": HALF, "empty": EMPTY, "shape": npy(np.zeros((4, 8, 8))),
                                        "no_axis": npy(np.float32(3)), "words": npy(np.full((4, SIDE, SIDE), "a"))}),
            ("usable", {"link_out": link_out}),
        ],
        "cv10_labels.npy": [
            (r"error: cv10_labels\.npy",
             {"pickled": npy(hostile), "words": npy(np.array(["a"] * 4)), "nan": npy(np.full(4, np.nan)),
              "too_few": npy(np.array([1])), "no_axis": npy(np.array(1))}),
        ],
        "": [
            ("excluded: twice|another", {"shard_twice": place("training10_0", "copy/training10_0", shutil.copytree)}),
            ("error: only one class", {"one_class": each("*_labels.npy", array(lambda old: old * 0 + 2))}),
            ("excluded: NaN", {"nan": each("test10_data/*", array(lambda old: old * np.float32("nan")))}),
            ("usable", {"16_bit": each("test10_data/*", array(lambda old: old * np.uint16(257)))}),
        ],
    },
    "png-npz": {
        "IMAGE": PICTURES,
        "SYNTHETIC": ARRAYS,
        "": [
            (r"error: no folder holds \*\.npz", {"no_synthetic": each("*/*.npz", REMOVED)}),
            ("error: more than one folder",
             {"two_folders": both(*(place("original", new, shutil.copytree) for new in ("a", "real")))}),
            ("excluded: twice", {"same_name": place("original/*", "original/synthetic_batch_0_4_benign.png")}),
        ],
    },
    "npz": {
        "IMAGE": PICTURES + ARRAYS,
        "": [
            ("error: only non_cancer/", {"one_class": lambda folder, out: shutil.rmtree(folder / "cancer")}),
            ("error: folder a/ names no known class",
             {"unknown_word": both(place("cancer", "a", os.rename), place("non_*", "b", os.rename))}),
            ("error: 1 patients are too few",
             {"one_patient": each("*/P_*", lambda path, out: path.rename(path.with_name("P_00001_" + path.name)))}),
            ("excluded: twice",
             {"same_name": both(place("cancer/P_*", "cancer/P_00090_LEFT_CC_1.npz"),
              place("non_cancer", "cancer_P", os.rename), place("cancer/P_*", "cancer_P/00090_LEFT_CC_1.npz"))}),
            ("excluded: another label", {"label_conflict": place("cancer/P_*", "non_cancer/P_00090_LEFT_CC_1.npz")}),
            ("excluded: same picture", {"line_break_in_name": place("cancer/*", 'cancer/P_00090\nLEFT,"CC.npz')}),
            ("usable", {"folder_on_another_disk": lambda folder, out: link_out(folder / "cancer", out)}),
            ("runs", {"name_that_is_no_text": not_utf8}),
        ],
    },
    "mini-mias": {
        "IMAGE": PICTURES,
        "Info.txt": [
            (r"error: Info\.txt", {"empty": EMPTY, "utf16": recode("utf-16"), "binary": write(bytes(range(256)) * 9)}),
            (r"excluded: line \d+ cannot be read",
             {"unknown_word": append(b"mdb900 G BLOB B 60 65 20\n"), "long_name": append(b"mdb" + b"x" * 5000 + b"\n"),
              "long_number": append(b"mdb" + b"1" * 5000 + b"\n"), "nul": append(b"mdb\0\0\n"),
              "dots": append(b"mdb/../../../etc/passwd\n"), "like_a_number": append(ONE + b"9\nmdb001_1 ?\n")}),
            (r"excluded: line \d+|coordinates",
             {"beyond_int": append(ONE + b"99999999999999\n"), "beyond_text": append(ONE + b"9" * 5000 + b"\n"),
              "negative": append(b"mdb001 G CIRC B -60 65 20\n")}),
            ("excluded: mdb900.pgm is missing", {"missing_image": append(b"mdb900 G CIRC B 60 65 20\n")}),
            ("excluded: outside the image", {"outside": append(b"mdb001 G CIRC B 9000 9000 20\n")}),
            ("excluded: another label", {"label_conflict": append(ONE + b"60\n" + ONE.replace(b"B", b"M") + b"60\n")}),
            ("error: only one class", {"one_class": edit(b" M ", b" B ", 0)}),
            ("error: 1 patients are too few", {"one_patient": write(ONE + b"20\nmdb002 G CIRC M 500 500 20\n")}),
            ("runs", {"radius_zero": append(ONE + b"0\n"), "line_twice": append((ONE + b"60\n") * 2)}),
            ("usable", {"link_out": link_out}),
        ],
    },
}  # fmt: skip
TABLE["vindr-mammo"] = {
    "IMAGE": PICTURES[:5],
    "breast-level_annotations.csv": [
        ("error: breast-level_annotations.*not a UTF-8 csv", {"empty": EMPTY, "utf16": recode("utf-16")}),
        ("error: breast-level_annotations.*no column", {"no_column": edit(b"breast_birads", b"birads"), "page": HTML}),
        (r"error: breast-level_annotations.*row \d+: breast_birads 'BI-RADS 9'", {"word": edit(b"RADS 4", b"RADS 9")}),
        ("error: breast-level_annotations.*row 2: no study_id", {"no_study": edit(rb"\n\w{32},", b"\n,")}),
        ("error: no breast-level_annotations.csv", {"missing": REMOVED}),
        ("error: only one class", {"one_class": edit(b"BI-RADS [45]", b"BI-RADS 3", 0)}),
        ("runs", {"path": edit(rb"\n\w{32},", b"\n../../etc,")}),
    ],
    "finding_annotations.csv": [
        ("error: finding_annotations.*no column", {"page": HTML, "no_box": edit(b"xmin", b"left")}),
        ("usable", {"words": edit(rb"\d+\.\d+,\d+\.\d+,", b"a,inf,"), "missing": REMOVED}),
    ],
    "": [("error: none of the 80 rows of breast", {"no_image": each("images/*/*", REMOVED)})],
}
TABLE["rsna-2023"] = {
    "IMAGE": [*PICTURES, ("excluded: compressed", {"bomb": deflated_bomb})],
    "train.csv": [
        (r"error: train\.csv.*not a UTF-8 csv", {"empty": EMPTY, "utf16": recode("utf-16")}),
        (r"error: train\.csv.*no column", {"no_column": edit(b"cancer", b"label"), "page": HTML}),
        (r"error: train\.csv.*row \d+: cancer 'x'", {"word": edit(rb"(,CC,\d*),[01],", rb"\1,x,")}),
        (r"error: train\.csv.*row 2: no patient_id", {"no_patient": edit(rb"\n(\d),\d+,", rb"\n\1,,")}),
        ("excluded: stands twice", {"row_twice": write(lambda old: old + old.split(b"\n")[1] + b"\n")}),
        ("runs", {"path": edit(rb"\n(\d),\d+,", rb"\n\1,../../etc,"), "view": edit(b",CC,", b",,")}),
        ("error: none of the .* rows of train.csv", {"header_only": edit(rb"(?s)\n.*", b"\n")}),
    ],
    "": [("error: none of the .* rows of train.csv", {"no_image": each("train_images/*/*", REMOVED)})],
}
DICOM = [
    (
        "excluded: not a readable|an empty file|no decoder",
        {"halved": HALF, "empty": EMPTY, "web_page": HTML, "compressed": compressed},
    ),
    ("excluded: 60 frames", {"frames": noise(24, 20, NumberOfFrames=60)}),
    *PICTURES[3:6],
    ("usable", {"link_out": link_out}),
]
BOOK = "CMMD_clinicaldata_revision.xlsx"
TABLE["cmmd"] = {
    "IMAGE": [*DICOM, ("excluded: names no side", {"side": noise(24, 20, ImageLaterality=None)}),
              ("runs", {"view": noise(24, 20, ViewCodeSequence=None)})],
    BOOK: [
        (f"error: {BOOK}", {"empty": EMPTY, "halved": HALF, "binary": write(bytes(range(256)) * 9)}),
        (f"error: {BOOK}: a web page", {"web_page": HTML}),
        (f"error: {BOOK}: .*far larger", {"zip_bomb": zip_of_zeros}),
        (f"error: {BOOK}: no column leftright", {"no_column": cells(column(1, "side", 0, 1))}),
        (f"error: {BOOK}: the column id1 .*twice", {"column_twice": cells(column(2, "ID1", 0, 1))}),
        (f"error: {BOOK}: row 5: classification 'CANCER'", {"unknown_word": cells(column(5, "Cancer", 4))}),
        (f"error: {BOOK}: row 3: leftright ''", {"no_side": cells(column(1, None, 2))}),
        ("error: only one class", {"one_class": cells(column(5, "Benign"))}),
        ("error: none of its .* can be used",
         {"header_only": cells(lambda rows: rows[:1]), "path": cells(column(0, "../../etc"))}),
        ("excluded: has no label", {"row_gone": cells(lambda rows: rows[:1] + rows[2:])}),
        ("usable", {"row_twice": cells(lambda rows: [*rows, rows[1]]), "blank": cells(lambda rows: [*rows, [None] * 7]),
                    "lower": cells(lambda rows: [rows[0], *([str(cell).lower() for cell in row] for row in rows[1:])]),
                    "no_subtype": cells(lambda rows: [row[:6] for row in rows])}),
    ],
    "": [
        (r"error: no \*\.dcm", {"no_image": each("CMMD/**/*.dcm", REMOVED)}),
        ("error: none of its .* can be used", {"no_readable": each("CMMD/**/*.dcm", write(b"x"))}),
        ("excluded: names no patient", {"folder": place("CMMD/D1-0001", "CMMD/patient1", os.rename)}),
    ],
}  # fmt: skip
XLS = "INbreast Release 1.0/INbreast.xls"
TABLE["inbreast"] = {
    "IMAGE": DICOM,
    "MASK": [("mask: contours that cannot be read", {"halved": HALF, "empty": EMPTY, "web_page": HTML,
                                                     "no_pairs": edit(rb"\(\d+\.\d+, ", b"(")}),
             ("usable", {"outside": edit(rb"\(\d", b"(999999", 0), "negative": edit(rb"\(\d", b"(-9", 0)})],
    XLS: [
        (r"error: INbreast\.xls", {"empty": EMPTY, "halved": write(b"\xd0\xcf\x11\xe0" + bytes(90)),
                                   "text": write(b"Patient ID;Laterality")}),
        (r"error: INbreast\.xls: a web page", {"web_page": HTML}),
        (r"error: INbreast\.csv: no column bi-rads", {"no_column": table(column(7, "BIRADS", 0, 1))}),
        ("excluded: none of 1 to 6", {"category": table(column(7, "4d", 5, 6)), "zero": table(column(7, "0", 5, 6))}),
        ("excluded: no image of this number", {"missing": table(lambda rows: [rows[0], ["9"] * 8, *rows[1:]])}),
        ("excluded: twice", {"row_twice": table(lambda rows: [*rows[:2], *rows[1:]])}),
        ("error: only one class", {"one_class": table(column(7, "2"))}),
        ("usable", {"csv": table(lambda rows: rows), "path": table(lambda rows: [*rows, ["../../etc"] * 8])}),
    ],
    "": [
        (r"error: no \*\.dcm", {"no_image": each("**/*.dcm", REMOVED)}),
        ("error: no INbreast.xls", {"no_table": each("**/*.xls", REMOVED)}),
        ("usable", {"no_contours": each("**/*.xml", REMOVED)}),
        ("excluded: does not tell the patient",
         {"name": each("**/20586908_*.dcm", lambda path, out: path.rename(path.with_name("20586908.dcm")))}),
    ],
}  # fmt: skip
CASES = {
    f"{layout}-{target or 'tree'}-{name}": (layout, target, damage, outcome)
    for layout, targets in TABLE.items()
    for target, rows in targets.items()
    for outcome, damages in rows
    for name, damage in damages.items()
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_input(good, tree, tmp_path, case):
    layout, target, damage, outcome = CASES[case]
    folder, before = tree(layout), good(layout)[1]
    path = find(before, folder, target)
    if path.is_file() and not path.name.endswith(TEXT):  # no link to the good tree any more
        path.write_bytes([path.read_bytes(), path.unlink()][0])
    damage(path, tmp_path)
    if "bomb" in case:
        tracemalloc.start()
    prepared, line = attempt(layout, folder, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]  # 0 where it was not started
    tracemalloc.stop()
    assert peak < MEMORY
    kind, _, pattern = outcome.partition(": ")
    assert bool(pattern) == (kind in ("error", "excluded", "mask"))
    assert not pattern or not re.search(pattern, ""), "matches anything"
    assert line == "" or kind == "error", line
    if kind == "error":
        assert re.search(pattern, line)
        assert not (re.search("only one class|too few", line) and (tmp_path / "run").exists()), "said after the work"
        return
    reasons = prepared.manifest.set_index("image_id").exclusion_reason
    new = reasons[(reasons != "") & (reasons != before.set_index("image_id").exclusion_reason.reindex(reasons.index))]
    problems = new if kind != "mask" else prepared.statistics.mask_problem[lambda problem: problem != ""]
    if kind == "usable":
        assert new.empty, new.to_dict()
        assert set(before.image_id) <= set(reasons.index)
    elif kind != "runs":
        assert problems.str.contains(pattern).any(), problems.to_dict()
        assert not problems.str.contains("\n").any()
    if target in ("IMAGE", "SYNTHETIC") and pattern:
        assert len(problems) == 1
        assert path.name in problems.item() + " ".join(prepared.manifest.image_path)


@pytest.mark.parametrize(("layout", "other"), itertools.permutations(LAYOUTS, 2))
def test_another_layout_is_refused(good, tmp_path, layout, other):
    folder = good(other)[0]
    assert str(folder) in attempt(layout, folder, tmp_path / "run")[1]
