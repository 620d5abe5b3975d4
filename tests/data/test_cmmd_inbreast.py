"""The readers of CMMD and INbreast: every quirk in the phantoms, trees of the real size, what is refused."""

import os
import plistlib

import numpy as np
import pytest

from phantoms import write_demo_data
from phantoms.patients import plan_patients
from phantoms.write_cmmd import COLUMNS, TABLE, describe, write_workbook
from phantoms.write_inbreast import COLUMNS as INBREAST
from phantoms.write_inbreast import write_workbook as write_xls
from phantoms.writing import save_dicom
from shared import data
from shared.data.readers import cmmd, inbreast_contours
from shared.run import DESCRIPTOR_COLUMNS, DataError, UsageError
from tests.data.test_readers import check_contract

NO_CROP = "no contour that encloses anything: no crop"


def load(layout, folder, input="full"):
    return data.load_layout(layout, folder, input=input)


@pytest.mark.parametrize("layout", ["cmmd", "inbreast"])
def test_the_phantoms_hold_every_quirk_and_the_manifest_keeps_its_contract(layout, tmp_path):
    write_demo_data(tmp_path / "data", layout=layout, n_jobs=1, progress=False)
    dataset = load(layout, tmp_path / "data")
    check_contract(dataset)
    used = dataset.manifest[dataset.manifest.split == ""]
    labels = used.label.to_numpy()
    for part in data.group_folds(labels, used.patient_id.to_numpy(), np.arange(len(used)), count=5, seed=0):
        assert set(labels[part]) == {0, 1}
    assert set(used["side"]) == {"LEFT", "RIGHT"}
    known = [column for column in DESCRIPTOR_COLUMNS if used[column].ne("").any()]
    assert known == {"cmmd": [], "inbreast": ["breast_density"]}[layout]  # nothing that knows the outcome
    if layout == "cmmd":
        assert dataset.facts["images_of_breasts_without_label"] == (dataset.manifest.split == "excluded").sum() > 20
        assert dataset.facts["patients_with_a_benign_and_a_malignant_breast"] > 0
        assert set(used["view"]) == {"CC", "MLO"}
        assert set(used.abnormality_type) == {"mass", "calcification", ""}
        assert not used.astype(str).apply(lambda words: words.str.contains("Luminal|HER2|triple")).any(axis=None)
        assert set(data.load_layout(layout, tmp_path / "data", task="subtype", input="full").manifest.subtype) >= {0, 3}
        with pytest.raises(UsageError, match=r"INPUT 'crop'.*choose INPUT full"):
            load(layout, tmp_path / "data", "crop")
        return
    assert (used["view"] == "").sum() == (used.breast_density == "").sum() == 1
    assert dataset.facts["other_rows_of_table"] == 2
    assert used.patient_id.nunique() == 40
    assert "No biopsy" in dataset.notes[0]
    assert {"BI-RADS 4a", "BI-RADS 4b", "BI-RADS 4c"} <= set(used.pathology[used.label == 1])
    crops = load(layout, tmp_path / "data", "crop")
    check_contract(crops)
    assert {len(dataset.read_image(path)) for path in used.image_path} == {1024, 1056}
    for row in crops.manifest[crops.manifest.split == ""].itertuples():
        assert 0.005 < crops.read_mask(row).mean() < 0.6  # the lesion, and some of its surroundings


def test_cmmd_of_the_real_size(tmp_path):
    """1,872 labelled breasts of 1,775 patients, 30 with both labels; 5,202 images, 1,458 of them without a label."""
    examples, rows = {}, [list(COLUMNS)]
    for side, view in (("LEFT", "CC"), ("LEFT", "MLO"), ("RIGHT", "CC"), ("RIGHT", "MLO")):
        examples[side, view] = tmp_path / f"{side}{view}.dcm"
        attributes = describe(plan_patients(1)[0], "D1-0001", side, view)
        save_dicom(examples[side, view], np.arange(64, dtype=np.uint8).reshape(8, 8), attributes)
    for number in range(1775):
        name = f"D{1 + number % 2}-{number:04d}"
        sides = ("LEFT", "RIGHT") if number < 97 else ("LEFT",)  # with a row; 30 have a benign and a malignant breast
        for side in sides:
            word = "Benign" if number < 30 and side == "RIGHT" else "Malignant"
            rows.append([name, side[0], 50, 2, ["mass", "calcification", "both"][number % 3], word, None])
        for position, (side, view) in enumerate(examples):
            if side in sides or number < 97 + 729:  # 729 have images of the other breast
                target = tmp_path / f"data/CMMD/{name}/07-18-2010/1.0-NA/1-{position + 1}.dcm"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(examples[side, view], target)
    write_workbook(tmp_path / "data" / TABLE, rows)
    dataset = load("cmmd", tmp_path / "data")
    manifest = dataset.manifest
    assert manifest.exclusion_reason.value_counts().to_dict() == {"": 3744, cmmd.NO_LABEL: 1458}
    used = manifest[manifest.split == ""]
    assert len(used.groupby(["patient_id", "side"])) == dataset.facts["breasts_in_table"] == 1872
    assert used.patient_id.nunique() == 1775
    assert (used.groupby("patient_id").label.nunique() > 1).sum() == 30
    assert manifest.groupby("patient_id").size().isin([2, 4]).all()
    assert any("1458 images" in note for note in dataset.notes)


