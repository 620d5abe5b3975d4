"""Score predictions: discrimination, thresholds, calibration error, lesions and cases.

The same in every module of this room: labels are int (N,), 0 or 1; scores float (N,), larger means class 1; patients
(N,), any identifier. An image is called class 1 where `score >= threshold`. What cannot be computed because a class is
missing is NaN, without a warning; `choose_threshold` and `fit_platt` raise DataError then.
"""

from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike as Array
from scipy import special
from sklearn import metrics as sk

from shared.run import DataError

CLIP = 1e-7  # a float32 sigmoid reaches exactly 0 and 1, where the logit is infinite


def check_scores(labels: Array, scores: Array, *, probabilities: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as int (N,) and scores as float64 (N,); ValueError says what is wrong with them."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels of shape {labels.shape} and scores of shape {scores.shape}: one score for each label")
    if not len(labels):
        raise ValueError("no images to score")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels other than 0 and 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} scores are not finite")
    if probabilities and ((scores < 0) | (scores > 1)).any():
        raise ValueError("scores outside [0, 1] are no probabilities")
    return labels.astype(int), scores


def has_both(labels: np.ndarray) -> bool:
    """Tell whether labels (N,) hold both classes."""
    return bool(0 < labels.sum() < len(labels))


def logit(scores: Array) -> np.ndarray:
    """Return log(p / (1 - p)) of probabilities, which are first kept 1e-7 away from 0 and 1."""
    return special.logit(np.clip(np.asarray(scores, dtype=float), CLIP, 1 - CLIP))


def auc(labels: Array, scores: Array) -> float:
    """Return the area under the ROC curve, ties counted half; NaN where a class is missing.

    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    labels, scores = check_scores(labels, scores)
    return float(sk.roc_auc_score(labels, scores)) if has_both(labels) else nan


def summarise(labels: Array, scores: Array, *, threshold: float) -> dict[str, Any]:
    """Compute every figure of one model (scores: probabilities) at a threshold that was chosen elsewhere.

    Precision and F1 are 0 where nothing is called class 1.
    """
    labels, scores = check_scores(labels, scores, probabilities=True)
    called = scores >= threshold
    both = has_both(labels)
    tn, fp, fn, tp = (int(count) for count in sk.confusion_matrix(labels, called, labels=[0, 1]).ravel())
    sensitivity = tp / (tp + fn) if tp + fn else nan
    specificity = tn / (tn + fp) if tn + fp else nan
    return {
        "n": len(labels),
        "prevalence": float(labels.mean()),
        "threshold": float(threshold),
        "accuracy": float(sk.accuracy_score(labels, called)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "recall": sensitivity,
        "specificity": specificity,
        "precision": float(sk.precision_score(labels, called, zero_division=0)),
        "f1": float(sk.f1_score(labels, called, zero_division=0)),
        "mcc": float(sk.matthews_corrcoef(labels, called)) if both else nan,
        "auc": auc(labels, scores),
        "average_precision": float(sk.average_precision_score(labels, scores)) if both else nan,
        "brier": float(sk.brier_score_loss(labels, scores, pos_label=1)),
        "ece": expected_calibration_error(labels, scores),
        "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }


def choose_threshold(labels: Array, scores: Array, *, rule: str = "youden", target: float | None = None) -> float:
    """Choose an operating point. Give it validation scores, never test scores.

    `rule` is "youden" (largest sensitivity + specificity; ties go to the higher accuracy), "sensitivity" (the best
    specificity with sensitivity >= target) or "specificity" (the best sensitivity with specificity >= target).
    Returns halfway between the lowest score called class 1 and the next one below, so that it does not hang on one
        image. Where nothing is called class 1 it is the next float above the largest score.

    >>> choose_threshold([0, 0, 1, 1], [0.1, 0.3, 0.5, 0.9])
    0.4
    """
    labels, scores = check_scores(labels, scores)
    if not has_both(labels):
        raise DataError(f"all {len(labels)} labels are {labels[0]}: no threshold can be chosen with one class only")
    if rule not in ("youden", "sensitivity", "specificity"):
        raise ValueError(f"rule {rule!r} is not one of youden, sensitivity, specificity")
    if rule != "youden" and (target is None or not 0 <= target <= 1):
        raise ValueError(f"rule {rule!r} needs a target in [0, 1], not {target}")
    return float(weighted_thresholds(labels, scores, np.ones((1, len(labels))), rule, np.array([target or 0.0]))[0])


def weighted_thresholds(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, rule: str, targets: np.ndarray
) -> np.ndarray:
    """Return the threshold of `choose_threshold` in each weighted sample, weights (D, N) and targets (D,): float (D,).

    NaN where a class has no weight.
    """
    values, places = np.unique(-scores, return_inverse=True)
    values = -values  # the distinct scores, from the largest
    halfway = values[:-1] / 2 + values[1:] / 2
    halfway = np.where(halfway > values[1:], halfway, values[:-1])  # neighbouring floats have nothing between them
    thresholds = np.concatenate([[np.nextafter(values[0], np.inf)], halfway, values[-1:]])
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(len(values)))
    nothing = np.zeros((len(weights), 1))
    with np.errstate(invalid="ignore"):
        shares = []
        for part in (labels == 1, labels == 0):
            called = np.cumsum(np.add.reduceat((weights * part)[:, order], starts, axis=1), axis=1)
            shares.append(np.hstack([nothing, called / called[:, -1:]]))
    sensitivities, specificities = shares[0], 1 - shares[1]
    if rule == "youden":
        ones = (weights @ labels / weights.sum(axis=1))[:, None]
        first, second = sensitivities + specificities, ones * sensitivities + (1 - ones) * specificities
    else:
        second, freed = sensitivities, specificities
        if rule == "specificity":
            second, freed = freed, second
        first = np.where(second >= targets[:, None] - 1e-12, freed, -1.0)
    # sums that are equal on paper must tie, or the second criterion never decides
    second = np.where(first >= first.max(axis=1, keepdims=True) - 1e-12, second, -1.0)
    ties = second >= second.max(axis=1, keepdims=True) - 1e-12
    chosen = thresholds[ties.shape[1] - 1 - np.argmax(ties[:, ::-1], axis=1)]
    return np.where(np.isfinite(sensitivities[:, -1] + specificities[:, -1]), chosen, nan)


def expected_calibration_error(labels: Array, scores: Array) -> float:
    """Return the distance of mean score and observed share over ten bins of equal width, weighted by their counts.

    Naeini et al., AAAI 2015. In [0, 1]; depends on the bins and is biased upwards for few images.
    """
    labels, scores = check_scores(labels, scores, probabilities=True)
    excess = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], scores), weights=labels - scores)
    return float(np.abs(excess).sum() / len(scores))


def lesion_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of a lesion over its views: patient_id, side, lesion, label, score, one row a lesion.

    Where `lesion` is empty or no column, a side is one lesion; where the side is unknown, the patient is one side.
    """
    keys = {name: predictions[name].fillna("") if name in predictions else "" for name in ("side", "lesion")}
    lesions = predictions.assign(**keys).groupby(["patient_id", *keys], sort=True)
    means = lesions.agg(label=("label", "max"), score=("score", "mean")).reset_index()
    return means.assign(score=means.score.round(12))  # the mean of equal scores must tie with another such mean


def case_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Give each side of a patient its highest lesion score and its worst label: one row a case; see `lesion_table`."""
    sides = lesion_table(predictions).groupby(["patient_id", "side"], sort=True)
    return sides.agg(label=("label", "max"), score=("score", "max")).reset_index()
