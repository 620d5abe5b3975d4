"""The readers of the layouts beside the CBIS-DDSM JPEG repack: real quirks, empty trees, damaged files, refusals."""

import os
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

import phantoms as demo_data
from shared.data import readers as datasets
from shared.data.readers import ddsm_tfrecord, mini_mias
from shared.run import MANIFEST_COLUMNS, DataError, UsageError

OTHER_LAYOUTS = ("cbis-ddsm-dicom", "ddsm-tfrecord", "png-npz", "npz", "mini-mias")


class _RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-run",))


def _random(shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def _write_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def _write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def _check_contract(dataset):
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
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_an_empty_folder_is_one_clear_line(name, tmp_path):
    with pytest.raises(DataError) as error:
        datasets.load(name, tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_a_folder_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        datasets.load(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["ddsm-tfrecord", "npz", "mini-mias", "cbis-ddsm-dicom"])
def test_a_task_without_labels_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="original"):
        datasets.load(name, tmp_path, task="original")


# ------------------------------------------------------------- ddsm-tfrecord
def _example(**values):
    message = ddsm_tfrecord._example_class()()
    for name, value in values.items():
        feature = message.features.feature[name]
        (feature.int64_list if isinstance(value, int) else feature.bytes_list).value.append(value)
    return message.SerializeToString()


def _frame(payload):
    return struct.pack("<Q", len(payload)) + b"\0" * 4 + payload + b"\0" * 4


def _pixels(seed):
    return _random((299, 299), seed).tobytes()


def _write_tfrecord_tree(folder, *, names=False, beside=True):
    """Two shards of five labels each, test10 with masses, cv10 with calcifications."""
    for shard in range(2):
        records = []
        for label in range(5):
            name = {"filename": f"P_{label:05d}_LEFT_CC_{shard}.png".encode()} if names else {}
            records.append(
                _example(label=label, label_normal=int(label > 0), image=_pixels(10 * shard + label), **name)
            )
        path = folder / f"training10_{shard}/training10_{shard}.tfrecords"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(map(_frame, records)))
    for part, labels in (("test10", [2, 4, 0]), ("cv10", [1, 3])):
        (folder / f"{part}_data").mkdir()
        np.save(folder / f"{part}_data/{part}_data.npy", _random((len(labels), 299, 299, 1), seed=90))
        where = folder / f"{part}_data" if beside else folder
        np.save(where / f"{part}_labels.npy", np.array(labels))


@pytest.mark.parametrize("beside", [True, False])
def test_tfrecords_and_arrays_become_one_manifest(tmp_path, beside):
    _write_tfrecord_tree(tmp_path, beside=beside)
    dataset = datasets.load("ddsm-tfrecord", tmp_path)
    _check_contract(dataset)
    manifest = dataset.manifest
    assert manifest.official_split.value_counts().to_dict() == {"train": 10, "test": 5}
    used = manifest[manifest.split == ""]
    assert used[used.official_split == "test"].abnormality_type.tolist() == ["mass"] * 2 + ["calcification"] * 2
    assert used.label.tolist() == [0, 0, 1, 1] * 2 + [0, 1, 0, 1]
    assert used.subtype.tolist() == [0, 1, 2, 3] * 2 + [1, 3, 0, 2]
    assert manifest[manifest.split == "excluded"].pathology.eq("NORMAL").all()
    row = manifest.set_index("image_id").loc["training10_1_000003"]
    assert dataset.read_image(row.image_path).tobytes() == _pixels(13)
    last = dataset.read_image(manifest.image_path.iloc[-1])
    assert np.array_equal(last, np.load(tmp_path / "cv10_data/cv10_data.npy")[1, :, :, 0])


def test_tfrecord_normal_tiles_count_for_task_abnormal(tmp_path):
    _write_tfrecord_tree(tmp_path)
    dataset = datasets.load("ddsm-tfrecord", tmp_path, task="abnormal")
    assert dataset.class_names == ("normal", "abnormal")
    assert dataset.manifest.label.tolist() == [0, 1, 1, 1, 1] * 2 + [1, 1, 0] + [1, 1]
    assert (dataset.manifest.split == "").all()