def test_inbreast_of_the_real_size(tmp_path):
    """410 rows and two at the foot, as .xls and as csv; 343 images have contours. No image is opened to list them."""
    rows, categories = [list(INBREAST)], ["1", "2", "3", "4a", "4b", "4c", "5", "6"]
    outline = ["(900.0, 800.5)", "(1100, 800)", "(1000, 1000)"]
    regions = [("Mass", outline), ("Calcification", outline[:1]), ("Pectoral Muscle", ["(0, 0)", "(400, 0)", "(0, 9)"])]
    listed = [{"Name": name, "NumberOfPoints": len(points), "Point_px": points} for name, points in regions]
    for folder in ("AllDICOMs", "AllXML"):
        (tmp_path / folder).mkdir()
    for number in range(410):
        file, side, view = 20586908 + number, "LR"[number // 2 % 2], ("CC", "ML")[number % 2]
        (tmp_path / f"AllDICOMs/{file}_{number // 4:016x}_MG_{side}_{view}_ANON.dcm").touch()
        if number < 343:
            (tmp_path / f"AllXML/{file}.xml").write_bytes(plistlib.dumps({"Images": [{"ROIs": listed}]}))
        in_table = "FB" if number == 0 else view.replace("ML", "MLO")
        density = "" if number == 7 else 1 + number % 4
        rows.append(["removed", "removed", side, in_table, 200801, file, density, categories[number % 8]])
    write_xls(tmp_path / "INbreast.xls", [*rows, [""] * 8, ["Total", *[""] * 6, "410"]])
    dataset = load("inbreast", tmp_path)
    manifest = dataset.manifest.set_index("image_id")
    assert dataset.facts == {"rows_in_table": 410, "other_rows_of_table": 2}
    assert len(manifest) == 410
    assert manifest.label.sum() == sum(number % 8 >= 3 for number in range(410))
    assert manifest.patient_id.nunique() == 103
    assert manifest["view"].value_counts().to_dict() == {"MLO": 205, "CC": 204, "": 1}
    assert (manifest.mask_path != "").sum() == 343
    (tmp_path / "INbreast.xls").unlink()
    (tmp_path / "INbreast.csv").write_text("\n".join(";".join(map(str, row)) for row in rows) + "\n")
    assert load("inbreast", tmp_path).manifest.equals(dataset.manifest)
    crops = load("inbreast", tmp_path, "crop").manifest
    assert crops.exclusion_reason.value_counts().to_dict() == {"": 343, NO_CROP: 67}  # dots and muscles have none
    assert crops.image_path[0].endswith("#lesion=1000,900,300")


def test_inbreast_contours_that_lie_close_together_are_one_lesion():
    square = np.array([[0, 0], [60, 0], [60, 60], [0, 60]], np.int32)
    near, far = [("espiculated region", square + 80), ("calcification", square[:2] + 400)], [("cluster", square + 900)]
    lesions = inbreast_contours.find_lesions([("mass", square), *near, *far])
    assert [(inbreast_contours.kind_of(lesion), place) for lesion, place in lesions] == [
        ("mass", "70,70,256"), ("calcification", "930,930,256"),
    ]  # fmt: skip
    assert inbreast_contours.draw(near[1:], 500, 500).sum() > 60  # dots show, as small discs


@pytest.mark.parametrize(("layout", "name"), [("cmmd", TABLE), ("inbreast", "INbreast.xls")])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"<html><body><table></table></body></html>", "a web page"),
        (b"Laterality;View;File Name;ACR;Bi-Rads\nL;CC;1;1;1\n", "no Excel workbook"),
        (b"PK\x03\x04" + bytes(99), "cannot be read"),
        (b"\xd0\xcf\x11\xe0" + bytes(99), "cannot be read"),
        (b"\x09\x00\x04\x00\x07\x00\x10\x00\x0a\x00\x00\x00", "an empty table"),
    ],
)
def test_a_workbook_that_is_none_is_one_clear_line(layout, name, content, line, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"\A{name}: [^\n]*{line}[^\n]*fetch it again[^\n]*\Z"):
        load(layout, tmp_path)
    assert capfd.readouterr() == ("", "")
