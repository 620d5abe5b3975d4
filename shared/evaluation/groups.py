"""For whom does a model work? Groups of the test images, each against the others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shared.evaluation import metrics
from shared.evaluation.intervals import FEW, Interval, bootstrap_interval, draw_intervals, weighted_auc

GROUPS = ("abnormality_type", "breast_density", "subtlety", "view", "side", "margins")
COLUMNS = (
    "column", "group", "n", "n_patients", "prevalence", "auc", "auc_low", "auc_high", "sensitivity", "specificity",
    "difference", "difference_low", "difference_high", "descriptive",
)  # fmt: skip


def compare_groups(rows: pd.DataFrame, by: Sequence[str], *, threshold: float, draws: int = 1000) -> pd.DataFrame:
    """Score groups of images that hold both classes, and compare each with all other images of known value.

    `rows` have the columns patient_id, label, score (probabilities) and those of `by`, whose values are the groups; ""
    is unknown. Columns that are missing or constant are passed over.
    Returns column, group (all rows first), n, n_patients, prevalence, auc, auc_low, auc_high, sensitivity, specificity,
        difference (of AUC, from the others), difference_low, difference_high, descriptive (fewer than 20 patients of a
        class: too few for an interval to mean what it says). An AUC of exactly 0 or 1 comes back in every draw, which
        is no certainty: its limits, and those of differences from it, are NaN.
    """
    labels = rows.label.to_numpy()
    groups = [("all", "images", np.ones(len(rows), bool), np.zeros(len(rows), bool))]
    for column in (column for column in by if column in rows and rows[column].nunique() > 1):
        known = (rows[column] != "").to_numpy()
        for value in sorted(rows[column][known].unique()):
            inside = (rows[column] == value).to_numpy()
            groups.append((column, value, inside, known & ~inside))
    found = []
    for column, value, inside, others in groups:
        if not metrics.has_both(labels[inside]):
            continue
        part = rows[inside]
        row = {"column": column, "group": value, "n_patients": rows.patient_id[inside].nunique()}
        area = bootstrap_interval(part.label, part.score, part.patient_id, draws=draws)
        row |= metrics.summarise(part.label, part.score, threshold=threshold)
        if 0 < area.value < 1:
            row |= {"auc_low": area.low, "auc_high": area.high}
        if metrics.has_both(labels[others]):
            gap = subtract_areas(rows, inside, others, draws=draws)
            row["difference"] = gap.value
            if 0 < area.value < 1 and 0 < metrics.auc(labels[others], rows.score[others]) < 1:
                row |= {"difference_low": gap.low, "difference_high": gap.high}
        row["descriptive"] = bool(part.groupby("label").patient_id.nunique().min() < FEW)
        found.append(row)
    return pd.DataFrame(found, columns=list(COLUMNS))


def subtract_areas(rows: pd.DataFrame, inside: np.ndarray, others: np.ndarray, *, draws: int) -> Interval:
    """Return the AUC of the rows `inside` minus that of `others`, bool (N,), with its interval by patient."""
    labels, scores = rows.label.to_numpy(), rows.score.to_numpy()
    first = weighted_auc(labels[inside], scores[inside])
    second = weighted_auc(labels[others], scores[others])

    def gap(weights: np.ndarray) -> np.ndarray:
        return first(weights[:, inside]) - second(weights[:, others])

    return draw_intervals(gap, rows.patient_id, draws, 0, share=False)[0]
