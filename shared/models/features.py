"""Run a frozen part of a network once over the image store and keep what comes out: an epoch then costs only the rest.

Cached are pooled features (the head is trained) or the feature map of a middle layer (fine-tuning from there).
"""

import json
import math
import time
import zlib
from collections.abc import Sequence

import numpy as np

from shared.data import Prepared, check_disk
from shared.models.backend import keras
from shared.models.input_pipeline import ORIENTATIONS, CachedFeatures, read_inputs
from shared.run import atomic_write, read_json, write_json

PIXELS_A_STEP = 16 * 192**2  # 64 images of 96 px; larger steps leave the processor's cache, and take twice the time
FLOAT16_MAX = 65504.0


def extract_features(
    prepared: Prepared, model: keras.Model, layer: str, *, orientations: Sequence[int] = ORIENTATIONS, through: str = ""
) -> CachedFeatures:
    """Compute the output of one layer for every image and orientation, or open it where it was computed before.

    Kept in `data/features/<model>-<layer>-<key>.npy`, see `feature_key`. The layer "pooled" of a flat model of `build`
    gives what its head sees. The output of the layer `through`, on the way, is kept as well, because fine-tuning will
    start from it. For orientations see `orient`.
    """
    network = keras.Model(model.input, model.get_layer(layer).output)
    seconds = 0.0
    inputs: np.ndarray | CachedFeatures = prepared.images
    key = feature_key(prepared.images, network, orientations)
    path = prepared.settings.run_dir / f"data/features/{model.name}-{layer}-{key}.npy"
    if not path.exists():
        columns = list(orientations)
        if through in [part.name for part in network.layers]:
            inputs = lower = extract_features(prepared, model, through, orientations=orientations)
            network = keras.Model(model.get_layer(through).output, network.output)
            seconds, columns = lower.seconds, list(lower.columns)
        shape = (len(prepared.images), len(columns), *network.output.shape[1:])
        # pooled features are few, and those of random weights too small for float16; maps are many
        dtype = np.dtype(np.float32 if len(shape) == 3 else np.float16)
        check_disk(path.parent, math.prod(shape) * dtype.itemsize, "cached features")
        step = max(1, PIXELS_A_STEP // prepared.images.shape[1] ** 2 // len(columns))
        started = time.perf_counter()
        with atomic_write(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
            for start in range(0, len(array), step):
                rows = np.minimum(np.arange(start, start + step), len(array) - 1)  # all alike: compiled once
                batch = read_inputs(inputs, np.repeat(rows, len(columns)), np.tile(columns, step))
                output = np.clip(network.predict_on_batch(batch), -FLOAT16_MAX, FLOAT16_MAX)
                array[rows] = output.reshape(step, *shape[1:])
            array.flush()
            seconds += time.perf_counter() - started
            write_json(path.with_suffix(".json"), {"seconds": seconds})
    seconds = read_json(path.with_suffix(".json"))["seconds"]
    return CachedFeatures(np.load(path, mmap_mode="r", allow_pickle=False), seconds)


def feature_key(images: np.ndarray, network: keras.Model, orientations: Sequence[int]) -> str:
    """Return eight characters that change with the pixels, the network's weights and shape, or the orientations."""
    identity = [list(images.shape), list(orientations), [weight.path for weight in network.weights]]
    checksum = zlib.crc32(json.dumps(identity).encode())
    for array in (images, *network.get_weights()):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return f"{checksum:08x}"
