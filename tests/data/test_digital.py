"""VinDr-Mammo and RSNA 2023: the traps of their tables, their real counts on tables of real size, their file kinds."""

import os
import time

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from shared import data
from shared.data import decoding
from shared.run import DESCRIPTOR_COLUMNS, DataError, UsageError, resolve_settings

BREASTS, FINDINGS = "breast-level_annotations.csv", "finding_annotations.csv"
OUTCOME = {"biopsy", "invasive", "difficult_negative_case", "BIRADS"}
BREAST = {"series_id": "s", "laterality": "L", "view_position": "CC", "height": 60, "width": 40,
          "breast_birads": "BI-RADS 1", "breast_density": "DENSITY C", "split": "training"}  # fmt: skip
SCREENING = {"site_id": 1, "laterality": "L", "view": "CC", "age": 50, "cancer": 0, "biopsy": 0, "invasive": 0,
             "BIRADS": 1, "implant": 0, "density": "B", "machine_id": 49, "difficult_negative_case": False}  # fmt: skip


def write_vindr(folder, findings, images=4):
    """Write `images` views of 60 × 40 pixels, a study each, as PNG, and the tables; `findings`: (image, category …)."""
    rows = [{"study_id": f"s{number}", "image_id": f"i{number}"} | BREAST for number in range(images)]
    picture = np.arange(2400, dtype=np.uint8).reshape(60, 40)
    found = []
    for number, categories, birads, *box in findings:
        words = {"finding_categories": categories, "finding_birads": birads}
        found.append(rows[number] | words | dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)))
    for row in rows:
        (folder / f"images_png/{row['study_id']}").mkdir(parents=True)
        cv2.imwrite(str(folder / f"images_png/{row['study_id']}/{row['image_id']}.png"), picture)
    pd.DataFrame(rows).to_csv(folder / BREASTS, index=False)
    pd.DataFrame(found).to_csv(folder / FINDINGS, index=False)


def test_vindr_lists_of_categories_boxes_that_leave_the_image_and_findings_that_cannot_be_cropped(tmp_path):
    write_vindr(tmp_path, [
        (0, "['No Finding']", "", "", "", "", ""), (1, "['Mass', 'Skin Retraction']", "BI-RADS 5", 30, 10, 52.5, 20),
        (1, "['Suspicious Calcification']", "BI-RADS 3", -4, 30, 6, 70), (2, "['Mass']", "BI-RADS 4", 50, 5, 60, 9),
        (3, "['Skin Thickening']", "", 2, 2, 9, 9),
    ])  # fmt: skip
    crops = data.load_layout("vindr-mammo", tmp_path, input="crop")
    rows = crops.manifest.set_index("image_id")
    assert rows.finding.tolist() == ["Mass; Skin Retraction", "Suspicious Calcification", "Mass", "Skin Thickening"]
    assert rows.abnormality_type.tolist() == ["mass", "calcification", "mass", ""]
    assert rows.lesion.tolist() == ["CC_1", "CC_2", "CC_1", "CC_1"]
    assert (rows.label.tolist(), rows.index[1]) == ([1, 0, 1, 0], "i1_LEFT_CC_2")
    assert rows.exclusion_reason.str.split(":").str[0].tolist() == [
        "", "", "no box in the image", "no BI-RADS category of the finding",
    ]  # fmt: skip
    assert crops.facts["boxes_clipped_to_the_image"] == 3
    assert (crops.facts["boxes"], crops.facts["rows_without_finding"]) == (4, 1)
    image, mask = crops.read_image(rows.image_path.iloc[0]), crops.read_mask(rows.iloc[0])
    assert image.shape == mask.shape == (15, 15)  # the box is 10 × 10 in the image
    assert image[0, 0] == (8 * 40 + 25) % 256
    assert mask.sum() == 100
    full = data.load_layout("vindr-mammo", tmp_path)
    assert full.manifest.abnormality_type.eq("").all(), "the kind of finding tells that there is one"
    assert full.manifest.mask_path.ne("").tolist() == [False, True, False, True]
    assert full.read_mask(full.manifest.iloc[1]).sum() == 100 + 6 * 30
    small = cv2.resize(full.read_image(full.manifest.image_path[1]), (20, 30))
    cv2.imwrite(str(tmp_path / full.manifest.image_path[1]), small)  # a copy of half the size
    assert full.read_mask(full.manifest.iloc[1]).sum() == 25 + 3 * 15


