"""Generated files for the benchmark: noise with the size and the compression of the real ones, not anatomy."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from phantoms.films import draw_film
from phantoms.patients import plan_patients
from phantoms.write_ddsm_tfrecord import SIDE, Tile, write_records

MAMMOGRAM = (5000, 3000)  # pixels, height and width
CROP = 350  # pixels, about the median side of a CBIS-DDSM crop
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]  # a full-size file is about 2 MB then, as those of the CBIS-DDSM JPEG copy


def write_mammogram(path: Path) -> None:
    """Write a phantom film, enlarged to full size with film grain, as a grey JPEG."""
    patient = plan_patients(1)[0]
    film = draw_film(patient, patient.sides()[0], "CC").image
    film = cv2.resize(film, MAMMOGRAM[::-1], interpolation=cv2.INTER_CUBIC) * 255
    film = np.where(film > 5, film + np.random.default_rng(0).normal(0, 3, MAMMOGRAM), film)
    cv2.imwrite(str(path), np.clip(film, 0, 255).astype(np.uint8), QUALITY)


def draw_tiles(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield `count` different textures, uint8 (size, size): one field of blobs and grain, rolled and shaded."""
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), size / 30, borderType=cv2.BORDER_REFLECT)
    field = 110 + 40 * field / field.std() + rng.normal(0, 6, (size, size))
    field = np.clip(field, 0, 255).astype(np.uint8)
    for number in range(count):
        brighter = np.minimum(field.astype(int) + rng.integers(0, 40), 255)
        yield np.roll(brighter.astype(np.uint8), (37 * number, number // 7), axis=(0, 1))


def write_crops(folder: Path, count: int) -> list[Path]:
    """Write grey JPEG crops of `CROP` pixels and return their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    for path, tile in zip(paths, draw_tiles(count, CROP), strict=True):
        cv2.imwrite(str(path), tile, QUALITY)
    return paths


def write_tfrecords(folder: Path, count: int) -> None:
    """Write `count` lesions in the layout of the DDSM TFRecords, without a test array."""
    tiles = (Tile(tile, 1 + number % 4) for number, tile in enumerate(draw_tiles(count, SIDE)))
    write_records(folder / "training10_0/training10_0.tfrecords", tiles)
