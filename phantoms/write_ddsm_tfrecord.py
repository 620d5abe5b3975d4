"""The DDSM TFRecords: tiles of 299 x 299, five shards for training, two arrays for test (masses) and cv (calcs)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.patients import CALC, MASS, TEST, TRAIN, Patient
from phantoms.writing import draw_films, load_tensorflow, stream, to_uint8

SIDE, SHARDS = 299, 5
CODES = {(CALC, False): 1, (MASS, False): 2, (CALC, True): 3, (MASS, True): 4}  # kind, malignant; 0 is normal


@dataclass(frozen=True)
class Tile:
    """One record."""

    image: np.ndarray  # uint8 (299, 299)
    label: int  # 0 normal, or one of CODES
    kind: str = MASS
    split: str = TRAIN


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write training10_N/*.tfrecords, and test10 and cv10 as arrays."""
    tiles = [tile for patient in run(draw_tiles, plans) for tile in patient]
    tiles = [tiles[position] for position in np.random.default_rng(plans[0].seed).permutation(len(tiles))]
    training = [tile for tile in tiles if tile.split == TRAIN]
    for shard in range(SHARDS):
        write_records(out / f"training10_{shard}/training10_{shard}.tfrecords", training[shard::SHARDS])
    for name, kind in (("test10", MASS), ("cv10", CALC)):
        chosen = [tile for tile in tiles if tile.split == TEST and tile.kind == kind]
        images = np.array([tile.image for tile in chosen], np.uint8).reshape(-1, SIDE, SIDE, 1)
        (out / f"{name}_data").mkdir()
        np.save(out / f"{name}_data/{name}_data.npy", images)
        np.save(out / f"{name}_labels.npy", np.array([tile.label for tile in chosen], np.int64))


def write_records(path: Path, tiles: Iterable[Tile]) -> None:
    """Write one TFRecord file of tf.train.Example with `label`, `label_normal` and `image`."""
    tf = load_tensorflow()
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for tile in tiles:
            example = tf.train.Example()
            features = example.features.feature
            features["label"].int64_list.value.append(tile.label)
            features["label_normal"].int64_list.value.append(int(tile.label > 0))
            features["image"].bytes_list.value.append(tile.image.tobytes())
            writer.write(example.SerializeToString(deterministic=True))


def draw_tiles(patient: Patient) -> list[Tile]:
    """Return a patient's tiles: three of each lesion's view, shifted by up to a tenth, and some of a healthy breast.

    Lesion tiles keep the film's resolution; normal tiles went through another program (coarser sampling, JPEG,
    stretched grey values), as in the real set, where such traces separate the classes better than anatomy does.
    """
    rng = stream(patient, 3)
    tiles = []
    for _, _, film in draw_films(patient):
        for position, lesion in enumerate(film.lesions):
            label, split = CODES[lesion.kind, lesion.malignant], patient.split[lesion.kind]
            for _ in range(3):
                top, bottom, left, right = film.boxes[position]
                h, w = film.image.shape
                dy, dx = (rng.uniform(-0.1, 0.1, 2) * (bottom - top, right - left)).astype(int)
                dy, dx = np.clip(dy, -top, h - bottom), np.clip(dx, -left, w - right)
                shifted = film.image[top + dy : bottom + dy, left + dx : right + dx]
                image = cv2.resize(shifted, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
                tiles.append(Tile(to_uint8(np.clip(image, 0, 1)), label, lesion.kind, split))
    healthy = [side for side in ("LEFT", "RIGHT") if side not in patient.sides()]
    kind = patient.lesions[0].kind
    for _, _, film in draw_films(patient, healthy) if healthy else ():
        tiles += [Tile(draw_normal_tile(rng, film.image), 0, kind, patient.split[kind]) for _ in range(10)]
    return tiles


def draw_normal_tile(rng: Generator, image: np.ndarray) -> np.ndarray:
    """Return a tile of mostly tissue, uint8 (299, 299)."""
    side = int(rng.integers(130, 210))
    for _ in range(20):
        top, left = int(rng.integers(0, image.shape[0] - side)), int(rng.integers(0, image.shape[1] - side))
        tile = image[top : top + side, left : left + side]
        if np.mean(tile > 0.15) > 0.8:
            break
    small = cv2.resize(tile, (100, 100), interpolation=cv2.INTER_AREA)
    pixels = to_uint8(np.clip(0.05 + 0.9 * small, 0, 1))
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return cv2.resize(np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)), (SIDE, SIDE))
