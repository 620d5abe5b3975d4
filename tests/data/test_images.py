"""One path from any file to an 8-bit square, and the store behind it."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from shared.data import decoding, images, store
from shared.data.images import ImageSteps
from shared.data.readers import Dataset
from shared.run import MANIFEST_COLUMNS, DataError, UsageError, read_json


def noise(height=40, width=30, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), endpoint=True).astype(dtype)


@pytest.mark.parametrize("name", ["8.png", "16.png", "8.pgm", "8.tif", "8.bmp", "8.npy", "8.npz"])
def test_lossless_files_come_back_as_they_are(tmp_path, name):
    image, path = noise(dtype=f"uint{name.split('.')[0]}"), tmp_path / name
    writers = {".npy": np.save, ".npz": lambda path, image: np.savez_compressed(path, any_key=image)}
    writers.get(path.suffix, lambda path, image: cv2.imwrite(str(path), image))(path, image)
    assert decoding.read_grey(path).dtype == image.dtype
    np.testing.assert_array_equal(decoding.read_grey(path), image)


def test_a_large_jpeg_is_decoded_small_and_smooth(tmp_path):
    large = cv2.resize(noise(60, 40), (800, 1200), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "a.jpg"), large)
    small = decoding.read_grey(tmp_path / "a.jpg", min_side=90)
    assert small.shape == (150, 100)
    expected = cv2.resize(large, (100, 150), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 3


def test_a_name_too_long_for_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"lll.*no such file"):
        decoding.read_grey(tmp_path / ("l" * 300 + ".png"))


@pytest.mark.parametrize("window", ["percentile", "zscore", "minmax"])
def test_windows_ignore_the_scale_of_the_file(window):
    image = noise(seed=1).astype(np.float32)
    first, second = images.to_uint8(image, window), images.to_uint8(image * 7 + 7, window)
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - second).max() <= 1
    assert first.max() > 200


def test_window_limits():
    ramp = np.linspace(10, 110, 101, dtype=np.float32)[None]
    np.testing.assert_array_equal(images.to_uint8(ramp, "minmax")[0, [0, 50, 100]], [0, 128, 255])
    assert images.to_uint8(np.full((3, 3), 9, np.float32), "percentile").max() == 0
    assert images.to_uint8(np.full((2, 2), 65535, np.uint16), "none").max() == 255
    assert images.to_uint8(np.full((2, 2), 0.5, np.float32), "none").max() == 128
    with pytest.raises(UsageError, match="WINDOW"):
        images.to_uint8(ramp, "other")


def test_the_background_does_not_move_the_percentile_window():
    image = np.zeros((50, 50), np.uint8)
    image[10:40, 10:40] = noise(30, 30) // 4 + 100
    inner = images.to_uint8(image[10:40, 10:40])
    np.testing.assert_array_equal(images.to_uint8(image)[10:40, 10:40], inner)


def test_shrinking_is_antialiased():
    pattern = np.tile([0, 255], (64, 32)).astype(np.uint8)
    assert np.ptp(images.resize(pattern, 16, 16)) <= 2


def test_padding_keeps_the_aspect_and_stretching_does_not():
    padded = images.prepare_image(np.full((40, 20), 200, np.uint8), ImageSteps(32, "none", True))
    stretched = images.prepare_image(np.full((40, 20), 200, np.uint8), ImageSteps(32, "none", False))
    assert padded.shape == stretched.shape == (32, 32)
    np.testing.assert_array_equal(padded[0] > 0, np.arange(32) // 8 % 3 != 0)
    assert (stretched == 200).all()


def test_breast_crop_cuts_the_background_and_the_mask_with_it():
    image = np.zeros((100, 80), np.uint8)
    image[20:80, 0:30] = 150
    assert images.breast_box(image) == (20, 80, 0, 30)
    mask = np.zeros_like(image)
    mask[20:50] = 1
    steps = ImageSteps(60, "none", True, True)
    np.testing.assert_array_equal(images.prepare_mask(mask, image, steps)[:, 30].nonzero()[0], np.arange(30))


def make_dataset(tmp_path, count):
    manifest = pd.DataFrame("", index=range(count), columns=list(MANIFEST_COLUMNS))
    for i in range(count):
        manifest.loc[i, ["image_id", "image_path"]] = f"i{i}", f"{i:03d}.png"
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), noise(24 + i % 5, 20, seed=i))
    read = lambda path, min_side=None: decoding.read_grey(tmp_path / path)  # noqa: E731
    return Dataset("png-npz", tmp_path, manifest.assign(label=manifest.index % 2), ("a", "b"), read)


def test_row_i_of_the_store_is_row_i_of_the_manifest(tmp_path):
    dataset = make_dataset(tmp_path, 70)
    built, masks, statistics = store.build_image_store(dataset, tmp_path / "data", ImageSteps(16))
    assert (built.shape, built.dtype, masks) == ((70, 16, 16), np.uint8, None)
    for i in (0, 31, 32, 69):
        expected = images.prepare_image(dataset.read_image(dataset.manifest.image_path[i]), ImageSteps(16))
        np.testing.assert_array_equal(built[i], expected)
    assert statistics.height.tolist() == [24 + i % 5 for i in range(70)]


def test_the_largest_picture_is_counted_as_it_lies_on_disk(tmp_path):
    dataset = make_dataset(tmp_path, 4)
    store.build_image_store(dataset, tmp_path / "data", ImageSteps(16))
    assert read_json(tmp_path / "data/images.json")["largest"] == 27 * 20
    cv2.imwrite(str(tmp_path / "large.jpg"), noise(200, 160))
    dataset.manifest.loc[1, "image_path"] = "large.jpg"
    small = replace(dataset, read_image=lambda path, min_side=None: decoding.read_grey(tmp_path / path, min_side=16))
    _, _, statistics = store.build_image_store(small, tmp_path / "data", ImageSteps(16))
    assert (statistics.height[1], statistics.width[1]) == (25, 20)  # an eighth
    assert read_json(tmp_path / "data/images.json")["largest"] == 200 * 160


def test_the_store_is_rebuilt_only_where_its_key_changed(tmp_path):
    dataset = make_dataset(tmp_path, 4)
    folder = tmp_path / "data"
    store.build_image_store(dataset, folder, ImageSteps(16))
    first = (folder / "images.npy").stat().st_mtime_ns
    store.build_image_store(dataset, folder, ImageSteps(16))
    assert (folder / "images.npy").stat().st_mtime_ns == first
    assert store.build_image_store(dataset, folder, ImageSteps(8))[0].shape == (4, 8, 8)
    cv2.imwrite(str(tmp_path / "000.png"), noise(30, 30, seed=99))
    changed = store.build_image_store(dataset, folder, ImageSteps(8))[0][0]
    np.testing.assert_array_equal(changed, images.prepare_image(noise(30, 30, seed=99), ImageSteps(8)))


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path, 4)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="disk space"):
        store.build_image_store(dataset, tmp_path / "data", ImageSteps(16))
    assert not (tmp_path / "data/images.npy").exists()
