"""Follow seconds per image and memory from hundreds to tens of thousands of images; time the bootstrap."""

import shutil

import numpy as np

from benchmarks import inputs, measure
from shared.data import images, splits
from shared.data import readers as datasets
from shared.evaluation import metrics

COUNTS = (200, 2_000, 20_000)
QUICK_COUNTS = (100, 400)
SIZE = 128  # pixels
BATCH = 32
LIMIT_MB = 1000  # of 20,000 records
INTO_STORE = ("read", "store", "split")
ROWS, DRAWS = 700, 2000  # about the official test split of CBIS-DDSM


# -------------------------------------------------------------------- curve
def scale(folder, *, quick):
    """Return one dict a count and stage: seconds, milliseconds per image, peak memory; DDSM TFRecords, generated."""
    rows = []
    for count in QUICK_COUNTS if quick else COUNTS:
        place = folder / f"records-{count}"
        measure.in_child(inputs.write_tfrecords, folder=place, count=count)
        for stage, work in STAGES.items():
            child = measure.in_child(work, folder=place)
            rows.append(
                {
                    "images": count,
                    "stage": stage,
                    "seconds": child.result,
                    "ms_per_image": 1000 * child.result / count,
                    "images_per_second": count / child.result,
                    "start_mb": child.start_mb,
                    "peak_mb": child.peak_mb,
                    "own_mb": child.own_mb,
                }
            )
        shutil.rmtree(place)
    return rows


def _read(folder):
    return measure.seconds(lambda: datasets.load("ddsm-tfrecord", folder))[0]


def _store(folder):
    dataset = datasets.load("ddsm-tfrecord", folder)
    steps = images.ImageSteps(SIZE)
    took, (_, _, statistics) = measure.seconds(lambda: images.build_image_store(dataset, folder / "data", steps))
    if statistics.problem.ne("").any():
        raise RuntimeError(f"records that cannot be read: {statistics.problem[statistics.problem != ''].iloc[0]}")
    return took


def _split(folder):
    dataset = datasets.load("ddsm-tfrecord", folder)
    _, _, statistics = images.open_image_store(folder / "data")
    return measure.seconds(lambda: splits.assign_splits(dataset.manifest, statistics))[0]


def _epoch(folder):
    """The second epoch over the store, shuffled and flipped."""
    from shared.models import input_pipeline

    store, _, _ = images.open_image_store(folder / "data")
    rows = np.arange(len(store))
    dataset = input_pipeline.make_dataset(
        store, rows % 2, rows, batch_size=BATCH, shuffle=True, views=input_pipeline.ALL_VIEWS
    )

    def run():
        for batch, _ in dataset:
            _ = batch.shape

    run()
    return measure.seconds(run)[0]


def _metrics(folder):
    """All figures of a model and the interval of its AUC, one patient in four images."""
    store, _, _ = images.open_image_store(folder / "data")
    labels, scores, patients = draw_scores(len(store))
    metrics.summarise(labels, scores, threshold=0.5)

    def run():
        metrics.summarise(labels, scores, threshold=0.5)
        metrics.bootstrap_interval(labels, scores, patients, draws=DRAWS)

    return measure.seconds(run)[0]


STAGES = {"read": _read, "store": _store, "split": _split, "epoch": _epoch, "metrics": _metrics}


def flatness(rows):
    """Turn the curve into comparisons: the largest count beside the next smaller one, and the largest one's memory.

    The smallest count is left out of the ratios where there are three: start-up outweighs the work there.
    """
    smaller, largest = sorted({row["images"] for row in rows})[-2:]
    found = {(row["stage"], row["images"]): row for row in rows}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        first, last = ([found[stage, count]["ms_per_image"]] for count in (smaller, largest))
        what = f"{stage}: per image, {largest:,} DDSM TFRecords"
        yield measure.compare("scale", what, f"the same with {smaller:,}", "ms", last, first)
    rate = found["store", largest]["images_per_second"]
    peer, theirs = "all images as float32 RGB (computed)", [largest * inputs.TILE**2 * 12 / measure.MB]
    for what, stages, column in (
        (f"peak memory, {largest:,} records into the store at {rate:,.0f} images/s", INTO_STORE, "peak_mb"),
        (f"memory of any stage but for pages of files, {largest:,} images", STAGES, "own_mb"),
    ):
        peak = max(found[stage, largest][column] for stage in stages)
        yield measure.compare("scale", what, peer, "MB", [peak], theirs, most=LIMIT_MB)


# ---------------------------------------------------------------- bootstrap
def draw_scores(count, *, seed=0):
    """Return labels, scores and patients of a model of AUC about 0.8; four images a patient."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, 1 / (1 + np.exp(-rng.normal(1.2 * labels - 0.6))), np.arange(count) // 4


def bootstrap(folder, *, quick):
    """The interval of an AUC by patient."""
    times = measure.in_child(_time_bootstrap, repeats=1 if quick else 3, draws=100 if quick else DRAWS).result
    what = f"bootstrap by patient, {100 if quick else DRAWS:,} draws on {ROWS} rows"
    yield measure.compare("bootstrap", what, "loop over roc_auc_score", "s", times["ours"], times["theirs"])


def _time_bootstrap(repeats, draws):
    from sklearn.metrics import roc_auc_score

    labels, scores, patients = draw_scores(ROWS)
    rows_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]

    def loop():
        rng = np.random.default_rng(0)
        areas = []
        for _ in range(draws):
            taken = np.concatenate([rows_of[number] for number in rng.integers(0, len(rows_of), len(rows_of))])
            areas.append(roc_auc_score(labels[taken], scores[taken]))
        return np.quantile(areas, [0.025, 0.975])

    sides = {"ours": lambda: metrics.bootstrap_interval(labels, scores, patients, draws=draws), "theirs": loop}
    return measure.in_turn(sides, repeats)