def test_tfrecord_file_names_give_patients_and_their_absence_is_said(tmp_path):
    _write_tfrecord_tree(tmp_path / "named", names=True)
    named = datasets.load("ddsm-tfrecord", tmp_path / "named").manifest
    assert named.patient_id[:10].tolist() == [f"P_{label:05d}" for label in range(5)] * 2
    assert (named["side"][:10] == "LEFT").all()
    _write_tfrecord_tree(tmp_path / "unnamed")
    unnamed = datasets.load("ddsm-tfrecord", tmp_path / "unnamed")
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
    assert ddsm_tfrecord._patient(name) == group


def test_tfrecords_that_tensorflow_wrote_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "training10_0/training10_0.tfrecords"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label in range(3):
            integers = {"label": label, "label_normal": int(label > 0)}
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])) for name, value in integers.items()
            }
            feature["image"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[_pixels(label)]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    dataset = datasets.load("ddsm-tfrecord", tmp_path, task="abnormal")
    assert dataset.manifest.label.tolist() == [0, 1, 1]
    assert dataset.read_image(dataset.manifest.image_path[2]).tobytes() == _pixels(2)
    assert any("No test10_data.npy" in note for note in dataset.notes)


@pytest.mark.parametrize("cut", [1, 5_000, 89_500])
def test_tfrecord_shard_that_is_cut_short_names_shard_and_record(tmp_path, cut):
    _write_tfrecord_tree(tmp_path)
    shard = tmp_path / "training10_1/training10_1.tfrecords"
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"training10_1\.tfrecords: record \d at byte \d+"):
        datasets.load("ddsm-tfrecord", tmp_path)


def test_tfrecord_with_a_huge_length_is_not_read_into_memory(tmp_path):
    path = tmp_path / "training10_0.tfrecords"
    path.write_bytes(struct.pack("<Q", 2**62) + b"\0" * 40)
    with pytest.raises(DataError, match="record 0 at byte 0"):
        datasets.load("ddsm-tfrecord", tmp_path)


def test_tfrecord_bad_records_are_excluded_with_a_reason(tmp_path):
    good = [_example(label=label, label_normal=1, image=_pixels(label)) for label in (1, 3)]
    bad = [
        b"\xff" * 30,  # no message at all
        _example(label=1, label_normal=1, image=b"abc"),
        _example(label=1, label_normal=1),
        _example(image=_pixels(5)),
        _example(label=9, image=_pixels(6)),
    ]
    (tmp_path / "training10_0.tfrecords").write_bytes(b"".join(map(_frame, good + bad)))
    dataset = datasets.load("ddsm-tfrecord", tmp_path)
    _check_contract(dataset)
    reasons = dataset.manifest.exclusion_reason.tolist()
    assert reasons[:2] == ["", ""]
    for reason, word in zip(reasons[2:], ("Example", "3 bytes", "no image", "no label", "no label"), strict=True):
        assert word in reason


