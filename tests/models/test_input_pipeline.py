"""Pipeline: which images come, in what order, changed how."""

import numpy as np
import pytest

from shared.models import input_pipeline
from shared.run import UsageError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 8, 8), dtype=np.uint8)
LABELS = np.array([0] * 16 + [1] * 4)


def collect(dataset):
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def make(rows, inputs=IMAGES, labels=LABELS, batch_size=4, **options):
    return input_pipeline.make_dataset(inputs, labels, rows, batch_size=batch_size, **options)


def test_without_shuffling_the_rows_come_as_they_are():
    rows = [3, 17, 5, 0, 19]
    images, labels = collect(make(rows))
    np.testing.assert_array_equal(images[..., 0], IMAGES[rows])
    np.testing.assert_array_equal(labels, LABELS[rows])
    assert images.dtype == np.uint8
    alone = make(rows, labels=None).as_numpy_iterator()
    np.testing.assert_array_equal(np.concatenate(list(alone)), images)


def test_shuffling_changes_order_each_epoch_keeps_pairs_and_repeats_with_the_seed():
    def epochs(seed):
        dataset = make(range(20), labels=np.arange(20), batch_size=6, order="shuffled", seed=seed)
        return [collect(dataset)[1].astype(int) for _ in range(2)], collect(dataset)

    (first, second), (images, numbers) = epochs(1)
    assert sorted(first) == list(range(20))
    assert list(first) != list(second)
    np.testing.assert_array_equal(images[..., 0], IMAGES[numbers.astype(int)])
    np.testing.assert_array_equal(np.stack(epochs(1)[0]), np.stack([first, second]))
    assert list(epochs(2)[0][0]) != list(first)


def test_balanced_batches_draw_both_classes_alike_anew_in_each_epoch():
    dataset = make(range(20), batch_size=16, order="balanced")
    first, labels = collect(dataset)
    assert (len(labels), labels.mean()) == (20, 0.5)
    assert not np.array_equal(first, collect(dataset)[0])
    rare = {image.tobytes() for image in first[labels == 1]}
    assert rare == {image.tobytes() for image in IMAGES[16:]}  # each of them before any comes again


def test_eight_orientations_are_all_different_and_the_first_is_the_image():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    found = [input_pipeline.orient(image, np.array([k]))[0] for k in input_pipeline.ORIENTATIONS]
    np.testing.assert_array_equal(found[0], image[0])
    np.testing.assert_array_equal(found[1], np.rot90(image[0]))
    np.testing.assert_array_equal(found[4], image[0][:, ::-1])
    assert len({copy.tobytes() for copy in found}) == 8


def test_every_orientation_of_a_row_comes_before_the_next_row_or_one_at_random():
    images, _ = collect(make([4, 9], batch_size=3, orientations=(0, 2)))
    expected = [IMAGES[4], np.rot90(IMAGES[4], 2), IMAGES[9], np.rot90(IMAGES[9], 2)]
    np.testing.assert_array_equal(images[..., 0], expected)
    images, _ = collect(make([2] * 64, order="shuffled", orientations=input_pipeline.ORIENTATIONS))
    assert len({image.tobytes() for image in images}) == 8


def test_cached_features_are_read_row_by_row_and_column_by_column():
    cached = input_pipeline.CachedFeatures(np.arange(20 * 2 * 3).reshape(20, 2, 3).astype(np.float16))
    images, labels = collect(make([18, 1], cached, orientations=cached.columns))
    np.testing.assert_array_equal(images, cached.array[[18, 18, 1, 1], [0, 1, 0, 1]])
    np.testing.assert_array_equal(labels, [1, 1, 0, 0])
    assert images.dtype == np.float32
    np.testing.assert_allclose(cached.averaged()[2], [13.5, 14.5, 15.5])


def test_augmentation_changes_images_keeps_the_range_and_repeats_with_the_seed():
    def augmented(seed):
        return collect(make(range(20), batch_size=20, augment=input_pipeline.make_augmentation(seed=seed)))[0]

    images = augmented(0)
    assert images.shape == (20, 8, 8, 1)
    assert 0 <= images.min() < images.max() <= 255
    assert not np.allclose(images[..., 0], IMAGES)
    np.testing.assert_array_equal(images, augmented(0))


def test_no_rows_and_unknown_orders_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        make([])
    with pytest.raises(UsageError, match="order: 'backwards'"):
        make([1], order="backwards")
