"""Operating points: a threshold chosen on validation, what it does on test, beside a reader, at another prevalence.

Every draw takes validation patients and test patients anew and chooses the threshold again, so the intervals hold the
threshold's own uncertainty too.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shared.evaluation.intervals import CELLS, Interval, draw_patients, make_interval
from shared.evaluation.metrics import check_scores, weighted_thresholds

YOUDEN = "Youden"
READER = "reader"
FIXED = "fixed"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on test, or the difference of two such points."""

    threshold: float  # NaN for a reader, whose call is a call, and for differences
    draws: np.ndarray  # float (1 + D, 2), sensitivity and specificity, all rows first
    patients: int  # of test
    share: bool | None = None  # True where no threshold was drawn; None takes percentiles, as such draws are skewed

    @property
    def sensitivity(self) -> Interval:
        """The share of class 1 that is called."""
        return make_interval(float(self.draws[0, 0]), self.draws[1:, 0], self.patients, share=self.share)

    @property
    def specificity(self) -> Interval:
        """The share of class 0 that is not called."""
        return make_interval(float(self.draws[0, 1]), self.draws[1:, 1], self.patients, share=self.share)

    def minus(self, other: "OperatingPoint") -> "OperatingPoint":
        """Return the paired differences from another point of the same patients and draws."""
        return OperatingPoint(np.nan, self.draws - other.draws, self.patients)

    def at_prevalence(self, prevalence: float) -> dict[str, Interval]:
        """Return PPV, NPV, and recalls, cancers found and cancers missed per 1,000 at a share of class 1.

        The same sensitivity and specificity are taken for granted there: those of screened women mostly differ.
        """
        found, quiet = self.draws[:, 0] * prevalence, self.draws[:, 1] * (1 - prevalence)
        alarms, missed = 1 - prevalence - quiet, prevalence - found
        with np.errstate(invalid="ignore"):
            figures = {"PPV": found / (found + alarms), "NPV": quiet / (quiet + missed)}
        figures |= {"recalls": found + alarms, "cancers found": found, "cancers missed": missed}
        intervals: dict[str, Interval] = {}
        for name, part in figures.items():
            at = make_interval(float(part[0]), part[1:], self.patients, share=self.share)
            if name not in ("PPV", "NPV"):
                name, at = f"{name} per 1,000", Interval(1000 * at.value, 1000 * at.low, 1000 * at.high)
            intervals[name] = at
        return intervals


def operating_points(
    validation: pd.DataFrame | None, test: pd.DataFrame, *, draws: int = 1000, seed: int = 0
) -> dict[str, OperatingPoint]:
    """Choose thresholds on validation and read sensitivity and specificity on test.

    Args:
        validation, test: columns patient_id, label, score, and `called` (0/1) where a reader called the same images.
    Returns by name: "Youden" ("fixed", at 0.5, where `validation` is None), and with a reader "reader" and the model at
        the reader's sensitivity and at the reader's specificity, both as they are on validation.
    """
    frames = [frame for frame in (validation, test) if frame is not None]
    chunk = max(1, CELLS // max(map(len, frames)))
    sizes = [(frame.patient_id, len(frame), draws, (seed, place)) for place, frame in enumerate(frames)]
    drawn = [draw_patients(*size, chunk=chunk) for size in sizes]
    parts = []
    for weights in ([np.ones((1, len(frame))) for frame in frames], *zip(*drawn, strict=True)):
        labels, scores = check_scores(test.label, test.score)
        cuts = {FIXED: np.full(len(weights[-1]), 0.5)} if validation is None else choose(validation, weights[0])
        rates = {name: rate(labels, scores >= cut[:, None], weights[-1]) for name, cut in cuts.items()}
        part = {name: np.column_stack([cut, rates[name]]) for name, cut in cuts.items()}
        if "called" in test:
            calls = rate(labels, test["called"], weights[-1])
            part[READER] = np.column_stack([np.full(len(calls), np.nan), calls])
        parts.append(part)
    found = {}
    for name in parts[0]:
        points = np.concatenate([part[name] for part in parts])
        people = test.patient_id.nunique()
        share = True if name in (READER, FIXED) else None
        found[name] = OperatingPoint(float(points[0, 0]), points[:, 1:], people, share)
    return found


def choose(validation: pd.DataFrame, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the threshold of each rule in each weighted sample of validation, weights (D, N): {name: float (D,)}."""
    labels, scores = check_scores(validation.label, validation.score)
    found = {YOUDEN: weighted_thresholds(labels, scores, weights, "youden", np.zeros(len(weights)))}
    if "called" in validation:
        reader = rate(labels, validation["called"], weights)
        for column, rule in enumerate(("sensitivity", "specificity")):
            cuts = weighted_thresholds(labels, scores, weights, rule, reader[:, column])
            found[f"at the reader's {rule}"] = cuts
    return found


def rate(labels: np.ndarray, called: np.ndarray | pd.Series, weights: np.ndarray) -> np.ndarray:
    """Return sensitivity and specificity of calls, (N,) or (D, N), in each weighted sample: float (D, 2)."""
    called = np.asarray(called, dtype=float)
    with np.errstate(invalid="ignore"):
        sensitivity = (weights * called) @ labels / (weights @ labels)
        return np.column_stack([sensitivity, 1 - (weights * called) @ (1 - labels) / (weights @ (1 - labels))])
