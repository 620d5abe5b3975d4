"""Calibration: does a score of 0.8 mean 8 in 10? Fitted on held-out scores, chosen there by patient, judged on test."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike as Array
from scipy import optimize, special, stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from shared.evaluation.intervals import TAILS, Interval, bootstrap_means, number_groups
from shared.evaluation.metrics import check_scores, expected_calibration_error, has_both, logit
from shared.run import DataError

AS_IS = "as it is"
PARTS = 5  # of the held-out patients, to choose between the three


@dataclass(frozen=True)
class Platt:
    """Calibration `sigmoid(slope * logit(score) + intercept)`; a negative slope turns the ranks round."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, scores: Array) -> np.ndarray:
        """Return calibrated scores, float64, of the shape of `scores` (probabilities)."""
        return special.expit(self.slope * logit(scores) + self.intercept)


def fit_platt(labels: Array, scores: Array, *, smooth: bool = True) -> Platt:
    """Fit a logistic regression of the label on the logit of the score, unpenalised.

    `smooth` takes Platt's targets (Platt 1999, section 2.2): without them, scores that separate the classes would be
    sent to 0 and 1.
    """
    labels, scores = check_scores(labels, scores, probabilities=True)
    if not has_both(labels):
        raise DataError(f"all {len(labels)} labels are {labels[0]}: no calibration can be fitted with one class only")
    ones, zeros = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2)) if smooth else labels.astype(float)
    logits = logit(scores)
    spread = logits.std() or 1.0  # standardised, so that the solver converges from saturated scores too
    column = ((logits - logits.mean()) / spread)[:, None]
    # a soft target t is an image seen with weight t as class 1 and with weight 1 - t as class 0
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(np.vstack([column, column]), np.repeat([1, 0], len(labels)), np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0] / spread)
    return Platt(slope=slope, intercept=float(model.intercept_[0] - slope * logits.mean()))


def fit_intercept(labels: Array, scores: Array) -> Platt:
    """Fit the intercept alone: the mean score becomes the share of class 1.

    What class weights and balanced batches shift, this shifts back. Nothing is shifted where a class is missing.
    """
    labels, scores = check_scores(labels, scores, probabilities=True)
    if not has_both(labels):
        return Platt()
    logits = logit(scores)
    share = labels.mean()
    return Platt(intercept=optimize.brentq(lambda shift: special.expit(logits + shift).mean() - share, -40, 40))


METHODS: dict[str, Callable[..., Platt]] = {AS_IS: lambda *_: Platt(), "intercept": fit_intercept, "Platt": fit_platt}


def choose_calibration(held: pd.DataFrame, methods: Iterable[str] = (AS_IS, "intercept"), *, seed: int = 0) -> str:
    """Choose a calibration by its cross-validated log loss on held-out scores, folds by patient.

    A method is taken only where the interval of its gain over scores as they are lies above zero: few patients fit a
    calibration badly. `held`: columns patient_id, label, score.
    """
    if held.groupby("label").patient_id.nunique().reindex([0, 1], fill_value=0).min() < PARTS:
        return AS_IS
    cutter = StratifiedGroupKFold(PARTS, shuffle=True, random_state=seed)
    methods = list(methods)
    losses = np.zeros((len(held), len(methods)))
    for fitted, left in cutter.split(held, held.label, held.patient_id):
        rows, tested = held.iloc[fitted], held.iloc[left]
        for column, name in enumerate(methods):
            scores = METHODS[name](rows.label, rows.score).apply(tested.score)
            losses[left, column] = -np.log(np.where(tested.label == 1, scores, 1 - scores))
    intervals = bootstrap_means(losses[:, [methods.index(AS_IS)]] - losses, held.patient_id, draws=500, seed=seed)
    gains = {name: gain.value for name, gain in zip(methods, intervals, strict=True) if gain.low > 0}
    return max(gains, key=lambda name: gains[name], default=AS_IS)


def assess_calibration(
    held: pd.DataFrame, test: pd.DataFrame, *, seed: int = 0
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Fit three calibrations on held-out scores, choose one there, and judge all of them on test.

    Both have columns patient_id, label, score (probabilities); `held` are scores of images not learned from.
    Returns the test scores under each, by name, "chosen" for that of `choose_calibration`; and a table, one row each:
        chosen, and what `describe_calibration` returns.
    """
    chosen = choose_calibration(held, METHODS, seed=seed)
    scores = {name: fit(held.label, held.score).apply(test.score) for name, fit in METHODS.items()}
    found = {name: describe_calibration(test.label, part, test.patient_id, seed=seed) for name, part in scores.items()}
    table = pd.DataFrame(found.values(), index=pd.Index(found, name="calibration"))
    table.insert(0, "chosen", table.index == chosen)
    return scores | {"chosen": scores[chosen]}, table


def describe_calibration(labels: Array, scores: Array, patients: Array, *, seed: int = 0) -> dict[str, Interval]:
    """Return intercept, slope and Brier score with 95 % intervals by patient, ECE, and the ECE of a perfect model.

    Intercept: of a logistic regression of the label on the logit whose slope is held at 1; 0 is right, above 0 the
    scores are too low. Slope: 1 is right, below 1 the scores are too extreme (Cox 1958; Van Calster et al., J Clin
    Epidemiol 2016;74:167). Standard errors by patient (Liang & Zeger, Biometrika 1986). The perfect model's ECE is that
    of labels drawn from the very scores, with one random number a patient: images of one lesion share their label.
    """
    labels, scores = check_scores(labels, scores, probabilities=True)
    codes = number_groups(patients, len(labels))
    logits = logit(scores)
    intercept = slope = Interval(nan, nan, nan)
    if has_both(labels):
        ones = np.ones(len(labels))
        shift = fit_intercept(labels, scores)
        intercept = wald(shift.intercept, labels, shift.apply(scores), ones[:, None], codes)
        if np.ptp(logits) > 1e-9:
            fit = fit_platt(labels, scores, smooth=False)
            slope = wald(fit.slope, labels, fit.apply(scores), np.column_stack([ones, logits]), codes)
    drawn = np.random.default_rng(seed).random((200, codes.max() + 1))[:, codes] < scores
    perfect = np.mean([expected_calibration_error(row, scores) for row in drawn.astype(int)])
    (brier,) = bootstrap_means(((labels - scores) ** 2)[:, None], patients, draws=1000, seed=seed)
    return {
        "calibration intercept": intercept,
        "calibration slope": slope,
        "Brier": brier,
        "ECE": Interval(expected_calibration_error(labels, scores), nan, nan),
        "ECE of a perfect model": Interval(float(perfect), nan, nan),
    }


def wald(value: float, labels: np.ndarray, fitted: np.ndarray, design: np.ndarray, codes: np.ndarray) -> Interval:
    """Give the last coefficient of a logistic regression its interval, standard errors clustered by `codes`."""
    bread = np.linalg.pinv((design * (fitted * (1 - fitted))[:, None]).T @ design)
    scores = np.zeros((codes.max() + 1, design.shape[1]))
    np.add.at(scores, codes, design * (labels - fitted)[:, None])
    clusters = len(scores)
    error = np.sqrt((bread @ (scores.T @ scores) @ bread)[-1, -1] * clusters / max(clusters - 1, 1))
    low, high = value + stats.t.ppf(TAILS, max(clusters - design.shape[1], 1)) * error
    return Interval(value, float(low), float(high), float(error))
