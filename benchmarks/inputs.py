"""Generated files for the benchmark: noise with the size and the compression of the real ones, not anatomy."""

import cv2
import numpy as np

from phantoms import layouts, phantom

MAMMOGRAM = (5000, 3000)  # pixels, height and width
CROP = 350  # pixels, about the median side of a CBIS-DDSM crop
JPEG_QUALITY = 88  # a full-size file is about 2 MB then, as those of the CBIS-DDSM JPEG copy
TILE = 299  # pixels, side of a DDSM record
RECORDS_A_SHARD = 4000


def write_mammogram(path, *, seed=0):
    """Write a phantom film, enlarged to full size with film grain, as a grey JPEG."""
    patient = phantom.plan_patients(1, seed=seed)[0]
    film = phantom.render_view(patient, patient.sides()[0], "CC").image
    film = cv2.resize(film, MAMMOGRAM[::-1], interpolation=cv2.INTER_CUBIC) * 255
    grain = cv2.randn(np.empty(MAMMOGRAM, np.float32), 0, 3)
    film = np.where(film > 5, film + grain, film)
    cv2.imwrite(str(path), np.clip(film, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def draw_tiles(count, size, *, seed=0):
    """Yield `count` different textures, uint8 (size, size): one field of blobs and grain, rolled and shaded."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), size / 30, borderType=cv2.BORDER_REFLECT)
    field = 110 + 40 * field / field.std() + rng.normal(0, 6, (size, size))
    field = np.clip(field, 0, 255).astype(np.uint8)
    for number in range(count):
        tile = np.roll(field, (37 * number, number // 7), axis=(0, 1))
        yield cv2.add(tile, int(rng.integers(0, 40)))


def write_crops(folder, count):
    """Write grey JPEG crops of `CROP` pixels and return their paths."""
    folder.mkdir(parents=True)
    paths = []
    for number, tile in enumerate(draw_tiles(count, CROP)):
        paths.append(folder / f"{number:05d}.jpg")
        cv2.imwrite(str(paths[-1]), tile, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return paths


def write_tfrecords(folder, count):
    """Write `count` lesions in the layout of the DDSM TFRecords, without a test array."""
    tiles = ({"image": tile, "label": 1 + number % 4} for number, tile in enumerate(draw_tiles(count, TILE)))
    for shard, start in enumerate(range(0, count, RECORDS_A_SHARD)):
        part = (next(tiles) for _ in range(min(RECORDS_A_SHARD, count - start)))
        layouts.write_records(folder / f"training10_{shard}/training10_{shard}.tfrecords", part)
