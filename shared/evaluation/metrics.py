"""Score predictions: discrimination, calibration, thresholds, intervals by patient, paired tests. No TensorFlow.

Shapes and words, the same in every function:
    labels: int (N,), 0 or 1. scores: float (N,), larger means class 1. patients: (N,), any identifier.
    An image is called class 1 where `score >= threshold`.
    What cannot be computed because a class is missing is NaN, without a warning; `choose_threshold` and the
    calibration fits, which have nothing sensible to return then, raise DataError.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from shared.run import DataError

LEVEL = 0.95
DRAWS = 2000
SUBGROUPS = ("abnormality_type", "breast_density", "view", "source")
_CELLS = 500_000  # weights held at a time while bootstrapping; a few MB, so that they stay in the CPU's cache
_CLIP = 1e-7  # a float32 sigmoid reaches exactly 0 and 1, where the logit is infinite


# ------------------------------------------------------------------- results
@dataclass(frozen=True)
class Interval:
    """A value with its interval. `dropped` counts bootstrap draws that lacked a class."""

    value: float
    low: float
    high: float
    standard_error: float = nan
    dropped: int = 0

    def __str__(self):
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self):
        """True where the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class DeLong:
    """Paired comparison of two areas: `delta` = AUC of the first minus AUC of the second, p two-sided."""

    delta: float
    variance: float
    z: float
    p_value: float


@dataclass(frozen=True)
class Platt:
    """Calibration `sigmoid(slope * logit(score) + intercept)`."""

    slope: float
    intercept: float

    def apply(self, scores):
        """Return calibrated scores, float64, of the shape of `scores` (probabilities)."""
        return special.expit(self.slope * logit(scores) + self.intercept)


@dataclass(frozen=True)
class Temperature:
    """Calibration `sigmoid(logit(score) / temperature)`; keeps every rank and the side of 0.5."""

    temperature: float

    def apply(self, scores):
        """Return calibrated scores, float64, of the shape of `scores` (probabilities)."""
        return special.expit(logit(scores) / self.temperature)


# ------------------------------------------------------------ point estimates
def logit(scores):
    """Return log(p / (1 - p)) of probabilities, which are first kept 1e-7 away from 0 and 1."""
    return special.logit(np.clip(np.asarray(scores, dtype=float), _CLIP, 1 - _CLIP))


def auc(labels, scores):
    """Return the area under the ROC curve, ties counted half; NaN where a class is missing."""
    labels, scores = _checked(labels, scores)
    return float(sk.roc_auc_score(labels, scores)) if _has_both(labels) else nan


