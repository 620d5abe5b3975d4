"""Synthetic against real: the ladder that removes one cue a rung, and what is measured on each rung.

No TensorFlow at import; `make_cnn_trainer` brings it in.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared.data import images
from shared.data import readers as datasets
from shared.evaluation import metrics
from shared.run import EXCLUDED, DataError, UsageError, files

NAME = "png-npz"
RUNGS = {
    "R0": "files as they are",
    "R1": "one container, one bit depth",
    "R2": "one size, one antialiased resize, random JPEG quality",
    "R3": "grey-level histograms matched, both ways",
    "R4": "interior only",
    "R5": "low-pass and radial spectrum matched",
}
CONTROL = "real_vs_real"
LADDER_COLUMNS = ("rung", "description", "classifier", "auc", "auc_low", "auc_high", "p_value")
JPEG_QUALITY = (75, 95)  # drawn anew for every image
INTERIOR = 0.6  # share of height and width that rung R4 keeps, around the middle
BLUR = 1 / 32  # standard deviation of rung R5's Gaussian, as a share of the image's side: 2 pixels of 64
BANDS = 16  # rings of the radial power spectrum
MIN_GROUPS = 2  # groups of each class that a split needs


@dataclass(frozen=True)
class Sources:
    """Two sets of images, as they came from their files.

    Attributes:
        images: list of (h, w) arrays of any size and number type.
        labels: int (N,): 1 original, 0 synthetic.
        groups: str (N,): patient or generator batch.
        names: str (N,): image_id.
        suffixes: str (N,): `.png`, `.npz`.
        lesions: str (N,): BENIGN, MALIGNANT or "".
    """

    images: list
    labels: np.ndarray
    groups: np.ndarray
    names: np.ndarray
    suffixes: np.ndarray
    lesions: np.ndarray

    def take(self, rows):
        """Return the Sources of some rows (int array)."""
        columns = {name: getattr(self, name)[rows] for name in ("labels", "groups", "names", "suffixes", "lesions")}
        return Sources(images=[self.images[row] for row in rows], **columns)


def load_pair(settings, *, patients=80):
    """Load a pair of sources, original and synthetic images.

    Args:
        settings: config.Settings. Dataset `png-npz` is read as it is; any other has no such pair, and the embedded
            one, written below the run directory where it is missing, takes its place.
        patients: size of the embedded pair.
    Returns:
        datasets.Dataset with task "original".
    """
    if settings.dataset == NAME and settings.data_dir is not None:
        return datasets.load(NAME, settings.data_dir, task="original")
    import phantoms as demo_data

    folder = settings.run_dir / "data/demo-png-npz"
    demo_data.provide_demo_data(folder, layout=NAME, patients=patients, seed=0, progress=False)
    return datasets.load(NAME, folder, task="original")


def read_sources(dataset):
    """Read all images of a Dataset with TASK "original".

    Returns:
        (Sources, list of str): the images that can be read, and one line for each that cannot.
    Raises:
        DataError: fewer than `MIN_GROUPS` patients or generator batches of either kind.
    """
    rows = dataset.manifest[dataset.manifest.split != EXCLUDED].reset_index(drop=True)
    problems = dataset.manifest.exclusion_reason[dataset.manifest.split == EXCLUDED].tolist()

    def read(path):
        try:
            return dataset.read_image(path)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        planes = list(pool.map(read, rows.image_path))
    good = np.array([not isinstance(plane, str) for plane in planes])
    problems += [plane for plane in planes if isinstance(plane, str)]
    rows = rows[good]
    for label, word in enumerate(dataset.class_names):
        groups = rows.patient_id[rows.label == label].nunique()
        if groups < MIN_GROUPS:
            raise DataError(f"{dataset.data_dir}: {groups} patients or batches of {word} images; at least {MIN_GROUPS}")
    sources = Sources(
        images=[plane for plane in planes if not isinstance(plane, str)],
        labels=rows.label.to_numpy(),
        groups=rows.patient_id.to_numpy(dtype=object),
        names=rows.image_id.to_numpy(dtype=object),
        suffixes=np.array([PurePosixPath(path).suffix for path in rows.image_path], dtype=object),
        lesions=(rows.lesion if "lesion" in rows else rows.pathology).to_numpy(dtype=object),
    )
    return sources, problems


def split_groups(labels, groups, *, parts=4, seed=0):
    """Split rows so that no group stands on both sides; stratified by label.

    Args:
        labels, groups: (N,) each.
        parts: one in `parts` of the images becomes test, more where a class has fewer groups.
    Returns:
        (train, test): int arrays of positions, ascending.
    """
    groups = np.asarray(groups).astype(str)
    parts = min(parts, *(len(np.unique(groups[labels == label])) for label in np.unique(labels)))
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return next(folds.split(np.zeros(len(labels)), labels, groups))


def halve_originals(sources, *, seed=0):
    """Return the originals with made-up labels, by patient: the control that must not be separable.

    Returns:
        (rows, labels): positions of the originals, and int 0 or 1 of each, the same for all images of a patient.
    """
    rows = np.flatnonzero(sources.labels == 1)
    patients, codes = np.unique(sources.groups[rows].astype(str), return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(patients)) % 2
    return rows, half[codes]


# --------------------------------------------------------------------- rungs
def iter_rungs(sources, *, size, train, seed=0):
    """Yield (rung, images) from R0 to R5; each rung keeps what the rungs below it did.

    What is matched is matched to targets from the training rows alone: the mean of the two classes' grey-level
    distributions, and the geometric mean of their radial spectra. So both classes move, and none is the reference.

    Args:
        sources: Sources.
        size: pixels, height and width of the result.
        train: int array, rows that targets are taken from.
        seed: decides JPEG qualities and how ties are broken.
    Yields:
        str, float32 (N, size, size): grey levels; on R0 in each file's own scale, from R1 on whole numbers 0–255.
    """
    yield "R0", np.stack([naive_resize(naive_scale(*pair), size) for pair in _with_suffix(sources)])
    planes = [images.to_uint8(plane, "none") for plane in sources.images]
    yield "R1", np.stack([naive_resize(plane, size) for plane in planes]).astype(np.float32)
    resized = _resize_and_compress(planes, size, seed)
    yield "R2", resized
    yield "R3", match_histograms(resized, mean_quantiles(resized, sources.labels, train), seed=seed)
    inner = _resize_and_compress([crop_interior(plane) for plane in planes], size, seed)
    inner = match_histograms(inner, mean_quantiles(inner, sources.labels, train), seed=seed)
    yield "R4", inner
    yield "R5", match_spectra(inner, sources.labels, train, seed=seed)


def make_rung(sources, rung, *, size, train, seed=0):
    """Return the images of one rung; see `iter_rungs`. Raises UsageError for an unknown rung."""
    for name, planes in iter_rungs(sources, size=size, train=train, seed=seed):
        if name == rung:
            return planes
    raise UsageError(f"rung {rung!r} is not one of {', '.join(RUNGS)}")


def _with_suffix(sources):
    return zip(sources.images, sources.suffixes, strict=True)


def naive_scale(plane, suffix):
    """Scale as the source project did: `.png` divided by 255, arrays as they are."""
    return plane.astype(np.float32) / (255 if suffix == ".png" else 1)


def naive_resize(plane, size):
    """Resize by picking neighbours: OpenCV's default, which does not antialias."""
    return cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR)