def test_vindr_groups_by_study_and_keeps_the_official_split(drawn):
    dataset = data.load_layout("vindr-mammo", drawn("vindr-mammo", 40))
    manifest = dataset.manifest
    assert manifest.patient_id.value_counts().eq(4).all()
    assert manifest.groupby("patient_id").official_split.nunique().eq(1).all()
    assert set(manifest.official_split) == {"train", "test"}
    assert set(manifest.breast_density) == {"1", "2", "3", "4"}
    assert any("No biopsy" in note for note in dataset.notes)
    assert dataset.facts["boxes_clipped_to_the_image"] > 0
    assert manifest.mask_path.str.contains(";").any()
    assert (
        data.load_layout("vindr-mammo", drawn("vindr-mammo", 40), input="crop").manifest.finding.str.contains(";").any()
    )
    strict = data.load_layout("vindr-mammo", drawn("vindr-mammo", 40), task="birads-5")
    for found, words in ((manifest, ["BI-RADS 4", "BI-RADS 5"]), (strict.manifest, ["BI-RADS 5"])):
        assert (found.label == found.pathology.isin(words)).all()
    assert (dataset.class_names[1], strict.class_names[1]) == ("BI-RADS 4 or more", "BI-RADS 5")


def test_rsna_takes_the_breast_s_label_and_leaves_other_views_out(drawn):
    folder = drawn("rsna-2023", 40)
    dataset = data.load_layout("rsna-2023", folder)
    table, manifest = pd.read_csv(folder / "train.csv"), dataset.manifest
    assert manifest.label.tolist() == table.cancer.tolist()
    assert manifest.groupby(["patient_id", "side"]).label.nunique().eq(1).all()
    other = manifest[manifest.split == "excluded"]
    assert other.exclusion_reason.eq("view AT is neither CC nor MLO").all()
    assert len(other) == dataset.facts["views_neither_cc_nor_mlo"] > 0
    assert manifest[manifest.site_id == "2"].breast_density.eq("").all()
    assert set(manifest[manifest.site_id == "1"].breast_density) == {"1", "2", "3", "4"}
    assert dataset.facts["most_images_of_a_patient"] == 13
    assert dataset.facts["images_without_age"] == manifest.age.eq("").sum() > 0
    with pytest.raises(UsageError, match="choose INPUT full"):
        data.load_layout("rsna-2023", folder, input="crop")
    syntaxes = {pydicom.dcmread(folder / path).file_meta.TransferSyntaxUID.name for path in manifest.image_path[::4]}
    assert len(syntaxes) == 2  # plain and JPEG 2000


@pytest.mark.parametrize("layout", ["vindr-mammo", "rsna-2023"])
def test_each_split_and_each_fold_has_both_classes_and_no_column_knows_the_outcome(drawn, layout):
    manifest = data.load_layout(layout, drawn(layout, 40)).manifest
    statistics = pd.DataFrame({"problem": [""] * len(manifest), "content": [""] * len(manifest)})
    split = data.assign_splits(manifest, statistics)  # raises where train, validation or test lacks a class
    assert split[split.fold >= 0].groupby("fold").label.nunique().tolist() == [2] * 5
    assert not OUTCOME & set(manifest)
    assert manifest[[name for name in DESCRIPTOR_COLUMNS if name != "breast_density"]].eq("").all(axis=None)


def test_input_is_what_the_layout_is_made_of_unless_given(tmp_path):
    found = {name: resolve_settings({"DATASET": name, "DATA_DIR": "x", "INPUT": "auto"}).input for name in data.READERS}
    assert {name for name in found if found[name] == "full"} == {"vindr-mammo", "rsna-2023", "cmmd", "inbreast"}
    assert resolve_settings({"DATASET": "vindr-mammo", "DATA_DIR": "x", "INPUT": "crop"}).input == "crop"


