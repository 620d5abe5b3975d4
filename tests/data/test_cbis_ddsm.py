"""The CBIS-DDSM reader on a tree made here, with the quirks of the real one."""

import csv
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared import data
from shared.data.readers import series
from shared.run import DataError, UsageError

MASS = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,"
    "mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
CALC = MASS.replace("breast_density", "breast density").replace("mass shape", "calc type")
CALC = CALC.replace("mass margins", "calc distribution")


def write_image(root, uid, name, image):
    folder = root / "jpeg" / uid
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), image)


def texture(height, width, seed):
    return np.random.default_rng(seed).integers(60, 200, (height, width)).astype(np.uint8)


def lesion_mask(height, width, top, left, size):
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + size, left : left + size] = 255
    return mask


def add_case(root, rows, kind, split, patient, *, view="CC", number=1, pathology="BENIGN", own_series=False):
    """Write full image, crop and mask of one abnormality, and append its row."""
    stem = f"{'Mass' if kind == 'mass' else 'Calc'}-{'Training' if split == 'train' else 'Test'}_{patient}_LEFT_{view}"
    seed = sum(map(ord, stem)) * 7 + number
    full_uid = f"1.2.{sum(map(ord, stem))}.1"
    crop_uid, mask_uid = (f"1.2.{seed}.2", f"1.2.{seed}.3" if own_series else f"1.2.{seed}.2")
    full = texture(120, 90, sum(map(ord, stem)))
    write_image(root, full_uid, "1-001.png", full)
    write_image(root, crop_uid, "1-010.png" if number % 2 else "2-010.png", full[20:60, 10:50])
    write_image(root, mask_uid, "2-011.png" if number % 2 else "1-011.png", lesion_mask(120, 90, 30, 20, 20))
    crop_name, mask_name = ("000000.dcm", "000001.dcm") if kind == "mass" else ("000001.dcm", "000000.dcm")
    crop, mask = f"{stem}_{number}/1.1/{crop_uid}/{crop_name}", f"{stem}_{number}/1.1/{mask_uid}/{mask_name}"
    if kind == "mass":
        mask += "\n"
    else:
        crop += "\n"
    words = [patient, "3", "LEFT", view, str(number), kind, "OVAL-LOBULATED", "", "0", pathology, "2"]
    rows.append([*words, f"{stem}/1.1/{full_uid}/000000.dcm", crop, mask])


def write_csv(root, name, header, rows):
    path = root / "csv" / name
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        file.write(header + "\r\n")
        csv.writer(file, lineterminator="\r\n").writerows(rows)


@pytest.fixture
def tree(tmp_path):
    """Six rows: two patients of mass train, one of mass test, and one calcification of a patient in both splits."""
    mass_train, mass_test, calc_test = [], [], []
    add_case(tmp_path, mass_train, "mass", "train", "P_1", pathology="MALIGNANT")
    add_case(tmp_path, mass_train, "mass", "train", "P_1", number=2, pathology="BENIGN_WITHOUT_CALLBACK")
    add_case(tmp_path, mass_train, "mass", "train", "P_2", view="MLO", own_series=True)
    add_case(tmp_path, mass_train, "mass", "train", "P_9")
    add_case(tmp_path, mass_test, "mass", "test", "P_3", pathology="MALIGNANT")
    add_case(tmp_path, calc_test, "calcification", "test", "P_9")
    write_csv(tmp_path, "mass_case_description_train_set.csv", MASS, mass_train)
    write_csv(tmp_path, "mass_case_description_test_set.csv", MASS, mass_test)
    write_csv(tmp_path, "calc_case_description_test_set.csv", CALC, calc_test)
    return tmp_path


def test_rows_join_their_files_by_content_where_nothing_describes_them(tree):
    dataset = data.load_layout("cbis-ddsm", tree)
    assert len(dataset.manifest) == 6
    assert dataset.coverage[["crop", "mask", "full"]].to_numpy().sum() == 18
    for row in dataset.manifest.itertuples():
        assert dataset.read_image(row.image_path).shape == (40, 40)
        assert set(np.unique(dataset.read_image(row.mask_path))) == {0, 255}
    assert dataset.manifest.image_id[0] == "Mass-Training_P_1_LEFT_CC_1"
    assert dataset.manifest.label.tolist() == [1, 0, 0, 0, 1, 0]
    assert (dataset.manifest.breast_density == "3").all()  # spelled in two ways in the two kinds of file


def test_dicom_info_decides_and_content_fills_its_gaps(tree):
    crops = data.load_layout("cbis-ddsm", tree).manifest
    swapped = crops.iloc[0]  # a description beats the content
    describe(tree, {swapped.image_path: "ROI mask images", swapped.mask_path: "cropped images"})
    again = data.load_layout("cbis-ddsm", tree).manifest
    assert again.image_path[0] == swapped.mask_path
    assert again.image_path[1:].tolist() == crops.image_path[1:].tolist()
    describe(tree, {swapped.image_path: "cropped images", swapped.mask_path: ""})
    assert data.load_layout("cbis-ddsm", tree).manifest.image_path.tolist() == crops.image_path.tolist()
    describe(tree, {swapped.image_path: "ROI mask images", swapped.mask_path: "ROI mask images"})
    assert data.load_layout("cbis-ddsm", tree).manifest.image_path.tolist() == crops.image_path.tolist()


