"""Compare how images get from files into memory and into a model."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks import inputs, measure
from benchmarks.measure import Row
from shared.data import ImageSteps, prepare_image, read_grey, resize

SIZE = 224  # pixels
BATCH = 32
CROPS = 2864  # training crops of CBIS-DDSM
EPOCHS = 3  # a turn of ours; one alone is too short to be timed well


def compare_mammogram(folder: Path, quick: bool) -> Iterator[Row]:
    """A full-size mammogram JPEG to one square of 224 px."""
    path = folder / "mammogram.jpg"
    inputs.write_mammogram(path)
    times, errors = measure.in_child(time_mammogram, path=path, repeats=3 if quick else 15).result
    what = f"mammogram JPEG {inputs.MAMMOGRAM[0]} × {inputs.MAMMOGRAM[1]} to {SIZE} px"
    for side, peer, least in (("pillow", "Pillow convert RGB + resize", 6), ("cv2", "cv2, aliased", 0)):
        row = Row("mammogram", what, peer, "s", details={"error": errors})
        yield measure.compare(row, times["ours"], times[side], least=least)


def time_mammogram(path: Path, repeats: int) -> tuple[dict, dict]:
    """Return seconds of each side, and how far its pixels are from exact area averages (root mean square)."""
    cv2.setNumThreads(1)
    sides = {
        "ours": lambda: prepare_image(read_grey(path, min_side=SIZE), ImageSteps(SIZE)),
        "pillow": lambda: np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE))),
        "cv2": lambda: cv2.resize(np.asarray(cv2.imread(str(path))), (SIZE, SIZE)),
    }
    exact = resize(read_grey(path).astype(np.float32), SIZE, SIZE)
    found = {name: np.asarray(call(), np.float32).reshape(SIZE, SIZE, -1)[..., 0] for name, call in sides.items()}
    found["ours"] = resize(read_grey(path, min_side=SIZE).astype(np.float32), SIZE, SIZE)  # before window and padding
    errors = {name: float(np.sqrt(np.mean((image - exact) ** 2))) for name, image in found.items()}
    return measure.in_turn(sides, repeats), errors


def compare_epoch(folder: Path, quick: bool) -> Iterator[Row]:
    """Images a second into the model, flipped at random, in epochs after the first, taken by `fit`."""
    paths = inputs.write_crops(folder / "crops", 64 if quick else CROPS)
    inputs.write_mammogram(folder / "full.jpg")
    rates = measure.in_child(time_epochs, paths=paths, folder=folder, repeats=2 if quick else 3).result
    for side in ("crops", "mammograms"):
        what = f"{len(paths)} images into `fit` at {SIZE} px, with flips; files: {side}"
        yield measure.compare(
            Row("epoch", what, "PyDataset + Pillow", "images/s"), rates["ours"], rates[side], least=40
        )


def time_epochs(paths: list[Path], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return {side: images a second of each repeat}; the model does next to nothing, so that loading is what counts."""
    from shared import models
    from shared.models.backend import keras, layers

    cv2.setNumThreads(1)
    count = len(paths)
    store = np.lib.format.open_memmap(folder / "store.npy", "w+", np.uint8, (count, SIZE, SIZE))
    for row, path in enumerate(paths):
        store[row] = prepare_image(read_grey(path, min_side=SIZE), ImageSteps(SIZE))
    store.flush()
    store = np.load(folder / "store.npy", mmap_mode="r")
    rows = np.arange(count)
    some = models.ORIENTATIONS
    ours = models.make_dataset(store, rows % 2, rows, batch_size=BATCH, order="shuffled", orientations=some)

    def make_model(channels: int) -> Any:
        corner = [keras.Input((SIZE, SIZE, channels)), layers.Cropping2D(SIZE // 2 - 1), layers.Flatten()]
        model = keras.Sequential([*corner, layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=False)
        return model

    grey, colour = make_model(1), make_model(3)
    crops, whole = make_sequence(paths, BATCH), make_sequence([folder / "full.jpg"] * 8, 4)
    sides = {
        "ours": lambda: grey.fit(ours, epochs=EPOCHS, shuffle=False, verbose=0),
        "crops": lambda: colour.fit(crops, verbose=0),
        "mammograms": lambda: colour.fit(whole, verbose=0),
    }
    counts = {"ours": count * EPOCHS, "crops": count, "mammograms": 8}
    times = measure.in_turn(sides, repeats)
    return {name: [counts[name] / value for value in values] for name, values in times.items()}


def make_sequence(files: list[Path], batch: int) -> Any:
    """Return what most notebooks have: open, convert, resize, scale, flip, in Python."""
    import keras

    random = np.random.default_rng(0)

    class Sequence(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-len(files) // batch)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            arrays = []
            for path in files[index * batch : (index + 1) * batch]:
                with Image.open(path) as image:
                    array = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float32) / 255
                array = array[:, ::-1] if random.random() < 0.5 else array
                arrays.append(array[::-1] if random.random() < 0.5 else array)
            return np.stack(arrays), np.zeros(len(arrays), np.float32)

    return Sequence()


def compare_memory(folder: Path, quick: bool) -> Iterator[Row]:
    """The crops of a whole data set at 224 px in memory."""
    count = 200 if quick else CROPS
    children = [
        measure.in_child(hold, path=folder / "array.npy", shape=shape, kind=kind, mapped=kind == "u1")
        for kind, shape in (("u1", (count, SIZE, SIZE)), ("f4", (count, SIZE, SIZE, 3)))
    ]
    ours, theirs = ([child.peak_mb - child.start_mb] for child in children)
    row = Row("memory", f"memory for {count:,} crops at {SIZE} px, all of them touched", "np.load, float32 RGB", "MB")
    yield measure.compare(row, ours, theirs, most=0 if quick else 200)


def hold(path: Path, shape: tuple[int, ...], kind: str, mapped: bool) -> float:
    """Write an array a block at a time, open it, mapped or not, and touch all of it."""
    np.lib.format.open_memmap(path, "w+", np.dtype(kind), shape).flush()
    for start in range(0, shape[0], 500):  # opened anew, as the image store does: written pages go
        np.lib.format.open_memmap(path, "r+")[start : start + 500] = start % 251
    array = np.load(path, mmap_mode="r" if mapped else None)
    total = sum(float(array[start : start + BATCH].max()) for start in range(0, len(array), BATCH))
    time.sleep(5 * measure.SAMPLE_SECONDS)
    del array
    path.unlink()
    return total
