"""Run a frozen part of a network once over the image store and keep what comes out.

What is frozen gives the same output in every epoch; computed once and kept on disk, an epoch costs only the part that
is trained. Cached are either pooled features (the head is trained) or the feature map of a middle layer
(fine-tuning from there), each also for the eight turned and flipped views where asked.
"""

import json
import os
import time
import zlib
from dataclasses import dataclass

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shared import artifacts, input_pipeline

SECONDS_BETWEEN_SAVES = 10
IMAGES_A_STEP = 16  # small steps stay in the processor's cache: about twice as fast as 64 on two cores


@dataclass(frozen=True)
class CachedViews:
    """Outputs of a frozen network: row i, view v belong to `images[i]` in view v (see `input_pipeline.turn`)."""

    array: np.ndarray  # float16 (N, views, ...), memory-mapped
    seconds: float = 0.0  # what it took to compute, summed over the calls that did; from the file's key

    def read(self, rows, views):
        """Return float32 (B, ...), one view of each row."""
        return self.array[rows, views].astype(np.float32)

    def averaged(self):
        """Return float32 (N, ...), the mean over the views."""
        return self.array.mean(axis=1, dtype=np.float32)


def extract(prepared, model, layer, *, views=input_pipeline.ALL_VIEWS):
    """Compute the output of one layer for every image and view, or open it where it was computed before.

    Kept in `data/features/<model>-<layer>-<key>.npy`; the key stands for the images, the weights up to that layer
    and the views. A killed run goes on where it was.

    Args:
        prepared: `preparation.Prepared`.
        model: a flat model of `models.build`.
        layer: name of a layer; "pooled" gives what the head sees.
        views: numbers of views, from 0 on.
    Returns:
        CachedViews
    """
    frozen = keras.Model(model.input, model.get_layer(layer).output)
    key = feature_key(prepared.images, frozen, views)
    path = prepared.settings.run_dir / f"data/features/{model.name}-{layer}-{key}.npy"
    if not path.exists():
        _compute(path, frozen, prepared.images, views)
    seconds = artifacts.read_json(path.with_suffix(".json"))["seconds"]
    return CachedViews(np.load(path, mmap_mode="r", allow_pickle=False), seconds)


def feature_key(images, frozen, views):
    """Return eight characters that change with the pixels, the frozen weights, the network's shape or the views."""
    checksum = zlib.crc32(json.dumps([list(images.shape), list(views), [w.path for w in frozen.weights]]).encode())
    for start in range(0, len(images), 256):
        checksum = zlib.crc32(np.ascontiguousarray(images[start : start + 256]), checksum)
    for weight in frozen.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(weight), checksum)
    return f"{checksum:08x}"


def _compute(path, frozen, images, views):
    """Fill the array step by step; `.part` files keep what is done, so that a killed run goes on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, progress = path.with_suffix(".part"), path.with_suffix(".part.json")
    shape = (len(images), len(views), *frozen.output_shape[1:])
    state = {"rows": 0, "seconds": 0.0}
    if part.exists() and progress.exists():
        state = artifacts.read_json(progress)
        array = np.load(part, mmap_mode="r+", allow_pickle=False)
    else:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    step = max(1, IMAGES_A_STEP // len(views))
    started, last = time.perf_counter(), time.perf_counter()
    for start in range(state["rows"], len(images), step):
        rows = np.arange(start, min(start + step, len(images)))
        pixels = input_pipeline.read_images(images, np.repeat(rows, len(views)), np.tile(views, len(rows)))
        output = frozen.predict_on_batch(pixels)
        array[rows] = np.clip(output, -65504, 65504).reshape(len(rows), len(views), *output.shape[1:])
        if time.perf_counter() - last > SECONDS_BETWEEN_SAVES:
            last = time.perf_counter()
            array.flush()
            artifacts.write_json(progress, {"rows": int(rows[-1]) + 1, "seconds": state["seconds"] + last - started})
    array.flush()
    artifacts.write_json(path.with_suffix(".json"), {"seconds": state["seconds"] + time.perf_counter() - started})
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
    scale = np.where(scaler.scale_ > 1e-6, scaler.scale_, 1.0)
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
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
