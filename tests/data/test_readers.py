"""The readers of the layouts beside the CBIS-DDSM JPEG repack: real quirks, empty trees, damaged files, refusals."""

import os
import shutil

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


@pytest.mark.parametrize("name", data.READERS)
def test_a_folder_that_is_empty_or_not_there_and_a_task_without_labels_are_one_clear_line(name, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"\A.*{folder}.*\Z"):
            data.load_layout(name, folder)
    task = "original" if name != "png-npz" else "subtype"
    with pytest.raises(UsageError, match=f"TASK '{task}'"):
        data.load_layout(name, tmp_path, task=task)


def example(**values):
    """The bytes of a tf.train.Example of whole numbers and byte strings; None: a feature without a value."""
    found = tf.train.Example()
    for name, value in values.items():
        feature = found.features.feature[name]
        held = feature.int64_list if isinstance(value, int) else feature.bytes_list
        held.value.extend([] if value is None else [value])
    return found.SerializeToString()


def write_tfrecord_tree(folder, *, names=False, beside=True):
    """Two shards of five labels each, test10 with masses, cv10 with calcifications."""
    for shard in range(2):
        path = folder / f"training10_{shard}/training10_{shard}.tfrecords"
        path.parent.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for label in range(5):
                name = {"filename": f"P_{label:05d}_LEFT_CC_{shard}.png".encode()} if names else {}
                image = random((299, 299), 10 * shard + label).tobytes()
                writer.write(example(label=label, label_normal=int(label > 0), image=image, **name))
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
    assert dataset.read_image(row.image_path).tobytes() == random((299, 299), 13).tobytes()
    last = dataset.read_image(manifest.image_path.iloc[-1])
    assert np.array_equal(last, np.load(tmp_path / "cv10_data/cv10_data.npy")[1, :, :, 0])
    abnormal = data.load_layout("ddsm-tfrecord", tmp_path, task="abnormal")
    assert abnormal.class_names == ("normal", "abnormal")
    assert abnormal.manifest.label.tolist() == [0, 1, 1, 1, 1] * 2 + [1, 1, 0] + [1, 1]
    assert (abnormal.manifest.split == "").all()


def test_tfrecord_file_names_give_patients_and_their_absence_is_said(tmp_path):
    write_tfrecord_tree(tmp_path / "named", names=True)
    named = data.load_layout("ddsm-tfrecord", tmp_path / "named").manifest
    assert named.patient_id[:10].tolist() == [f"P_{label:05d}" for label in range(5)] * 2
    assert (named["side"][:10] == "LEFT").all()
    write_tfrecord_tree(tmp_path / "unnamed")
    for part in ("test10", "cv10"):
        shutil.rmtree(tmp_path / f"unnamed/{part}_data")
    unnamed = data.load_layout("ddsm-tfrecord", tmp_path / "unnamed")
    assert unnamed.manifest.patient_id.is_unique
    assert any("patients cannot be told apart" in note and "inflated" in note for note in unnamed.notes)
    assert any("No test10_data.npy" in note for note in unnamed.notes)


def test_tfrecord_patient_of_a_file_name():
    groups = {
        "P_00041_LEFT_MLO_2_1.png": "P_00041", "normals/A_1141_1.RIGHT_CC_7.png": "A_1141_1",
        "C:\\tiles\\normal_0012_3.png": "normal_0012", "noname.png": "noname",
    }  # fmt: skip
    rows = [ddsm_tfrecord.make_row("i", {"filename": name.encode()}, "abnormal") for name in groups]
    assert [row["patient_id"] for row in rows] == list(groups.values())