def _resize_and_compress(planes, size, seed):
    """Resize with antialiasing and pass through a JPEG of random quality, the same for both classes."""
    result = np.empty((len(planes), size, size), np.float32)
    for row, plane in enumerate(planes):
        quality = int(np.random.default_rng((seed, row)).integers(*JPEG_QUALITY, endpoint=True))
        small = images.resize(plane, size, size)
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        result[row] = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return result


def crop_interior(plane):
    """Return the middle of an image: no border, no background beside the breast, no burnt-in text."""
    top, left = (round(side * (1 - INTERIOR) / 2) for side in plane.shape)
    return plane[top : plane.shape[0] - top, left : plane.shape[1] - left]


def mean_quantiles(planes, labels, train):
    """Return the sorted grey levels, float32 (S·S,), that lie halfway between the classes' mean ones."""
    ordered = np.sort(planes[train].reshape(len(train), -1), axis=1)
    return np.mean([ordered[labels[train] == label].mean(axis=0) for label in (0, 1)], axis=0).astype(np.float32)


def match_histograms(planes, quantiles, *, seed=0, whole=True):
    """Give every image exactly the same grey levels (exact histogram specification); ties are broken at random.

    Args:
        planes: float32 (N, S, S).
        quantiles: float32 (S·S,), ascending.
        whole: round to whole grey levels.
    Returns:
        float32 (N, S, S)
    """
    generator = np.random.default_rng(seed)
    levels = np.rint(quantiles) if whole else quantiles
    matched = np.empty(planes.shape, np.float32)
    for row, plane in enumerate(planes):
        order = np.argsort(plane.ravel() + generator.uniform(0, 1e-2, plane.size), kind="stable")
        matched[row].ravel()[order] = levels
    return matched