def summarise(labels, scores, *, threshold):
    """Compute every single-number figure of one model on one set of images.

    Args:
        labels: int (N,), 0/1.
        scores: float (N,), probabilities of class 1.
        threshold: `score >= threshold` is called class 1; chosen elsewhere, on validation.
    Returns:
        dict of floats (n and the four counts in `confusion` are int): n, prevalence, threshold, accuracy,
        balanced_accuracy, sensitivity, specificity, precision, recall, f1, mcc, auc, average_precision, brier, ece,
        confusion {tn, fp, fn, tp}. Precision and F1 are 0 where nothing is called class 1. With one class only,
        auc, average_precision, mcc, balanced_accuracy and the sensitivity or specificity that lacks its class are NaN.
    Raises:
        ValueError: N = 0, labels other than 0/1, scores that are no probabilities.
    """
    labels, scores = _checked(labels, scores, probabilities=True)
    called = scores >= threshold
    tn, fp, fn, tp = (int(count) for count in sk.confusion_matrix(labels, called, labels=[0, 1]).ravel())
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    both = _has_both(labels)
    return {
        "n": len(labels),
        "prevalence": float(labels.mean()),
        "threshold": float(threshold),
        "accuracy": float(sk.accuracy_score(labels, called)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": float(sk.precision_score(labels, called, zero_division=0)),
        "recall": sensitivity,
        "f1": float(sk.f1_score(labels, called, zero_division=0)),
        "mcc": float(sk.matthews_corrcoef(labels, called)) if both else nan,
        "auc": auc(labels, scores),
        "average_precision": float(sk.average_precision_score(labels, scores)) if both else nan,
        "brier": float(sk.brier_score_loss(labels, scores, pos_label=1)),
        "ece": expected_calibration_error(labels, scores),
        "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }


def sensitivity_at_specificity(labels, scores, *, specificity=0.9):
    """Return the best sensitivity at thresholds of at least this specificity, not interpolated; NaN for one class."""
    sensitivities, specificities, _ = _operating_points(*_checked(labels, scores))
    return float(sensitivities[specificities >= specificity - 1e-12].max(initial=0)) if len(sensitivities) else nan


def specificity_at_sensitivity(labels, scores, *, sensitivity=0.9):
    """Return the best specificity at thresholds of at least this sensitivity, not interpolated; NaN for one class."""
    sensitivities, specificities, _ = _operating_points(*_checked(labels, scores))
    return float(specificities[sensitivities >= sensitivity - 1e-12].max(initial=0)) if len(sensitivities) else nan


def net_benefit(labels, scores, *, thresholds=None):
    """Compute a decision curve (Vickers & Elkin, Med Decis Making 2006;26:565).

    Args:
        labels: int (N,), 0/1.
        scores: float (N,), probabilities; only calibrated ones may be read as risks.
        thresholds: risks at which one would act, each in (0, 1); default 0.01 ... 0.99.
    Returns:
        DataFrame threshold, model, all, none: net benefit per image of acting on the model, on everyone, on no one.
    """
    labels, scores = _checked(labels, scores, probabilities=True)
    thresholds = np.linspace(0.01, 0.99, 99) if thresholds is None else np.atleast_1d(np.asarray(thresholds, float))
    if ((thresholds <= 0) | (thresholds >= 1)).any():
        raise ValueError("thresholds of a decision curve lie strictly between 0 and 1")
    odds = thresholds / (1 - thresholds)
    called = scores[None, :] >= thresholds[:, None]
    benefit = (called & (labels == 1)).mean(axis=1) - odds * (called & (labels == 0)).mean(axis=1)
    everyone = labels.mean() - odds * (1 - labels.mean())
    return pd.DataFrame({"threshold": thresholds, "model": benefit, "all": everyone, "none": 0.0})


# ----------------------------------------------------------------- thresholds
def choose_threshold(labels, scores, *, rule="youden", target=None, miss_cost=1.0, alarm_cost=1.0, prevalence=None):
    """Choose an operating point. Give it validation scores, never test scores.

    Args:
        labels: int (N,), 0/1.
        scores: float (N,).
        rule: "youden" (largest sensitivity + specificity; ties go to the higher accuracy), "sensitivity" (the best
            specificity with sensitivity >= target), "specificity" (the best sensitivity with specificity >= target)
            or "cost" (least `miss_cost` * false negatives + `alarm_cost` * false positives).
        target: for "sensitivity" and "specificity", in [0, 1].
        miss_cost, alarm_cost: for "cost", price of a missed case and of a false alarm.
        prevalence: for "cost", share of class 1 where the threshold will be used; default: as in `labels`.
    Returns:
        float: halfway between the lowest score called class 1 and the next one below, so that it does not hang on one
        image. Where nothing is called class 1 it is the next float above the largest score.
    Raises:
        DataError: a class is missing.
        ValueError: an unknown rule, or no target where one is needed.
    """
    labels, scores = _checked(labels, scores)
    _need_both(labels, "a threshold cannot be chosen")
    sensitivities, specificities, thresholds = _operating_points(labels, scores)
    share = labels.mean()
    accuracy = share * sensitivities + (1 - share) * specificities
    if rule == "youden":
        worth = (sensitivities + specificities, accuracy)
    elif rule in ("sensitivity", "specificity"):
        if target is None or not 0 <= target <= 1:
            raise ValueError(f"rule {rule!r} needs a target in [0, 1], not {target}")
        held, freed = (sensitivities, specificities) if rule == "sensitivity" else (specificities, sensitivities)
        worth = (np.where(held >= target - 1e-12, freed, -1.0), held)
    elif rule == "cost":
        share = share if prevalence is None else prevalence
        worth = (-miss_cost * share * (1 - sensitivities) - alarm_cost * (1 - share) * (1 - specificities), accuracy)
    else:
        raise ValueError(f"rule {rule!r} is not one of youden, sensitivity, specificity, cost")
    # rounding: sums that are equal on paper must tie, or the second criterion never decides
    return float(thresholds[np.lexsort([np.round(part, 12) for part in reversed(worth)])[-1]])


def _operating_points(labels, scores):
    """Return sensitivity, specificity, threshold (each (K,), from none called class 1 to all); empty for one class."""
    if not _has_both(labels):
        return np.empty(0), np.empty(0), np.empty(0)
    false_alarms, sensitivities, cuts = sk.roc_curve(labels, scores, drop_intermediate=False)
    values = cuts[1:]  # the distinct scores, from the largest; roc_curve puts inf before them
    halfway = values[:-1] / 2 + values[1:] / 2
    halfway = np.where(halfway > values[1:], halfway, values[:-1])  # neighbouring floats have nothing between them
    thresholds = np.concatenate([[np.nextafter(values[0], np.inf)], halfway, values[-1:]])
    return sensitivities, 1 - false_alarms, thresholds


# ---------------------------------------------------------------- calibration
def reliability_curve(labels, scores, *, bins=10, strategy="uniform"):
    """Compare mean score and observed share of class 1, bin by bin.

    Args:
        labels: int (N,), 0/1.
        scores: float (N,), probabilities.
        bins: number of bins over [0, 1].
        strategy: "uniform" (equal width) or "quantile" (equal counts), as in scikit-learn's `calibration_curve`.
    Returns:
        DataFrame lower, upper, count, mean_score, observed; only bins that hold an image.
    """
    edges, count, score, observed = _binned(*_checked(labels, scores, probabilities=True), bins, strategy)
    table = {"lower": edges[:-1], "upper": edges[1:], "count": count, "mean_score": score, "observed": observed}
    table = pd.DataFrame(table)
    return table[table["count"] > 0].reset_index(drop=True)


def expected_calibration_error(labels, scores, *, bins=10, strategy="uniform"):
    """Return the mean distance of score and observed share over the bins of `reliability_curve`, weighted by count.

    Naeini et al., AAAI 2015. In [0, 1]; depends on the bins and is biased upwards for few images.
    """
    _, count, score, observed = _binned(*_checked(labels, scores, probabilities=True), bins, strategy)
    return float(np.nansum(count * np.abs(observed - score)) / count.sum())


def _binned(labels, scores, bins, strategy):
    """Return edges (bins + 1,), and of each bin the count, mean score and share of class 1 (NaN where it is empty)."""
    if strategy not in ("uniform", "quantile"):
        raise ValueError(f"strategy {strategy!r} is neither uniform nor quantile")
    edges = np.linspace(0, 1, bins + 1)
    if strategy == "quantile":
        edges = np.quantile(scores, edges)
    place = np.searchsorted(edges[1:-1], scores)
    count, *sums = (np.bincount(place, weights=values, minlength=bins) for values in (None, scores, labels))
    with np.errstate(invalid="ignore"):
        return edges, count, sums[0] / count, sums[1] / count


def fit_platt(labels, scores):
    """Fit Platt scaling on validation scores, with Platt's smoothed targets (Platt 1999, section 2.2).

    Without the smoothing, scores that separate the classes would be sent to 0 and 1.

    Args:
        labels: int (N,), 0/1.
        scores: float (N,), probabilities.
    Returns:
        Platt. A negative slope means that the scores ranked the wrong way round on these images.
    Raises:
        DataError: a class is missing.
    """
    labels, scores = _checked(labels, scores, probabilities=True)
    _need_both(labels, "calibration cannot be fitted")
    ones, zeros = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    logits = logit(scores)
    spread = logits.std() or 1.0  # standardised, so that the solver converges from saturated scores too
    column = ((logits - logits.mean()) / spread)[:, None]
    # a soft target t is an image seen with weight t as class 1 and with weight 1 - t as class 0
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(np.vstack([column, column]), np.repeat([1, 0], len(labels)), np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0] / spread)
    return Platt(slope=slope, intercept=float(model.intercept_[0] - slope * logits.mean()))


def fit_temperature(labels, scores):
    """Fit temperature scaling on validation scores by maximum likelihood (Guo et al., ICML 2017).

    Args:
        labels: int (N,), 0/1.
        scores: float (N,), probabilities.
    Returns:
        Temperature, between e**-5 and e**5; above 1 the scores were too sure of themselves.
    Raises:
        DataError: a class is missing.
    """
    labels, scores = _checked(labels, scores, probabilities=True)
    _need_both(labels, "calibration cannot be fitted")
    signed = (2 * labels - 1) * logit(scores)

    def loss(log_temperature):
        return np.logaddexp(0, -signed * np.exp(-log_temperature)).mean()

    found = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8})
    return Temperature(temperature=float(np.exp(found.x)))


