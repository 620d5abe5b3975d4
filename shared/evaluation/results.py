"""Read and write what `results/` of a run directory holds: predictions, metrics, comparison table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.data import load_manifest, split_key
from shared.run import BASELINES, PREDICTION_COLUMNS, TABLE_COLUMNS, DataError, plain_words, read_json, write_csv

TABLE_FILE = "results/model_comparison_table.csv"


def save_predictions(run_dir: Path, model: str, manifest: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Write `results/predictions/<model>.csv` for those rows of `manifest` that have a score.

    Returns DataFrame with `PREDICTION_COLUMNS`, as others will read it: ten digits make ties of near ties.
    """
    if np.shape(scores) != (len(manifest),):
        raise ValueError(f"{model}: {np.shape(scores)} scores for {len(manifest)} rows")
    scored = manifest.assign(score=scores)[np.isfinite(scores)]
    if ((scored.score < 0) | (scored.score > 1)).any():
        raise ValueError(f"{model}: a score lies outside [0, 1]; scores are probabilities of class 1")
    write_csv(run_dir / f"results/predictions/{model}.csv", scored[list(PREDICTION_COLUMNS)])
    return load_predictions(run_dir, model)


def load_predictions(run_dir: Path, model: str) -> pd.DataFrame:
    """Read the scores of `model`; FileNotFoundError or DataError names a file that is missing or unusable."""
    path = run_dir / f"results/predictions/{model}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the notebook that trains {model!r} first")
    words = dict.fromkeys(("image_id", "patient_id", "side", "lesion", "split"), str)
    frame = plain_words(pd.read_csv(path, dtype=words, keep_default_na=False))
    missing = [column for column in PREDICTION_COLUMNS if column not in frame]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; delete the file and run its notebook again")
    return frame.astype({"label": int, "fold": int, "score": float})


def load_results(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Read `results/metrics/*.json` as {model: what `evaluate` returned}, in the order of the file names.

    Results of an earlier split or another data set stay on disk and out of every table, as do those that the run's
    record calls stale. DataError where a file is not what `evaluate` writes.
    """
    record = run_dir / "run.json"
    found = {}
    key = split_key(load_manifest(run_dir))
    stale = read_json(record).get("stale", {}) if record.exists() else {}
    for path in sorted((run_dir / "results/metrics").glob("*.json")):
        metrics = read_json(path)
        if not is_result(metrics, path.stem):
            raise DataError(f"{path}: not the metrics of a model of this run; delete it and run its notebook again")
        if metrics.get("split_key") == key and path.relative_to(run_dir).as_posix() not in stale:
            found[path.stem] = metrics
    return found


def is_result(metrics: Any, name: str) -> bool:
    """Tell whether a metrics file holds what `evaluate` writes of the model `name`; None stands for no number."""
    if not isinstance(metrics, dict) or not set(TABLE_COLUMNS) <= set(metrics) or metrics["model"] != name:
        return False
    files, inputs = (metrics.get(key, []) for key in ("files", "inputs"))
    if not isinstance(files, list) or not isinstance(inputs, list):
        return False
    plain = all(isinstance(file, str) and Path(file).name == file for file in files)
    needed = [metrics[column] for column in ("auc", "val_auc", "threshold")]
    others = [metrics[column] for column in TABLE_COLUMNS[3:] if metrics[column] is not None]
    return plain and all(type(number) in (int, float) for number in needed + others)


def renew_table(run_dir: Path) -> pd.DataFrame:
    """Write `results/model_comparison_table.csv` from the metrics files, ordered by test AUC, and return it."""
    rows = [{column: metrics[column] for column in TABLE_COLUMNS} for metrics in load_results(run_dir).values()]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    table = table.sort_values(["auc", "model"], ascending=[False, True], kind="stable").reset_index(drop=True)
    write_csv(run_dir / TABLE_FILE, table)
    return table


def load_table(run_dir: Path) -> pd.DataFrame:
    """Read the comparison table; empty, with its columns, where there is none yet."""
    path = run_dir / TABLE_FILE
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(TABLE_COLUMNS))


def choose_image_model(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the image model with the highest validation AUC, or None where there is none."""
    return max(image_models(results), key=lambda name: results[name]["val_auc"], default=None)


def image_models(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the models that read images alone: no baselines, none given more (`inputs` in their metrics)."""
    return [name for name in results if name not in BASELINES and set(results[name].get("inputs", ())) <= {"image"}]
