"""Follow seconds per image and memory from thousands to tens of thousands of images."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import inputs, measure
from benchmarks.measure import Row
from shared import data

COUNTS, QUICK_COUNTS = (2_000, 20_000), (100, 400)
SIZE = 128  # pixels
STAGES = ("read", "store", "epoch")


def compare_scale(folder: Path, quick: bool) -> Iterator[Row]:
    """The largest count of DDSM TFRecords beside a tenth of it, stage by stage, each in a process of its own."""
    counts = QUICK_COUNTS if quick else COUNTS
    found: dict[tuple[str, int], measure.Child] = {}
    for count in counts:
        place = folder / f"records-{count}"
        measure.in_child(inputs.write_tfrecords, folder=place, count=count)
        found |= {(stage, count): measure.in_child(run_stage, stage=stage, folder=place) for stage in STAGES}
        shutil.rmtree(place)
    smaller, largest = counts
    for stage in STAGES:
        row = Row("scale", f"{stage}: per image, {largest:,} DDSM TFRecords", f"the same with {smaller:,}", "s")
        yield measure.compare(row, *([found[stage, count].result / count] for count in (largest, smaller)))
    row = Row("scale", f"peak memory, {largest:,} records into the store", "all as float32 RGB (computed)", "MB")
    peak = max(found[stage, largest].peak_mb for stage in ("read", "store"))
    yield measure.compare(row, [peak], [largest * inputs.SIDE**2 * 12 / 1e6], most=1000)


def run_stage(stage: str, folder: Path) -> float:
    """Return the seconds of one stage: read the records, build the store, or one epoch after the first."""
    if stage == "epoch":
        from shared import models

        store, _, _ = data.open_image_store(folder / "data")
        rows = np.arange(len(store))
        some = models.ORIENTATIONS
        batches = models.make_dataset(store, rows % 2, rows, batch_size=32, order="shuffled", orientations=some)
        return measure.in_turn({"epoch": lambda: sum(1 for _ in batches)}, 1)["epoch"][0]
    started = time.perf_counter()
    dataset = data.load_layout("ddsm-tfrecord", folder)
    if stage == "store":
        started = time.perf_counter()
        data.build_image_store(dataset, folder / "data", data.ImageSteps(SIZE))
    return time.perf_counter() - started
