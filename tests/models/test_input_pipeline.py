"""Pipeline: which images come, in what order, changed how."""

import numpy as np
import pytest

from shared.models import input_pipeline

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 8, 8), dtype=np.uint8)
LABELS = np.array([0] * 16 + [1] * 4)


def collect(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def test_without_shuffling_the_rows_come_as_they_are():
    rows = [3, 17, 5, 0, 19]
    images, labels = collect(input_pipeline.make_dataset(IMAGES, LABELS, rows, batch_size=2))
    np.testing.assert_array_equal(images[..., 0], IMAGES[rows])
    np.testing.assert_array_equal(labels, LABELS[rows])
    assert images.dtype == np.uint8


def test_shuffling_changes_order_each_epoch_keeps_pairs_and_repeats_with_the_seed():
    def epochs(seed):
        dataset = input_pipeline.make_dataset(IMAGES, np.arange(20), range(20), batch_size=6, shuffle=True, seed=seed)
        return [collect(dataset)[1].astype(int) for _ in range(2)], collect(dataset)

    (first, second), (images, numbers) = epochs(1)
    assert sorted(first) == list(range(20))
    assert list(first) != list(second)
    np.testing.assert_array_equal(images[..., 0], IMAGES[numbers.astype(int)])
    np.testing.assert_array_equal(np.stack(epochs(1)[0]), np.stack([first, second]))
    assert list(epochs(2)[0][0]) != list(first)


def test_balanced_batches_draw_both_classes_alike_and_keep_the_epochs_length():
    rows = np.tile(np.arange(20), 20)
    _, labels = collect(input_pipeline.make_dataset(IMAGES, LABELS, rows, batch_size=16, shuffle=True, balanced=True))
    assert len(labels) == len(rows)
    assert 0.4 < labels.mean() < 0.6


def test_eight_views_are_all_different_and_the_first_is_the_image():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    views = [input_pipeline.turn(image, np.array([view]))[0] for view in input_pipeline.ALL_VIEWS]
    np.testing.assert_array_equal(views[0], image[0])
    np.testing.assert_array_equal(views[1], np.rot90(image[0]))
    np.testing.assert_array_equal(views[4], image[0][:, ::-1])
    assert len({view.tobytes() for view in views}) == 8


def test_every_view_of_a_row_comes_before_the_next_row():
    dataset = input_pipeline.make_dataset(IMAGES, LABELS, [4, 9], batch_size=3, views=(0, 2))
    images, _ = collect(dataset)
    expected = [IMAGES[4], np.rot90(IMAGES[4], 2), IMAGES[9], np.rot90(IMAGES[9], 2)]
    np.testing.assert_array_equal(images[..., 0], expected)


def test_shuffled_views_are_drawn_at_random():
    dataset = input_pipeline.make_dataset(
        IMAGES, LABELS, [2] * 64, batch_size=64, shuffle=True, views=input_pipeline.ALL_VIEWS
    )
    images, _ = collect(dataset)
    assert len({image.tobytes() for image in images}) == 8


def test_a_source_of_its_own_is_read_row_by_row_and_view_by_view():
    class Source:
        def read(self, rows, views):
            return np.stack([rows, views], axis=1).astype(np.float32)

    images, labels = collect(input_pipeline.make_dataset(Source(), LABELS, [18, 1], batch_size=4, views=(0, 5)))
    np.testing.assert_array_equal(images, [[18, 0], [18, 5], [1, 0], [1, 5]])
    np.testing.assert_array_equal(labels, [1, 1, 0, 0])


def test_augmentation_changes_images_keeps_the_range_and_repeats_with_the_seed():
    def augmented(seed):
        augment = input_pipeline.make_augmentation(seed=seed)
        return collect(input_pipeline.make_dataset(IMAGES, LABELS, range(20), batch_size=20, augment=augment))[0]

    images = augmented(0)
    assert images.shape == (20, 8, 8, 1)
    assert images.min() >= 0
    assert images.max() <= 255
    assert not np.allclose(images[..., 0], IMAGES)
    np.testing.assert_array_equal(images, augmented(0))


def test_without_labels_there_are_images_alone_and_no_rows_are_refused():
    batches = list(input_pipeline.make_dataset(IMAGES, None, [1, 2, 3], batch_size=2))
    assert [tuple(batch.shape) for batch in batches] == [(2, 8, 8, 1)] * 2  # all alike: compiled once
    augment = input_pipeline.make_augmentation(seed=0)
    changed = list(input_pipeline.make_dataset(IMAGES, None, [1, 2, 3], batch_size=2, augment=augment))
    assert [tuple(batch.shape) for batch in changed] == [(2, 8, 8, 1)] * 2
    np.testing.assert_array_equal(np.concatenate(batches)[..., 0], IMAGES[[1, 2, 3, 3]])
    (batch,) = input_pipeline.make_dataset(IMAGES, None, [1, 2], batch_size=64)
    assert batch.shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match="no rows"):
        input_pipeline.make_dataset(IMAGES, LABELS, [], batch_size=2)


def test_a_memory_map_is_read_in_batches_only(tmp_path):
    np.save(tmp_path / "store.npy", IMAGES)
    store = np.load(tmp_path / "store.npy", mmap_mode="r")
    images, _ = collect(input_pipeline.make_dataset(store, LABELS, [7], batch_size=1))
    np.testing.assert_array_equal(images[0, ..., 0], IMAGES[7])
