"""Synthetic against real: the pair of sources, the trivial cues of their images, and the rows of the ladder.

Notebook 02 builds the rungs in its cells, together with the network and its batches; `climb_ladder` takes the same
steps again for notebook 02b. No TensorFlow here.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import comb
from pathlib import PurePosixPath

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, cross_val_predict

from shared import data, evaluation
from shared.evaluation.comparisons import delong_covariance
from shared.run import EXCLUDED, DataError, Settings, claim_run_dir

LAYOUT = "png-npz"
RUNGS = {
    "R0": "files as they are",
    "R1": "one container, one bit depth",
    "R2": "one size, one antialiased resize, random JPEG quality",
    "R3": "grey-level histograms matched, both ways",
    "R4": "interior only",
    "R5": "low-pass and radial spectrum matched",
}
CONTROL = {"real_vs_real": "originals against originals, labels made up by patient"}
BANDS = 16  # of the radial power spectrum
MIN_GROUPS = 4  # patients or batches of each class: two in each of two folds


@dataclass(frozen=True)
class Sources:
    """Two sets of images, as they came from their files."""

    images: list[np.ndarray]  # (h, w) arrays of any size and number type
    labels: np.ndarray  # int (N,): 1 original, 0 synthetic
    groups: np.ndarray  # str (N,): patient or generator batch
    names: np.ndarray  # str (N,): image_id
    suffixes: np.ndarray  # str (N,): `.png`, `.npz`
    lesions: np.ndarray  # str (N,): BENIGN, MALIGNANT or ""


def read_pair(settings: Settings) -> tuple[Sources, list[str]]:
    """Read original and synthetic images with the task "original": what `read_sources` returns and raises.

    Data set `png-npz` is read as it is. Any other has no such pair, and the embedded one, drawn below the run
    directory where it is missing, takes its place.
    """
    folder = settings.data_dir if settings.dataset == LAYOUT else None
    if folder is None:
        claim_run_dir(settings.run_dir)
        folder = data.provide_demo(settings.run_dir / "data/demo-png-npz", layout=LAYOUT, patients=80)
    return read_sources(data.load_layout(LAYOUT, folder, task="original"))


def read_sources(dataset: data.Dataset) -> tuple[Sources, list[str]]:
    """Read all images of a pair.

    Returns the images that can be read, and one line for each that cannot.
    Raises DataError: too few patients or generator batches of either kind.
    """
    rows = dataset.manifest[dataset.manifest.split != EXCLUDED]
    problems = dataset.manifest.exclusion_reason[dataset.manifest.split == EXCLUDED].tolist()

    def read(path: str) -> np.ndarray | str:
        try:
            return dataset.read_image(path)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        planes = list(pool.map(read, rows.image_path))
    problems += [plane for plane in planes if isinstance(plane, str)]
    rows = rows[[not isinstance(plane, str) for plane in planes]]
    for label, word in enumerate(dataset.class_names):
        groups = rows.patient_id[rows.label == label].nunique()
        if groups < MIN_GROUPS:
            raise DataError(f"{dataset.data_dir}: {groups} patients or batches of {word} images; at least {MIN_GROUPS}")
    images = [plane for plane in planes if not isinstance(plane, str)]
    groups, names = rows.patient_id.to_numpy(str), rows.image_id.to_numpy(str)
    suffixes = np.array([PurePosixPath(path).suffix.lower() for path in rows.image_path])
    lesions = rows.get("drawn_class", rows.pathology).to_numpy(str)
    return Sources(images, rows.label.to_numpy(), groups, names, suffixes, lesions), problems


def ring_power(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the mean power in each ring of equal frequency, under a Hann window, of planes (N, S, S).

    Returns int (S, S), the ring of each frequency; float64 (N, rings).
    """
    size = planes.shape[1]
    waves = np.fft.fftfreq(size, 1 / size)
    rings = np.rint(np.hypot(*np.meshgrid(waves, waves))).astype(int)
    window = np.outer(np.hanning(size), np.hanning(size))
    spectra = [np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2 for plane in planes]
    power = np.stack([np.bincount(rings.ravel(), spectrum.ravel()) for spectrum in spectra])
    return rings, power / np.bincount(rings.ravel())


