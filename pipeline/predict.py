"""Score new images with a saved model: its own preprocessing, its own threshold. TensorFlow is loaded on use."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from shared.data import images
from shared.run import DataError, UsageError, files
from shared.run.native_output import quiet_native_output

SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff", ".bmp", ".npz", ".npy")
COLUMNS = ("image", "score", "threshold", "prediction", "problem")
BATCH = 32


@dataclass(frozen=True)
class SavedModel:
    """A row of the comparison table, ready for new images.

    Attributes:
        networks: keras.Models, (B, S, S, 1) of 0…255 in; their scores are averaged.
        views: turned and flipped copies of each image whose scores are averaged, see `input_pipeline.turn`.
        steps: images.ImageSteps that its training images went through.
        threshold: a score from here on is called class 1.
        class_names: words for label 0 and 1.
        notes: what could not be found out and was assumed.
    """

    networks: tuple
    views: tuple[int, ...]
    steps: images.ImageSteps
    threshold: float
    class_names: tuple[str, str]
    notes: tuple[str, ...]


def load(path, *, threshold=None):
    """Load `<run>/models/<name>.keras` with what its run says of it.

    Image steps are those of the run's image store, the threshold is the one that validation chose, the class names
    are the audit's. Where the row of that name averages several files (seeds) or turned copies of each image, so does
    the result: the threshold was chosen for that average. Loaded in Keras' safe mode: a file that carries code is
    refused.

    Args:
        path: the `.keras` file.
        threshold: float in [0, 1] to use instead of the run's.
    Returns:
        SavedModel
    Raises:
        UsageError: no such file, no Keras model, or one with code in it.
    """
    path = Path(path)
    networks = [_load_network(path)]
    run_dir, notes = path.resolve().parent.parent, []
    size = networks[0].input_shape[1]
    store, result, audit = (
        _read(run_dir / name) for name in ("data/images.json", f"results/metrics/{path.stem}.json", "data/audit.json")
    )
    steps = images.ImageSteps(**{**store.get("steps", {}), "size": size})
    if store.get("steps", {}).get("size") != size:
        notes.append(f"no image store of {size} px beside the model: window {steps.window} and padding are assumed")
    if threshold is None and "threshold" not in result:
        notes.append("no metrics beside the model: threshold 0.5 is assumed")
    threshold = result.get("threshold", 0.5) if threshold is None else threshold
    for name in result.get("files", []):
        other = path.with_name(f"{name}.keras")
        if name != path.stem and other.is_file():
            networks.append(_load_network(other))
        elif name != path.stem:
            notes.append(f"{other.name}, which the threshold was chosen with, is not there")
    views = tuple(range(8)) if result.get("tta") else (0,)
    return SavedModel(tuple(networks), views, steps, float(threshold), _class_names(audit), tuple(notes))


def _load_network(path):
    if not path.is_file():
        raise UsageError(f"--model {path}: no such file; notebooks save models as models/<name>.keras of the run")
    from shared.models.backend import keras

    try:
        with quiet_native_output():  # looks for a GPU, and says so where there is none
            network = keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        if "lambda" in reason.lower() or "unsafe" in reason.lower():
            raise UsageError(f"--model {path}: carries code of its own (a Lambda layer) and is refused") from None
        raise UsageError(f"--model {path}: not a Keras model ({reason[:160]})") from None
    shape = network.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] is None or shape[1] != shape[2] or shape[3] != 1:
        raise UsageError(f"--model {path}: takes {shape}, not one grey square; it is not a model of this project")
    return network


def _read(path):
    return files.read_json(path) if path.is_file() else {}


def _class_names(audit):
    fixed = ("split", "images", "patients", "prevalence")
    names = [name for row in audit.get("splits", [])[:1] for name in row if name not in fixed]
    return tuple(names) if len(names) == 2 else ("class 0", "class 1")


def find_images(places):
    """List image files: those named, and all below folders that are named, sorted, each once.

    Raises:
        UsageError: a place that is not there, or no image at all.
    """
    found = []
    for place in map(Path, places):
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        elif place.is_file():
            found.append(place)
        else:
            raise UsageError(f"{place}: no such file or folder")
    if not found:
        raise UsageError(f"{', '.join(map(str, places))}: no images ({', '.join(SUFFIXES)}) there")
    return list(dict.fromkeys(found))


def score_files(model, paths, *, n_jobs=2, progress=False):
    """Score image files; memory does not grow with their number.

    Args:
        model: SavedModel.
        paths: files of any type that `images.read_grey` reads.
        n_jobs: threads that read.
        progress: show a bar.
    Returns:
        DataFrame with `COLUMNS`, one row a path, in order. A file that cannot be read has no score and says why in
        `problem`.
    """
    rows = []
    with (
        Parallel(n_jobs=n_jobs, prefer="threads") as parallel,
        tqdm(total=len(paths), unit="image", disable=not progress) as bar,
    ):
        for start in range(0, len(paths), BATCH):
            group = paths[start : start + BATCH]
            prepared = parallel(delayed(_prepare)(path, model.steps) for path in group)
            good = [image for image, _ in prepared if image is not None]
            scores = iter(_average_scores(model, np.stack(good)) if good else ())
            for path, (image, problem) in zip(group, prepared, strict=True):
                score = np.nan if image is None else float(next(scores))
                rows.append((str(path), score, model.threshold, _word(model, score), problem))
            bar.update(len(group))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def score_arrays(network, batch, views=(0,)):
    """Return a network's probability of class 1, float64 (B,), of uint8 (B, S, S), averaged over views."""
    from shared.models import input_pipeline

    rows = np.repeat(np.arange(len(batch)), len(views))
    turned = input_pipeline.read_images(batch, rows, np.tile(views, len(batch)))
    return positive_share(network.predict_on_batch(turned)).reshape(len(batch), -1).mean(axis=1)