# ------------------------------------------------------- bootstrap by patient
def bootstrap_interval(
    labels, scores, patients, *, statistic="auc", threshold=None, draws=DRAWS, seed=0, level=LEVEL
) -> Interval:
    """Give a statistic its percentile bootstrap interval, drawing whole patients with replacement.

    Images of a patient resemble each other; drawing images would make the interval too narrow.

    Args:
        labels, scores, patients: (N,) each.
        statistic: "auc", "average_precision", "brier"; with `threshold` also "accuracy", "balanced_accuracy",
            "sensitivity", "specificity"; or a function (labels, scores) -> float, which is slower.
        threshold: for the last four names.
        draws: number of bootstrap samples.
        seed: of the draws; the same seed draws the same patients for every model on the same rows.
        level: share of draws between the limits.
    Returns:
        Interval: value on all images, limits, the draws' standard deviation, and how many draws were dropped because
        the statistic was NaN in them (a class was missing). The limits always hold the value between them. All NaN
        where the value is. Perfect scores give [1, 1]: resampling cannot show that the next image may rank wrongly.
    """
    labels, scores = _checked(labels, scores)
    compute = _on_weights(labels, scores, statistic, threshold)
    samples = [compute(weights) for weights in _patient_weights(patients, len(labels), draws=draws, seed=seed)]
    return _interval(compute(np.ones((1, len(labels))))[0], samples, level)