def radial_power_spectrum(planes: np.ndarray) -> np.ndarray:
    """Measure the power in bands from the lowest frequency to the Nyquist frequency, under a Hann window.

    Planes are float32 (N, S, S); the result is float64 (N, BANDS), log10, with fewer bands where S < 2 * BANDS.
    """
    power = ring_power(planes)[1][:, 1 : planes.shape[1] // 2 + 1]
    parts = np.array_split(power, min(BANDS, power.shape[1]), axis=1)
    return np.log10(np.stack([part.mean(axis=1) for part in parts], axis=1) + 1e-3)


def measure_cues(planes: np.ndarray, sources: Sources, rung: str) -> dict[str, np.ndarray]:
    """Measure what a rung leaves to see without looking at anatomy.

    Planes are float32 (N, S, S), the rung's images; the result is {probe: float64 (N, k)}. From R1 on there is one
    container, from R2 on one size: these cues are constants then.
    """
    shapes = np.array([plane.shape for plane in sources.images], float)
    _, kind, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    commonest = kind.ravel() == counts.argmax()  # "exactly 128 x 128?" is no question of larger or smaller
    grey = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    detail = [cv2.Laplacian(plane, cv2.CV_32F).var(dtype=np.float64) for plane in planes.astype(np.float32)]
    cues = {
        "container": (sources.suffixes == ".png") * (rung == "R0"),
        "size": np.column_stack([shapes, commonest]) * (rung in ("R0", "R1")),
        "mean": planes.mean(axis=(1, 2), dtype=np.float64),
        "std": planes.std(axis=(1, 2), dtype=np.float64),
        "min": planes.min(axis=(1, 2)),
        "max": planes.max(axis=(1, 2)),
        "zeros": (planes == 0).mean(axis=(1, 2)),
        "compressed_bytes": np.array([len(cv2.imencode(".png", plane)[1]) for plane in grey]),
        "laplacian": np.log10(np.array(detail) + 1e-6),
        "spectrum": radial_power_spectrum(planes),
    }
    # rounded: equal histograms, summed in another order, must give equal numbers
    cues = {name: np.round(values.reshape(len(planes), -1).astype(float), 6) for name, values in cues.items()}
    return {**cues, "all_cues": np.hstack(list(cues.values()))}


def score_probes(planes: np.ndarray, sources: Sources, rung: str, folds: np.ndarray) -> dict[str, np.ndarray]:
    """Score each cue of `measure_cues` by a logistic regression fitted on the other folds: {probe: log-odds (N,)}."""
    options = {"cv": PredefinedSplit(folds), "method": "decision_function"}
    cues = measure_cues(planes, sources, rung)
    return {name: cross_val_predict(data.make_logistic(), cue, sources.labels, **options) for name, cue in cues.items()}


def compare_in_folds(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, folds: np.ndarray, *, minus: np.ndarray | None = None
) -> tuple[evaluation.Interval, float]:
    """Give the AUC of out-of-fold scores, or a paired difference, its interval by patient and generator batch.

    Only images of one fold are compared, because each fold has a model of its own. The standard error of a fold is
    DeLong's for clusters (Obuchowski 1997). Each fold trains the model of the other, so both err to the same side, and
    their standard errors are averaged as if they did so always. There are few batches, so the limits take Student's t,
    for an AUC on the logit scale.
    All are (N,), and a group lies in one fold; the AUC of the scores `minus` is taken off.
    Returns interval; one-sided p of an AUC of 0.5, at least 1 / (ways to say which groups are synthetic).
    """
    rows = pd.DataFrame({"fold": folds, "label": labels, "group": groups})
    pairs = rows.groupby("fold").label.agg(lambda label: label.sum() * (1 - label).sum())
    both = np.stack([scores] if minus is None else [scores, minus])
    signs = np.array([1, -1])[: 1 + (minus is not None)]
    area, error = 0.0, 0.0
    for fold, share in (pairs / pairs.sum()).items():
        here = folds == fold
        areas, covariance = delong_covariance(labels[here], both[:, here], groups[here])
        area += share * (signs @ areas)
        error += share * float(np.sqrt(max(signs @ covariance @ signs, 0)))
    units = rows.drop_duplicates()
    few = units.label.value_counts().min()
    freedom = max(few - len(pairs), 1)
    low, high = area + np.array([-1, 1]) * (spread := t.ppf(0.975, freedom) * error)
    if minus is None and 0 < area < 1:
        low, high = expit(logit(area) + np.array([-1, 1]) * spread / (area * (1 - area)))
    p_value = t.sf((area - 0.5) / max(error, 1e-12), freedom)
    return evaluation.Interval(area, low, high, error), max(p_value, 1 / comb(len(units), few))


def ladder_row(
    rung: str, classifier: str, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> dict:
    """Make one row of `results/synthetic_ladder.csv`, see `compare_in_folds`; `rung` is in `RUNGS` or `CONTROL`."""
    interval, p_value = compare_in_folds(labels, scores, groups, folds)
    limits = {"auc": interval.value, "auc_low": interval.low, "auc_high": interval.high, "p_value": p_value}
    return {"rung": rung, "description": {**RUNGS, **CONTROL}[rung], "classifier": classifier, **limits}


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the kernel distance (KID, Bińkowski 2018) of two samples of features, float (n, F) and (m, F).

    It is the unbiased squared MMD under the kernel (x·y / F + 1)³: 0 on average for two samples of one kind.
    """
    within = 0.0
    for part in (a, b):
        kernel = (part @ part.T / part.shape[1] + 1) ** 3
        within += (kernel.sum() - np.trace(kernel)) / (len(part) * (len(part) - 1))
    return float(within - 2 * ((a @ b.T / a.shape[1] + 1) ** 3).mean())


def compress_at_random(planes: np.ndarray, seed: int) -> np.ndarray:
    """Send images (N, S, S) through JPEGs of random quality; returns float32."""
    result = np.empty(planes.shape, np.float32)
    for row, plane in enumerate(planes):
        quality = int(np.random.default_rng((seed, row)).integers(75, 95, endpoint=True))
        encoded = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        result[row] = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return result


def match_levels(planes: np.ndarray, levels: np.ndarray, seed: int) -> np.ndarray:
    """Give the n-th darkest pixel of each image (N, S, S) the n-th of the levels (S * S,)."""
    random, matched = np.random.default_rng(seed), np.empty(planes.shape, np.float32)
    for row, plane in enumerate(planes):
        order = np.argsort(plane.ravel() + random.uniform(0, 1e-2, plane.size), kind="stable")  # ties at random
        matched[row].ravel()[order] = levels
    return matched


def make_rungs(planes: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Make R1 to R5 of images of one size, uint8 (N, S, S), label 1 original and 0 synthetic: {rung: float32}."""

    def halfway(values: np.ndarray) -> np.ndarray:
        return np.mean([values[labels == label].mean(axis=0) for label in (0, 1)], axis=0)

    def levels_of(images: np.ndarray) -> np.ndarray:
        return halfway(np.sort(images.reshape(len(images), -1), axis=1))

    size, rungs = planes.shape[1], {"R1": planes.astype(np.float32), "R2": compress_at_random(planes, seed)}
    rungs["R3"] = match_levels(rungs["R2"], np.rint(levels_of(rungs["R2"])), seed)
    margin = round(0.2 * size)
    inner = [data.resize(plane[margin : size - margin, margin : size - margin], size, size) for plane in planes]
    closer = compress_at_random(np.stack(inner), seed)
    rungs["R4"] = match_levels(closer, np.rint(levels_of(closer)), seed)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), size / 32) for plane in rungs["R4"]])
    levels = levels_of(blurred)
    blurred = match_levels(blurred, levels, seed)
    means, (rings, power) = blurred.mean(axis=(1, 2), keepdims=True), ring_power(blurred)
    gains = np.sqrt(np.exp(halfway(np.log(power + 1e-6))) / (power + 1e-9))[:, rings]
    scaled = np.fft.ifft2(np.fft.fft2(blurred - means) * gains).real + means
    return rungs | {"R5": match_levels(scaled.astype(np.float32), np.rint(levels), seed + 1)}


def climb_ladder(planes: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Put the probes of notebook 02 to images of one size and container, rung by rung, in two folds by group.

    Planes are uint8 (N, S, S), labels 1 original and 0 synthetic. Returns rows of `ladder_row`, R1 to R5.
    """
    suffixes, rows = np.full(len(labels), ".png"), []
    sources = Sources(list(planes), labels, groups, groups, suffixes, groups)
    folds = np.empty(len(labels), int)
    cutter = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(cutter.split(labels, labels, groups)):
        folds[held_out] = fold
    for rung, images in make_rungs(planes, labels, seed).items():
        scores = score_probes(images, sources, rung, folds)
        rows += [ladder_row(rung, name, labels, part, groups, folds) for name, part in scores.items()]
    return pd.DataFrame(rows)
