"""Score new images with a saved model: its own preprocessing, its own threshold. TensorFlow is loaded on use."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from shared.data import ImageSteps, prepare_image, read_grey
from shared.data.decoding import read_header
from shared.data.images import refuse_blank
from shared.data.readers.common import list_files
from shared.run import DataError, UsageError, check_out, full_path, read_json, refuse_damage, write_csv
from shared.run.settings import LIMITS

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff", ".bmp", ".npz", ".npy")
COLUMNS = ("image", "score", "threshold", "prediction", "problem", "warning")
BATCH = 32
MAX_SIDE = LIMITS["image_size"][1]


@dataclass(frozen=True)
class SavedModel:
    """A row of the comparison table, ready for new images; scores of networks and orientations are averaged."""

    networks: tuple[Any, ...]  # keras.Models, (B, S, S, 1) of 0…255 in
    orientations: tuple[int, ...]  # flips and quarter turns of each image, see `shared.models.orient`
    steps: ImageSteps  # what the images of its training went through
    threshold: float  # a score from here on is called class 1
    class_names: tuple[str, str]  # words for label 0 and 1
    notes: tuple[str, ...]  # what could not be found out and was assumed
    trained_on: dict[str, Any] = field(default_factory=dict)  # dataset, task, input, image_size, weights; {}: not known
    largest_crop: float = float("inf")  # pixels of the largest one in its run's data, where these are crops


def load(model_file: Path | str, *, threshold: float | None = None) -> SavedModel:
    """Load `<run>/models/<name>.keras` with what its run says of it, or raise UsageError or DataError.

    Image steps are those of the run's image store, the class names are the audit's. Where the row of that name
    averages several files (seeds) or orientations, so does the result: the threshold was chosen for that average.
    """
    path = full_path(model_file, "--model", start=Path.cwd())
    networks = [load_network(path)]
    notes = []
    run_dir = path.parent.parent
    size = networks[0].input_shape[1]
    found = (run_dir / "data/images.json", run_dir / f"results/metrics/{path.stem}.json", run_dir / "data/audit.json")
    files = ", ".join(str(file.relative_to(run_dir)) for file in found)
    with refuse_damage(f"{run_dir}: {files}: not as a run writes them", "run it again"):
        store, result, audit = (read_json(file) if file.is_file() else {} for file in found)
        steps = ImageSteps(**{**store.get("steps", {}), "size": size})
        same_size = store.get("steps", {}).get("size") == size
        cut = float(result.get("threshold", 0.5))
        others = [path.with_name(f"{name}.keras") for name in result.get("files", []) if name != path.stem]
        columns = [name for row in audit.get("splits", [])[:1] for name in row]
        trained_on = {**result.get("trained_on", {}), "weights": result.get("weights")}
        largest = float(store.get("largest", "inf")) if trained_on.get("input") == "crop" else float("inf")
        classes = [name for name in columns if name not in ("split", "images", "patients", "prevalence")]
        if not 0 <= cut <= 1:
            raise ValueError(f"threshold {cut}")
    if not same_size:
        notes.append(f"no image store of {size} px beside the model: window {steps.window} and padding are assumed")
    if threshold is None and "threshold" not in result:
        notes.append("no metrics beside the model: threshold 0.5 is assumed")
    networks += [load_network(other) for other in others if other.is_file()]
    notes += [f"{o.name}, which the threshold was chosen with, is not there" for o in others if not o.is_file()]
    words = (classes[0], classes[1]) if len(classes) == 2 else ("class 0", "class 1")
    orientations = tuple(range(8)) if result.get("tta") else (0,)
    chosen = cut if threshold is None else threshold
    return SavedModel(tuple(networks), orientations, steps, chosen, words, tuple(notes), trained_on, largest)


def describe(model: SavedModel) -> str:
    """Return one line that says what a model was trained on."""
    known = model.trained_on
    if "task" not in known:
        return "the model was trained on: not known, its run says nothing of it"
    size, kind = known["image_size"], {"crop": "crops", "full": "whole mammograms"}.get(known["input"], known["input"])
    words = f"task {known['task']} ({' or '.join(model.class_names)}), weights {known['weights'] or 'none'}"
    return f"the model was trained on: {known['dataset']}, {kind} of {size} px, {words}"


def parse_box(text: str) -> tuple[int, int, int, int]:
    """Turn `--box x,y,w,h` into four numbers: left, top, width, height in pixels; UsageError where it is no box."""
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        x = y = width = height = -1
    if min(x, y) < 0 or min(width, height) < 1:
        raise UsageError(f"--box {text}: not x,y,w,h in pixels, the lesion's left, top, width and height")
    return x, y, width, height


def load_network(path: Path) -> Any:
    """Load one network, (B, S, S, 1) in and probabilities out; UsageError or DataError where the file holds none."""
    from shared.models import load_model, predict

    if not path.is_file():
        raise UsageError(f"--model {path}: no such file; notebooks save models as models/<name>.keras of the run")
    network = load_model(path)
    with refuse_damage(f"--model {path}: cannot be run", "save it again, or train it again"):  # e.g. it is not built
        given, result = network.input_shape, network.output_shape
        known = len(given) == 4 and 0 < given[1] <= MAX_SIDE and given[1:] == (given[1], given[1], 1)
        if not known or result[1:] not in ((1,), (4,)):
            raise UsageError(f"--model {path}: {given} to {result}, not one grey square to one probability")
        try:
            predict(network, np.zeros((1, given[1], given[1]), np.uint8), [0])
        except DataError as error:
            raise DataError(f"--model {path}: {error}") from None
    return network


def find_images(places: Iterable[Path | str]) -> list[Path]:
    """List image files: those named, and all below folders that are named, each once; UsageError for none."""
    found: list[Path] = []
    for place in map(Path, places):
        whole = full_path(place, "image", start=Path.cwd())
        if not whole.is_dir() and not whole.is_file():
            raise UsageError(f"{place}: no such file or folder")
        found += [place / name for name in list_files(place, *SUFFIXES)] if whole.is_dir() else [place]
    if not found:
        raise UsageError(f"{', '.join(map(str, places))}: no images ({', '.join(SUFFIXES)}) there")
    return list(dict.fromkeys(found))


def score_files(model: SavedModel, paths: list[Path], *, box: tuple[int, int, int, int] | None = None) -> pd.DataFrame:
    """Score image files, or a box cut from each, batch by batch: `COLUMNS`.

    A file that cannot be read has no score and a problem; one larger than what the model was trained on, a warning.
    """
    from shared.models import predict

    options = {"orientations": model.orientations}
    rows = []
    with Parallel(n_jobs=2, prefer="threads") as parallel, tqdm(total=len(paths), disable=None) as bar:
        for start in range(0, len(paths), BATCH):
            group = paths[start : start + BATCH]
            prepared = parallel(delayed(read_image)(path, model, box) for path in group)
            good = [image for image, _, _ in prepared if image is not None]
            each = [predict(net, np.stack(good), range(len(good)), **options) for net in model.networks if good]
            scores = iter(np.mean(each, axis=0) if good else ())
            for path, (image, problem, warning) in zip(group, prepared, strict=True):
                score = float("nan") if image is None else float(next(scores))
                problem = problem or ("" if np.isfinite(score) else f"{path.name}: the model gives no number for it")
                word = "" if problem else model.class_names[int(score >= model.threshold)]
                rows.append((str(path), float("nan") if problem else score, model.threshold, word, problem, warning))
            bar.update(len(group))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read_image(
    path: Path, model: SavedModel, box: tuple[int, int, int, int] | None = None
) -> tuple[np.ndarray | None, str, str]:
    """Return an image as the image store has it, uint8 (S, S), or None; what is wrong with the file; a warning."""
    try:
        if box:
            return prepare_image(cut_box(read_grey(path), box, path.name), model.steps), "", ""
        image = read_grey(path, min_side=model.steps.size * (2 if model.steps.breast_crop else 1))
        refuse_blank(image, path.name)
        height, width = image.shape if path.suffix.lower() in (".npy", ".npz") else read_header(path)[1:]
        larger = f"{width} × {height} pixels, larger than any crop that the model was trained on"
        warning = f"{larger}: a whole mammogram? --box cuts the lesion" if height * width > model.largest_crop else ""
        return prepare_image(image, model.steps), "", warning
    except DataError as error:
        return None, str(error), ""


def cut_box(image: np.ndarray, box: tuple[int, int, int, int], name: str) -> np.ndarray:
    """Return the part of an image (H, W) in a box of `parse_box`; DataError where it sticks out or shows nothing."""
    x, y, width, height = box
    place = f"{name}: --box {','.join(map(str, box))}"
    if x + width > image.shape[1] or y + height > image.shape[0]:
        raise DataError(f"{place} is not inside its {image.shape[1]} × {image.shape[0]} pixels")
    part = image[y : y + height, x : x + width]
    refuse_blank(part, place)
    return part


def run(
    model_file: Path | str,
    places: Iterable[Path | str],
    *,
    out: Path | str | None = None,
    threshold: float | None = None,
    box: str | None = None,
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Score files and folders with a saved model; write the CSV file `out`, or print. DataError where none is read.

    `box` is x,y,w,h in pixels, cut from each image.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold}: not between 0 and 1")
    place = None if box is None else parse_box(box)
    target = None if out is None else check_out(out)
    paths = find_images(places)
    model = load(model_file, threshold=threshold)
    echo(describe(model))
    for note in model.notes:
        echo(f"note: {note}")
    try:
        result = score_files(model, paths, box=place)
    except DataError as error:  # what the network gives
        raise DataError(f"--model {model_file}: {error}") from None
    failed = result[result.problem != ""]
    if len(failed) == len(result):
        raise DataError(f"none of {len(result)} images has a score, e.g. {failed.problem.iloc[0]}")
    if target is None:
        echo(result.to_string(index=False, float_format="%.4f", na_rep=""))
    else:
        write_csv(target, result)
        for row in failed.itertuples():
            echo(f"left out: {row.problem}")
        for row in result[result.warning != ""].itertuples():
            echo(f"warning: {row.image}: {row.warning}")
        echo(f"{len(result) - len(failed)} of {len(result)} images scored: {target}")
    echo("For research and teaching only, not for clinical use.")
    return result
