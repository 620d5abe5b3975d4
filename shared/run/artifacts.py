"""Read and write what a run directory holds. Every file is written under a temporary name and then renamed."""

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from shared.run.schema import MANIFEST_COLUMNS, PREDICTION_COLUMNS, TABLE_COLUMNS, DataError

TABLE_FILE = "results/model_comparison_table.csv"


@contextmanager
def whole_file(path):
    """Give a temporary path beside `path` and rename it to `path` once the block has ended well.

    A reader, or a run that is killed, therefore never meets half a file. The temporary name keeps the last two
    suffixes, because Keras wants `.weights.h5`.

    Args:
        path: the file to write; its folder is made.
    Yields:
        pathlib.Path: where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` (str) as UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write `content` as indented JSON; NumPy scalars and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")


def write_csv(path, frame):
    """Write a DataFrame without its index; floats with up to ten significant digits, line ends "\\n"."""
    with whole_file(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def write_array(path, array):
    """Write a NumPy array as `.npy`, never pickled."""
    with whole_file(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def read_json(path):
    """Read a JSON file; raises FileNotFoundError, or DataError where it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value


# ------------------------------------------------------------------ manifest
def save_manifest(run_dir, manifest):
    """Write `data/manifest.csv` with the columns of `schema.MANIFEST_COLUMNS` first."""
    extra = [column for column in manifest.columns if column not in MANIFEST_COLUMNS]
    write_csv(Path(run_dir) / "data/manifest.csv", manifest[[*MANIFEST_COLUMNS, *extra]])


def load_manifest(run_dir):
    """Read `data/manifest.csv`; words stay words (empty, not NaN), `label` and `fold` are integers.

    Row i belongs to `data/images.npy[i]`.
    """
    path = Path(run_dir) / "data/manifest.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run notebook 01, or preparation.prepare(settings), first")
    manifest = pd.read_csv(path, dtype=str, keep_default_na=False)
    return manifest.astype({column: int for column in ("label", "fold", "subtype") if column in manifest})


def split_key(manifest):
    """Return a short hash of images, labels and splits: scores with different keys must not be compared."""
    text = manifest[["image_id", "label", "split"]].to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --------------------------------------------------------------- predictions
def predictions_path(run_dir, model):
    """Where the scores of `model` lie."""
    return Path(run_dir) / f"results/predictions/{model}.csv"


def save_predictions(run_dir, model, manifest, scores):
    """Write `results/predictions/<model>.csv` for those rows of `manifest` that have a score.

    Args:
        manifest: DataFrame with the manifest's columns.
        scores: float (len(manifest),), probability of class 1 in [0, 1]; NaN where there is none.
    Returns:
        DataFrame with `schema.PREDICTION_COLUMNS`.
    Raises:
        ValueError: a score outside [0, 1], or another number of scores than rows.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.shape != (len(manifest),):
        raise ValueError(f"{model}: {scores.shape} scores for {len(manifest)} rows")
    scored = manifest.assign(score=scores)[np.isfinite(scores)]
    if ((scored.score < 0) | (scored.score > 1)).any():
        raise ValueError(f"{model}: a score lies outside [0, 1]; scores are probabilities of class 1")
    scored = scored[list(PREDICTION_COLUMNS)].reset_index(drop=True)
    write_csv(predictions_path(run_dir, model), scored)
    return load_predictions(run_dir, model)  # as others will read them: ten digits make ties of near ties


def load_predictions(run_dir, model):
    """Read the scores of `model`; raises FileNotFoundError that names the file."""
    path = predictions_path(run_dir, model)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the notebook that trains {model!r} first")
    frame = pd.read_csv(
        path, dtype={"image_id": str, "patient_id": str, "side": str, "split": str}, keep_default_na=False
    )
    missing = [column for column in PREDICTION_COLUMNS if column not in frame]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; delete the file and run its notebook again")
    return frame.astype({"label": int, "fold": int, "score": float})


# ------------------------------------------------------------ metrics, table
def save_metrics(run_dir, model, metrics):
    """Write `results/metrics/<model>.json` and renew the comparison table from all such files.

    Args:
        metrics: dict with at least `schema.TABLE_COLUMNS`.
    Returns:
        DataFrame: the renewed table.
    """
    missing = [column for column in TABLE_COLUMNS if column not in metrics]
    if missing:
        raise ValueError(f"metrics of {model!r} lack {', '.join(missing)}")
    write_json(Path(run_dir) / f"results/metrics/{model}.json", metrics)
    return renew_table(run_dir)


def load_metrics(run_dir):
    """Read `results/metrics/*.json` as {model: dict}, in the order of the file names.

    Only those of the split that the manifest in the run directory has: results of an earlier split or another data
    set stay on disk and out of every table.
    """
    results = {path.stem: read_json(path) for path in sorted((Path(run_dir) / "results/metrics").glob("*.json"))}
    key = split_key(load_manifest(run_dir))
    return {model: metrics for model, metrics in results.items() if metrics.get("split_key") == key}


def renew_table(run_dir):
    """Write `results/model_comparison_table.csv` from the metrics files, ordered by test AUC, and return it."""
    rows = [{column: metrics[column] for column in TABLE_COLUMNS} for metrics in load_metrics(run_dir).values()]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    table = table.sort_values(["auc", "model"], ascending=[False, True], kind="stable").reset_index(drop=True)
    write_csv(Path(run_dir) / TABLE_FILE, table)
    return table


def load_table(run_dir):
    """Read the comparison table; empty, with its columns, where there is none yet."""
    path = Path(run_dir) / TABLE_FILE
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(TABLE_COLUMNS))
