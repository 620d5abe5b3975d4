"""Give a figure its 95 % interval by drawing whole patients with replacement: images of a patient resemble each other.

`draws` is the number of bootstrap samples; the same `seed` draws the same patients for every model on the same rows.
The draws give the standard error; limits lie 1.96 of it away (more where patients are few), on the logit scale for
shares and AUCs. Percentiles are taken where draws are skewed. Both are widened as for a t-test, because draws of few
patients vary too little (Hesterberg, The American Statistician 2015;69:371, "expanded percentile"). Draws in which a
figure is NaN, because a class is missing, are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike as Array
from scipy import special, stats
from sklearn.metrics import roc_curve

from shared.evaluation.metrics import check_scores, has_both

TAILS = (0.025, 0.975)
CELLS = 500_000  # weights held at a time while bootstrapping: a few MB, so that they stay in the CPU's cache
FEW = 20  # patients of a class: intervals of smaller groups are descriptive
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (D, N) -> its values in each weighted sample, (D, M)


@dataclass(frozen=True)
class Interval:
    """A value, the limits of its 95 % interval, and its standard error."""

    value: float
    low: float
    high: float
    standard_error: float = nan

    def __str__(self) -> str:
        limits = f" [{self.low:.3f}, {self.high:.3f}]" if np.isfinite(self.low) else ""
        return f"{self.value:.3f}".replace("nan", "–") + limits

    @property
    def excludes_zero(self) -> bool:
        """Tell whether all of it lies on one side of 0."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    labels: Array, scores: Array, patients: Array, *, minus: Array | None = None, draws: int = 2000, seed: int = 0
) -> Interval:
    """Give an AUC, or the paired difference of two, its interval by patient; NaN for one class.

    Args:
        scores: (N,), or (S, N) of S trainings: the mean of their AUCs, and each draw takes trainings with replacement
            as well as patients. With few trainings such an interval is still too short.
        minus: scores of the same shape whose AUC is subtracted; both see the same patients a draw.

    >>> labels, patients = [0, 1] * 50, [row // 2 for row in range(100)]
    >>> found = bootstrap_interval(labels, [label + row % 7 for row, label in enumerate(labels)], patients)
    >>> found.low < found.value < found.high
    True
    """
    labels = np.asarray(labels)
    trainings = [[] if part is None else list(np.atleast_2d(part)) for part in (scores, minus)]
    added, taken = ([weighted_auc(*check_scores(labels, row)) for row in part] for part in trainings)

    def areas(weights: np.ndarray) -> np.ndarray:
        found = np.hstack([area(weights) for area in added])
        return found - np.hstack([area(weights) for area in taken]) if taken else found

    people = number_groups(patients, len(labels))
    return draw_intervals(areas, people, draws, seed, share=minus is None, mean_of_columns=len(added) > 1)[0]


