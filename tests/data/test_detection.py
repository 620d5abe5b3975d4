"""Which layout a folder holds is told from its files, whatever the folder is called."""

import pytest

from phantoms import LAYOUTS, write_demo_data
from shared.data import READERS, detect_layout
from shared.data.readers import detection
from shared.run import DataError, UsageError

VINDR = "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split\n"
RSNA = "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id\n"
CASES = "mass_case_description_train_set.csv"
TREES = {  # files of real copies that the phantoms do not write: layout, {path: text}
    "a repack under another name": ("vindr-mammo", {"tables/labels.csv": VINDR, "images/a/b.png": ""}),
    "byte order mark": ("vindr-mammo", {"breast-level_annotations.csv": "\ufeff" + VINDR}),
    "test table beside it": ("rsna-2023", {"test.csv": "patient_id,image_id,laterality,view\n", "train.csv": RSNA}),
    "quoted columns": ("rsna-2023", {"train.csv": ",".join(f'"{word}"' for word in RSNA.strip().split(","))}),
    "cmmd": ("cmmd", {"CMMD_clinicaldata_revision.xlsx": "", "CMMD/D1-0001/07-18-2010/s/1-1.dcm": ""}),
    "one folder deeper": ("inbreast", {"INbreast Release 1.0/INbreast.xls": ""}),
    "semicolons": ("inbreast", {"INbreast.csv": "Patient ID;File Name;Bi-Rads\n"}),
    "no csv folder": ("cbis-ddsm", {CASES: "", "jpeg/1.2.3/1-001.jpg": ""}),
    "series by description": ("cbis-ddsm-dicom", {CASES: "", "x/Mass-Test_P_1_LEFT_CC/a/b/1-1.dcm": ""}),
    "below all-mias": ("mini-mias", {"all-mias/Info.txt": "", "all-mias/mdb001.pgm": ""}),
    "one class named": ("npz", {"Non-Cancer/a.npz": "", "patients/a.npz": ""}),
}  # fmt: skip


def make(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_every_layout_has_a_signature():
    assert set(READERS) - {"demo"} <= set(detection.SIGNATURES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_phantoms(layout, tmp_path):
    folder = write_demo_data(tmp_path / "folder", layout=layout, patients=3, n_jobs=1, progress=False)
    assert detect_layout(folder) == layout


@pytest.mark.parametrize("case", TREES)
def test_copies_as_people_have_them(case, tmp_path):
    layout, files = TREES[case]
    assert detect_layout(make(tmp_path / "folder", files)) == layout


def test_two_that_fit_are_both_named(tmp_path):
    make(tmp_path, {CASES: "", "jpeg/1.2.3/1-001.jpg": "", "Mass-Test_P_1_LEFT_CC/a/b/1-1.dcm": ""})
    with pytest.raises(UsageError, match="fits cbis-ddsm and cbis-ddsm-dicom; say which with --dataset"):
        detect_layout(tmp_path)


@pytest.mark.parametrize(("name", "kind"), [
    ("benign/SOB_B_A-14-22549AB-40-001.png", "histology"), ("SOB_M_DC-14-2523-400-003.png", "histology"),
    ("0/10253_idx5_x1351_y1101_class0.png", "histology"), ("slides/case.svs", "histology"),
    ("benign/benign (1)_mask.png", "ultrasound"),
])  # fmt: skip
def test_other_images_are_no_mammograms(name, kind, tmp_path):
    with pytest.raises(DataError, match=f"is {kind}, not mammography") as caught:
        detect_layout(make(tmp_path, {name: "", "notes.txt": ""}))
    assert name.lower() in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [
    {}, {"notes.txt": ""}, {"a/1.png": ""}, {CASES: ""}, {"info.txt": ""}, {"a/1.npz": "", "b/1.npz": ""},
    {"train.csv": "patient_id,image_id\n"}, {"empty.csv": ""},
])  # fmt: skip
def test_what_was_looked_for_is_said(files, tmp_path):
    with pytest.raises(DataError, match=r"no known layout in its \d+ files; looked for .*Info\.txt") as caught:
        detect_layout(make(tmp_path, files))
    assert all(layout in str(caught.value) for layout in detection.SIGNATURES)
    with pytest.raises(DataError, match="no such directory"):
        detect_layout(tmp_path / "none")


def test_few_headers_are_read_in_a_large_folder(tmp_path, monkeypatch):
    make(tmp_path, {f"deep/{number:03d}.csv": "a,b\n" for number in range(100)} | {"train.csv": RSNA})
    opened, before = [], type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda path, *mode: opened.append(path.name) or before(path, *mode))
    assert detect_layout(tmp_path) == "rsna-2023"
    assert len(opened) == detection.MOST_HEADERS
    assert opened[0] == "train.csv"