def bootstrap_difference(
    labels, scores_a, scores_b, patients, *, statistic="auc", threshold=None, draws=DRAWS, seed=0, level=LEVEL
) -> Interval:
    """Give the difference of two models (first minus second) its paired bootstrap interval.

    Both models see the same patients in every draw. Arguments and result as in `bootstrap_interval`.
    """
    labels, scores_a = _checked(labels, scores_a)
    labels, scores_b = _checked(labels, scores_b)
    first = _on_weights(labels, scores_a, statistic, threshold)
    second = _on_weights(labels, scores_b, statistic, threshold)
    weights = _patient_weights(patients, len(labels), draws=draws, seed=seed)
    samples = [first(chunk) - second(chunk) for chunk in weights]
    once = np.ones((1, len(labels)))
    return _interval(first(once)[0] - second(once)[0], samples, level)


def bootstrap_means(values, patients, *, draws=DRAWS, seed=0, level=LEVEL) -> list[Interval]:
    """Give the mean of each column its percentile bootstrap interval, drawing whole patients with replacement.

    Args:
        values: float (N, M), one row an image; NaN is left out of its column's mean.
        patients: (N,), any identifier.
        draws, seed, level: as in `bootstrap_interval`. All columns see the same draws.
    Returns:
        one Interval a column.
    """
    values = np.asarray(values, dtype=float)
    compute = _on_means(np.nan_to_num(values), np.isfinite(values))
    weights = _patient_weights(patients, len(values), draws=draws, seed=seed)
    samples, value = np.concatenate([compute(chunk) for chunk in weights]), compute(np.ones((1, len(values))))[0]
    return [_interval(value[column], [samples[:, column]], level) for column in range(values.shape[1])]


