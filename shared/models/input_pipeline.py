"""Feed networks from the image store, or from cached features, through tf.data, without a copy of either."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from shared.models.backend import keras, layers, tf
from shared.run import check_choice

ORDERS = ("given", "shuffled", "balanced")
ORIENTATIONS = tuple(range(8))
_FLIPS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (  # OpenCV copies several times as fast as NumPy's strides
    lambda image: image,
    lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
    lambda image: cv2.flip(image, -1),
    lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    lambda image: cv2.flip(image, 1),
    lambda image: cv2.transpose(image),
    lambda image: cv2.flip(image, 0),
    lambda image: cv2.flip(cv2.transpose(image), -1),
)


@dataclass(frozen=True)
class CachedFeatures:
    """Outputs of a frozen network: row i, column k belong to `images[i]` in the k-th of the orientations asked for."""

    array: np.ndarray  # (N, orientations, ...), float32 for pooled features, float16 for maps; memory-mapped
    seconds: float = 0.0  # what it took to compute

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns 0, 1, …, as `make_dataset(orientations=…)` takes them."""
        return tuple(range(self.array.shape[1]))

    def averaged(self) -> np.ndarray:
        """Return float32 (N, ...), the mean over the orientations."""
        return self.array.mean(axis=1, dtype=np.float32)


def orient(images: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Flip and turn square images (B, S, S): orientation k is k % 4 quarter turns, mirrored first from 4 on.

    `orientations` are int (B,), 0…7; 0 leaves an image as it is. Returns a copy, (B, S, S).
    """
    oriented = np.empty_like(images)
    for place, image, orientation in zip(oriented, images, orientations, strict=True):
        place[...] = _FLIPS[orientation](image)
    return oriented


def read_inputs(inputs: np.ndarray | CachedFeatures, rows: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Read one batch, int (B,) rows and orientations: (B, S, S, 1) of the store's dtype, or float32 cached features."""
    if isinstance(inputs, CachedFeatures):
        return np.asarray(inputs.array)[rows, orientations].astype(np.float32)
    return orient(np.asarray(inputs)[rows], orientations)[..., np.newaxis]


def make_augmentation(*, seed: int = 0) -> keras.Model:
    """Return a Keras model that flips, turns, lights up or darkens images at random; values stay in 0…255."""
    steps = [
        layers.RandomFlip("horizontal_and_vertical", seed=seed),
        layers.RandomRotation(0.08, fill_mode="reflect", seed=seed + 1),
        layers.RandomContrast(0.1, value_range=(0, 255), seed=seed + 2),
        layers.RandomBrightness(0.1, value_range=(0, 255), seed=seed + 3),
    ]
    return keras.Sequential(steps, name="augmentation")


def make_dataset(
    images: np.ndarray | CachedFeatures,
    labels: np.ndarray | None,
    rows: np.ndarray | Sequence[int],
    *,
    batch_size: int,
    order: str = "given",
    augment: keras.Model | None = None,
    seed: int = 0,
    orientations: Sequence[int] = (0,),
) -> tf.data.Dataset:
    """Make a tf.data pipeline of (images, labels) batches. It reads a batch at a time, so memory does not grow with N.

    Args:
        images: the image store, uint8 or float (N, S, S), memory-mapped or not; or `CachedFeatures`.
        labels: int (N,), class of each row of `images`; None gives batches of images alone.
        rows: int (n,), the rows to use.
        order: "given": row after row, each in every orientation. "shuffled": a new order in each epoch, and one of
            the orientations at random for each image. "balanced": the same with every class drawn equally often; an
            epoch keeps its length.
        augment: a Keras model as from `make_augmentation`, or None.
        seed: decides order, orientations and draws, together with Keras' random seed.
        orientations: which of the eight flips and quarter turns to use, see `orient`; columns of cached features.
    Returns tf.data.Dataset: float32 or uint8 (B, S, S, 1), and float32 (B,) labels.
    Raises UsageError: an unknown order.
    """
    check_choice("order", order, ORDERS)
    rows, choices = np.asarray(rows, np.int64), np.asarray(orientations, np.int64)
    if len(rows) == 0:
        raise ValueError("no rows to make a pipeline of")
    if order == "given":
        pairs = tf.data.Dataset.from_tensor_slices((np.repeat(rows, len(choices)), np.tile(choices, len(rows))))
    else:
        classes = np.zeros(len(rows)) if order == "shuffled" else np.asarray(labels)[rows]
        groups = [rows[classes == value] for value in np.unique(classes)]
        parts = [tf.data.Dataset.from_tensor_slices(group).shuffle(len(group), seed) for group in groups]
        if len(parts) == 1:
            drawn = parts[0]
        else:  # the classes take turns, the smaller ones more than once
            turns = tf.data.Dataset.range(len(parts)).repeat()
            drawn = tf.data.Dataset.choose_from_datasets([part.repeat() for part in parts], turns).take(len(rows))
        numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        pairs = tf.data.Dataset.zip((drawn, numbers))
    sample = read_inputs(images, rows[:1], choices[:1])
    targets = None if labels is None else tf.constant(np.asarray(labels), tf.float32)

    def load(rows: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        if order != "given":
            orientations = tf.gather(choices, orientations % len(choices))
        batch = tf.numpy_function(partial(read_inputs, images), [rows, orientations], sample.dtype, stateful=False)
        batch.set_shape((None, *sample.shape[1:]))
        if augment is not None:
            batch = augment(tf.cast(batch, tf.float32), training=True)
        return batch if targets is None else (batch, tf.gather(targets, rows))

    # one batch after the other, so that the random numbers keep their order; that leaves nothing to tune. The thread
    # that tunes sleeps twice as long each time, and an epoch would not end before it wakes
    options = tf.data.Options()
    options.autotune.enabled = False
    return pairs.batch(batch_size).map(load).prefetch(2).with_options(options)