def place_files(folder, paths):
    """Make empty files, which a reader must not open to list them."""
    for parent in {os.path.dirname(path) for path in paths}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for path in paths:
        os.close(os.open(folder / path, os.O_CREAT))


def test_vindr_real_counts_in_seconds(tmp_path):
    number = np.arange(20_000)
    table = pd.DataFrame({"study_id": [f"s{n // 4}" for n in number], "image_id": [f"i{n}" for n in number]})
    table = table.assign(**BREAST | {"split": np.where(number < 16_000, "training", "test")})
    found = pd.concat([table.iloc[:18_232].assign(finding_categories="['No Finding']"), table.iloc[-2_254:]])
    found["finding_categories"] = found.finding_categories.fillna("['Mass']")
    found.loc[found.finding_categories == "['Mass']", ["xmin", "ymin", "xmax", "ymax"]] = [2, 2, 9, 9]
    found.iloc[-42:, found.columns.get_loc("ymax")] = 61
    table.to_csv(tmp_path / BREASTS, index=False)
    found.assign(finding_birads="BI-RADS 4").to_csv(tmp_path / FINDINGS, index=False)
    place_files(tmp_path, "images/" + table.study_id + "/" + table.image_id + ".dicom")
    start = time.monotonic()
    dataset = data.load_layout("vindr-mammo", tmp_path)
    assert time.monotonic() - start < 30
    assert (len(dataset.manifest), dataset.manifest.patient_id.nunique()) == (20_000, 5_000)
    assert dataset.manifest.official_split.value_counts().to_dict() == {"train": 16_000, "test": 4_000}
    expected = {"rows_without_finding": 18_232, "boxes": 2_254, "boxes_clipped_to_the_image": 42}
    assert expected.items() <= dataset.facts.items()


@pytest.mark.parametrize("name", ["{}/{}.png", "{}_{}.png", "train_images/{}/{}.dcm"])
def test_rsna_real_counts_in_seconds_in_each_way_to_name_files(tmp_path, name):
    four = pd.DataFrame({"patient_id": np.repeat(np.arange(11_913), 4)}).assign(**SCREENING)
    four["laterality"], four["view"] = np.tile([*"LLRR"], 11_913), np.tile(["CC", "MLO"], 2 * 11_913)
    four["cancer"] = ((four.patient_id < 486) & (four.laterality == "L") | (four.patient_id < 6)).astype(int)
    more = four[four.laterality.eq("L") & four["view"].eq("CC")].iloc[[*range(174), *range(1000, 7880)]].copy()
    more.iloc[-38:, more.columns.get_loc("view")] = "AT"
    table = pd.concat([four, more], ignore_index=True).assign(image_id=lambda rows: np.arange(len(rows)))
    table.to_csv(tmp_path / "train.csv", index=False)
    place_files(tmp_path, [name.format(*pair) for pair in zip(table.patient_id, table.image_id, strict=True)])
    start = time.monotonic()
    dataset = data.load_layout("rsna-2023", tmp_path)
    assert time.monotonic() - start < 60
    assert len(dataset.manifest) == dataset.facts["rows_in_table"] == 54_706
    expected = {"patients_in_table": 11_913, "positive_images": 1_158, "positive_breasts": 492,
                "positive_patients": 486, "views_neither_cc_nor_mlo": 38}  # fmt: skip
    assert expected.items() <= dataset.facts.items()


def test_a_file_without_decoder_is_named_and_twelve_bits_fill_the_scale(drawn, monkeypatch):
    folder = drawn("rsna-2023", 40)
    manifest = data.load_layout("rsna-2023", folder).manifest
    packed, plain = (manifest.image_path[manifest.patient_id == patient].iloc[0] for patient in ("10002", "10001"))
    for path in (packed, plain):
        assert decoding.read_grey(folder / path).dtype == np.uint16
        assert decoding.read_grey(folder / path).max() > 40_000
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    with pytest.raises(DataError, match=rf"{packed.split('/')[-1]}: no decoder for JPEG 2000 .* install pylibjpeg"):
        decoding.read_grey(folder / packed)