def roc_band(labels, scores, patients, *, draws=1000, points=101, seed=0, level=LEVEL):
    """Compute a ROC curve and its pointwise bootstrap band by patient, ready to plot.

    Args:
        labels, scores, patients: (N,) each.
        draws, seed, level: as in `bootstrap_interval`.
        points: number of false-positive rates between 0 and 1.
    Returns:
        DataFrame false_positive_rate, sensitivity, low, high; NaN sensitivities where a class is missing.
    """
    labels, scores = _checked(labels, scores)
    starts, order = _tie_starts(-scores)
    positive = labels[order] == 1
    grid = np.linspace(0, 1, points)

    def curves(weights):
        weights = weights[:, order]
        rates = []
        for chosen in (~positive, positive):
            called = np.cumsum(np.add.reduceat(weights * chosen, starts, axis=1), axis=1)
            with np.errstate(invalid="ignore"):
                rates.append(np.pad(called / called[:, -1:], ((0, 0), (1, 0))))
        # at a vertical step np.interp takes the last point, the top of the step
        return np.array([np.interp(grid, false, true) for false, true in zip(*rates, strict=True)])

    value = curves(np.ones((1, len(labels))))[0]
    samples = np.concatenate([curves(w) for w in _patient_weights(patients, len(labels), draws=draws, seed=seed)])
    samples = samples[np.isfinite(samples).all(axis=1)]
    if not (len(samples) and np.isfinite(value).all()):
        value, low, high = (np.full(points, nan) for _ in range(3))
    else:
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.minimum(low, value), np.maximum(high, value)
    return pd.DataFrame({"false_positive_rate": grid, "sensitivity": value, "low": low, "high": high})


def _patient_weights(patients, n_rows, *, draws, seed) -> Iterator[np.ndarray]:
    """Yield float (chunk, n_rows): how often each row's patient was drawn. All draws, some MB at a time."""
    codes, names = pd.factorize(np.asarray(patients), use_na_sentinel=False)
    if codes.shape != (n_rows,):
        raise ValueError(f"{len(codes)} patients for {n_rows} images")
    generator = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    chunk = max(1, _CELLS // n_rows)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        yield generator.multinomial(len(names), share, size=size)[:, codes].astype(float)


def _interval(value, samples, level):
    samples = np.concatenate(samples)
    kept = samples[np.isfinite(samples)]
    dropped = len(samples) - len(kept)
    if not np.isfinite(value) or len(kept) < 2:
        return Interval(float(value), nan, nan, nan, dropped)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(min(low, value)), float(max(high, value)), float(kept.std(ddof=1)), dropped)


def _on_weights(labels, scores, statistic, threshold):
    """Return a function: weights float (D, N) -> the statistic of each weighted sample, (D,), NaN where undefined."""
    if callable(statistic):
        rows = np.arange(len(labels))

        def resampled(weights):
            drawn = (np.repeat(rows, counts.astype(int)) for counts in weights)
            return np.array([float(statistic(labels[take], scores[take])) for take in drawn])

        return resampled
    if statistic in _RANKED:
        return _on_ranks(labels, scores, _RANKED[statistic])
    if statistic == "brier":
        return _on_means((scores - labels) ** 2, np.ones(len(labels)))
    if statistic not in _THRESHOLDED:
        raise ValueError(f"statistic {statistic!r} is not one of {', '.join((*_RANKED, 'brier', *_THRESHOLDED))}")
    if threshold is None:
        raise ValueError(f"statistic {statistic!r} needs a threshold")
    right = (scores >= threshold) == labels
    parts = [_on_means(right, select(labels)) for select in _THRESHOLDED[statistic]]
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


