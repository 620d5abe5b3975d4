"""Feed networks from the image store (or from cached features) through tf.data, without a copy of either."""

import itertools

import cv2
import numpy as np

from shared.models.backend import keras, layers, tf

ALL_VIEWS = tuple(range(8))


# (image, where to write it), one a view; OpenCV's loops are several times as fast as NumPy's strided copies
_TURNS = (
    lambda image, out: np.copyto(out, image),
    lambda image, out: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE, out),
    lambda image, out: cv2.flip(image, -1, out),
    lambda image, out: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE, out),
    lambda image, out: cv2.flip(image, 1, out),
    lambda image, out: cv2.transpose(image, out),
    lambda image, out: cv2.flip(image, 0, out),
    lambda image, out: cv2.flip(cv2.transpose(image), -1, out),
)


def turn(images, views):
    """Turn and flip square images: view k is k % 4 quarter turns, mirrored first from 4 on.

    Args:
        images: (B, S, S), uint8, uint16 or float.
        views: int (B,), 0…7; 0 leaves an image as it is.
    Returns:
        array (B, S, S)
    """
    return read_images(images, np.arange(len(images)), views)[..., 0]


def read_images(images, rows, views):
    """Return (B, S, S, 1): rows of the image store (N, S, S), each in its view, see `turn`."""
    images = np.asarray(images)  # the same pages without the memory map's slower indexing
    batch = np.empty((len(rows), *images.shape[1:]), images.dtype)
    for row, view, place in zip(rows.tolist(), views.tolist(), batch, strict=True):
        _TURNS[view](images[row], place)
    return batch[..., np.newaxis]


def make_augmentation(*, rotation=0.08, zoom=0.1, flips=True, brightness=0.1, contrast=0.1, seed=0):
    """Return a Keras model that changes training images at random; values stay in 0…255.

    Args:
        rotation: largest turn as a share of a full circle.
        zoom: largest change of scale as a share.
        flips: mirror left-right and up-down.
        brightness, contrast: largest change as a share of the range.
        seed: decides the random numbers.
    """
    steps = [
        layers.RandomFlip("horizontal_and_vertical", seed=seed) if flips else None,
        layers.RandomRotation(rotation, fill_mode="reflect", seed=seed + 1) if rotation else None,
        layers.RandomZoom(zoom, fill_mode="reflect", seed=seed + 2) if zoom else None,
        layers.RandomContrast(contrast, value_range=(0, 255), seed=seed + 3) if contrast else None,
        layers.RandomBrightness(brightness, value_range=(0, 255), seed=seed + 4) if brightness else None,
    ]
    return keras.Sequential([step for step in steps if step is not None], name="augmentation")


def make_dataset(
    images, labels, rows, *, batch_size, shuffle=False, augment=None, balanced=False, seed=0, views=(0,), epoch=None
):
    """Make a tf.data pipeline of (images, labels) batches.

    Args:
        images: the image store, uint8 (N, S, S), memory-mapped or not; or an object with a method
            `read(rows, views) -> batch`, as `features.CachedViews` has.
        labels: int (N,), class of each row of `images`; None gives batches of images alone, the last one filled up
            with copies of the last image, because TensorFlow compiles a network anew for a batch of another size.
        rows: int (n,), the rows to use.
        batch_size: images a step; with labels the last batch may be smaller.
        shuffle: new order each epoch.
        augment: a Keras model as from `make_augmentation`, applied to training batches only; None leaves them.
        balanced: draw both classes equally often; an epoch keeps its length.
        seed: decides order, views and draws.
        views: which of the eight turned and flipped views to use (see `turn`). With `shuffle`, one at random for
            each image; without, every row in every view, row by row.
        epoch: function () -> int, asked each time the pipeline is gone through: the same number gives the same order
            and views, so that a training which was killed goes on as it would have; None counts from 0.
    Returns:
        tf.data.Dataset: float32 or uint8 (B, S, S, 1), and float32 (B,) labels.
    """
    rows, views = np.asarray(rows, np.int64), np.asarray(views, np.int64)
    if len(rows) == 0:
        raise ValueError("no rows to make a pipeline of")
    if shuffle or balanced:
        classes = np.asarray(labels)[rows] if balanced else None
        batches = _at_random(rows, views, classes, batch_size, seed, epoch or itertools.count().__next__)
    else:
        order = np.repeat(rows, len(views)), np.tile(views, len(rows))
        if labels is None:
            batch_size = min(batch_size, len(order[0]))
            order = tuple(np.pad(numbers, (0, -len(numbers) % batch_size), mode="edge") for numbers in order)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
    read = images.read if hasattr(images, "read") else lambda rows, views: read_images(images, rows, views)
    sample = read(rows[:1], views[:1])
    kind = tf.as_dtype(sample.dtype)

    targets = None if labels is None else tf.constant(np.asarray(labels), tf.float32)

    def load(rows, views):  # one function, not two: each costs some milliseconds at the start of every epoch
        batch = tf.numpy_function(read, [rows, views], kind, stateful=False)
        batch.set_shape((None, *sample.shape[1:]))
        return batch if targets is None else (batch, tf.gather(targets, rows))

    def change(batch, *truth):
        batch = augment(tf.cast(batch, tf.float32), training=True)
        return (batch, *truth) if truth else batch

    batches = batches.map(load, num_parallel_calls=2, deterministic=True)
    if augment is not None:  # one batch after the other, so that the random numbers keep their order
        batches = batches.map(change)
    return batches.prefetch(2).with_options(_as_written())


def _at_random(rows, views, classes, batch_size, seed, epoch):
    """Make batches of (rows, views) in an order that depends on the seed and the epoch alone."""

    def one_epoch():
        random = np.random.default_rng([seed, epoch()])
        order = random.permutation(rows if classes is None else _balanced(random, rows, classes))
        return order, random.choice(views, len(rows))

    def batches(_):  # a generator would take 30 ms to start, in every epoch
        order = [tf.ensure_shape(part, [len(rows)]) for part in tf.numpy_function(one_epoch, [], [tf.int64] * 2)]
        return tf.data.Dataset.from_tensor_slices(tuple(order)).batch(batch_size)

    dataset = tf.data.Dataset.from_tensors(0).flat_map(batches)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(rows) // batch_size)))


def _as_written():
    """Return options that leave a pipeline alone: rewriting and tuning one this short takes longer than it saves."""
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return options


def _balanced(random, rows, classes):
    """Draw as many rows as there are, of each class equally many: each of its rows once before any comes twice."""
    parts = [random.permutation(rows[classes == value]) for value in np.unique(classes)]
    shares = [len(share) for share in np.array_split(rows, len(parts))]
    return np.concatenate([np.resize(part, share) for part, share in zip(parts, shares, strict=True)])
