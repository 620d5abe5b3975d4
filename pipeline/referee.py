"""Judge anyone's predictions the way notebook 07 judges the series': intervals by patient, paired tests, warnings."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from shared.evaluation import bootstrap_interval, describe_differences, operating_points, paired_differences
from shared.evaluation.calibration import describe_calibration
from shared.evaluation.cards import render
from shared.evaluation.intervals import FEW
from shared.evaluation.metrics import case_table, has_both, lesion_table
from shared.run import TEST, VALIDATION, DataError, UsageError, check_out, refuse_damage, write_csv, write_json

TEMPLATE = Path(__file__).parent / "templates/referee.html"
SYNONYMS = {
    "patient_id": "patient group subject subject_id client_id", "label": "y_true target truth cancer malignant y",
    "score": "prob probability y_score y_prob y_pred prediction p", "image_id": "image file filename file_name id",
    "side": "laterality breast", "lesion": "lesion_id abnormality_id", "split": "set partition subset",
    "model": "model_name", "seed": "trial run",
}  # fmt: skip
WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "benign": 0, "malignant": 1}
SPLITS = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION, "testing": TEST, "holdout": TEST}
IMAGE = ["patient_id", "image_id"]  # a name such as LCC.png is unique only within its patient
TOO_GOOD = 0.95  # AUC by image, benign against malignant: honest tests on public mammograms stay below


def run(files: Sequence[str], *, out: str, prevalence: float = 0.005, echo: Callable[[str], None] = print) -> None:
    """Read prediction files, print what they hold, and write referee.csv, .json and .html to `out`.

    The figures are rows of model, figure, value, low, high; low and high are 95 % limits by patient. Raises DataError
    where a file cannot be used.
    """
    if not 0 < prevalence < 1:
        raise UsageError(f"--prevalence {prevalence}: a share between 0 and 1 is needed")
    folder = check_out(out, is_folder=True)
    notes = list[str]()
    models: dict[str, pd.DataFrame] = {}
    stems = [Path(file).stem for file in files]
    for file, stem in zip(files, stems, strict=True):
        name = stem if stems.count(stem) == 1 else str(Path(file).with_suffix(""))  # A/x and B/x
        found = read_models(Path(file), name, notes)
        if twice := sorted(found.keys() & models):
            raise UsageError(f"{file}: another file holds a model {twice[0]!r} as well; give each once, or rename one")
        models |= found
    figures = pd.DataFrame([row for name, rows in models.items() for row in judge(name, rows, prevalence, notes)])
    words = describe_differences(compare(models, notes)).reset_index()
    facts = {"notes": notes, "figures": figures.to_dict("records"), "differences": words.to_dict("records")}
    write_csv(folder / "referee.csv", figures)
    write_json(folder / "referee.json", facts)
    page = render(TEMPLATE, facts, folder / "referee.html")
    shown = figures.round(3).astype(object).where(figures.notna(), "")
    tables = [table.to_string(index=False) for table in (shown, words) if len(table)]
    for text in (*notes, *tables, f"written: {page}"):
        echo(text)


def read_models(path: Path, title: str, notes: list[str]) -> dict[str, pd.DataFrame]:
    """Read one file as {model: its rows}: columns by the names of `SYNONYMS`, noted, and labels 0 and 1."""
    with refuse_damage(f"{path}: cannot be read as CSV", "give another file"):
        if not path.is_file():  # e.g. a pipe, which would be waited for
            raise ValueError("no such file")
        with open(path, encoding="utf-8-sig") as file:
            separator = max(",;\t", key=file.readline().count)
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
        if not isinstance(raw.index, pd.RangeIndex):  # pandas took the first cell of each row for its name
            raise ValueError("rows have more cells than the header")
    there = {str(column).strip().lower().replace(" ", "_"): column for column in raw}
    words = {name: [name, *others.split()] for name, others in SYNONYMS.items()}
    taken = {name: there[word] for name in words for word in words[name][::-1] if word in there}
    for name in ("patient_id", "label", "score"):
        if name not in taken:
            raise DataError(f"{path}: no column {' or '.join(words[name])}; it has {', '.join(map(str, raw))[:200]}")
    notes.append(f"{title}: {len(raw)} rows; " + ", ".join(f"{name} = {taken[name]}" for name in taken))
    rows = pd.DataFrame({name: raw[column].fillna("").str.strip() for name, column in taken.items()})
    labels, scores = rows.label.str.lower().map(WORDS).astype(float), pd.to_numeric(rows.score, errors="coerce")
    numbers = {"label": labels, "score": scores}
    for name, bad in {"patient_id": rows.patient_id == "", **{n: ~np.isfinite(v) for n, v in numbers.items()}}.items():
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(f"{path}: row {row + 2}: {name} is {rows[name][row]!r}; labels are 0 or 1, scores numbers")
    rows = rows.assign(**numbers)
    rows["split"] = rows.split.str.lower().replace(SPLITS) if "split" in rows else TEST
    parts = rows.groupby("model") if "model" in rows else ()
    models = {f"{title}: {name}": part for name, part in parts} or {title: rows}
    for name, part in models.items():
        labels = part.label[part.split == TEST].to_numpy()
        if not has_both(labels):
            raise DataError(f"{path}: {len(labels)} test rows of {name}, without both classes: nothing can be ranked")
    return models


def average_seeds(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Return one row an image with its mean score over the seeds, test scores (S, N), and how many rows were copies."""
    if "image_id" not in rows:
        return rows, rows.score[rows.split == TEST].to_numpy()[None], 0
    key = [*IMAGE, "split"]
    wide = rows.assign(seed=rows.get("seed", "")).pivot_table("score", key, "seed", "first")
    once = rows.drop_duplicates(key).set_index(key)
    once = once.assign(score=wide.mean(axis=1)).reset_index()
    by_seed = wide.reindex(pd.MultiIndex.from_frame(once.loc[once.split == TEST, key])).to_numpy().T
    return once, by_seed, len(rows) - int(wide.notna().to_numpy().sum())


