"""The CBIS-DDSM reader on a drawn tree, which has the quirks of the real one."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from shared import data
from shared.data.readers import cbis_ddsm, cbis_series
from shared.run import DataError

MASS, INFO = "csv/mass_case_description_train_set.csv", "csv/dicom_info.csv"


@pytest.fixture
def cbis(drawn):
    """Eight patients; one of them stands in both official splits."""
    return drawn("cbis-ddsm")


@pytest.fixture
def tree(cbis, tmp_path):
    return shutil.copytree(cbis, tmp_path / "tree")


def load(folder, **options):
    return data.load_layout("cbis-ddsm", folder, **options)


def edit(path, change, *arguments):
    """Let `change` work on a csv file read as words, then write it again."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table, *arguments)
    table.to_csv(path, index=False)


def describe(table, words):
    for path, word in words.items():
        table.loc[table.image_path.str.endswith(path), "SeriesDescription"] = word


def is_two_valued(plane):
    return ((plane < 16) | (plane > 239)).mean() > 0.98


def test_rows_longer_than_their_header_are_not_read_shifted(tree):
    before = cbis_ddsm.read_roles(tree)
    header, *rows = (tree / INFO).read_text().splitlines()
    (tree / INFO).write_text("\n".join([header, *(f"{row},more" for row in rows)]))
    assert before
    assert cbis_ddsm.read_roles(tree) == before


def test_rows_join_their_files(cbis):
    dataset = load(cbis, task="subtype")
    cases = pd.concat([pd.read_csv(path, dtype=str) for path in cbis.glob("csv/*_case_*.csv")])
    assert len(dataset.manifest) == len(cases)
    assert dataset.coverage.malignant.sum() == (cases.pathology == "MALIGNANT").sum() == dataset.manifest.label.sum()
    assert (dataset.coverage[["crop", "mask", "full"]].sum() == len(cases)).all()
    assert dataset.manifest.image_id.str.fullmatch(
        r"(Mass|Calc)-(Training|Test)_P_\d{5}_(LEFT|RIGHT)_(CC|MLO)_\d"
    ).all()
    assert dataset.manifest.breast_density.isin(list("1234")).all()  # spelled in two ways in the two kinds of file
    kind = (dataset.manifest.abnormality_type == "mass").astype(int)
    np.testing.assert_array_equal(dataset.manifest.subtype, 2 * dataset.manifest.label + kind)
    for row in dataset.manifest.itertuples():
        assert is_two_valued(dataset.read_image(row.mask_path))
        assert not is_two_valued(dataset.read_image(row.image_path))


def test_the_descriptions_decide_and_content_fills_their_gaps(tree):
    before = load(tree).manifest
    row = next(row for row in before.itertuples() if Path(row.image_path).parent == Path(row.mask_path).parent)
    for crop, mask, is_swapped in (
        ("ROI mask images", "cropped images", True),  # a description beats the content
        ("cropped images", "", False),
        ("", "", False),
        ("ROI mask images", "ROI mask images", False),  # contradicts itself
    ):
        edit(tree / INFO, describe, {row.image_path: crop, row.mask_path: mask})
        after = load(tree).manifest
        assert after.image_path[row.Index] == (row.mask_path if is_swapped else row.image_path)
        assert after.drop(row.Index).equals(before.drop(row.Index))
    (tree / INFO).unlink()
    assert load(tree).manifest.equals(before)
    for path in before.full_image_path:
        shutil.rmtree((tree / path).parent)
    alone = load(tree).manifest
    assert alone[["image_path", "mask_path"]].equals(before[["image_path", "mask_path"]])
    assert (alone.full_image_path == "").all()


def test_patients_in_both_splits_are_counted_over_all_case_files(tree):
    assert load(tree).facts["official_shared_patients"] == ["P_00008"]
    assert load(tree).facts["official_shared_test_rois"] == 2
    shutil.rmtree((tree / load(tree).manifest.query("patient_id == 'P_00008'").image_path.iloc[0]).parent)
    assert load(tree).facts["official_shared_patients"] == ["P_00008"]


def test_full_images_carry_the_worst_label_and_all_masks(tree):
    before = load(tree)
    masks = [before.read_image(path) > 127 for path in before.manifest.mask_path[:10]]  # the masses of train
    alike = next(i for i in range(1, 10) if masks[i].shape == masks[0].shape)
    unlike = next(i for i in range(1, 10) if masks[i].shape != masks[0].shape)

    def change(table):
        table.loc[[alike, unlike], "image file path"] = table["image file path"][[0, 0]].to_numpy()
        table.loc[[0, alike], "pathology"] = ["BENIGN", "MALIGNANT"]

    edit(tree / MASS, change)
    dataset = load(tree, input="full", task="subtype")
    assert len(dataset.manifest) == len(before.manifest) - 2
    row = dataset.manifest.set_index("full_image_path").loc[before.manifest.full_image_path[0]]
    assert (row.label, row.subtype) == (1, 3)
    with pytest.raises(DataError, match="differ in size"):
        dataset.read_mask(row)
    files = before.manifest.mask_path
    row["all_masks"] = f"{files[alike]};{files[0]};"
    np.testing.assert_array_equal(dataset.read_mask(row), masks[0] | masks[alike])


def test_the_mask_is_cut_where_the_crop_was(cbis):
    dataset = load(cbis)
    for row in dataset.manifest.itertuples():
        full, crop, mask = map(dataset.read_image, (row.full_image_path, row.image_path, row.mask_path))
        _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(full, crop, cv2.TM_SQDIFF))
        height, width = crop.shape
        truth, cut = mask[y : y + height, x : x + width] > 127, dataset.read_mask(row)
        assert (truth & cut).sum() / (truth | cut).sum() > 0.8


def test_locate_crop_finds_the_place_at_reduced_size():
    noise = np.random.default_rng(3).integers(60, 200, (900, 700)).astype(np.uint8)
    full, mask = cv2.GaussianBlur(noise, (0, 0), 6), np.zeros((900, 700), np.uint8)
    mask[400:480, 300:380] = 255
    np.testing.assert_allclose(cbis_series.locate_crop(full, full[350:560, 260:450], mask), (350, 260), atol=4)
    with pytest.raises(DataError, match="a mask of another size"):
        cbis_series.locate_crop(full, full[350:560, 260:450], mask[:100])


def test_rows_without_files_are_left_out_and_named(tree):
    first = load(tree).manifest.iloc[0]
    shutil.rmtree((tree / first.image_path).parent)
    dataset = load(tree)
    assert first.image_id not in set(dataset.manifest.image_id)
    assert first.image_id in " ".join(dataset.notes)

    def climb_out(table):
        table.loc[1, ["cropped image file path", "ROI mask file path"]] = "a/b/../etc", "/etc/passwd"

    edit(tree / MASS, climb_out)
    assert len(load(tree).manifest) == len(dataset.manifest) - 1
    shutil.rmtree(tree / "csv")
    with pytest.raises(DataError, match="not a CBIS-DDSM copy"):
        load(tree)


REAL = os.environ.get("MAMMO_CBIS_DIR", "")


@pytest.mark.skipif(not REAL, reason="MAMMO_CBIS_DIR names no copy of CBIS-DDSM")
def test_real_copy():
    dataset = load(Path(REAL))
    assert (dataset.coverage["rows"].sum(), dataset.coverage.malignant.sum()) == (3568, 1457)
    assert len(dataset.facts["official_shared_patients"]) == 31
    assert dataset.facts["official_shared_test_rois"] == 60
    assert dataset.manifest.image_id.is_unique