_THRESHOLDED = {
    "accuracy": (np.ones_like,),
    "sensitivity": (lambda labels: labels,),
    "specificity": (lambda labels: 1 - labels,),
    "balanced_accuracy": (lambda labels: labels, lambda labels: 1 - labels),
}


def _on_means(values, among):
    """Weighted mean of `values` over the rows where `among` is 1."""

    def mean(weights):
        with np.errstate(invalid="ignore"):
            return (weights @ (values * among)) / (weights @ among.astype(float))

    return mean


def _on_ranks(labels, scores, area):
    """Weighted area from the class weights at each distinct score, in descending order of the scores."""
    starts, order = _tie_starts(-scores)
    positive = (labels[order] == 1).astype(float)

    def areas(weights):
        weights = weights[:, order]
        ones = np.add.reduceat(weights * positive, starts, axis=1)
        zeros = np.add.reduceat(weights * (1 - positive), starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return area(ones, zeros)

    return areas


def _ranked_auc(ones, zeros):
    above = np.cumsum(ones, axis=1) - ones / 2  # ties count half
    return np.einsum("ij,ij->i", above, zeros) / (ones.sum(axis=1) * zeros.sum(axis=1))


def _ranked_average_precision(ones, zeros):
    called_ones = np.cumsum(ones, axis=1)
    called = called_ones + np.cumsum(zeros, axis=1)
    precision = np.divide(called_ones, called, out=np.zeros_like(called), where=called > 0)
    both = (called_ones[:, -1] > 0) & (called_ones[:, -1] < called[:, -1])
    return np.where(both, np.einsum("ij,ij->i", precision, ones) / called_ones[:, -1], nan)


_RANKED = {"auc": _ranked_auc, "average_precision": _ranked_average_precision}


def _tie_starts(values):
    """Return where each run of equal values starts in sorted order, and that order."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]), order


# --------------------------------------------------------------------- DeLong
def delong_variance(labels, scores, *, patients=None):
    """Return the variance of the AUC (DeLong et al., Biometrics 1988) by midranks (Sun & Xu, IEEE SPL 2014).

    Args:
        labels, scores: (N,) each.
        patients: (N,), or None to take the images as independent. Given, the components are summed by patient first
            (Obuchowski, Biometrics 1997;53:567), which is what several images a patient need.
    Returns:
        float; NaN with fewer than two units (images, or patients) of a class.
    """
    labels, scores = _checked(labels, scores)
    return float(_delong(labels, scores[None], patients)[1][0, 0])


def delong_interval(labels, scores, *, patients=None, level=LEVEL):
    """Return AUC with its normal interval by `delong_variance`, cut off at 0 and 1."""
    error = np.sqrt(delong_variance(labels, scores, patients=patients))
    value = auc(labels, scores)
    reach = stats.norm.ppf((1 + level) / 2) * error
    return Interval(value, float(np.maximum(value - reach, 0)), float(np.minimum(value + reach, 1)), float(error))


def delong_test(labels, scores_a, scores_b, *, patients=None) -> DeLong:
    """Test whether two models have the same AUC on the same images.

    Args:
        labels, scores_a, scores_b: (N,) each.
        patients: as in `delong_variance`; give them wherever a patient has several images.
    Returns:
        DeLong. p is 1 where the models do not differ at all, and NaN where the variance is 0 although they do (a
        perfect model against a constant one), or where a class is missing: the test has nothing to say there.
    """
    labels, scores_a = _checked(labels, scores_a)
    labels, scores_b = _checked(labels, scores_b)
    areas, covariance = _delong(labels, np.stack([scores_a, scores_b]), patients)
    delta = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not np.isfinite(variance):
        return DeLong(delta, nan, nan, nan)
    if variance <= 1e-15:  # rounding leaves a little where the components cancel
        return DeLong(delta, 0.0, 0.0, 1.0) if abs(delta) < 1e-12 else DeLong(delta, 0.0, nan, nan)
    z = delta / np.sqrt(variance)
    return DeLong(delta, variance, float(z), float(2 * stats.norm.sf(abs(z))))


def _delong(labels, scores, patients):
    """Return areas (K,) and their covariance (K, K) for scores (K, N)."""
    models = len(scores)
    if not _has_both(labels):
        return np.full(models, nan), np.full((models, models), nan)
    codes = np.arange(len(labels)) if patients is None else pd.factorize(np.asarray(patients), use_na_sentinel=False)[0]
    if codes.shape != labels.shape:
        raise ValueError(f"{len(codes)} patients for {len(labels)} images")
    ones, zeros = labels == 1, labels == 0
    among_all = stats.rankdata(scores, axis=1)
    beaten = (among_all[:, ones] - stats.rankdata(scores[:, ones], axis=1)) / zeros.sum()  # V10, share of zeros below
    beaters = 1 - (among_all[:, zeros] - stats.rankdata(scores[:, zeros], axis=1)) / ones.sum()  # V01
    areas = beaten.mean(axis=1)
    first, first_units = _by_patient(beaten - areas[:, None], codes[ones], codes.max() + 1)
    second, second_units = _by_patient(beaters - areas[:, None], codes[zeros], codes.max() + 1)
    units = len(np.unique(codes))
    if min(first_units, second_units) < 2:
        return areas, np.full((models, models), nan)
    m, n = ones.sum(), zeros.sum()
    covariance = first @ first.T * first_units / (first_units - 1) / m**2
    covariance += second @ second.T * second_units / (second_units - 1) / n**2
    crossed = first @ second.T * units / (units - 1) / (m * n)  # patients with images of both classes
    return areas, covariance + crossed + crossed.T


def _by_patient(components, codes, size):
    sums = np.array([np.bincount(codes, weights=row, minlength=size) for row in components])
    return sums, len(np.unique(codes))


# ---------------------------------------------------- many models, many tests
def holm(p_values):
    """Adjust p-values for their number (Holm 1979). NaN stays NaN and is not counted.

    Args:
        p_values: float (M,).
    Returns:
        float (M,), at least as large, at most 1, in the order given.
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def paired_differences(labels, scores, patients, *, pairs, draws=DRAWS, seed=0):
    """Compare models two by two on the same images.

    Args:
        labels, patients: (N,) each.
        scores: {model: float (N,)}.
        pairs: [(model_a, model_b), ...].
        draws, seed: of the paired bootstrap by patient that gives the interval.
    Returns:
        DataFrame model_a, model_b, delta_auc, low, high, p_delong (clustered by patient), p_holm (over these pairs).
    """
    rows = []
    for a, b in pairs:
        interval = bootstrap_difference(labels, scores[a], scores[b], patients, draws=draws, seed=seed)
        p_value = delong_test(labels, scores[a], scores[b], patients=patients).p_value
        rows.append((a, b, interval.value, interval.low, interval.high, p_value))
    table = pd.DataFrame(rows, columns=["model_a", "model_b", "delta_auc", "low", "high", "p_delong"])
    return table.assign(p_holm=holm(table.p_delong))


def permutation_p_value(labels, scores, *, draws=1000, seed=0, groups=None):
    """Test whether held-out scores rank the classes better than chance: a classifier two-sample test.

    Lopez-Paz & Oquab, ICLR 2017, with the AUC as statistic; one-sided, (1 + draws as large) / (1 + draws).

    Args:
        labels, scores: (N,) each.
        draws, seed: permutations of the labels.
        groups: (N,), or None. Given, whole groups (patients, generator batches) exchange their labels; each group must
            hold one class only.
    Returns:
        float in [1 / (1 + draws), 1]; NaN where a class is missing.
    Raises:
        ValueError: a group with both classes.
    """
    labels, scores = _checked(labels, scores)
    if not _has_both(labels):
        return nan
    codes = np.arange(len(labels)) if groups is None else pd.factorize(np.asarray(groups), use_na_sentinel=False)[0]
    if codes.shape != labels.shape:
        raise ValueError(f"{len(codes)} groups for {len(labels)} images")
    size = np.bincount(codes)
    ones = np.bincount(codes, weights=labels)
    if ((ones > 0) & (ones < size)).any():
        raise ValueError("a group holds both classes, so its label cannot be exchanged as a whole")
    rank_sum = np.bincount(codes, weights=stats.rankdata(scores))  # per group: the AUC needs no more
    generator = np.random.default_rng(seed)
    permuted = generator.permuted(np.tile(ones > 0, (draws, 1)), axis=1).astype(float)
    n_ones = permuted @ size
    areas = (permuted @ rank_sum - n_ones * (n_ones + 1) / 2) / (n_ones * (len(labels) - n_ones))
    return float((1 + np.sum(areas >= auc(labels, scores) - 1e-12)) / (1 + draws))


# ------------------------------------------------------------ cases, subgroups
def case_table(predictions):
    """Average the scores of one patient's side over its views and lesions.

    Args:
        predictions: DataFrame with patient_id, side, label, score; rows of one split.
    Returns:
        DataFrame patient_id, side, label, score, one row a case, sorted. A case is class 1 where any of its images is.
        Where the side is unknown, the patient is the case.
    """
    sides = predictions.assign(side=predictions["side"].fillna(""))
    cases = sides.groupby(["patient_id", "side"], sort=True)
    means = cases.agg(label=("label", "max"), score=("score", "mean")).reset_index()
    return means.assign(score=means.score.round(12))  # the mean of equal scores must tie with another such mean


def subgroup_table(predictions, manifest, *, threshold, by=SUBGROUPS, draws=DRAWS, seed=0):
    """Score one model in parts of the images.

    Args:
        predictions: DataFrame with image_id, patient_id, label, score; rows of one split.
        manifest: DataFrame with image_id and the columns of `by`; columns that it lacks are passed over.
        threshold: chosen on validation.
        by: columns whose values make the groups; an empty value is shown as "unknown".
        draws, seed: of the bootstrap by patient.
    Returns:
        DataFrame column, group, n, n_patients, prevalence, auc, auc_low, auc_high, sensitivity, specificity. The first
        row is "all". A group with one class has NaN where the other is needed.
    """
    by = [column for column in by if column in manifest]
    keys = manifest[["image_id", *by]]
    joined = predictions[["image_id", "patient_id", "label", "score"]].merge(keys, on="image_id", validate="1:1")
    if len(joined) != len(predictions):
        raise ValueError(f"{len(predictions) - len(joined)} predictions belong to no image of this manifest")
    groups = [("all", "all", joined)]
    for column in by:
        values = joined[column].fillna("").astype(str).replace("", "unknown")
        groups += [(column, value, rows) for value, rows in joined.groupby(values)]
    rows = []
    for column, group, part in groups:
        area = bootstrap_interval(part.label, part.score, part.patient_id, draws=draws, seed=seed)
        figures = summarise(part.label, part.score, threshold=threshold)
        rows.append({"column": column, "group": group, "n": len(part), "n_patients": part.patient_id.nunique()})
        rows[-1] |= {"prevalence": figures["prevalence"], "auc": area.value, "auc_low": area.low, "auc_high": area.high}
        rows[-1] |= {name: figures[name] for name in ("sensitivity", "specificity")}
    return pd.DataFrame(rows)


# -------------------------------------------------------------------- helpers
def _checked(labels, scores, *, probabilities=False):
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


def _has_both(labels):
    return 0 < labels.sum() < len(labels)


def _need_both(labels, consequence):
    if not _has_both(labels):
        raise DataError(f"all {len(labels)} labels are {labels[0]}: {consequence} with one class only")


def _ratio(part, whole):
    return part / whole if whole else nan