def test_tfrecord_labels_that_do_not_fit_or_are_pickled_are_refused(tmp_path):
    _write_tfrecord_tree(tmp_path)
    labels = tmp_path / "cv10_data/cv10_labels.npy"
    np.save(labels, np.array([1, 3, 3]))
    with pytest.raises(DataError, match=r"cv10_labels\.npy"):
        datasets.load("ddsm-tfrecord", tmp_path)
    np.save(labels, np.array([_RunsCode(), 3], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cv10_labels\.npy"):
        datasets.load("ddsm-tfrecord", tmp_path)
    assert not Path("pickle-was-run").exists()
    labels.unlink()
    with pytest.raises(DataError, match=r"cv10_labels\.npy"):
        datasets.load("ddsm-tfrecord", tmp_path)


def test_tfrecord_binary_test_labels_do_not_pass_for_benign(tmp_path):
    _write_tfrecord_tree(tmp_path)
    np.save(tmp_path / "cv10_data/cv10_labels.npy", np.array([0, 1]))
    np.save(tmp_path / "test10_data/test10_labels.npy", np.array([0, 1, 1]))
    lesions = datasets.load("ddsm-tfrecord", tmp_path).manifest
    assert (lesions[lesions.official_split == "test"].split == "excluded").all()
    abnormal = datasets.load("ddsm-tfrecord", tmp_path, task="abnormal").manifest
    assert abnormal[abnormal.official_split == "test"].label.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "image_path", ["../outside.tfrecords#0", "/etc/passwd#0", "training10_0.tfrecords", "a.npy#-1"]
)
def test_tfrecord_paths_that_leave_the_directory_are_refused(tmp_path, image_path):
    (tmp_path / "outside.tfrecords").write_bytes(_frame(_example(label=1, image=_pixels(0))))
    _write_tfrecord_tree(tmp_path / "data")
    dataset = datasets.load("ddsm-tfrecord", tmp_path / "data")
    with pytest.raises(DataError):
        dataset.read_image(image_path)


def test_tfrecord_link_that_leaves_the_directory_is_refused(tmp_path):
    (tmp_path / "outside.tfrecords").write_bytes(_frame(_example(label=1, image=_pixels(0))))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/training10_0.tfrecords").symlink_to(tmp_path / "outside.tfrecords")
    with pytest.raises(DataError, match="link"):
        datasets.load("ddsm-tfrecord", tmp_path / "data")


# ------------------------------------------------------------------- png-npz
def _write_pairs(folder):
    for name in ("P_00001_LEFT_CC_1_M", "P_00001_LEFT_MLO_1_M", "P_00004_RIGHT_MLO_1_B", "scan7"):
        _write_image(folder / f"original/{name}.png", _random((40, 50), seed=1))
    _write_npz(folder / "synthetic/batch_0_3_malignant.npz", arr_0=_random((32, 32)))
    _write_npz(folder / "synthetic/batch_0_4_benign.npz", image=_random((32, 32, 1), high=60000, dtype=np.uint16))
    _write_npz(folder / "synthetic/batch_12_0_benign.npz", x=np.random.default_rng(0).normal(size=(32, 32, 3)))
    _write_npz(folder / "synthetic/scan7.npz", x=np.random.default_rng(0).random((32, 32)))


def test_png_npz_original_against_synthetic(tmp_path):
    _write_pairs(tmp_path)
    dataset = datasets.load("png-npz", tmp_path, task="original")
    _check_contract(dataset)
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
    _write_pairs(tmp_path)
    manifest = datasets.load("png-npz", tmp_path).manifest
    used = manifest[manifest.split == ""]
    assert used.pathology.tolist() == ["MALIGNANT", "MALIGNANT", "BENIGN"]
    assert used.label.tolist() == [1, 1, 0]
    assert "synthetic" in manifest.exclusion_reason[4]
    assert "scan7" in manifest.image_id[3]
    assert "_M" in manifest.exclusion_reason[3]


def test_png_npz_folders_may_have_other_names(tmp_path):
    _write_pairs(tmp_path)
    (tmp_path / "original").rename(tmp_path / "clinic")
    (tmp_path / "synthetic").rename(tmp_path / "gan")
    assert len(datasets.load("png-npz", tmp_path, task="original").manifest) == 8


def test_png_npz_damaged_files_are_named(tmp_path):
    _write_pairs(tmp_path)
    (tmp_path / "original/P_00009_LEFT_CC_1_B.png").write_bytes(b"")
    (tmp_path / "original/P_00010_LEFT_CC_1_B.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    whole = (tmp_path / "synthetic/batch_0_3_malignant.npz").read_bytes()
    (tmp_path / "synthetic/batch_0_3_malignant.npz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 40] = b"\x55" * 40
    (tmp_path / "synthetic/batch_0_5_benign.npz").write_bytes(damaged)
    dataset = datasets.load("png-npz", tmp_path, task="original")
    by_name = {Path(path).name: path for path in dataset.manifest.image_path}
    reasons = dataset.manifest.set_index("image_id").exclusion_reason
    assert "empty" in reasons["P_00009_LEFT_CC_1_B"]
    for name in ("P_00010_LEFT_CC_1_B.png", "batch_0_3_malignant.npz", "batch_0_5_benign.npz"):
        with pytest.raises(DataError, match=name):
            dataset.read_image(by_name[name])


def test_png_npz_needs_both_folders(tmp_path):
    _write_pairs(tmp_path)
    for path in (tmp_path / "synthetic").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="synthetic/"):
        datasets.load("png-npz", tmp_path)


# ----------------------------------------------------------------------- npz
def test_npz_class_folders(tmp_path):
    values = np.random.default_rng(1)
    _write_npz(tmp_path / "cancer/P_00001_LEFT_CC.npz", data=values.normal(size=(20, 20)))
    _write_npz(tmp_path / "cancer/b.npz", data=_random((20, 20)))
    _write_npz(tmp_path / "non_cancer/b.npz", data=_random((20, 20, 3)))
    (tmp_path / "notes").mkdir()
    dataset = datasets.load("npz", tmp_path)
    _check_contract(dataset)
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
        _write_npz(tmp_path / folder / "a.npz", a=_random((8, 8)))
    manifest = datasets.load("npz", tmp_path).manifest
    assert manifest.pathology[manifest.label == 1].tolist() == [positive.upper()]


@pytest.mark.parametrize("folders", [("a", "b"), ("cancer", "malignant"), ("cancer",), ("cancer", "benign", "huh")])
def test_npz_folders_that_do_not_say_the_class_are_refused(tmp_path, folders):
    for folder in folders:
        _write_npz(tmp_path / folder / "a.npz", a=_random((8, 8)))
    with pytest.raises(DataError, match=str(tmp_path)):
        datasets.load("npz", tmp_path)


def test_npz_pickles_bombs_and_nonsense_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("cancer", "benign"):
        _write_npz(tmp_path / folder / "a.npz", a=_random((8, 8)))
    folder = tmp_path / "cancer"
    np.savez(folder / "pickled.npz", a=np.array([_RunsCode()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "bomb.npz", "w") as archive, archive.open("a.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (300_000, 300_000)}
        np.lib.format.write_array_header_1_0(stream, header)
    np.savez(folder / "infinite.npz", a=np.full((8, 8), np.nan))
    np.savez(folder / "stack.npz", a=np.zeros((5, 8, 8)))
    np.savez(folder / "words.npz", a=np.array([["a"]]))
    (folder / "text.npz").write_text("not a zip file")
    dataset = datasets.load("npz", tmp_path)
    for name in ("pickled", "bomb", "infinite", "stack", "words", "text"):
        with pytest.raises(DataError, match=name):
            dataset.read_image(f"cancer/{name}.npz")
    assert not (tmp_path / "pickle-was-run").exists()


@pytest.mark.parametrize("name", ["png-npz", "npz"])
def test_array_paths_that_leave_the_directory_are_refused(tmp_path, name):
    data = tmp_path / "data"
    _write_pairs(data)
    (data / "original").rename(data / "benign")
    (data / "synthetic").rename(data / "cancer")
    _write_npz(data / "benign/a.npz", a=_random((8, 8)))
    _write_npz(tmp_path / "secret.npz", a=_random((8, 8)))
    (data / "cancer/link.npz").symlink_to(tmp_path / "secret.npz")
    if name == "png-npz":
        (data / "benign/a.npz").unlink()
    dataset = datasets.load(name, data)
    for path in ("../secret.npz", str(tmp_path / "secret.npz"), "cancer/link.npz"):
        with pytest.raises(DataError):
            dataset.read_image(path)


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


def _write_mias(folder, *, missing=(11,)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Info.txt").write_text(INFO.replace("\n", " \r\n"))  # lines end in a blank, as in the original
    for number in range(1, 12):
        if number in missing:
            continue
        image = np.zeros((1024, 1024), np.uint8)
        cv2.ellipse(image, (400, 512), (350, 450), 0, 0, 360, 120, -1)
        image[10:60, 950:1000] = 255  # a label
        _write_image(folder / f"all-mias/mdb{number:03d}.pgm", image)


def test_mias_rows_patients_sides_and_exclusions(tmp_path):
    _write_mias(tmp_path)
    dataset = datasets.load("mini-mias", tmp_path)
    _check_contract(dataset)
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
    _write_mias(tmp_path)
    image = np.zeros((1024, 1024), np.uint8)
    image[1023 - 900, 100] = 255
    _write_image(tmp_path / "all-mias/mdb002.pgm", image)
    dataset = datasets.load("mini-mias", tmp_path)
    row = dataset.manifest.set_index("image_id").loc["mdb002"]
    crop = dataset.read_image(row.image_path)
    assert crop.shape == (96, 96)
    assert np.unravel_index(crop.argmax(), crop.shape) == (48, 48)
    mask = dataset.read_mask(row)
    assert mask[48, 48] == 1
    assert abs(int(mask.sum()) - np.pi * 20**2) < 100


def test_mias_crops_stay_inside_and_are_wide_enough(tmp_path):
    _write_mias(tmp_path)
    dataset = datasets.load("mini-mias", tmp_path)
    shapes = {
        row.image_id: dataset.read_image(row.image_path).shape for row in dataset.manifest.itertuples() if not row.split
    }
    assert shapes["mdb001"] == (591, 591)
    assert shapes["mdb006"] == (120, 120)  # its circle reaches over the border
    assert shapes["mdb009"] == (mini_mias.MIN_SIDE, mini_mias.MIN_SIDE)


def test_mias_normal_crops_lie_in_the_breast_and_do_not_move(tmp_path):
    _write_mias(tmp_path)
    dataset = datasets.load("mini-mias", tmp_path, task="abnormal")
    assert dataset.class_names == ("normal", "abnormal")
    rows = dataset.manifest[(dataset.manifest.pathology == "NORMAL") & (dataset.manifest.split == "")]
    assert len(rows) == 2
    for path in rows.image_path:
        crop = dataset.read_image(path)
        assert (crop == 120).mean() > 0.95
        assert np.array_equal(crop, dataset.read_image(path))


def test_mias_full_images_take_any_malignant_lesion(tmp_path):
    _write_mias(tmp_path)
    dataset = datasets.load("mini-mias", tmp_path, input="full")
    _check_contract(dataset)
    used = dataset.manifest[dataset.manifest.split == ""].set_index("image_id")
    assert used.label["mdb005"] == 1
    assert used.label["mdb007"] == 1  # no coordinates are needed here
    assert dataset.read_image(used.image_path["mdb005"]).shape == (1024, 1024)


def test_mias_damaged_input_is_named(tmp_path):
    _write_mias(tmp_path, missing=())
    dataset = datasets.load("mini-mias", tmp_path)
    (tmp_path / "all-mias/mdb001.pgm").write_bytes(b"P5\n1024 1024\n255\n")
    with pytest.raises(DataError, match="mdb001"):
        dataset.read_image(dataset.manifest.image_path[0])
    for path in ("../mdb001.pgm#lesion=1,1,96", "all-mias/mdb002.pgm#lesion=x", "all-mias/mdb002.pgm#lesion=5000,1,96"):
        with pytest.raises(DataError):
            dataset.read_image(path)
    (tmp_path / "Info.txt").write_text("nothing\n")
    with pytest.raises(DataError, match=r"Info\.txt"):
        datasets.load("mini-mias", tmp_path)


# ---------------------------------------------------------- cbis-ddsm-dicom
CSV_HEADER = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
    "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path\r\n"
)
STUDY = "1.3.6.1.4.1.9590.1"


def _write_dicom(path, image, *, description="", photometric="MONOCHROME2", window=None):
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


def _case(patient, label, *, kind="Mass-Training", crop="000000.dcm", mask="000001.dcm"):
    subject = f"{kind}_{patient}_LEFT_CC"
    full = f"{subject}/{STUDY}.1/{STUDY}.2/000000.dcm"
    series = f"{subject}_1/{STUDY}.3/{STUDY}.4"
    return f'{patient},3,LEFT,CC,1,mass,OVAL,ILL_DEFINED,4,{label},3,{full},{series}/{crop},"{series}/{mask}\n"\r\n'


def _write_tcia(folder):
    """Four masses: files as the csv names them, swapped roles, no descriptions, and the newer download's names."""
    cases = [
        _case("P_00001", "MALIGNANT"),
        _case("P_00002", "BENIGN"),
        _case("P_00003", "BENIGN_WITHOUT_CALLBACK"),
        _case("P_00004", "MALIGNANT"),
    ]
    (folder / "csv").mkdir(parents=True)
    (folder / "csv/mass_case_description_train_set.csv").write_text(CSV_HEADER + "".join(cases), newline="")
    full = _random((60, 50), high=60000, dtype=np.uint16)
    crop = np.ascontiguousarray(full[10:30, 5:25])
    mask = np.zeros((60, 50), np.uint8)
    mask[15:25, 10:20] = 255
    for number, (crop_name, mask_name, described) in enumerate(
        [("000000", "000001", True), ("000001", "000000", True), ("000001", "000000", False), ("1-1", "1-2", True)], 1
    ):
        subject = folder / f"CBIS-DDSM/Mass-Training_P_{number:05d}_LEFT_CC"
        new = number == 4
        study, whole = ("07-20-2016-DDSM", "1.0-full mammogram images-1") if new else (f"{STUDY}.1", f"{STUDY}.2")
        _write_dicom(subject / study / whole / ("1-1.dcm" if new else "000000.dcm"), full)
        part = Path(f"{subject}_1") / study / ("1.0-ROI" if new else f"{STUDY}.4")
        _write_dicom(part / f"{crop_name}.dcm", crop, description="cropped images" if described else "")
        _write_dicom(part / f"{mask_name}.dcm", mask, description="ROI mask images" if described else "")
    return full, crop, mask


def test_dicom_tree_joins_crop_and_mask_whatever_their_names(tmp_path):
    _, crop, mask = _write_tcia(tmp_path)
    dataset = datasets.load("cbis-ddsm-dicom", tmp_path)
    _check_contract(dataset)
    manifest = dataset.manifest
    assert manifest.image_id.tolist() == [f"Mass-Training_P_{n:05d}_LEFT_CC_1" for n in range(1, 5)]
    assert manifest.label.tolist() == [1, 0, 0, 1]
    assert set(manifest.source) == {"cbis-ddsm-dicom"}
    for row in manifest.itertuples():
        assert np.array_equal(dataset.read_image(row.image_path), crop)
        assert np.array_equal(dataset.read_mask(row), mask[10:30, 5:25] > 0)


def test_dicom_full_images(tmp_path):
    full, _, _ = _write_tcia(tmp_path)
    dataset = datasets.load("cbis-ddsm-dicom", tmp_path, input="full")
    assert np.array_equal(dataset.read_image(dataset.manifest.image_path[3]), full)


def test_dicom_monochrome1_is_inverted_and_windows_are_applied(tmp_path):
    _write_tcia(tmp_path)
    dataset = datasets.load("cbis-ddsm-dicom", tmp_path)
    path = dataset.manifest.image_path[0]
    ramp = np.tile(np.arange(0, 60000, 1000, dtype=np.uint16), (60, 1))
    _write_dicom(tmp_path / path, ramp, photometric="MONOCHROME1")
    read = dataset.read_image(path)
    assert read[0, 0] > read[0, -1]
    assert read.max() == ramp.max()
    _write_dicom(tmp_path / path, ramp, window=(30000, 10000))
    read = dataset.read_image(path)
    assert read[0, 0] == read[0, 20]  # below the window
    assert read[0, 40] == read[0, -1]  # above it
    assert read[0, 25] < read[0, 35]


def test_dicom_damaged_and_missing_files_are_named(tmp_path):
    _write_tcia(tmp_path)
    broken = next((tmp_path / "CBIS-DDSM/Mass-Training_P_00001_LEFT_CC_1").rglob("000000.dcm"))
    broken.write_bytes(b"not a DICOM file")
    for file in (tmp_path / "CBIS-DDSM/Mass-Training_P_00002_LEFT_CC_1").rglob("*.dcm"):
        file.unlink()
    dataset = datasets.load("cbis-ddsm-dicom", tmp_path)
    assert "Mass-Training_P_00002_LEFT_CC_1" not in set(dataset.manifest.image_id)
    assert int(dataset.coverage.crop.sum()) == 3
    with pytest.raises(DataError, match=r"000000\.dcm"):
        dataset.read_image(dataset.manifest.image_path[0])
    with pytest.raises(DataError):
        dataset.read_image("../elsewhere.dcm")


def test_dicom_without_files_says_so(tmp_path):
    (tmp_path / "mass_case_description_train_set.csv").write_text(CSV_HEADER + _case("P_00001", "BENIGN"), newline="")
    with pytest.raises(DataError, match="dcm"):
        datasets.load("cbis-ddsm-dicom", tmp_path)


# ----------------------------------------------------------------- real data
REAL = os.environ.get("MAMMO_PNG_NPZ_DIR", "")


@pytest.mark.skipif(not REAL, reason="MAMMO_PNG_NPZ_DIR names no real png-npz data")
def test_real_png_npz():
    dataset = datasets.load("png-npz", REAL, task="original")
    manifest = dataset.manifest
    assert (manifest.split == "").all()
    assert manifest.groupby("pathology").size().to_dict() == {"ORIGINAL": 1318, "SYNTHETIC": 1500}
    assert manifest.patient_id[manifest.label == 1].nunique() == 691
    assert manifest.patient_id[manifest.label == 0].nunique() == 94
    assert {dataset.read_image(path).shape for path in manifest.image_path[::50]} == {(128, 128)}


# ----------------------------------------------------------------- demo data
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_the_embedded_data_set_is_read_back_in_every_layout(name, tmp_path):
    demo_data.write_demo_data(tmp_path / "demo", layout=name, patients=8, n_jobs=1, progress=False)
    for task in ("original", "malignant") if name == "png-npz" else ("malignant",):
        dataset = datasets.load(name, tmp_path / "demo", task=task)
        _check_contract(dataset)
        used = dataset.manifest[dataset.manifest.split == ""]
        assert set(used.label) == {0, 1}
        assert len(used) >= 5
