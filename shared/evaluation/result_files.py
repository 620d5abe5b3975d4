"""Read and write what `results/` of a run directory holds: predictions, metrics, comparison table."""

from pathlib import Path

import numpy as np
import pandas as pd

from shared.data.manifests import load_manifest, split_key
from shared.run import PREDICTION_COLUMNS, TABLE_COLUMNS, DataError, read_json, write_csv, write_json

TABLE_FILE = "results/model_comparison_table.csv"


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