def bootstrap_means(values: Array, patients: Array, *, draws: int = 2000, seed: int = 0) -> list[Interval]:
    """Give the mean of each column of `values`, float (N, M), its interval; NaN is left out of its column's mean."""
    values = np.asarray(values, dtype=float)
    known, filled = np.isfinite(values).astype(float), np.nan_to_num(values)

    def means(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (weights @ filled) / (weights @ known)

    are_shares = ((filled >= 0) & (filled <= 1)).all(axis=0).tolist()
    return draw_intervals(means, number_groups(patients, len(values)), draws, seed, share=are_shares)


def draw_intervals(
    compute: Statistic,
    patients: Array,
    draws: int,
    seed: int,
    *,
    share: bool | list[bool],
    mean_of_columns: bool = False,
) -> list[Interval]:
    """Compute a statistic on all rows and on bootstrap samples of patients: one Interval a column.

    A `share` (one answer, or one for each column) lies in [0, 1]; its limits are found on the logit scale. With
    `mean_of_columns` the columns are trainings: one Interval, of their mean, whose draws take columns as well.
    """
    n_rows = len(np.asarray(patients))
    count = len(np.unique(patients))
    samples = np.concatenate([compute(weights) for weights in draw_patients(patients, n_rows, draws, seed)])
    values = compute(np.ones((1, n_rows)))
    if mean_of_columns:
        trainings = samples.shape[1]
        taken = np.random.default_rng((seed, 1)).multinomial(trainings, np.full(trainings, 1 / trainings), size=draws)
        shares = taken / trainings
        samples, values = (samples * shares).sum(axis=1, keepdims=True), values.mean(axis=1, keepdims=True)
    shares = np.broadcast_to(share, samples.shape[1]).tolist()
    triples = zip(values[0].tolist(), samples.T, shares, strict=True)
    return [make_interval(value, drawn, count, share=one) for value, drawn, one in triples]


def make_interval(value: float, samples: np.ndarray, patients: int, *, share: bool | None) -> Interval:
    """Make an Interval of a value and its bootstrap samples (D,); None, and a share of 0 or 1, take percentiles."""
    kept = samples[np.isfinite(samples)]
    if not np.isfinite(value) or len(kept) < 2 or patients < 2:
        return Interval(value, nan, nan)
    error = float(kept.std(ddof=1))
    steps = stats.t.ppf(TAILS, patients - 1) * sqrt(patients / (patients - 1))
    if share is False:
        low, high = value + steps * error
    elif share and 0 < value < 1:
        low, high = special.expit(special.logit(value) + steps * error / (value * (1 - value)))
    else:
        low, high = np.quantile([*kept, value], stats.norm.cdf(steps))
    return Interval(value, float(low), float(high), error)


def draw_patients(
    patients: Array, n_rows: int, draws: int, seed: int | tuple[int, int], *, chunk: int = 0
) -> Iterator[np.ndarray]:
    """Yield float (chunk, n_rows): how often each row's patient was drawn. All draws, `chunk` or some MB at a time."""
    codes = number_groups(patients, n_rows)
    generator = np.random.default_rng(seed)
    count, chunk = codes.max() + 1, chunk or max(1, CELLS // n_rows)
    for start in range(0, draws, chunk):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(chunk, draws - start))
        yield drawn[:, codes].astype(float)


def number_groups(groups: Array | None, n_rows: int) -> np.ndarray:
    """Return int (n_rows,), one number a group (patient); None makes each row a group of its own."""
    codes = np.arange(n_rows) if groups is None else pd.factorize(np.asarray(groups), use_na_sentinel=False)[0]
    if codes.shape != (n_rows,):
        raise ValueError(f"{len(codes)} patients or groups for {n_rows} images")
    return codes


def weighted_auc(labels: np.ndarray, scores: np.ndarray) -> Statistic:
    """Return the weighted AUC, from the weight of each class at each distinct score; NaN where a class is missing."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # where each run of equal scores begins
    positive = labels[order].astype(float)

    def areas(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        ones = np.add.reduceat(weights * positive, starts, axis=1)
        zeros = np.add.reduceat(weights * (1 - positive), starts, axis=1)
        above = np.cumsum(ones, axis=1) - ones / 2  # ties count half
        with np.errstate(invalid="ignore"):
            return (np.einsum("ij,ij->i", above, zeros) / (ones.sum(axis=1) * zeros.sum(axis=1)))[:, None]

    return areas


def roc_band(labels: Array, scores: Array, patients: Array, *, draws: int = 1000) -> pd.DataFrame:
    """Compute a ROC curve and its pointwise interval: false_positive_rate (101), sensitivity, low, high."""
    labels, scores = check_scores(labels, scores)
    grid = np.linspace(0, 1, 101)
    table = pd.DataFrame({"false_positive_rate": grid, "sensitivity": nan, "low": nan, "high": nan})
    if not has_both(labels):
        return table
    weights = (row for chunk in draw_patients(patients, len(labels), draws, 0) for row in chunk)
    usable = [None, *(row for row in weights if has_both(labels[row > 0]))]
    curves = [roc_curve(labels, scores, sample_weight=row) for row in usable]
    value, *drawn = (np.interp(grid, false, true) for false, true, _ in curves)  # at a vertical step, its top
    low, high = np.quantile(drawn, TAILS, axis=0)
    return table.assign(sensitivity=value, low=np.minimum(low, value), high=np.maximum(high, value))