def match_spectra(planes, labels, train, *, seed=0):
    """Blur, then give all images the same radial power spectrum, keeping phases and grey-level distribution.

    Each ring of frequencies is scaled to the geometric mean of the two classes' power there. Histograms are matched
    before and after it, since blurring and scaling change them.

    Args:
        planes: float32 (N, S, S).
        labels: int (N,); train: int array, rows that targets are taken from.
    Returns:
        float32 (N, S, S), whole numbers.
    """
    sigma = BLUR * planes.shape[1]
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in planes])
    quantiles = mean_quantiles(blurred, labels, train)
    blurred = match_histograms(blurred, quantiles, seed=seed, whole=False)
    power = ring_power(blurred)
    logs = np.log(power[train] + 1e-6)
    target = np.exp(np.mean([logs[labels[train] == label].mean(axis=0) for label in (0, 1)], axis=0))
    gains = np.sqrt(target / (power + 1e-9))
    rings = _rings(planes.shape[1])
    means = blurred.mean(axis=(1, 2), keepdims=True)
    scaled = np.fft.ifft2(np.fft.fft2(blurred - means) * gains[:, rings]).real + means
    return match_histograms(scaled.astype(np.float32), quantiles, seed=seed + 1)


def align_amplitudes(planes, labels, *, band=0.05, seed=0):
    """Give every image the low-frequency amplitudes of a random image of the other class: Fourier domain adaptation.

    Yang & Soatto, CVPR 2020. Phases, which carry the shapes, stay.

    Args:
        planes: float32 (N, S, S).
        labels: int (N,).
        band: half the width of the square of frequencies that is exchanged, as a share of S.
    Returns:
        float32 (N, S, S), clipped to 0–255.
    """
    generator = np.random.default_rng(seed)
    size = planes.shape[1]
    spectra = np.fft.fft2(planes)
    amplitudes = np.abs(spectra)
    frequencies = np.abs(np.fft.fftfreq(size))
    low = np.maximum.outer(frequencies, frequencies) <= band
    partners = np.empty(len(planes), int)
    for label in (0, 1):
        partners[labels == label] = generator.choice(np.flatnonzero(labels != label), np.sum(labels == label))
    mixed = np.where(low, amplitudes[partners], amplitudes)
    aligned = np.fft.ifft2(mixed * np.exp(1j * np.angle(spectra))).real
    return np.clip(aligned, 0, 255).astype(np.float32)


# ---------------------------------------------------------------------- cues
def _rings(size):
    """Return the ring number of each frequency, int (size, size): its distance from zero, rounded."""
    frequencies = np.fft.fftfreq(size, 1 / size)
    return np.rint(np.hypot(*np.meshgrid(frequencies, frequencies))).astype(int)


def ring_power(planes):
    """Return the mean power of each ring of frequencies, float64 (N, rings), under a Hann window, mean removed."""
    size = planes.shape[1]
    rings, window = _rings(size).ravel(), np.outer(np.hanning(size), np.hanning(size))
    members = np.bincount(rings)
    power = np.empty((len(planes), len(members)))
    for row, plane in enumerate(planes):
        spectrum = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
        power[row] = np.bincount(rings, spectrum.ravel()) / members
    return power