def test_tfrecord_binary_test_labels_do_not_pass_for_benign(tmp_path):
    write_tfrecord_tree(tmp_path)
    np.save(tmp_path / "cv10_data/cv10_labels.npy", np.array([0, 1]))
    np.save(tmp_path / "test10_data/test10_labels.npy", np.array([0, 1, 1]))
    lesions = data.load_layout("ddsm-tfrecord", tmp_path).manifest
    assert (lesions[lesions.official_split == "test"].split == "excluded").all()
    abnormal = data.load_layout("ddsm-tfrecord", tmp_path, task="abnormal").manifest
    assert abnormal[abnormal.official_split == "test"].label.tolist() == [0, 1, 1, 0, 1]


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
    assert manifest.label.tolist() == [1] * 4 + [0] * 4
    assert (manifest.pathology == np.where(manifest.label, "ORIGINAL", "SYNTHETIC")).all()
    assert manifest.patient_id.tolist() == [
        "P_00001", "P_00001", "P_00004", "scan7", "batch_0", "batch_0", "batch_12", "scan7",
    ]  # fmt: skip
    assert manifest["view"].tolist()[:3] == ["CC", "MLO", "MLO"]
    kinds = [dataset.read_image(path).dtype for path in manifest.image_path[4:]]
    assert kinds == [np.uint8, np.uint16, np.float32, np.float32]


def test_png_npz_malignant_uses_originals_and_folders_may_have_other_names(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "original").rename(tmp_path / "clinic")
    (tmp_path / "synthetic").rename(tmp_path / "gan")
    manifest = data.load_layout("png-npz", tmp_path).manifest
    used = manifest[manifest.split == ""]
    assert used.pathology.tolist() == ["MALIGNANT", "MALIGNANT", "BENIGN"]
    assert used.label.tolist() == [1, 1, 0]
    assert "synthetic" in manifest.exclusion_reason[4]
    assert "_M" in manifest.exclusion_reason[3]  # of scan7


def test_npz_class_folders(tmp_path):
    write_npz(tmp_path / "cancer/P_00001_LEFT_CC.npz", data=np.random.default_rng(1).normal(size=(20, 20)))
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


FOLDERS = {  # the names of the class folders: the one that is positive, "" where they do not say it
    ("1", "0"): "1", ("Malignant", "x"): "Malignant", ("Normal", "odd"): "odd",
    ("a", "b"): "", ("cancer", "malignant"): "", ("cancer",): "", ("cancer", "benign", "huh"): "",
}  # fmt: skip


@pytest.mark.parametrize("folders", FOLDERS)
def test_npz_folder_names_decide_the_label(tmp_path, folders):
    for folder in folders:
        write_npz(tmp_path / folder / "a.npz", a=random((8, 8)))
    if not FOLDERS[folders]:
        with pytest.raises(DataError, match=str(tmp_path)):
            data.load_layout("npz", tmp_path)
        return
    manifest = data.load_layout("npz", tmp_path).manifest
    assert manifest.pathology[manifest.label == 1].tolist() == [FOLDERS[folders].upper()]


