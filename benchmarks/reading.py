"""Compare how images get from files into memory and into a model."""

import itertools
import time

import cv2
import numpy as np
from PIL import Image

from benchmarks import inputs, measure
from shared.data import images

SIZE = 224  # pixels
BATCH = 32
CROPS = 2864  # training crops of CBIS-DDSM


# ----------------------------------------------------------- one mammogram
def mammogram(folder, *, quick):
    """A full-size mammogram JPEG to one square of 224 px."""
    path = folder / "mammogram.jpg"
    inputs.write_mammogram(path)
    child = measure.in_child(_time_mammogram, path=path, repeats=3 if quick else 15)
    times, errors = child.result
    details = {"file_mb": path.stat().st_size / 1e6, "error": errors}
    ours = [1000 * value for value in times["ours"]]
    what = f"mammogram JPEG {inputs.MAMMOGRAM[0]} × {inputs.MAMMOGRAM[1]} to {SIZE} px"
    peers = {"pillow": "Pillow convert RGB + resize", "cv2": "cv2.imread + cv2.resize (aliased)"}
    for side, least in (("pillow", 6), ("cv2", None)):
        theirs = [1000 * value for value in times[side]]
        yield measure.compare("mammogram", what, peers[side], "ms", ours, theirs, least=least, details=details)


def _time_mammogram(path, repeats):
    cv2.setNumThreads(1)
    sides = {
        "ours": lambda: images.prepare_image(images.read_grey(path, min_side=SIZE), images.ImageSteps(SIZE)),
        "pillow": lambda: np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE))),
        "cv2": lambda: cv2.resize(cv2.imread(str(path)), (SIZE, SIZE)),
    }
    times = measure.in_turn(sides, repeats)
    return times, _errors(path, sides)


