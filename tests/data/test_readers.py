"""The readers of the layouts beside the CBIS-DDSM JPEG repack: real quirks, empty trees, damaged files, refusals."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

import phantoms
from shared import data
from shared.data.readers import ddsm_tfrecord, mini_mias
from shared.models.backend import tf
from shared.run import MANIFEST_COLUMNS, DataError, UsageError


def random(shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def write_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def check_contract(dataset):
    manifest = dataset.manifest
    assert tuple(manifest.columns[: len(MANIFEST_COLUMNS)]) == MANIFEST_COLUMNS
    assert manifest.image_id.is_unique
    assert manifest.label.isin([0, 1]).all()
    assert set(manifest.split) <= {"", "excluded"}
    assert ((manifest.split == "excluded") == (manifest.exclusion_reason != "")).all()
    assert (manifest.patient_id != "").all()
    assert not manifest.isna().any().any()
    for row in manifest[manifest.split == ""].itertuples():
        image = dataset.read_image(row.image_path)
        assert image.ndim == 2
        assert image.dtype in (np.uint8, np.uint16, np.float32)
        if dataset.read_mask is not None and row.mask_path:
            assert dataset.read_mask(row).shape == image.shape


# ------------------------------------------------------------- every layout
@pytest.mark.parametrize("name", data.READERS)
def test_a_folder_that_is_empty_or_not_there_is_one_clear_line(name, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=str(folder)) as error:
            data.load_layout(name, folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ddsm-tfrecord", "npz", "mini-mias", "cbis-ddsm-dicom", "cbis-ddsm"])
def test_a_task_without_labels_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="TASK 'original'"):
        data.load_layout(name, tmp_path, task="original")


# ------------------------------------------------------------- ddsm-tfrecord
def example(**values):
    """The bytes of a tf.train.Example of whole numbers and byte strings."""
    features = {}
    for name, value in values.items():
        if isinstance(value, int):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shard(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def pixels(seed):
    return random((299, 299), seed).tobytes()


def write_tfrecord_tree(folder, *, names=False, beside=True):
    """Two shards of five labels each, test10 with masses, cv10 with calcifications."""
    for shard in range(2):
        records = []
        for label in range(5):
            name = {"filename": f"P_{label:05d}_LEFT_CC_{shard}.png".encode()} if names else {}
            records.append(example(label=label, label_normal=int(label > 0), image=pixels(10 * shard + label), **name))
        write_shard(folder / f"training10_{shard}/training10_{shard}.tfrecords", *records)
    for part, labels in (("test10", [2, 4, 0]), ("cv10", [1, 3])):
        (folder / f"{part}_data").mkdir()
        np.save(folder / f"{part}_data/{part}_data.npy", random((len(labels), 299, 299, 1), seed=90))
        where = folder / f"{part}_data" if beside else folder
        np.save(where / f"{part}_labels.npy", np.array(labels))


@pytest.mark.parametrize("beside", [True, False])
def test_tfrecords_and_arrays_become_one_manifest(tmp_path, beside):
    write_tfrecord_tree(tmp_path, beside=beside)
    dataset = data.load_layout("ddsm-tfrecord", tmp_path)
    check_contract(dataset)
    manifest = dataset.manifest
    assert manifest.official_split.value_counts().to_dict() == {"train": 10, "test": 5}
    used = manifest[manifest.split == ""]
    assert used[used.official_split == "test"].abnormality_type.tolist() == ["mass"] * 2 + ["calcification"] * 2
    assert used.label.tolist() == [0, 0, 1, 1] * 2 + [0, 1, 0, 1]
    assert used.subtype.tolist() == [0, 1, 2, 3] * 2 + [1, 3, 0, 2]
    assert manifest[manifest.split == "excluded"].pathology.eq("NORMAL").all()
    row = manifest.set_index("image_id").loc["training10_1_000003"]
    assert dataset.read_image(row.image_path).tobytes() == pixels(13)
    last = dataset.read_image(manifest.image_path.iloc[-1])
    assert np.array_equal(last, np.load(tmp_path / "cv10_data/cv10_data.npy")[1, :, :, 0])


def test_tfrecord_normal_tiles_count_for_task_abnormal(tmp_path):
    write_tfrecord_tree(tmp_path)
    dataset = data.load_layout("ddsm-tfrecord", tmp_path, task="abnormal")
    assert dataset.class_names == ("normal", "abnormal")
    assert dataset.manifest.label.tolist() == [0, 1, 1, 1, 1] * 2 + [1, 1, 0] + [1, 1]
    assert (dataset.manifest.split == "").all()


def test_tfrecord_file_names_give_patients_and_their_absence_is_said(tmp_path):
    write_tfrecord_tree(tmp_path / "named", names=True)
    named = data.load_layout("ddsm-tfrecord", tmp_path / "named").manifest
    assert named.patient_id[:10].tolist() == [f"P_{label:05d}" for label in range(5)] * 2
    assert (named["side"][:10] == "LEFT").all()
    write_tfrecord_tree(tmp_path / "unnamed")
    unnamed = data.load_layout("ddsm-tfrecord", tmp_path / "unnamed")
    assert unnamed.manifest.patient_id.is_unique
    assert any("patients cannot be told apart" in note and "inflated" in note for note in unnamed.notes)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("P_00041_LEFT_MLO_2_1.png", "P_00041"),
        ("normals/A_1141_1.RIGHT_CC_7.png", "A_1141_1"),
        ("C:\\tiles\\normal_0012_3.png", "normal_0012"),
        ("noname.png", "noname"),
    ],
)
def test_tfrecord_patient_of_a_file_name(name, group):
    assert ddsm_tfrecord.make_row("i", {"filename": name.encode()}, "abnormal")["patient_id"] == group


def test_tfrecords_without_the_arrays_say_so(tmp_path):
    write_shard(tmp_path / "training10_0.tfrecords", *(example(label=n, image=pixels(n)) for n in range(3)))
    dataset = data.load_layout("ddsm-tfrecord", tmp_path, task="abnormal")
    assert dataset.manifest.label.tolist() == [0, 1, 1]
    assert any("No test10_data.npy" in note for note in dataset.notes)


DAMAGE = {  # of a shard with five records: what is left of it, and the record that the error names
    "cut in the last": (lambda content: content[:-1], 4),
    "cut in the third": (lambda content: content[:200_000], 2),
    "a flipped byte": (lambda content: content[:95_000] + b"?" + content[95_001:], 1),
    "a huge length": (lambda content: struct.pack("<Q", 2**62) + content[8:], 0),
    "a web page": (lambda content: b"<html>not found</html>", 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_tfrecord_damaged_shard_names_shard_and_record(tmp_path, damage):
    write_tfrecord_tree(tmp_path)
    shard = tmp_path / "training10_1/training10_1.tfrecords"
    change, number = DAMAGE[damage]
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(DataError, match=rf"training10_1\.tfrecords: record {number} at byte \d+ is cut short"):
        data.load_layout("ddsm-tfrecord", tmp_path)


def test_tfrecord_bad_records_are_excluded_with_a_reason(tmp_path):
    good = [example(label=label, label_normal=1, image=pixels(label)) for label in (1, 3)]
    bad = [
        b"\xff" * 30,  # no message at all
        example(label=1, label_normal=1, image=b"abc"),
        example(label=1, label_normal=1),
        example(image=pixels(5)),
        example(label=9, image=pixels(6)),
    ]
    write_shard(tmp_path / "training10_0.tfrecords", *good, *bad)
    dataset = data.load_layout("ddsm-tfrecord", tmp_path)
    check_contract(dataset)
    reasons = dataset.manifest.exclusion_reason.tolist()
    assert reasons[:2] == ["", ""]
    for reason, word in zip(reasons[2:], ("Example", "3 bytes", "no image", "no label", "no label"), strict=True):
        assert word in reason


def test_tfrecord_binary_test_labels_do_not_pass_for_benign(tmp_path):
    write_tfrecord_tree(tmp_path)
    np.save(tmp_path / "cv10_data/cv10_labels.npy", np.array([0, 1]))
    np.save(tmp_path / "test10_data/test10_labels.npy", np.array([0, 1, 1]))
    lesions = data.load_layout("ddsm-tfrecord", tmp_path).manifest
    assert (lesions[lesions.official_split == "test"].split == "excluded").all()
    abnormal = data.load_layout("ddsm-tfrecord", tmp_path, task="abnormal").manifest
    assert abnormal[abnormal.official_split == "test"].label.tolist() == [0, 1, 1, 0, 1]


# ------------------------------------------------------------------- png-npz
def write_pairs(folder):
    for name in ("P_00001_LEFT_CC_1_M", "P_00001_LEFT_MLO_1_M", "P_00004_RIGHT_MLO_1_B", "scan7"):
        write_image(folder / f"original/{name}.png", random((40, 50), seed=1))
    write_npz(folder / "synthetic/batch_0_3_malignant.npz", arr_0=random((32, 32)))
    write_npz(folder / "synthetic/batch_0_4_benign.npz", image=random((32, 32, 1), high=60000, dtype=np.uint16))
    write_npz(folder / "synthetic/batch_12_0_benign.npz", x=np.random.default_rng(0).normal(size=(32, 32, 3)))
    write_npz(folder / "synthetic/scan7.npz", x=np.random.default_rng(0).random((32, 32)))


def test_png_npz_original_against_synthetic(tmp_path):
    write_pairs(tmp_path)
    dataset = data.load_layout("png-npz", tmp_path, task="original")
    check_contract(dataset)
    manifest = dataset.manifest
    assert dataset.class_names == ("synthetic", "original")
    assert (
        manifest.pathology.map({"ORIGINAL": 1, "SYNTHETIC": 0}).tolist() == manifest.label.tolist() == [1] * 4 + [0] * 4
    )
    assert manifest.patient_id.tolist() == [
        "P_00001", "P_00001", "P_00004", "scan7", "batch_0", "batch_0", "batch_12", "scan7",
    ]  # fmt: skip
    assert manifest["view"].tolist()[:3] == ["CC", "MLO", "MLO"]
    kinds = [dataset.read_image(path).dtype for path in manifest.image_path[4:]]
    assert kinds == [np.uint8, np.uint16, np.float32, np.float32]


def test_png_npz_malignant_uses_originals(tmp_path):
    write_pairs(tmp_path)
    manifest = data.load_layout("png-npz", tmp_path).manifest
    used = manifest[manifest.split == ""]
    assert used.pathology.tolist() == ["MALIGNANT", "MALIGNANT", "BENIGN"]
    assert used.label.tolist() == [1, 1, 0]
    assert "synthetic" in manifest.exclusion_reason[4]
    assert "scan7" in manifest.image_id[3]
    assert "_M" in manifest.exclusion_reason[3]


def test_png_npz_folders_may_have_other_names(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "original").rename(tmp_path / "clinic")
    (tmp_path / "synthetic").rename(tmp_path / "gan")
    assert len(data.load_layout("png-npz", tmp_path, task="original").manifest) == 8


def test_png_npz_needs_both_folders(tmp_path):
    write_pairs(tmp_path)
    for path in (tmp_path / "synthetic").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="synthetic/"):
        data.load_layout("png-npz", tmp_path)


# ----------------------------------------------------------------------- npz
def test_npz_class_folders(tmp_path):
    values = np.random.default_rng(1)
    write_npz(tmp_path / "cancer/P_00001_LEFT_CC.npz", data=values.normal(size=(20, 20)))
    write_npz(tmp_path / "cancer/b.npz", data=random((20, 20)))
    write_npz(tmp_path / "non_cancer/b.npz", data=random((20, 20, 3)))
    (tmp_path / "notes").mkdir()
    dataset = data.load_layout("npz", tmp_path)
    check_contract(dataset)
    assert dataset.class_names == ("non_cancer", "cancer")
    assert dataset.manifest.label.tolist() == [1, 1, 0]
    assert dataset.manifest.patient_id.tolist() == ["P_00001", "cancer_b", "non_cancer_b"]
    assert dataset.read_image(dataset.manifest.image_path[0]).min() < 0
    assert any("2 of 3" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("folders", "positive"), [(("1", "0"), "1"), (("Malignant", "x"), "Malignant"), (("Normal", "odd"), "odd")]
)
def test_npz_folder_names_decide_the_label(tmp_path, folders, positive):
    for folder in folders:
        write_npz(tmp_path / folder / "a.npz", a=random((8, 8)))
    manifest = data.load_layout("npz", tmp_path).manifest
    assert manifest.pathology[manifest.label == 1].tolist() == [positive.upper()]


@pytest.mark.parametrize("folders", [("a", "b"), ("cancer", "malignant"), ("cancer",), ("cancer", "benign", "huh")])
def test_npz_folders_that_do_not_say_the_class_are_refused(tmp_path, folders):
    for folder in folders:
        write_npz(tmp_path / folder / "a.npz", a=random((8, 8)))
    with pytest.raises(DataError, match=str(tmp_path)):
        data.load_layout("npz", tmp_path)


# ----------------------------------------------------------------- mini-mias
INFO = """REFNUM BG CLASS SEVERITY X Y RADIUS
mdb001 G CIRC B 535 425 197
mdb002 G CIRC M 100 900 20
mdb003 D NORM
mdb004 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F SPIC M 500 168 26
mdb006 F ASYM M 5 5 40
mdb007 G CALC M *NOTE 3*
mdb008 G CALC B
mdb009 F CALC B 400 400 10
mdb010 who knows
mdb011 D NORM
"""


def write_mias(folder, *, missing=(11,)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Info.txt").write_text(INFO.replace("\n", " \r\n"))  # lines end in a blank, as in the original
    for number in range(1, 12):
        if number in missing:
            continue
        image = np.zeros((1024, 1024), np.uint8)
        cv2.ellipse(image, (400, 512), (350, 450), 0, 0, 360, 120, -1)
        image[10:60, 950:1000] = 255  # a label
        write_image(folder / f"all-mias/mdb{number:03d}.pgm", image)


def test_mias_rows_patients_sides_and_exclusions(tmp_path):
    write_mias(tmp_path)
    dataset = data.load_layout("mini-mias", tmp_path)
    check_contract(dataset)
    manifest = dataset.manifest.set_index("image_id")
    assert len(manifest) == 12
    used = manifest[manifest.split == ""]
    assert used.index.tolist() == ["mdb001", "mdb002", "mdb005_1", "mdb005_2", "mdb006", "mdb009"]
    assert used.label.tolist() == [0, 1, 0, 1, 1, 0]
    assert manifest.patient_id["mdb001"] == manifest.patient_id["mdb002"] != manifest.patient_id["mdb003"]
    assert (manifest["side"]["mdb001"], manifest["side"]["mdb002"]) == ("LEFT", "RIGHT")
    assert manifest.subtype[["mdb001", "mdb005_2", "mdb006", "mdb009"]].tolist() == [1, 3, -1, 0]
    reasons = manifest.exclusion_reason
    assert "NOTE 3" in reasons["mdb007"]
    assert "NOTE 3" in reasons["mdb008"]
    assert "line 12" in reasons["mdb010"]
    assert "missing" in reasons["mdb011"]
    assert "normal" in reasons["mdb003"]


def test_mias_origin_is_bottom_left(tmp_path):
    write_mias(tmp_path)
    image = np.zeros((1024, 1024), np.uint8)
    image[1023 - 900, 100] = 255
    write_image(tmp_path / "all-mias/mdb002.pgm", image)
    dataset = data.load_layout("mini-mias", tmp_path)
    row = dataset.manifest.set_index("image_id").loc["mdb002"]
    crop = dataset.read_image(row.image_path)
    assert crop.shape == (96, 96)
    assert np.unravel_index(crop.argmax(), crop.shape) == (48, 48)
    mask = dataset.read_mask(row)
    assert mask[48, 48] == 1
    assert abs(int(mask.sum()) - np.pi * 20**2) < 100


def test_mias_crops_stay_inside_and_are_wide_enough(tmp_path):
    write_mias(tmp_path)
    dataset = data.load_layout("mini-mias", tmp_path)
    shapes = {
        row.image_id: dataset.read_image(row.image_path).shape for row in dataset.manifest.itertuples() if not row.split
    }
    assert shapes["mdb001"] == (591, 591)
    assert shapes["mdb006"] == (120, 120)  # its circle reaches over the border
    assert shapes["mdb009"] == (mini_mias.MIN_SIDE, mini_mias.MIN_SIDE)


def test_mias_normal_crops_lie_in_the_breast_and_do_not_move(tmp_path):
    write_mias(tmp_path)
    dataset = data.load_layout("mini-mias", tmp_path, task="abnormal")
    assert dataset.class_names == ("normal", "abnormal")
    rows = dataset.manifest[(dataset.manifest.pathology == "NORMAL") & (dataset.manifest.split == "")]
    assert len(rows) == 2
    for path in rows.image_path:
        crop = dataset.read_image(path)
        assert (crop == 120).mean() > 0.95
        assert np.array_equal(crop, dataset.read_image(path))


def test_mias_full_images_take_any_malignant_lesion(tmp_path):
    write_mias(tmp_path)
    dataset = data.load_layout("mini-mias", tmp_path, input="full")
    check_contract(dataset)
    used = dataset.manifest[dataset.manifest.split == ""].set_index("image_id")
    assert used.label["mdb005"] == 1
    assert used.label["mdb007"] == 1  # no coordinates are needed here
    assert dataset.read_image(used.image_path["mdb005"]).shape == (1024, 1024)


# ---------------------------------------------------------- cbis-ddsm-dicom
CSV_HEADER = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
    "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path\r\n"
)
STUDY = "1.3.6.1.4.1.9590.1"


def write_dicom(path, image, *, description="", photometric="MONOCHROME2", window=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.generate_uid()
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PixelRepresentation, file.PhotometricInterpretation = 1, 0, photometric
    bits = 8 * image.dtype.itemsize
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit = bits - 1
    if description:
        file.SeriesDescription = description
    if window:
        file.WindowCenter, file.WindowWidth = window
    file.PixelData = image.tobytes()
    file.save_as(path, enforce_file_format=True)


def case(patient, label, *, kind="Mass-Training", crop="000000.dcm", mask="000001.dcm"):
    subject = f"{kind}_{patient}_LEFT_CC"
    full = f"{subject}/{STUDY}.1/{STUDY}.2/000000.dcm"
    series = f"{subject}_1/{STUDY}.3/{STUDY}.4"
    return f'{patient},3,LEFT,CC,1,mass,OVAL,ILL_DEFINED,4,{label},3,{full},{series}/{crop},"{series}/{mask}\n"\r\n'


def write_tcia(folder):
    """Four masses: files as the csv names them, swapped roles, no descriptions, and the newer download's names."""
    cases = [
        case("P_00001", "MALIGNANT"),
        case("P_00002", "BENIGN"),
        case("P_00003", "BENIGN_WITHOUT_CALLBACK"),
        case("P_00004", "MALIGNANT"),
    ]
    (folder / "csv").mkdir(parents=True)
    (folder / "csv/mass_case_description_train_set.csv").write_text(CSV_HEADER + "".join(cases), newline="")
    full = random((60, 50), high=60000, dtype=np.uint16)
    crop = np.ascontiguousarray(full[10:30, 5:25])
    mask = np.zeros((60, 50), np.uint8)
    mask[15:25, 10:20] = 255
    for number, (crop_name, mask_name, described) in enumerate(
        [("000000", "000001", True), ("000001", "000000", True), ("000001", "000000", False), ("1-1", "1-2", True)], 1
    ):
        subject = folder / f"CBIS-DDSM/Mass-Training_P_{number:05d}_LEFT_CC"
        new = number == 4
        study, whole = ("07-20-2016-DDSM", "1.0-full mammogram images-1") if new else (f"{STUDY}.1", f"{STUDY}.2")
        write_dicom(subject / study / whole / ("1-1.dcm" if new else "000000.dcm"), full)
        part = Path(f"{subject}_1") / study / ("1.0-ROI" if new else f"{STUDY}.4")
        write_dicom(part / f"{crop_name}.dcm", crop, description="cropped images" if described else "")
        write_dicom(part / f"{mask_name}.dcm", mask, description="ROI mask images" if described else "")
    return full, crop, mask