def describe(tree, words):
    with open(tree / "csv/dicom_info.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_path", "image_path", "SeriesDescription"])
        writer.writerows([("", f"CBIS-DDSM/{path}", word) for path, word in words.items()])


def test_masks_are_told_from_crops_without_the_full_image(tree):
    for folder in (tree / "jpeg").iterdir():
        if folder.name.endswith(".1"):
            shutil.rmtree(folder)
    manifest = data.load_layout("cbis-ddsm", tree).manifest
    for row in manifest.itertuples():
        assert set(np.unique(data.read_grey(tree / row.mask_path))) == {0, 255}


def test_patients_in_both_splits_are_counted_over_all_case_files(tree):
    dataset = data.load_layout("cbis-ddsm", tree)
    assert dataset.facts["official_shared_patients"] == ["P_9"]
    assert dataset.facts["official_shared_test_rois"] == 1


def test_full_images_carry_the_worst_label_and_all_masks(tree):
    dataset = data.load_layout("cbis-ddsm", tree, input="full")
    assert len(dataset.manifest) == 5
    worst = dataset.manifest[dataset.manifest.patient_id == "P_1"].iloc[0]
    assert worst.label == 1
    assert worst.image_id == "Mass-Training_P_1_LEFT_CC"
    assert dataset.read_mask(worst).sum() == 400
    assert dataset.read_image(worst.image_path).shape == (120, 90)


def test_the_mask_is_cut_where_the_crop_was(tree):
    dataset = data.load_layout("cbis-ddsm", tree)
    row = next(dataset.manifest.itertuples())
    mask = dataset.read_mask(row)
    assert mask.shape == (40, 40)
    assert mask[10:30, 10:30].all()
    assert mask.sum() == 400


def test_subtype_has_four_classes(tree):
    manifest = data.load_layout("cbis-ddsm", tree, task="subtype").manifest
    assert manifest.subtype.tolist() == [3, 1, 1, 1, 3, 0]


def test_a_row_without_files_is_left_out_and_named(tree):
    first = data.load_layout("cbis-ddsm", tree).manifest.iloc[0]
    shutil.rmtree((tree / first.image_path).parent)
    dataset = data.load_layout("cbis-ddsm", tree)
    assert len(dataset.manifest) == 5
    assert first.image_id in " ".join(dataset.notes)


def test_folders_that_are_something_else_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a CBIS-DDSM copy"):
        data.load_layout("cbis-ddsm", tmp_path)
    with pytest.raises(UsageError, match="DATASET"):
        data.load_layout("cbis", tmp_path)


def test_a_path_that_climbs_out_finds_nothing(tree):
    rows = []
    add_case(tree, rows, "mass", "train", "P_7")
    rows[0][-2] = "a/b/../../etc"
    rows[0][-1] = "/etc/b/../passwd"
    write_csv(tree, "mass_case_description_train_set.csv", MASS, rows)
    assert "P_7" not in set(data.load_layout("cbis-ddsm", tree).manifest.patient_id)


def test_a_linked_jpeg_folder_is_followed(tree, tmp_path):
    before = data.load_layout("cbis-ddsm", tree)
    linked = tmp_path / "linked"
    shutil.copytree(tree / "csv", linked / "csv")
    (linked / "jpeg").symlink_to(tree / "jpeg")
    after = data.load_layout("cbis-ddsm", linked)
    assert after.manifest.equals(before.manifest)
    for row in after.manifest.itertuples():
        np.testing.assert_array_equal(after.read_mask(row), before.read_mask(row))


def test_locate_crop_finds_the_place_at_reduced_size():
    full = cv2.GaussianBlur(texture(900, 700, 3), (0, 0), 6)
    mask = lesion_mask(900, 700, 400, 300, 80)
    top, left = series.locate_crop(full, full[350:560, 260:450], mask)
    assert abs(top - 350) <= 4
    assert abs(left - 260) <= 4


REAL = os.environ.get("MAMMO_CBIS_DIR", "")


@pytest.mark.skipif(not REAL, reason="MAMMO_CBIS_DIR names no copy of CBIS-DDSM")
def test_real_copy():
    dataset = data.load_layout("cbis-ddsm", Path(REAL))
    assert dataset.coverage["rows"].sum() == 3568
    assert dataset.coverage.malignant.sum() == 1457
    assert len(dataset.facts["official_shared_patients"]) == 31
    assert dataset.facts["official_shared_test_rois"] == 60
    assert dataset.manifest.image_id.is_unique