def _errors(path, sides):
    """Return how far each side's sampling is from exact area averages, in grey values (root mean square)."""
    whole = images.read_grey(path)
    exact = cv2.resize(whole.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    reduced = images.read_grey(path, min_side=SIZE).astype(np.float32)
    found = {name: np.asarray(call(), np.float32).reshape(SIZE, SIZE, -1)[..., 0] for name, call in sides.items()}
    found["ours"] = cv2.resize(reduced, (SIZE, SIZE), interpolation=cv2.INTER_AREA)  # before window and padding
    return {name: float(np.sqrt(np.mean((image - exact) ** 2))) for name, image in found.items()}


# ------------------------------------------------------------------- epochs
def epoch(folder, *, quick):
    """Images a second into the model, flipped at random, in epochs after the first."""
    count, repeats = (64, 2) if quick else (CROPS, 5)
    paths = inputs.write_crops(folder / "crops", count)
    full = folder / "full.jpg"
    inputs.write_mammogram(full)
    rates = measure.in_child(_time_epochs, paths=paths, full=full, folder=folder, repeats=repeats).result
    details = {"images": count, "size": SIZE, "batch": BATCH}
    crops, whole = f"crops of {inputs.CROP} px", f"mammograms {inputs.MAMMOGRAM[0]} × {inputs.MAMMOGRAM[1]}"
    looped = f"{crops}; taken by a loop in Python"
    for ours, side, peer, source, least in (
        ("ours", "sequence", "Keras PyDataset + Pillow", crops, 60),
        ("ours_loop", "sequence", "Keras PyDataset + Pillow", looped, None),
        ("ours", "dataframe", "flow_from_dataframe", crops, None),
        ("ours", "sequence_full", "Keras PyDataset + Pillow", whole, 60),
    ):
        if side in rates:
            yield measure.compare(
                "epoch", f"images into the model at {SIZE} px, with flips; files: {source}", peer, "images/s",
                rates[ours], rates[side], more_is_better=True, least=least, details=details,
            )  # fmt: skip


def _time_epochs(paths, full, folder, repeats):
    """Return {side: images a second of each repeat}; sides take turns, a first pass of each does not count."""
    cv2.setNumThreads(1)
    loaders = {**_our_loaders(paths, folder), "sequence": _sequence_loader(paths)}
    loaders |= _dataframe_loader(paths)
    loaders["sequence_full"] = _sequence_loader([full] * 8, batch=4)
    counts = {name: len(paths) for name in loaders} | {"sequence_full": 8}
    counts["ours"] = counts["ours_loop"] = len(paths) * OUR_EPOCHS
    times = measure.in_turn(loaders, repeats)
    return {name: [counts[name] / value for value in values] for name, values in times.items()}


OUR_EPOCHS = 3  # a turn; one alone is too short to be timed well


def _our_loaders(paths, folder):
    """Return {"ours", "ours_loop"}: batches taken within TensorFlow, or one by one in Python, which costs more."""
    from shared.models import input_pipeline
    from shared.models.backend import tf

    store = np.lib.format.open_memmap(folder / "store.npy", "w+", np.uint8, (len(paths), SIZE, SIZE))
    for row, path in enumerate(paths):
        store[row] = images.prepare_image(images.read_grey(path, min_side=SIZE), images.ImageSteps(SIZE))
    store.flush()
    store = np.load(folder / "store.npy", mmap_mode="r")
    labels = np.arange(len(paths)) % 2
    dataset = input_pipeline.make_dataset(
        store, labels, np.arange(len(paths)), batch_size=BATCH, shuffle=True, views=input_pipeline.ALL_VIEWS
    )

    @tf.function
    def count_images():
        return dataset.reduce(np.int64(0), lambda count, batch: count + tf.shape(batch[0], tf.int64)[0])

    return {
        "ours": lambda: [count_images() for _ in range(OUR_EPOCHS)],
        "ours_loop": lambda: [_drain(dataset) for _ in range(OUR_EPOCHS)],
    }


def _drain(batches):
    for batch, _ in batches:
        _ = batch.shape


def _sequence_loader(paths, batch=BATCH):
    import keras

    class Sequence(keras.utils.PyDataset):
        """What most notebooks have: open, convert, resize, scale, flip, in Python."""

        def __len__(self):
            return -(-len(paths) // batch)

        def __getitem__(self, index):
            arrays = [self.read(path) for path in paths[index * batch : (index + 1) * batch]]
            return np.stack(arrays), np.zeros(len(arrays), np.float32)

        def read(self, path):
            with Image.open(path) as image:
                array = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float32) / 255
            array = array[:, ::-1] if random.random() < 0.5 else array
            return array[::-1] if random.random() < 0.5 else array

    random = np.random.default_rng(0)
    sequence = Sequence()
    return lambda: _drain(sequence[index] for index in range(len(sequence)))


def _dataframe_loader(paths):
    """Return {"dataframe": loader} with the generator that `flow_from_dataframe` makes; {} where Keras has none."""
    import pandas as pd
    import tensorflow as tf

    try:
        generator = tf.keras.preprocessing.image.ImageDataGenerator
    except AttributeError:
        return {}
    flow = generator(rescale=1 / 255, horizontal_flip=True, vertical_flip=True).flow_from_dataframe(
        pd.DataFrame({"path": map(str, paths), "label": [str(row % 2) for row in range(len(paths))]}),
        x_col="path", y_col="label", target_size=(SIZE, SIZE), class_mode="binary", batch_size=BATCH, seed=0,
    )  # fmt: skip
    return {"dataframe": lambda: _drain(itertools.islice(flow, len(flow)))}


# ------------------------------------------------------------------- memory
def memory(folder, *, quick):
    """The crops of a whole data set at 224 px in memory."""
    count = 200 if quick else CROPS
    children = {
        side: measure.in_child(read, folder=folder, count=count)
        for side, read in (("ours", _hold_store), ("theirs", _hold_float32))
    }
    details = {f"{side}_array_mb": child.result / 1e6 for side, child in children.items()}
    ours, theirs = ([child.growth_mb] for child in children.values())
    what = f"memory for {count:,} crops at {SIZE} px, all of them touched"
    peer = "np.load, float32 RGB"
    yield measure.compare("memory", what, peer, "MB", ours, theirs, most=None if quick else 200, details=details)


def _hold_store(folder, count):
    path = folder / "store.npy"
    store = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE))
    for start in range(0, count, 500):  # as the image store does: not more than a block at a time
        del store
        store = np.lib.format.open_memmap(path, "r+")
        store[start : start + 500] = start % 251
    del store
    store = np.load(path, mmap_mode="r")
    total = sum(int(store[start : start + BATCH].max()) for start in range(0, count, BATCH))
    time.sleep(5 * measure.SAMPLE_SECONDS)
    return store.nbytes if total >= 0 else 0


def _hold_float32(folder, count):
    path = folder / "float32.npy"
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, SIZE, SIZE, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        block = np.full(SIZE * SIZE * 3, 0.5, "<f4").tobytes()
        for _ in range(count):
            file.write(block)
    array = np.load(path)
    total = float(array[::100].max())
    time.sleep(5 * measure.SAMPLE_SECONDS)
    path.unlink()
    return array.nbytes if total >= 0 else 0