def test_dicom_tree_joins_crop_and_mask_whatever_their_names(tmp_path):
    _, crop, mask = write_tcia(tmp_path)
    dataset = data.load_layout("cbis-ddsm-dicom", tmp_path)
    check_contract(dataset)
    manifest = dataset.manifest
    assert manifest.image_id.tolist() == [f"Mass-Training_P_{n:05d}_LEFT_CC_1" for n in range(1, 5)]
    assert manifest.label.tolist() == [1, 0, 0, 1]
    assert set(manifest.source) == {"cbis-ddsm-dicom"}
    for row in manifest.itertuples():
        assert np.array_equal(dataset.read_image(row.image_path), crop)
        assert np.array_equal(dataset.read_mask(row), mask[10:30, 5:25] > 0)


def test_dicom_full_images(tmp_path):
    full, _, _ = write_tcia(tmp_path)
    dataset = data.load_layout("cbis-ddsm-dicom", tmp_path, input="full")
    assert np.array_equal(dataset.read_image(dataset.manifest.image_path[3]), full)


def test_dicom_monochrome1_is_inverted_and_windows_are_applied(tmp_path):
    write_tcia(tmp_path)
    dataset = data.load_layout("cbis-ddsm-dicom", tmp_path)
    path = dataset.manifest.image_path[0]
    ramp = np.tile(np.arange(0, 60000, 1000, dtype=np.uint16), (60, 1))
    write_dicom(tmp_path / path, ramp, photometric="MONOCHROME1")
    read = dataset.read_image(path)
    assert read[0, 0] > read[0, -1]
    assert read.max() == ramp.max()
    write_dicom(tmp_path / path, ramp, window=(30000, 10000))
    read = dataset.read_image(path)
    assert read[0, 0] == read[0, 20]  # below the window
    assert read[0, 40] == read[0, -1]  # above it
    assert read[0, 25] < read[0, 35]