def judge(name: str, rows: pd.DataFrame, prevalence: float, notes: list[str]) -> list[dict[str, object]]:
    """Return the figures of one model, and add its warnings to `notes`."""
    rows, by_seed, copies = average_seeds(rows)
    test, validation = (rows[rows.split == split] for split in (TEST, VALIDATION))
    draws = int(np.clip(4_000_000 // len(test), 400, 2000))
    is_probability = rows.score.between(0, 1).all()
    found = {}
    for level, part in {"image": test, "lesion": lesion_table(test), "case": case_table(test)}.items():
        found[f"AUC by {level}"] = bootstrap_interval(part.label, part.score, part.patient_id, draws=draws)
    if len(by_seed) > 1 and np.isfinite(by_seed).all():
        found["AUC, patients and seeds drawn"] = bootstrap_interval(test.label, by_seed, test.patient_id, draws=draws)
    if is_probability:
        found |= describe_calibration(test.label, test.score, test.patient_id)
    chosen = validation.score.nunique() > 1 and has_both(validation.label.to_numpy())
    if chosen or is_probability:
        (point,) = operating_points(validation if chosen else None, test, draws=min(draws, 1000)).values()
        where = f"at {point.threshold:.3g}, {'best on validation' if chosen else 'not chosen: no validation rows'}"
        found |= {f"sensitivity {where}": point.sensitivity, f"specificity {where}": point.specificity}
        for share in (prevalence, float(test.label.mean())):
            found |= {f"{figure} at {share:.1%}": value for figure, value in point.at_prevalence(share).items()}
    notes += [f"WARNING {name}: {line}" for line in warn(rows, test, found["AUC by image"].value, copies)]
    keys = ("model", "figure", "value", "low", "high")
    return [dict(zip(keys, (name, key, at.value, at.low, at.high), strict=True)) for key, at in found.items()]


def warn(rows: pd.DataFrame, test: pd.DataFrame, area: float, copies: int) -> list[str]:
    """Return what to know before believing the figures, a line each."""
    people, splits = test.groupby("label").patient_id.nunique(), rows.groupby("patient_id").split.nunique()
    classes = rows.label[rows.split == VALIDATION].nunique()
    lines = {
        f"{(splits > 1).sum()} patients stand in more than one split, e.g. {splits.idxmax()}": splits.max() > 1,
        f"{copies} rows repeat an image (and seed): the first of each counts": copies,
        f"the scores take {test.score.nunique()} values: they look like classes": test.score.nunique() <= 2,
        f"only {people.min()} patients of class {people.idxmin()}: all of it is descriptive": people.min() < FEW,
        "each row has a patient of its own: if rows are images, intervals are too short": test.patient_id.is_unique,
        f"AUC {area:.3f} is above what honest tests reach: look for a leak or a format cue": area > TOO_GOOD,
        f"AUC {area:.3f} is below 0.5: does a larger score mean class 1?": area < 0.5,
        "scores outside [0, 1] are no probabilities: no calibration": not rows.score.between(0, 1).all(),
        "some validation rows, of one class: no threshold from them": classes == 1,
    }
    return [line for line, holds in lines.items() if holds]


def compare(models: dict[str, pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """Compare the models two by two on the test images that all of them share; Holm's correction is over all pairs."""
    tests = [rows[rows.split == TEST] for rows in models.values()]
    if len(tests) < 2 or not all("image_id" in rows for rows in tests):
        notes += ["WARNING models without image_id cannot be paired"] * (len(tests) > 1)
        return paired_differences([0], {}, [0], pairs=())
    tests = [average_seeds(rows)[0].set_index(IMAGE, drop=False) for rows in tests]
    common = sorted(set.intersection(*(set(rows.index) for rows in tests)))
    first, *others = (rows.loc[common] for rows in tests)
    usable = all(rows.label.equals(first.label) for rows in others) and has_both(first.label.to_numpy())
    notes.append(f"{'' if usable else 'WARNING not '}compared on the {len(common)} test images that all share")
    scores = dict(zip(models, (rows.score for rows in (first, *others)), strict=True))
    return paired_differences(first.label, scores, first.patient_id, pairs=combinations(scores, 2) if usable else ())
