"""Recompute a run's table, limits and paired tests without the package: recompute.py RUN_DIR."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn import metrics as sk


def case_auc(rows):
    """Mean over the views of a lesion, then the highest lesion and the worst label of a side."""
    lesions = rows.groupby(["patient_id", "side", "lesion"], dropna=False).agg({"label": "max", "score": "mean"})
    sides = lesions.round(12).groupby(["patient_id", "side"], dropna=False).max()
    return sk.roc_auc_score(sides.label, sides.score)


def youden(labels, scores):
    cuts = np.unique(scores)
    return max(np.mean(scores[labels == 1] >= cut) + np.mean(scores[labels == 0] < cut) for cut in cuts)


def intercept(labels, scores):
    return optimize.brentq(lambda shift: (special.expit(special.logit(scores) + shift) - labels).mean(), -30, 30)


def draw_limits(compute, patients, draws):
    """95 % on the logit scale, the standard error from rows repeated as their patients are drawn."""
    names, generator = np.unique(patients), np.random.default_rng(5)
    where = [np.flatnonzero(patients == name) for name in names]
    drawn = (generator.integers(len(names), size=len(names)) for _ in range(draws))
    samples = np.array([compute(np.concatenate([where[k] for k in taken])) for taken in drawn])
    value = compute(np.arange(len(patients)))
    wider = stats.t.ppf(0.975, len(names) - 1) * np.sqrt(len(names) / (len(names) - 1))  # draws of few vary too little
    step = wider * samples.std(ddof=1) / (value * (1 - value))
    return special.expit(special.logit(value) - step), special.expit(special.logit(value) + step)


def clustered_p(labels, first, second, patients):
    """DeLong's test with patients as clusters (Obuchowski 1997), from the full matrix of pairs."""
    ones, zeros = labels == 1, labels == 0
    wins = [np.sign(s[ones][:, None] - s[zeros]) / 2 + 0.5 for s in (first, second)]
    delta, names = wins[0] - wins[1], np.unique(patients)
    of_one, of_zero = ((names[:, None] == patients[part]).astype(float) for part in (ones, zeros))
    of_rows, of_columns = delta.mean(1) - delta.mean(), delta.mean(0) - delta.mean()
    sums = [of_one @ of_rows / ones.sum(), of_zero @ of_columns / zeros.sum()]
    counts = [len(np.unique(patients[part])) for part in (ones, zeros)]
    variance = sum((part**2).sum() * n / (n - 1) for part, n in zip(sums, counts, strict=True))
    variance += 2 * (sums[0] * sums[1]).sum() * len(names) / (len(names) - 1)
    return 2 * stats.norm.sf(abs(delta.mean()) / np.sqrt(variance)) if variance > 1e-15 else 1.0


def check(run_dir, draws=800):
    """Return a line for every figure that does not agree: exact ones within 1e-6, drawn limits within 0.03."""
    run_dir, wrong, scores = Path(run_dir), [], {}

    def compare(what, value, found, within=1e-6):
        if not abs(float(value) - found) <= within:
            wrong.append(f"{what}: {value} in the run, {found:.6f} recomputed")

    for _, row in pd.read_csv(run_dir / "results/model_comparison_table.csv").iterrows():
        name, more = row.model, json.loads((run_dir / f"results/metrics/{row.model}.json").read_text())
        rows = pd.read_csv(run_dir / f"results/predictions/{name}.csv")
        test, held = rows[rows.split == "test"], rows[rows.split == "validation"]
        learned = rows[rows.split != "test"]  # with train where its scores are out of fold: these chose the threshold
        labels, score, patients = (test[column].to_numpy() for column in ("label", "score", "patient_id"))
        scores[name], called = score, score >= row.threshold
        if learned.score.nunique() > 1:
            right = (learned.score >= row.threshold) == learned.label
            compare(f"{name} Youden", right.groupby(learned.label).mean().sum(), youden(learned.label, learned.score))
        risk = score
        if more["calibration"] == "intercept":
            risk = special.expit(special.logit(score) + intercept(learned.label, learned.score))
        tenth = np.clip(np.ceil(risk * 10) - 1, 0, 9)
        for figure, found in {
            "auc": sk.roc_auc_score(labels, score), "average_precision": sk.average_precision_score(labels, score),
            "accuracy": np.mean(called == labels), "sensitivity": called[labels == 1].mean(),
            "specificity": 1 - called[labels == 0].mean(), "case_auc": case_auc(test),
            "f1": sk.f1_score(labels, called), "prevalence": labels.mean(), "brier": np.mean((risk - labels) ** 2),
            "precision": sk.precision_score(labels, called, zero_division=0), "recall": sk.recall_score(labels, called),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
            "val_auc": sk.roc_auc_score(held.label, held.score),
            "ece": sum(abs((labels - risk)[tenth == k].sum()) for k in range(10)) / len(risk),
        }.items():  # fmt: skip
            compare(f"{name} {figure}", row[figure], found)
        area = draw_limits(lambda k, y=labels, s=score: sk.roc_auc_score(y[k], s[k]), patients, draws)
        for figure, found in zip(("auc_low", "auc_high"), area, strict=True):
            compare(f"{name} {figure}", row[figure], found, within=0.03)
    pairs = pd.read_csv(run_dir / "results/paired_differences.csv").fillna({"p_delong": 1})
    pairs.index = pairs.model_a + " minus " + pairs.model_b
    for pair, row in pairs.iterrows():
        a, b = scores[row.model_a], scores[row.model_b]
        compare(f"{pair} delta", row.delta_auc, sk.roc_auc_score(labels, a) - sk.roc_auc_score(labels, b))
        compare(f"{pair} p", row.p_delong, clustered_p(labels, a, b, patients))
    tested = pairs[pairs.p_holm.notna()].sort_values("p_delong")
    adjusted = np.maximum.accumulate(np.minimum(tested.p_delong * np.arange(len(tested), 0, -1), 1))
    for pair in tested.index:
        compare(f"{pair} Holm", tested.p_holm[pair], adjusted[pair])
    return wrong


if __name__ == "__main__":
    lines = check(sys.argv[1])
    print("\n".join(lines) or "agrees")
    sys.exit(bool(lines))