def test_dicom_damaged_and_missing_files_are_named(tmp_path):
    write_tcia(tmp_path)
    broken = next((tmp_path / "CBIS-DDSM/Mass-Training_P_00001_LEFT_CC_1").rglob("000000.dcm"))
    broken.write_bytes(b"not a DICOM file")
    for file in (tmp_path / "CBIS-DDSM/Mass-Training_P_00002_LEFT_CC_1").rglob("*.dcm"):
        file.unlink()
    dataset = data.load_layout("cbis-ddsm-dicom", tmp_path)
    assert "Mass-Training_P_00002_LEFT_CC_1" not in set(dataset.manifest.image_id)
    assert int(dataset.coverage.crop.sum()) == 3
    with pytest.raises(DataError, match=r"000000\.dcm"):
        dataset.read_image(dataset.manifest.image_path[0])
    with pytest.raises(DataError):
        dataset.read_image("../elsewhere.dcm")


def test_dicom_without_files_says_so(tmp_path):
    (tmp_path / "mass_case_description_train_set.csv").write_text(CSV_HEADER + case("P_00001", "BENIGN"), newline="")
    with pytest.raises(DataError, match="dcm"):
        data.load_layout("cbis-ddsm-dicom", tmp_path)


# ----------------------------------------------------------------- real data
REAL = os.environ.get("MAMMO_PNG_NPZ_DIR", "")


