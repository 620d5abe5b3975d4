"""Score a model the one way the series does it, and the baselines that every score stands beside."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shared.data import Prepared, make_logistic, split_key
from shared.evaluation import calibration, intervals, metrics, results
from shared.evaluation.points import YOUDEN, operating_points
from shared.run import TEST, TRAIN, VALIDATION, write_json

RARE = 0.1  # share of class 1 below which AUC alone flatters: most of what is called positive is not
WORDS = {"birads": ("birads",), "descriptors": ("shape", "margins", "calc_type", "calc_distribution")}


def evaluate(
    prepared: Prepared,
    name: str,
    scores: np.ndarray,
    *,
    weights: str = "",
    train_seconds: float = 0.0,
    parameters: int = 0,
    splits: Sequence[str] = (VALIDATION, TEST),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score one model and write its predictions, its metrics and its row of the comparison table.

    The threshold is the one that does best by Youden's index on validation, or on all out-of-fold scores where there
    are any; 0.5 where these are all equal. Nothing is chosen on test. Intervals are 95 %, bootstrap over patients; for
    sensitivity and specificity the patients of validation, and so the threshold, are drawn too.

    Args:
        scores: float (N,), probability of class 1 for row i of the manifest; needed for all validation and test images.
        weights: what the training started from, e.g. "random", "imagenet".
        parameters: how many numbers the model has.
        splits: whose scores are kept; those of "train" must be out of fold.
        extra: what else the metrics file should hold.
    Returns `TABLE_COLUMNS` and more, as in `results/metrics/<name>.json`.
    """
    settings, manifest = prepared.settings, prepared.manifest
    kept = np.where(manifest.split.isin(splits), np.asarray(scores, dtype=float), np.nan)
    predictions = results.save_predictions(settings.run_dir, name, manifest, kept)
    validation, test = (predictions[predictions.split == split] for split in (VALIDATION, TEST))
    for split, part in ((VALIDATION, validation), (TEST, test)):
        if len(part) != len(prepared.rows(split)):
            raise ValueError(f"{name}: {len(part)} scores for {len(prepared.rows(split))} {split} images")
    held = predictions[predictions.split != TEST]  # validation, and train where its scores are out of fold
    threshold, rule = 0.5, "0.5: the scores of validation are all equal"
    if held.score.nunique() > 1:
        threshold = metrics.choose_threshold(held.label, held.score)
        rule = f"Youden's index on {'out-of-fold scores' if TRAIN in splits else 'validation'}"
    result = {
        **metrics.summarise(test.label, test.score, threshold=threshold),
        **correct_calibration(held, test, settings.seed),
        **find_intervals(held, test, settings.seed),
        "model": name,
        "dataset": settings.dataset,
        "weights": weights,
        "threshold_rule": rule,
        "n_test": len(test),
        "n_patients": int(test.patient_id.nunique()),
        "val_auc": metrics.auc(validation.label, validation.score),
        "validation": metrics.summarise(validation.label, validation.score, threshold=threshold),
        "train_seconds": round(float(train_seconds), 2),
        "parameters": int(parameters),
        "split_key": split_key(manifest),
        "trained_on": {name: getattr(settings, name) for name in ("dataset", "task", "input", "image_size")},
        "ideal_auc": None if prepared.ideal is None else metrics.auc(test.label, prepared.ideal[prepared.rows(TEST)]),
        **(extra or {}),
    }
    write_json(settings.run_dir / f"results/metrics/{name}.json", result)
    results.renew_table(settings.run_dir)
    return result


def find_intervals(held: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return the AUC by image, lesion and case, and the limits of these, of sensitivity and of specificity."""
    levels = {"auc": test, "lesion_auc": metrics.lesion_table(test), "case_auc": metrics.case_table(test)}
    found: dict[str, float] = {}
    for level, rows in levels.items():
        area = intervals.bootstrap_interval(rows.label, rows.score, rows.patient_id, seed=seed)
        found |= {level: area.value, f"{level}_low": area.low, f"{level}_high": area.high}
    if held.score.nunique() > 1:
        point = operating_points(held, test, seed=seed)[YOUDEN]
        for name, rate in (("sensitivity", point.sensitivity), ("specificity", point.specificity)):
            found |= {f"{name}_low": rate.low, f"{name}_high": rate.high}
    return found


def correct_calibration(held: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, float | str]:
    """Return Brier score and ECE of test, the intercept corrected first where held-out scores clearly ask for it.

    Scores trained with class weights or balanced batches are no probabilities at the true share of class 1.
    """
    name = calibration.choose_calibration(held, seed=seed)
    scores = calibration.METHODS[name](held.label, held.score).apply(test.score)
    figures = metrics.summarise(test.label, scores, threshold=0.5)
    return {"brier": figures["brier"], "ece": figures["ece"], "calibration": name}


def show_results(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a short, readable form of what `evaluate` returns, one row a model, indexed by `model`.

    Where class 1 is rarer than `RARE`, average precision stands in front; what chance reaches of it is the prevalence.
    """

    def precision(row: Mapping[str, Any]) -> dict[str, str]:
        value, chance = row["average_precision"], row["prevalence"]
        return {"average precision (chance)": f"{value:.3f} ({chance:.3f})"} if chance < RARE else {}

    shown = pd.DataFrame(
        {
            "model": row["model"],
            **precision(row),
            "test AUC": f"{row['auc']:.3f} [{row['auc_low']:.3f}, {row['auc_high']:.3f}]",
            "case AUC": f"{row['case_auc']:.3f}",
            "validation AUC": f"{row['val_auc']:.3f}",
            "sensitivity": with_limits(row, "sensitivity"),
            "specificity": with_limits(row, "specificity"),
            "balanced accuracy": f"{row['balanced_accuracy']:.2f}",
            "seconds": f"{row['train_seconds']:.0f}",
        }
        for row in rows
    )
    return shown.set_index("model")


def with_limits(row: Mapping[str, Any], measure: str) -> str:
    """Write a share of a row with its interval, where it has one: `0.63 [0.46, 0.77]`."""
    limits = f" [{row[f'{measure}_low']:.2f}, {row[f'{measure}_high']:.2f}]" if f"{measure}_low" in row else ""
    return f"{row[measure]:.2f}{limits}"


def score_baselines(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Score what needs no image model: each a row of the table like any other.

    `majority` gives every image the share of class 1 in train. `mean_intensity` is a logistic regression on the mean
    of the file's own pixels. `birads` is one on the radiologist's assessment of the same images, `descriptors` one on
    the radiologist's words (shape, margins, type, distribution); these two only where the source has them.
    """
    manifest = prepared.manifest
    train = prepared.rows(TRAIN)
    found = {"majority": evaluate(prepared, "majority", np.full(len(manifest), prepared.labels[train].mean()))}
    features = {"mean_intensity": prepared.statistics[["mean"]].fillna(0).to_numpy()}
    for name, columns in WORDS.items():
        known = [manifest[column] for column in columns if manifest[column].nunique() > 1]
        if known:  # one column a word: combined words (`OVAL-LOBULATED`) set several, empty ones set none
            features[name] = np.hstack([words.str.get_dummies("-").to_numpy(dtype=float) for words in known])
    for name, values in features.items():
        scores = make_logistic().fit(values[train], prepared.labels[train]).predict_proba(values)[:, 1]
        found[name] = evaluate(prepared, name, scores, parameters=values.shape[1] + 1)
    return found