def positive_share(outputs):
    """Turn a network's outputs (B, classes) into the probability of class 1: of four subtypes, the malignant two."""
    outputs = np.asarray(outputs, dtype=np.float64)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, outputs.shape[1] // 2 :].sum(axis=1)


def _average_scores(model, batch):
    return np.mean([score_arrays(network, batch, model.views) for network in model.networks], axis=0)


def _prepare(path, steps):
    try:
        image = images.read_grey(path, min_side=steps.size * (2 if steps.breast_crop else 1))  # as the image store does
        return images.prepare_image(image, steps), ""
    except DataError as error:
        return None, str(error)


def _word(model, score):
    return "" if np.isnan(score) else model.class_names[int(score >= model.threshold)]


def run(model_file, places, *, out=None, threshold=None, echo=print, progress=False):
    """Score files and folders with a saved model, and write or print the result.

    Args:
        model_file: `.keras` file.
        places: files and folders.
        out: CSV to write; None prints the table.
        threshold: instead of the model's own.
        say: called with each line for the user.
    Returns:
        DataFrame with `COLUMNS`.
    Raises:
        UsageError, DataError: nothing could be scored.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold}: not between 0 and 1")
    paths = find_images(places)
    model = load(model_file, threshold=threshold)
    for note in model.notes:
        echo(f"note: {note}")
    result = score_files(model, paths, progress=progress)
    failed = result[result.problem != ""]
    if len(failed) == len(result):
        raise DataError(f"none of {len(result)} images could be read, e.g. {failed.problem.iloc[0]}")
    if out is None:
        echo(result.to_string(index=False, float_format="%.4f", na_rep=""))
    else:
        files.write_csv(out, result)
        for row in failed.itertuples():
            echo(f"left out: {row.problem}")
        echo(f"{len(result) - len(failed)} of {len(result)} images scored: {out}")
    echo("For research and teaching only, not for clinical use.")
    return result