@pytest.mark.skipif(not REAL, reason="MAMMO_PNG_NPZ_DIR names no real png-npz data")
def test_real_png_npz():
    dataset = data.load_layout("png-npz", REAL, task="original")
    manifest = dataset.manifest
    assert (manifest.split == "").all()
    assert manifest.groupby("pathology").size().to_dict() == {"ORIGINAL": 1318, "SYNTHETIC": 1500}
    assert manifest.patient_id[manifest.label == 1].nunique() == 691
    assert manifest.patient_id[manifest.label == 0].nunique() == 94
    assert {dataset.read_image(path).shape for path in manifest.image_path[::50]} == {(128, 128)}


# ----------------------------------------------------------------- demo data
def read_all(dataset):
    return [dataset.read_image(path) for path in dataset.manifest.image_path[dataset.manifest.split == ""]]


@pytest.mark.parametrize("name", phantoms.LAYOUTS)
def test_the_embedded_data_set_is_read_back_in_every_layout_and_through_links(name, tmp_path):
    folder = data.provide_demo(tmp_path / "drawn", layout=name, patients=8)
    for task in ("original", "malignant") if name == "png-npz" else ("malignant",):
        dataset = data.load_layout(name, folder, task=task)
        check_contract(dataset)
        used = dataset.manifest[dataset.manifest.split == ""]
        assert set(used.label) == {0, 1}
        assert len(used) >= 5
    # what lies on another disk is followed: the data directory, each of its folders, each of its files
    linked = tmp_path / "linked"
    linked.mkdir()
    for entry in folder.iterdir():
        (linked / entry.name).symlink_to(entry)
    again = data.load_layout(name, linked, task=task)
    assert again.manifest.equals(dataset.manifest)
    assert all(map(np.array_equal, read_all(again), read_all(dataset)))
    with pytest.raises(DataError, match="below the data directory"):
        again.read_image(f"../drawn/{again.manifest.image_path.iloc[-1]}")
    with pytest.raises(DataError, match="below the data directory"):
        again.read_image(str(folder / again.manifest.image_path.iloc[-1]))


def test_a_link_that_leads_back_ends(tmp_path):
    write_mias(tmp_path)
    (tmp_path / "all-mias/again").symlink_to(tmp_path)
    assert len(data.load_layout("mini-mias", tmp_path).manifest) == 12


def test_the_demo_is_drawn_once_and_again_where_an_option_changed(tmp_path):
    folder = data.provide_demo(tmp_path / "demo", patients=4)
    oracle = folder / "oracle.csv"
    first = oracle.stat().st_mtime_ns
    assert data.provide_demo(tmp_path / "demo", patients=4) == folder
    assert oracle.stat().st_mtime_ns == first
    data.provide_demo(folder, patients=3)
    assert oracle.stat().st_mtime_ns > first
    assert set(data.load_layout("demo", folder).manifest.source) == {"demo"}
    with pytest.raises(DataError, match="layout"):
        data.provide_demo(tmp_path / "other", layout="other")