@pytest.mark.parametrize("layout", ["png-npz", "npz", "cbis-ddsm"])
def test_suffixes_in_capitals_count_and_the_companions_of_macos_do_not(layout, drawn, tmp_path):
    folder = shutil.copytree(drawn(layout), tmp_path / "copy")
    before = data.load_layout(layout, folder).manifest
    for path in [path for path in folder.rglob("*") if path.suffix in (".png", ".npz", ".jpg")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
        if layout != "cbis-ddsm":
            path.rename(path.with_suffix(path.suffix.upper()))
    assert data.detect_layout(folder) == layout
    dataset = data.load_layout(layout, folder)
    check_contract(dataset)
    assert dataset.manifest.drop(columns="image_path").equals(before.drop(columns="image_path"))


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


@pytest.fixture
def mias(tmp_path):
    """A folder of ten films, whose eleventh is missing."""
    (tmp_path / "Info.txt").write_text(INFO.replace("\n", " \r\n"))  # lines end in a blank, as in the original
    for number in range(1, 11):
        image = np.zeros((1024, 1024), np.uint8)
        cv2.ellipse(image, (400, 512), (350, 450), 0, 0, 360, 120, -1)
        image[10:60, 950:1000] = 255  # a label
        write_image(tmp_path / f"all-mias/mdb{number:03d}.pgm", image)
    return tmp_path


def test_mias_rows_patients_sides_and_exclusions(mias):
    dataset = data.load_layout("mini-mias", mias)
    check_contract(dataset)
    manifest = dataset.manifest.set_index("image_id")
    assert len(manifest) == 12
    used = manifest[manifest.split == ""]
    assert used.index.tolist() == ["mdb001", "mdb002", "mdb005_1", "mdb005_2", "mdb006", "mdb009"]
    assert used.label.tolist() == [0, 1, 0, 1, 1, 0]
    assert manifest.patient_id["mdb001"] == manifest.patient_id["mdb002"] != manifest.patient_id["mdb003"]
    assert (manifest["side"]["mdb001"], manifest["side"]["mdb002"]) == ("LEFT", "RIGHT")
    assert manifest.subtype[["mdb001", "mdb005_2", "mdb006", "mdb009"]].tolist() == [1, 3, -1, 0]
    for name, word in zip((7, 8, 10, 11, 3), ("NOTE 3", "NOTE 3", "line 12", "missing", "normal"), strict=True):
        assert word in manifest.exclusion_reason[f"mdb{name:03d}"]
    sides = [dataset.read_image(used.image_path[name]).shape[0] for name in ("mdb001", "mdb006", "mdb009")]
    assert sides == [591, 120, mini_mias.MIN_SIDE]  # the second one's circle reaches over the border


def test_mias_origin_is_bottom_left(mias):
    image = np.zeros((1024, 1024), np.uint8)
    image[1023 - 900, 100] = 255
    write_image(mias / "all-mias/mdb002.pgm", image)
    dataset = data.load_layout("mini-mias", mias)
    row = dataset.manifest.set_index("image_id").loc["mdb002"]
    crop, mask = dataset.read_image(row.image_path), dataset.read_mask(row)
    assert crop.shape == (96, 96)
    assert np.unravel_index(crop.argmax(), crop.shape) == (48, 48)
    assert mask[48, 48] == 1
    assert abs(int(mask.sum()) - np.pi * 20**2) < 100


def test_mias_normal_crops_lie_in_the_breast_and_do_not_move(mias):
    dataset = data.load_layout("mini-mias", mias, task="abnormal")
    assert dataset.class_names == ("normal", "abnormal")
    rows = dataset.manifest[(dataset.manifest.pathology == "NORMAL") & (dataset.manifest.split == "")]
    assert len(rows) == 2
    for path in rows.image_path:
        crop = dataset.read_image(path)
        assert (crop == 120).mean() > 0.95
        assert np.array_equal(crop, dataset.read_image(path))


def test_mias_full_images_take_any_malignant_lesion(mias):
    dataset = data.load_layout("mini-mias", mias, input="full")
    check_contract(dataset)
    used = dataset.manifest[dataset.manifest.split == ""].set_index("image_id")
    assert used.label["mdb005"] == 1
    assert used.label["mdb007"] == 1  # no coordinates are needed here
    assert dataset.read_image(used.image_path["mdb005"]).shape == (1024, 1024)


def edit_dicom(path, image=None, **values):
    """Change elements of a DICOM file, or take them out (None), and its pixels."""
    file = pydicom.dcmread(path)
    if image is not None:
        file.Rows, file.Columns = image.shape
        file.BitsAllocated = file.BitsStored = 8 * image.itemsize
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file["PixelData"].is_undefined_length = False
        for name in {"WindowCenter", "WindowWidth"} & set(file.dir()):  # made for other values
            delattr(file, name)
        file.HighBit, file.PixelData = file.BitsStored - 1, image.tobytes() + b"\0" * (image.nbytes % 2)
    for name, value in values.items():
        setattr(file, name, value)
        if value is None:
            delattr(file, name)
    file.save_as(path)


@pytest.fixture
def tcia(drawn, tmp_path):
    return shutil.copytree(drawn("cbis-ddsm-dicom"), tmp_path / "tcia")


@pytest.mark.parametrize("is_described", [True, False])
def test_dicom_tree_joins_what_the_jpeg_repack_joins_and_leaves_out_what_is_missing(drawn, tcia, is_described):
    for path in () if is_described else tcia.rglob("*.dcm"):
        edit_dicom(path, SeriesDescription=None)
    jpeg, dicom = data.load_layout("cbis-ddsm", drawn("cbis-ddsm")), data.load_layout("cbis-ddsm-dicom", tcia)
    assert set(dicom.manifest.source) == {"cbis-ddsm-dicom"}
    pairs = jpeg.manifest.merge(dicom.manifest, on="image_id", suffixes=("", "_dicom"))
    assert len(pairs) >= len(dicom.manifest) - 1  # one series is missing from the repack
    assert (pairs.label == pairs.label_dicom).all()
    for row in pairs.itertuples():
        first, second = jpeg.read_image(row.image_path), dicom.read_image(row.image_path_dicom)
        assert first.shape == second.shape
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9
    for row in dicom.manifest.itertuples():
        mask = dicom.read_mask(row)
        assert mask.shape == dicom.read_image(row.image_path).shape
        assert 0.02 < mask.mean() < 0.9
    for path in next(tcia.rglob(row.image_id)).rglob("*.dcm"):
        path.unlink()
    fewer = data.load_layout("cbis-ddsm-dicom", tcia)
    assert fewer.manifest.image_id.tolist() == dicom.manifest.image_id.tolist()[:-1]
    assert fewer.coverage.crop.sum() == len(fewer.manifest)


def test_dicom_monochrome1_is_inverted_and_windows_are_applied(tcia):
    dataset = data.load_layout("cbis-ddsm-dicom", tcia)
    path = dataset.manifest.image_path[0]
    ramp = np.tile(np.arange(0, 60000, 1000, dtype=np.uint16), (60, 1))
    plain = {"WindowCenter": None, "WindowWidth": None, "PhotometricInterpretation": "MONOCHROME2"}
    edit_dicom(tcia / path, ramp, **plain | {"PhotometricInterpretation": "MONOCHROME1"})
    np.testing.assert_array_equal(dataset.read_image(path), ramp.max() - ramp)
    edit_dicom(tcia / path, ramp, **plain | {"WindowCenter": 30000, "WindowWidth": 10000})
    read = dataset.read_image(path)
    assert read[0, 0] == read[0, 20]  # below the window
    assert read[0, 40] == read[0, -1]  # above it
    assert read[0, 25] < read[0, 35]


REAL = os.environ.get("MAMMO_PNG_NPZ_DIR", "")


@pytest.mark.skipif(not REAL, reason="MAMMO_PNG_NPZ_DIR names no real png-npz data")
def test_real_png_npz():
    dataset = data.load_layout("png-npz", REAL, task="original")
    assert (dataset.manifest.split == "").all()
    assert dataset.manifest.pathology.value_counts().to_dict() == {"SYNTHETIC": 1500, "ORIGINAL": 1318}
    assert dataset.manifest.groupby("label").patient_id.nunique().tolist() == [94, 691]
    assert {dataset.read_image(path).shape for path in dataset.manifest.image_path[::50]} == {(128, 128)}


@pytest.mark.parametrize("name", phantoms.LAYOUTS)
def test_the_embedded_data_set_is_read_back_in_every_layout_and_through_links(name, drawn, tmp_path):
    folder = drawn(name)
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
    (linked / "again").symlink_to(linked)  # leads back
    again = data.load_layout(name, linked, task=task)
    assert again.manifest.equals(dataset.manifest)
    for path in used.image_path:
        np.testing.assert_array_equal(again.read_image(path), dataset.read_image(path))
    for outside in (f"../{folder.name}/{path}", str(folder / path)):
        with pytest.raises(DataError, match="below the data directory"):
            again.read_image(outside)


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
    oracle.unlink()  # as real data have none
    with pytest.raises(DataError, match=r"demo: no oracle\.csv, so phantoms has not drawn it; set DATASET"):
        data.load_layout("demo", folder)
