"""Run a frozen part of a network once over the image store and keep what comes out.

What is frozen gives the same output in every epoch; computed once and kept on disk, an epoch costs only the part that
is trained. Cached are either pooled features (the head is trained) or the feature map of a middle layer
(fine-tuning from there), each also for the eight turned and flipped views where asked.
"""

import json
import math
import os
import time
import zlib
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from shared.data import images
from shared.models import input_pipeline
from shared.models import networks as models
from shared.models.backend import keras
from shared.run import files

SECONDS_BETWEEN_SAVES = 10
MAX_VALUES = 160_000  # of an image, all views together: 0.3 MB on disk
FLOAT16_RANGE = (-65504, 65504)
PIXELS_A_STEP = 16 * 192**2  # 64 images of 96 px; larger steps leave the processor's cache, and take twice the time


@dataclass(frozen=True)
class CachedViews:
    """Outputs of a frozen network: row i, column v belong to `images[i]` in the v-th of the views asked for."""

    array: np.ndarray  # (N, views, ...), float32 for pooled features, float16 for maps; memory-mapped
    seconds: float = 0.0  # what it took to compute, kept beside the file

    @property
    def views(self):
        """The columns, 0, 1, … as `input_pipeline.make_dataset` takes them."""
        return tuple(range(self.array.shape[1]))

    def read(self, rows, views):
        """Return float32 (B, ...), one view of each row."""
        return self.array[rows, views].astype(np.float32)

    def averaged(self):
        """Return float32 (N, ...), the mean over the views."""
        return self.array.mean(axis=1, dtype=np.float32)


@dataclass(frozen=True)
class ImageViews:
    """The image store, uint8 (N, S, S), with the same way to read it as `CachedViews`."""

    array: np.ndarray

    def read(self, rows, views):
        """Return uint8 (B, S, S, 1), one view of each row."""
        return input_pipeline.read_images(self.array, rows, views)


def extract(prepared, model, layer, *, views=input_pipeline.ALL_VIEWS, through=None):
    """Compute the output of one layer for every image and view, or open it where it was computed before.

    Kept in `data/features/<model>-<layer>-<key>.npy`; the key stands for the images, the weights up to that layer
    and the views. A killed run goes on where it was.

    Args:
        prepared: `preparation.Prepared`.
        model: a flat model of `models.build`.
        layer: name of a layer; "pooled" gives what the head sees.
        views: numbers of views, see `input_pipeline.turn`.
        through: name of a layer on the way whose output is to be kept as well, because fine-tuning will start from
            it; passed over where that would be more than `MAX_VALUES` numbers an image.
    Returns:
        CachedViews
    """
    frozen = keras.Model(model.input, model.get_layer(layer).output)
    key = feature_key(prepared.images, frozen, views)
    path = prepared.settings.run_dir / f"data/features/{model.name}-{layer}-{key}.npy"
    if not path.exists():
        source, seconds = ImageViews(prepared.images), 0.0
        through = through if through in [part.name for part in frozen.layers] else None
        if through and len(views) * math.prod(model.get_layer(through).output.shape[1:]) <= MAX_VALUES:
            source = extract(prepared, model, through, views=views)
            frozen, seconds = keras.Model(model.get_layer(through).output, frozen.output), source.seconds
            views = source.views
        _compute(path, frozen, source, prepared.images.shape[:2], np.asarray(views), seconds)
    seconds = files.read_json(path.with_suffix(".json"))["seconds"]
    return CachedViews(np.load(path, mmap_mode="r", allow_pickle=False), seconds)


def feature_key(store, frozen, views):
    """Return eight characters that change with the pixels, the frozen weights, the network's shape or the views."""
    checksum = zlib.crc32(json.dumps([list(store.shape), list(views), [w.path for w in frozen.weights]]).encode())
    for start in range(0, len(store), 256):
        checksum = zlib.crc32(np.ascontiguousarray(store[start : start + 256]), checksum)
    for weight in frozen.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(weight), checksum)
    return f"{checksum:08x}"


def images_a_step(size):
    """How many images of `size` px go through a network together; small steps waste time, large ones too."""
    return max(16, PIXELS_A_STEP // size**2)


def _compute(path, frozen, source, store, views, seconds):
    """Fill the array step by step; `.part` files keep what is done, so that a killed run goes on."""
    count, size = store
    path.parent.mkdir(parents=True, exist_ok=True)
    frozen = models.fold_batch_norm(frozen)
    part, progress = path.with_suffix(".part"), path.with_suffix(".part.json")
    done = 0
    if part.exists() and progress.exists():
        done, seconds = files.read_json(progress).values()
        array = np.load(part, mmap_mode="r+", allow_pickle=False)
    else:
        shape = (count, len(views), *frozen.output_shape[1:])
        # pooled features are few, and those of random weights too small for float16; maps are many
        dtype = np.float32 if len(shape) == 3 else np.float16
        images.check_disk(path.parent, math.prod(shape) * np.dtype(dtype).itemsize, "cached features")
        array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    step = images_a_step(size) // len(views) or 1
    started = last = time.perf_counter()
    for start in range(done, count, step):
        rows = np.minimum(np.arange(start, start + step), count - 1)  # all steps alike: TensorFlow compiles one shape
        output = frozen.predict_on_batch(source.read(np.repeat(rows, len(views)), np.tile(views, step)))
        array[rows] = np.clip(output, *FLOAT16_RANGE).reshape(step, len(views), *output.shape[1:])
        if time.perf_counter() - last > SECONDS_BETWEEN_SAVES:
            last = time.perf_counter()
            array.flush()
            files.write_json(progress, {"rows": int(rows[-1]) + 1, "seconds": seconds + last - started})
    array.flush()
    files.write_json(path.with_suffix(".json"), {"seconds": seconds + time.perf_counter() - started})
    os.replace(part, path)
    progress.unlink(missing_ok=True)


# ---------------------------------------------------------------------- head
def fit_linear_head(features, labels, rows, *, strength=0.01, seed=0):
    """Fit a logistic regression on standardised features and return it as weights for the layer `logit`.

    Args:
        features: float (N, C).
        labels: int (N,), 0 or 1.
        rows: int (n,), training rows.
        strength: inverse of the L2 penalty (scikit-learn's C).
        seed: of the solver.
    Returns:
        (float32 (C, 1), float32 (1,)): kernel and bias that act on the features as they are.
    """
    scaler = StandardScaler().fit(features[rows])
    scale = np.where(scaler.scale_ > 0, scaler.scale_, 1.0)
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
    with threadpool_limits(1, user_api="blas"):  # the matrices are small: threads only wait for each other
        regression.fit((features[rows] - scaler.mean_) / scale, np.asarray(labels)[rows])
    kernel = (regression.coef_[0] / scale).astype(np.float32)
    bias = (regression.intercept_ - scaler.mean_ @ (regression.coef_[0] / scale)).astype(np.float32)
    return kernel[:, np.newaxis], bias


def set_linear_head(model, kernel, bias):
    """Put the weights of `fit_linear_head` into a model whose layer `logit` follows `pooled` (and dropout)."""
    model.get_layer("logit").set_weights([kernel, bias])


def head_scores(features, kernel, bias):
    """Return float64 (N,) probabilities of class 1 from features (N, C) and a linear head."""
    return 1 / (1 + np.exp(-(features.astype(np.float64) @ kernel[:, 0] + bias[0])))
