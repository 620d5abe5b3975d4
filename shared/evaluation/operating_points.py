"""Operating points: a threshold chosen on validation, what it does on test, beside a reader, at another prevalence.

Every draw takes validation patients and test patients anew and chooses the threshold again, so the intervals hold the
threshold's own uncertainty too.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shared.evaluation.intervals import CELLS, Interval, draw_patients, make_interval
from shared.evaluation.metrics import check_scores, weighted_thresholds

YOUDEN, READER = "Youden", "reader"
AT_SENSITIVITY, AT_SPECIFICITY = "at the reader's sensitivity", "at the reader's specificity"
RULES = {YOUDEN: ("youden", 0), AT_SENSITIVITY: ("sensitivity", 0), AT_SPECIFICITY: ("specificity", 1)}


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on test; `draws` is float (1 + D, 2), sensitivity and specificity, all rows first.

    The threshold of the reader is NaN: a call is a call.
    """

    threshold: float
    draws: np.ndarray

    @property
    def sensitivity(self) -> Interval:
        """The share of class 1 that is called."""
        return make_interval(float(self.draws[0, 0]), self.draws[1:, 0])

    @property
    def specificity(self) -> Interval:
        """The share of class 0 that is not called."""
        return make_interval(float(self.draws[0, 1]), self.draws[1:, 1])

    def minus(self, other: "OperatingPoint") -> "OperatingPoint":
        """Return the paired differences from another point of the same patients and draws."""
        return OperatingPoint(np.nan, self.draws - other.draws)

    def at_prevalence(self, prevalence: float) -> dict[str, Interval]:
        """Return PPV, NPV, and recalls, cancers found and cancers missed per 1,000 at a share of class 1.

        The same sensitivity and specificity are taken for granted there: those of screened women mostly differ.
        """
        found, quiet = self.draws[:, 0] * prevalence, self.draws[:, 1] * (1 - prevalence)
        alarms, missed = 1 - prevalence - quiet, prevalence - found
        with np.errstate(invalid="ignore"):
            figures = {"PPV": found / (found + alarms), "NPV": quiet / (quiet + missed)}
        counts = {"recalls": found + alarms, "cancers found": found, "cancers missed": missed}
        figures |= {f"{name} per 1,000": 1000 * rate for name, rate in counts.items()}
        return {name: make_interval(float(column[0]), column[1:]) for name, column in figures.items()}


def operating_points(
    validation: pd.DataFrame, test: pd.DataFrame, *, draws: int = 1000, seed: int = 0
) -> dict[str, OperatingPoint]:
    """Choose thresholds on validation and read sensitivity and specificity on test.

    Args:
        validation, test: columns patient_id, label, score, and `called` (0/1) where a reader called the same images.
    Returns:
        by name: "Youden", and with a reader "reader" and the model at the reader's sensitivity and at the reader's
        specificity, both as they are on validation.
    """
    frames = (validation, test)
    (held, scores), (labels, tested) = (check_scores(part.label, part.score) for part in frames)
    rules = RULES if "called" in test else {YOUDEN: RULES[YOUDEN]}
    sizes, chunk = [len(part) for part in frames], max(1, CELLS // max(len(validation), len(test)))
    drawn = (
        draw_patients(part.patient_id, size, draws, (seed, place), chunk=chunk)
        for place, (part, size) in enumerate(zip(frames, sizes, strict=True))
    )
    first = tuple(np.ones((1, size)) for size in sizes)
    thresholds: dict[str, list[np.ndarray]] = {name: [] for name in rules}
    rates: dict[str, list[np.ndarray]] = {name: [] for name in (*rules, READER)}
    for old, new in (first, *zip(*drawn, strict=True)):
        reader = rate(held, validation["called"], old) if len(rules) > 1 else np.zeros((len(old), 2))
        for name, (rule, column) in rules.items():
            cuts = weighted_thresholds(held, scores, old, rule, reader[:, column])
            thresholds[name].append(cuts)
            known = np.where(np.isnan(cuts), np.nan, 1.0)[:, None]
            rates[name].append(known * rate(labels, tested >= cuts[:, None], new))
        if len(rules) > 1:
            rates[READER].append(rate(labels, test["called"], new))
    found = {name: OperatingPoint(float(cuts[0][0]), np.concatenate(rates[name])) for name, cuts in thresholds.items()}
    return found | ({READER: OperatingPoint(np.nan, np.concatenate(rates[READER]))} if len(rules) > 1 else {})


def rate(labels: np.ndarray, called: np.ndarray | pd.Series, weights: np.ndarray) -> np.ndarray:
    """Return sensitivity and specificity of calls, (N,) or (D, N), in each weighted sample: float (D, 2)."""
    called = np.asarray(called, dtype=float)
    with np.errstate(invalid="ignore"):
        sensitivity = (weights * called) @ labels / (weights @ labels)
        return np.column_stack([sensitivity, 1 - (weights * called) @ (1 - labels) / (weights @ (1 - labels))])
