"""The image store: all prepared images in one uint8 array on disk, `images.npy`, and what their files echo."""

import contextlib
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from shared import __version__
from shared.data import decoding
from shared.data.images import ImageSteps, prepare_image, prepare_mask, raw_scale, refuse_blank
from shared.data.readers.common import Dataset
from shared.run import EXCLUDED, DataError, atomic_write, nearest_folder, read_json, write_csv, write_json
from shared.run.progress import is_watched

CHUNK = 32  # images a thread prepares before it writes them
STATISTICS_COLUMNS = (
    "height", "width", "mean", "std", "minimum", "maximum", "share_zero", "content", "problem", "mask_problem",
)  # fmt: skip
Store = tuple[np.ndarray, np.ndarray | None, pd.DataFrame]


def check_disk(folder: Path, needed: int, what: str = "the image store") -> None:
    """Raise DataError where the disk that holds `folder` has less than `needed` bytes (and a margin) free."""
    free = shutil.disk_usage(nearest_folder(Path(folder))).free
    if free < needed + 50_000_000:
        sizes = f"{needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free"
        way_out = "free some, choose a smaller IMAGE_SIZE, or put RUN_DIR on another disk"
        raise DataError(f"not enough disk space for {what}: {sizes}; {way_out}")


def store_key(dataset: Dataset, steps: ImageSteps) -> str:
    """Return what decides whether the store is built anew: sources, exclusions, steps, version (hexadecimal)."""
    digest = hashlib.sha256(json.dumps([__version__, dataset.name, asdict(steps)]).encode())
    seen = set()
    columns = dataset.manifest[["image_path", "mask_path", "split"]]  # split: rows that the reader rules out stay black
    for image_path, mask_path, split in columns.itertuples(index=False):
        digest.update(f"{image_path}|{mask_path}|{split}".encode())
        for file in (image_path, image_path.rpartition("#")[0]):  # the file, or a place in the file
            if file and file not in seen:
                seen.add(file)
                with contextlib.suppress(OSError, ValueError):  # not there, or a name that no file can have
                    state = (dataset.data_dir / file).stat()
                    digest.update(f"{state.st_size}-{state.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def build_image_store(dataset: Dataset, folder: Path, steps: ImageSteps) -> Store:
    """Build `images.npy` (and `masks.npy`) in `folder` unless a store with the same key is there.

    Images are prepared by threads and written in place, so memory does not grow with their number. A file that
    cannot be read leaves a black image and its error line in the column `problem` of the statistics; a mask that
    cannot be read leaves an empty one and a line in `mask_problem`.

    Row i of the manifest becomes image i. `folder` is usually `<run>/data`.
    Returns (images, masks, statistics): uint8 memory maps (N, size, size), masks or None, and a DataFrame with
        `STATISTICS_COLUMNS` on the file's own pixels (intensities brought to 0–255).
    Raises DataError: not enough disk space.
    """
    folder = Path(folder)
    key = store_key(dataset, steps)
    if is_whole(folder, key):
        return open_image_store(folder)
    shape = (len(dataset.manifest), steps.size, steps.size)
    has_masks = dataset.read_mask is not None and bool(dataset.manifest.mask_path.ne("").any())
    names = ["images.npy", "masks.npy"][: 1 + has_masks]
    check_disk(folder, int(np.prod(shape)) * len(names))
    for name in ("images.json", "masks.npy"):
        (folder / name).unlink(missing_ok=True)
    rows = list(dataset.manifest.itertuples(index=False))
    statistics = []
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(atomic_write(folder / name)) for name in names]
        for part in parts:
            np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)

        def work(start: int) -> list[tuple]:
            results = [prepare_row(dataset, row, steps, has_masks) for row in rows[start : start + CHUNK]]
            for number, part in enumerate(parts):
                # mapped anew for each chunk: the pages of a map that stays open count as the program's own memory
                planes = np.stack([result[number] for result in results])
                np.lib.format.open_memmap(part, mode="r+")[start : start + len(planes)] = planes
            return [result[2] for result in results]

        pool = stack.enter_context(ThreadPoolExecutor(decoding.READERS))
        bar = stack.enter_context(tqdm(total=shape[0], desc="image store", unit="image", disable=not is_watched()))
        for numbers in pool.map(work, range(0, shape[0], CHUNK)):
            statistics += numbers
            bar.update(len(numbers))
    frame = pd.DataFrame(statistics, columns=list(STATISTICS_COLUMNS))
    frame.insert(0, "image_id", dataset.manifest.image_id.to_numpy())
    write_csv(folder / "image_statistics.csv", frame)
    note = {"key": key, "shape": shape, "steps": asdict(steps), "masks": has_masks}
    write_json(folder / "images.json", note | {"largest": count_largest(dataset, frame)})
    return open_image_store(folder)


def count_largest(dataset: Dataset, statistics: pd.DataFrame) -> int:
    """Return how many pixels the largest picture has on disk, where a JPEG may be larger than what was read of it."""
    largest = int((statistics.height * statistics.width).max())
    good = statistics.problem.eq("").to_numpy()
    for path in dataset.manifest.image_path[good]:
        if path.lower().endswith((".jpg", ".jpeg")):
            _, height, width = decoding.read_header(decoding.inside(dataset.data_dir, path))
            largest = max(largest, height * width)
    return largest


def is_whole(folder: Path, key: str) -> bool:
    """Say whether a finished store with this key lies in `folder`."""
    if not (folder / "images.json").exists():
        return False
    note = read_json(folder / "images.json")
    names = ["images.npy", "image_statistics.csv", "masks.npy"][: 2 + bool(note.get("masks"))]
    return note.get("key") == key and all((folder / name).exists() for name in names)


def open_image_store(folder: Path) -> Store:
    """Open a store that is there; see `build_image_store` for what is returned."""
    folder = Path(folder)
    masks = folder / "masks.npy"
    words = ("image_id", "content", "problem", "mask_problem")
    statistics = pd.read_csv(folder / "image_statistics.csv", dtype=dict.fromkeys(words, str))
    return (
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(masks, mmap_mode="r", allow_pickle=False) if masks.exists() else None,
        statistics.fillna(dict.fromkeys(words, "")),
    )


def prepare_row(dataset: Dataset, row: Any, steps: ImageSteps, has_masks: bool) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Return (image, mask, values of `STATISTICS_COLUMNS`) of one manifest row."""
    empty = np.zeros((steps.size, steps.size), np.uint8)
    try:
        if row.split == EXCLUDED:
            raise DataError(row.exclusion_reason)
        raw = dataset.read_image(row.image_path, min_side=steps.size * (2 if steps.breast_crop else 1))
        refuse_blank(raw, row.image_path)
        image = prepare_image(raw, steps)
    except DataError as error:
        return empty, empty, (0, 0, np.nan, np.nan, np.nan, np.nan, np.nan, "", str(error), "")
    mask, mask_problem = empty, ""
    if has_masks and row.mask_path and dataset.read_mask:
        try:
            mask = prepare_mask(dataset.read_mask(row), raw, steps)
        except DataError as error:  # the picture is good: it stays, without a mask
            mask_problem = str(error)
    scale = raw_scale(raw)
    mean, spread = (float(value.item()) * scale for value in cv2.meanStdDev(raw))
    low, high, _, _ = cv2.minMaxLoc(raw)
    share_zero = 1 - cv2.countNonZero(raw) / raw.size
    content = hashlib.sha256(image.tobytes()).hexdigest()[:24]
    return image, mask, (*raw.shape, mean, spread, low * scale, high * scale, share_zero, content, "", mask_problem)