def radial_power_spectrum(planes):
    """Return log10 power in `BANDS` bands from the lowest frequency to the Nyquist frequency.

    Args:
        planes: float32 (N, S, S).
    Returns:
        (frequencies, power): cycles per pixel (BANDS,), float64 (N, BANDS).
    """
    size = planes.shape[1]
    power = ring_power(planes)[:, 1 : size // 2 + 1]
    parts = np.array_split(np.arange(power.shape[1]), min(BANDS, power.shape[1]))
    bands = np.stack([power[:, part].mean(axis=1) for part in parts], axis=1)
    return np.array([(part.mean() + 1) / size for part in parts]), np.log10(bands + 1e-3)


def laplacian_variance(planes):
    """Return the variance of each image's Laplacian, float64 (N,): how much fine detail there is."""
    return np.array([cv2.Laplacian(plane, cv2.CV_32F).var(dtype=np.float64) for plane in planes.astype(np.float32)])


def measure_cues(planes, sources, rung):
    """Measure what a rung leaves to see without looking at anatomy.

    Args:
        planes: float32 (N, S, S), the rung's images.
        sources: Sources of the same rows: type of container, size of the file's image, and whether that is the
            commonest size. From R1 on there is one container, from R2 on one size, and the cue is a constant.
        rung: its name.
    Returns:
        dict: name of a probe -> float (N, k).
    """
    reached = list(RUNGS).index(rung)
    shapes = np.array([plane.shape for plane in sources.images], float)
    _, kind, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    commonest = kind.ravel() == counts.argmax()  # "exactly 128 x 128?" is no question of larger or smaller
    shapes = np.column_stack([shapes, commonest])
    cues = {
        "container": (sources.suffixes == ".png").astype(float) * (reached < 1),
        "size": shapes if reached < 2 else np.zeros_like(shapes),
        "mean": planes.mean(axis=(1, 2), dtype=np.float64),
        "std": planes.std(axis=(1, 2), dtype=np.float64),
        "min": planes.min(axis=(1, 2)),
        "max": planes.max(axis=(1, 2)),
        "zeros": (planes == 0).mean(axis=(1, 2)),
        "compressed_bytes": _png_bytes(planes),
        "laplacian": np.log10(laplacian_variance(planes) + 1e-6),
        "spectrum": radial_power_spectrum(planes)[1],
    }
    # rounded: equal histograms, summed in another order, must give equal numbers
    cues = {name: np.round(values.reshape(len(planes), -1).astype(float), 6) for name, values in cues.items()}
    return {**cues, "all_cues": np.hstack(list(cues.values()))}


def _png_bytes(planes):
    """Return how many bytes each image takes as a PNG: a measure of how regular it is."""
    whole = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    return np.array([len(cv2.imencode(".png", plane)[1]) for plane in whole], float)


def score_probe(cue, labels, train, test):
    """Fit a logistic regression on one cue and score the test rows.

    Args:
        cue: float (N, k); labels: int (N,); train, test: int arrays.
    Returns:
        float (len(test),): log-odds of being original; all 0 where the cue is a constant.
    """
    if not np.ptp(cue[train], axis=0).any():
        return np.zeros(len(test))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return model.fit(cue[train], labels[train]).decision_function(cue[test])


def score_probes(planes, sources, rung, train, test):
    """Score every probe on a rung: {name: float (len(test),)}."""
    cues = measure_cues(planes, sources, rung)
    return {name: score_probe(cue, sources.labels, train, test) for name, cue in cues.items()}


# --------------------------------------------------------------- distribution
def texture_features(planes):
    """Describe each image by the size and spread of its response to a bank of Gabor filters, as logarithms.

    Four orientations, three wavelengths (4, 8, 16 pixels), and the grey levels' mean and spread: a fixed description
    that needs no weights.

    Args:
        planes: float32 (N, S, S), 0–255.
    Returns:
        float64 (N, 26)
    """
    kernels = [
        cv2.getGaborKernel((2 * wave + 1, 2 * wave + 1), wave / 2, angle, wave, 1.0, 0)
        for wave in (4, 8, 16)
        for angle in np.pi * np.arange(4) / 4
    ]
    kernels = [(kernel - kernel.mean()) / np.abs(kernel).sum() for kernel in kernels]
    features = np.empty((len(planes), 2 * len(kernels) + 2))
    for row, plane in enumerate(planes.astype(np.float32)):
        responses = [np.abs(cv2.filter2D(plane, cv2.CV_32F, kernel)) for kernel in kernels]
        features[row] = [plane.mean(), plane.std(), *(part.mean() for part in responses), *(r.std() for r in responses)]
    return np.log(features + 0.1)


def kernel_distance(features, labels, *, subsets=50, subset_size=100, seed=0):
    """Return the kernel distance of two sets of images: unbiased squared MMD, kernel (x·y/d + 1)³.

    Bińkowski et al., ICLR 2018 (KID), over standardised `texture_features` instead of an Inception network's, so it
    compares with other values of this function only. 0 where both sets come from one distribution; can be negative.

    Args:
        features: float (N, d).
        labels: int (N,), 0 or 1.
        subsets, subset_size: average over this many random subsets, each of this many images a class or half of them.
    Returns:
        (mean, standard deviation over the subsets): float.
    """
    generator = np.random.default_rng(seed)
    spread = features.std(axis=0)
    x = np.clip((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1), -3, 3)  # cubes amplify outliers
    parts = [x[labels == label] for label in (0, 1)]
    size = min(subset_size, *(len(part) // 2 for part in parts))
    values = []
    for _ in range(subsets):
        a, b = (part[generator.choice(len(part), size, replace=False)] for part in parts)
        within = [(_cubic(c, c).sum() - np.trace(_cubic(c, c))) / (size * (size - 1)) for c in (a, b)]
        values.append(sum(within) - 2 * _cubic(a, b).mean())
    return float(np.mean(values)), float(np.std(values))


def _cubic(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


# ----------------------------------------------------------------------- CNN
def make_cnn_trainer(
    name="synthetic_cnn", *, size, epochs, batch_size=32, learning_rate=1e-3, optimizer="adam", views=(0,)
):
    """Build a network once and return a function that trains it from its first weights and scores held-out rows.

    One compiled network serves all rungs: same architecture, same first weights, same number of steps.

    Args:
        name: one of `models.NAMES` that needs no weights.
        size: pixels.
        epochs, batch_size, learning_rate: of every training; the rate falls as a cosine from epoch to epoch.
        optimizer: "adam", "adamw", "rmsprop" or "sgd" (with momentum 0.9).
        views: turned and flipped views that training draws from, see `input_pipeline.make_dataset`.
    Returns:
        function (images float32 (N, S, S), labels int (N,), train, test, *, seed=0) -> float64 (len(test),),
        probability of class 1.
    Raises:
        UsageError: an unknown network or optimizer.
    """
    from shared.models import input_pipeline
    from shared.models import networks as models
    from shared.models.backend import keras

    model = models.build(name, image_size=size)
    makers = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    }
    if optimizer not in makers:
        raise UsageError(f"optimizer {optimizer!r} is not one of {', '.join(makers)}")
    model.compile(optimizer=makers[optimizer](learning_rate), loss="binary_crossentropy", jit_compile=False)
    model.optimizer.build(model.trainable_variables)  # as in training: else the first step is traced twice
    model.optimizer.build(model.trainable_variables)
    # small last steps, or the batch normalisation's averages lag behind the weights
    decay = keras.callbacks.LearningRateScheduler(
        lambda epoch: learning_rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
    )
    # weights, the dropout's random state, and the optimiser's moments
    first_state = [(variable, variable.numpy()) for variable in (*model.variables, *model.optimizer.variables)]

    def train_and_score(planes, labels, train, test, *, seed=0):
        keras.utils.set_random_seed(seed)
        for variable, value in first_state:
            variable.assign(value)
        batches = input_pipeline.make_dataset(
            planes, labels, train, batch_size=batch_size, shuffle=True, balanced=True, seed=seed, views=views
        )
        model.fit(batches, epochs=epochs, callbacks=[decay], shuffle=False, verbose=0)  # the pipeline shuffles
        return _forward(model, planes, test)

    return train_and_score


def _forward(model, planes, rows):
    """Return float64 (len(rows),): called directly, since `predict` would be traced anew for every small network."""
    parts = np.array_split(rows, -(-len(rows) // 128))
    return np.concatenate([np.asarray(model(planes[part][..., None], training=False))[:, 0] for part in parts]).astype(
        float
    )


def score_transfer(planes, sources):
    """Tell malignant from benign in originals by a model that was trained on synthetic images alone.

    A logistic regression on `texture_features`. Synthetic images that are the pair of an original are left out.

    Args:
        planes: float32 (N, S, S); sources: Sources of the same rows.
    Returns:
        (labels, scores, groups) of the originals: 1 malignant; NaN scores where the synthetic files' names do not say
        which are malignant.
    """
    known = np.isin(sources.lesions, ["BENIGN", "MALIGNANT"])
    originals = np.flatnonzero(known & (sources.labels == 1))
    paired = np.isin(sources.groups.astype(str), sources.groups[originals].astype(str))
    generated = np.flatnonzero(known & (sources.labels == 0) & ~paired)
    malignant = (sources.lesions == "MALIGNANT").astype(int)
    scores = np.full(len(originals), np.nan)
    if len(np.unique(malignant[generated])) == 2:
        features = texture_features(planes)
        scores = score_probe(features, malignant, generated, originals)
    return malignant[originals], scores, sources.groups[originals]


def write_class_folders(sources, folder):
    """Write the originals as project A2 has them: `cancer/` and `non_cancer/`, z-score normalised float32 arrays.

    Args:
        sources: Sources; only originals whose lesion is known are written.
        folder: pathlib.Path.
    Returns:
        int: number of files.
    """
    rows = [row for row, lesion in enumerate(sources.lesions) if lesion and sources.labels[row] == 1]
    for row in rows:
        plane = sources.images[row].astype(np.float32)
        plane = (plane - plane.mean()) / (plane.std() or 1)
        name = "cancer" if sources.lesions[row] == "MALIGNANT" else "non_cancer"
        with files.atomic_write(folder / name / f"{sources.names[row]}.npz") as temporary:
            np.savez_compressed(temporary, plane)
    return len(rows)


def score_control(score, planes, sources, *, repeats=6, seed=0):
    """Score originals against originals, the control that must come out at 0.5.

    Each repeat halves the patients anew, trains on three quarters of them and scores the rest; scores become ranks,
    since networks do not share a scale. New halves matter: cross-validating one halving measures how its folds happen
    to differ, and lies below 0.5 more often than above.

    Args:
        score: function (images, labels, train, test, seed=int) -> float (len(test),).
        planes: float32 (N, S, S); sources: Sources of the same rows.
        repeats: number of halvings.
    Returns:
        (labels, scores, groups): (n,) each, all repeats one after the other.
    """
    parts = []
    for number in range(repeats):
        rows, labels = halve_originals(sources, seed=seed + number)
        groups = sources.groups[rows]
        train, test = split_groups(labels, groups, seed=seed + number)
        scores = score(planes[rows], labels, train, test, seed=seed + number)
        parts.append((labels[test], rankdata(scores) / len(test), groups[test]))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


# --------------------------------------------------------------------- ladder
def ladder_row(rung, classifier, labels, scores, groups, *, description=None, draws=1000, seed=0):
    """Return one row of `results/synthetic_ladder.csv`: AUC, interval by patient or batch, permutation p.

    Args:
        rung: "R0" … "R5", or `CONTROL`.
        classifier: "cnn" or a probe's name.
        labels, scores, groups: (n,) of the test rows.
        description: words for the rung; by default those of `RUNGS`.
        draws: bootstrap samples and permutations.
    Returns:
        dict with `LADDER_COLUMNS`.
    """
    interval = metrics.bootstrap_interval(labels, scores, groups, draws=draws, seed=seed)
    # a patient with a synthetic pair holds both classes: then patient and class together exchange their label
    units = pd.Series(groups).astype(str) + "/" + pd.Series(labels).astype(str)
    return {
        "rung": rung,
        "description": description or RUNGS[rung],
        "classifier": classifier,
        "auc": interval.value,
        "auc_low": interval.low,
        "auc_high": interval.high,
        "p_value": metrics.permutation_p_value(labels, scores, draws=draws, seed=seed, groups=units),
    }


def best_probes(ladder):
    """Return the strongest single-cue probe of each rung from a ladder DataFrame (not `all_cues`)."""
    probes = ladder[~ladder.classifier.isin(["cnn", "all_cues"])]
    return probes.loc[probes.groupby("rung", sort=False).auc.idxmax()].reset_index(drop=True)
