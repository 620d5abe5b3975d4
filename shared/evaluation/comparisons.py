"""Compare models on the same images, and test scores against chance."""

from collections.abc import Collection, Iterable, Mapping
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike as Array
from scipy import stats

from shared.evaluation.intervals import bootstrap_interval, number_groups
from shared.evaluation.metrics import check_scores, has_both

POWER = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))  # standard errors that 80 % power takes


def delong_test(labels: Array, scores_a: Array, scores_b: Array, *, patients: Array | None = None) -> float:
    """Test whether two models have the same AUC on the same images, with the variance of `delong_covariance`.

    Returns p, two-sided; 1 where the models do not differ at all. NaN, the test has nothing to say, where a class is
        missing or the variance is 0 although they differ (a perfect model against a constant one).
    """
    labels, scores_a = check_scores(labels, scores_a)
    labels, scores_b = check_scores(labels, scores_b)
    areas, covariance = delong_covariance(labels, np.stack([scores_a, scores_b]), patients)
    delta = abs(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance <= 1e-15:  # rounding leaves a little where the components cancel
        return 1.0 if delta < 1e-12 else nan
    return float(2 * stats.norm.sf(delta / np.sqrt(variance)))


def delong_covariance(labels: np.ndarray, scores: np.ndarray, patients: Array | None) -> tuple[np.ndarray, np.ndarray]:
    """Compute areas and their covariance (DeLong et al., Biometrics 1988) by midranks (Sun & Xu, IEEE SPL 2014).

    `scores` are float (K, N), one row a model. The components are summed by patient first (Obuchowski, Biometrics
    1997;53:567), as several images a patient need; None takes the images as independent.
    Returns (K,) and (K, K), NaN with fewer than two units (patients or images) of a class.
    """
    models = len(scores)
    if not has_both(labels):
        return np.full(models, nan), np.full((models, models), nan)
    codes = number_groups(patients, len(labels))
    ones, zeros = labels == 1, labels == 0
    among_all = stats.rankdata(scores, axis=1)
    beaten = (among_all[:, ones] - stats.rankdata(scores[:, ones], axis=1)) / zeros.sum()  # V10, share of zeros below
    beaters = 1 - (among_all[:, zeros] - stats.rankdata(scores[:, zeros], axis=1)) / ones.sum()  # V01
    areas = beaten.mean(axis=1)
    sums, units = [], []
    for part, of_class in ((beaten, ones), (beaters, zeros)):
        centred = (part - areas[:, None]) / of_class.sum()
        sums.append(np.array([np.bincount(codes[of_class], row, codes.max() + 1) for row in centred]))
        units.append(len(np.unique(codes[of_class])))
    if min(units) < 2:
        return areas, np.full((models, models), nan)
    covariance = sum(part @ part.T * n / (n - 1) for part, n in zip(sums, units, strict=True))
    every = len(np.unique(codes))
    crossed = sums[0] @ sums[1].T * every / (every - 1)  # patients with images of both classes
    return areas, covariance + crossed + crossed.T


def holm(p_values: Array) -> np.ndarray:
    """Adjust p-values (M,) for their number (Holm 1979), in the order given. NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, nan)
    order = np.argsort(p_values, kind="stable")[: np.isfinite(p_values).sum()]  # NaN sorts last
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def paired_differences(
    labels: Array,
    scores: Mapping[str, Array],
    patients: Array,
    *,
    pairs: Iterable[tuple[str, str]],
    primary: Collection[tuple[str, str]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare models two by two on the same images.

    Args:
        pairs: (model, model) to compare.
        primary: those of them that were named before test was read; None takes all. Only they get a p after Holm,
            over their own number; the others are descriptive.
    Returns model_a, model_b, delta_auc, low, high (paired bootstrap by patient), p_delong (clustered by patient),
        p_holm (NaN where the pair is descriptive), detectable (the smallest difference that as many patients show with
        a power of 80 % in a test at 0.05: 2.8 standard errors of this pair).
    """
    pairs = list(pairs)
    rows = []
    for a, b in pairs:
        interval = bootstrap_interval(labels, scores[a], patients, minus=scores[b], seed=seed)
        p_value = delong_test(labels, scores[a], scores[b], patients=patients)
        rows.append((a, b, interval.value, interval.low, interval.high, p_value, POWER * interval.standard_error))
    table = pd.DataFrame(rows, columns=["model_a", "model_b", "delta_auc", "low", "high", "p_delong", "detectable"])
    tested = [primary is None or pair in primary for pair in pairs]
    table.insert(6, "p_holm", holm(table.p_delong.where(tested)))
    return table


def describe_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """Put what `paired_differences` returns into words, one row a pair.

    The verdict follows Holm's p at 0.05; a pair without one is descriptive and gets no verdict. "No difference shown"
    stands beside the difference that this test set could have shown.
    """
    texts = [f"{row.delta_auc:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in differences.itertuples()]
    words = {"model": differences.model_a, "against": differences.model_b, "AUC difference": texts}
    for name, column in (("p", "p_delong"), ("p, Holm", "p_holm")):
        words[name] = ["" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in differences[column]]
    not_shown = [f"no difference shown; 80 % power from {value:.3f}" for value in differences.detectable]
    cases = (differences.p_delong.isna(), differences.p_holm.isna(), differences.p_holm > 0.05)
    answers = ("no test possible", "descriptive", not_shown, np.where(differences.delta_auc > 0, "better", "worse"))
    words["verdict"] = np.select(cases, answers[:3], answers[3])
    return pd.DataFrame(words).set_index("model")
