"""Split by patient, and say what would have leaked: the audit that every run starts with."""

import warnings
from collections.abc import Collection

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from shared.data.readers.common import Dataset
from shared.run import EXCLUDED, SPLITS, TEST, TRAIN, VALIDATION, DataError

VALIDATION_SHARE = 5  # validation is one in five of the patients that are not in test


def group_folds(labels: np.ndarray, groups: np.ndarray, rows: np.ndarray, *, count: int, seed: int) -> list[np.ndarray]:
    """Cut rows into `count` parts, stratified by label, so that no patient stands in two of them.

    This is the one grouped split of the project (scikit-learn's StratifiedGroupKFold, shuffled by `seed`).

    Args:
        labels, groups: int (N,) and (N,), the patient of each row.
        rows: int (n,) positions of the rows to cut; all others are left alone.
    Returns the positions in each held-out part, together `rows`.
    A class of fewer patients than parts is missing in some of them.
    Raises DataError: too few patients or images for so many parts.

    >>> patients = np.repeat(["a", "b", "c", "d"], 2)
    >>> parts = group_folds(np.repeat([0, 1, 0, 1], 2), patients, np.arange(8), count=2, seed=0)
    >>> [len(set(patients[part])) for part in parts], set(patients[parts[0]]) & set(patients[parts[1]])
    ([2, 2], set())
    """
    rows = np.asarray(rows)
    labels, groups = np.asarray(labels)[rows], np.asarray(groups)[rows]
    if len(np.unique(groups)) < count:
        few = f"{len(np.unique(groups))} patients are too few for {count} groups of patients"
        raise DataError(f"{few}; is the copy complete? Fewer folds: N_FOLDS")
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # a class that is rare: see `check_splits`
            return [rows[held_out] for _, held_out in splitter.split(rows, labels, groups)]
    except ValueError:
        zeros, ones = np.bincount(labels, minlength=2)[:2]
        needed = f"each class needs {count} images, there are {zeros} of class 0 and {ones} of class 1"
        raise DataError(f"no split is possible: {needed}; is the copy complete?") from None


def hold_out_fifth(labels: np.ndarray, groups: np.ndarray, rows: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the positions of a fifth of the patients of `rows`: the first part of `group_folds` with each class."""
    parts = group_folds(labels, groups, rows, count=VALIDATION_SHARE, seed=seed)
    classes = set(labels[rows])
    return next((part for part in parts if set(labels[part]) == classes), parts[0])


def assign_splits(
    manifest: pd.DataFrame,
    statistics: pd.DataFrame,
    *,
    shared_patients: Collection[str] = (),
    n_folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Give every row a split and a fold, so that no patient and no picture stands on two sides.

    The official test split is kept. Where the data set has none, a fifth of the patients becomes test. Validation
    is a fifth of the remaining patients; folds run over train and validation together. All are stratified by label.

    `manifest` is as a reader returns it, `statistics` as `build_image_store` does (`content`, `problem` of each row).
    Train rows of `shared_patients`, known to stand in both official splits, are excluded.
    Returns the manifest with `split`, `exclusion_reason` and `fold` filled in.
    Raises DataError: no image that can be used, or a split that lacks a class.
    """
    manifest = manifest.copy()
    problems = statistics.problem.to_numpy()
    exclude(manifest, problems != "", problems)
    labels, patients = manifest.label.to_numpy(), manifest.patient_id.to_numpy()
    usable = (manifest.split != EXCLUDED).to_numpy()
    if not usable.any():
        reason = manifest.exclusion_reason.mode()[0]
        raise DataError(f"none of the {len(manifest)} images can be used, e.g. because of: {reason}")
    is_test = (manifest.official_split == TEST).to_numpy()
    if (is_test & usable).any() and (~is_test & usable).any():
        both = manifest.patient_id.isin({*shared_patients, *patients[is_test & usable]}).to_numpy()
        exclude(manifest, both & ~is_test, "patient stands in the official test split as well")
    else:
        is_test = np.zeros(len(manifest), bool)
        is_test[hold_out_fifth(labels, patients, np.flatnonzero(usable), seed=seed + 1)] = True
    exclude_copies(manifest, statistics.content.to_numpy(), is_test)
    usable = (manifest.split != EXCLUDED).to_numpy()
    manifest.loc[usable, "split"] = np.where(is_test, TEST, TRAIN)[usable]
    development = np.flatnonzero(usable & ~is_test)
    manifest.loc[hold_out_fifth(labels, patients, development, seed=seed), "split"] = VALIDATION
    for fold, rows in enumerate(group_folds(labels, patients, development, count=n_folds, seed=seed + 2)):
        manifest.loc[rows, "fold"] = fold
    check_splits(manifest)
    return manifest


def check_splits(manifest: pd.DataFrame) -> None:
    """Raise DataError where a split or a fold lacks a class, or a patient stands on two sides."""
    for split in (TRAIN, VALIDATION, TEST):
        labels = manifest.label[manifest.split == split]
        for label in sorted({0, 1} - set(labels)):
            line = f"the {split} split has {len(labels)} images and none of class {label}: is the copy complete?"
            reasons = manifest.exclusion_reason[(manifest.label == label) & (manifest.split == EXCLUDED)]
            if len(reasons):
                line += f" {len(reasons)} images of that class are left out, e.g. because of: {reasons.mode()[0]}"
            raise DataError(line)
    in_folds = manifest[manifest.fold >= 0]
    counts = in_folds.groupby("label").patient_id.nunique()
    for fold, labels in in_folds.groupby("fold").label:
        for label in sorted({0, 1} - set(labels)):
            few = f"fold {fold} has no image of class {label}, of {counts[label]} patients outside test"
            raise DataError(f"{few}; fewer folds: N_FOLDS, or another SEED")
    sides = manifest[manifest.split != EXCLUDED].groupby("patient_id").split.nunique()
    if (sides > 1).any():
        raise DataError(f"{int((sides > 1).sum())} patients stand on two sides of the split, e.g. {sides.idxmax()}")


def find_copies(manifest: pd.DataFrame, content: np.ndarray) -> list[list[int]]:
    """Group the positions of rows whose prepared pictures are identical: groups of two or more."""
    rows = pd.Series(np.asarray(content))
    rows = rows[(rows != "") & rows.duplicated(keep=False)]
    return list(rows.index.to_series().groupby(rows).agg(list))


def exclude(manifest: pd.DataFrame, mask: np.ndarray, reason: str | np.ndarray) -> None:
    """Rule rows out in place, with one reason or one a row; rows that are out already keep theirs."""
    mask = mask & (manifest.split != EXCLUDED).to_numpy()
    manifest.loc[mask, "exclusion_reason"] = reason if isinstance(reason, str) else reason[mask]
    manifest.loc[mask, "split"] = EXCLUDED


def exclude_copies(manifest: pd.DataFrame, content: np.ndarray, is_test: np.ndarray) -> None:
    """Rule out copies outside test that conflict in their label, repeat a test image, or join two patients."""
    rows = manifest[["image_id", "patient_id", "label"]].reset_index(drop=True).assign(content=content, is_test=is_test)
    rows = rows[((rows.content != "") & (manifest.split != EXCLUDED).to_numpy())]
    rows = rows.sort_values("is_test", ascending=False, kind="stable")  # the first of a group is its test image
    groups = rows.groupby("content")
    first, place = groups.image_id.transform("first"), groups.cumcount()
    conflict = ~rows.is_test & (groups.label.transform("nunique") > 1)
    repeat = ~rows.is_test & ~conflict & (place > 0) & (groups.patient_id.transform("nunique") > 1)
    for mask, what in ((conflict, "with another label"), (repeat, "under another patient")):
        reasons = (f"the same picture stands {what} (" + first[mask] + ")").reindex(range(len(manifest)), fill_value="")
        exclude(manifest, (reasons != "").to_numpy(), reasons.to_numpy())


def audit(dataset: Dataset, manifest: pd.DataFrame, statistics: pd.DataFrame, *, seed: int = 0) -> dict:
    """Collect what a reader should know before believing a score; goes to `data/audit.json`.

    Returns plain values: counts per split, coverage, exclusions by reason, patients in both official splits, copies by
        picture content, label conflicts, the facts and notes of the reader.
    """
    used = manifest[manifest.split != EXCLUDED]
    on_two_sides = int((used.groupby("patient_id").split.nunique() > 1).sum())
    official = manifest[manifest.official_split != ""].groupby("patient_id").official_split.nunique()
    shared = sorted(official.index[official > 1])
    shared_rois = int((manifest.patient_id.isin(shared) & (manifest.official_split == TEST)).sum())
    copies = [
        {
            "image_ids": rows.image_id.tolist(),
            "patients": sorted(set(rows.patient_id)),
            "official_splits": sorted(set(rows.official_split)),
            "labels": sorted(map(int, set(rows.label))),
        }
        for rows in (manifest.loc[group] for group in find_copies(manifest, statistics.content.to_numpy()))
    ]
    is_official = bool(((used.official_split == TEST) == (used.split == TEST)).all())
    notes = list(dataset.notes)
    if not is_official:
        missing = "other" if (used.official_split == TEST).any() else "official test"
        notes.append(f"No {missing} image is on disk: a fifth of the patients was set aside as test.")
    return {
        "dataset": dataset.name,
        "seed": seed,
        "facts": dataset.facts,
        "notes": notes,
        "test_split": "official" if is_official else "made here, by patient",
        "splits": split_table(manifest, dataset.class_names).to_dict("records"),
        "patients_on_two_sides": on_two_sides,
        "official_shared_patients": dataset.facts.get("official_shared_patients", shared),
        "official_shared_test_rois": dataset.facts.get("official_shared_test_rois", shared_rois),
        "exclusions": manifest.exclusion_reason[manifest.split == EXCLUDED].value_counts().to_dict(),
        "unreadable": {row.image_id: row.problem for row in statistics.itertuples() if row.problem},
        "unreadable_masks": {row.image_id: row.mask_problem for row in statistics.itertuples() if row.mask_problem},
        "copies_by_content": len(copies),
        "copies_across_official_splits": sum(len(group["official_splits"]) > 1 for group in copies),
        "label_conflicts": [group for group in copies if len(group["labels"]) > 1],
        "copies": copies,
        "coverage": [] if dataset.coverage is None else dataset.coverage.to_dict("records"),
    }


def split_table(manifest: pd.DataFrame, class_names: tuple[str, str]) -> pd.DataFrame:
    """Count images, patients and classes per split: a table to show."""
    rows = []
    for split in SPLITS:
        part = manifest[manifest.split == split]
        counts = {name: int((part.label == label).sum()) for label, name in enumerate(class_names)}
        share = round(float(part.label.mean()), 3) if len(part) else None
        patients = part.patient_id.nunique()
        rows.append({"split": split, "images": len(part), "patients": patients, **counts, "prevalence": share})
    return pd.DataFrame(rows)


def audit_table(report: dict) -> pd.DataFrame:
    """Turn an audit into a two-column table that a person can read."""
    lines = {
        "test split": report["test_split"],
        "patients in both official splits": len(report["official_shared_patients"]),
        "images of those patients in test (kept)": report["official_shared_test_rois"],
        "patients on two sides of the split used here": report["patients_on_two_sides"],
        "pictures that stand more than once": report["copies_by_content"],
        "… of these, across the official splits": report["copies_across_official_splits"],
        "… of these, with two labels": len(report["label_conflicts"]),
        "files that cannot be read": len(report["unreadable"]),
        "masks that cannot be read (their images stay)": len(report["unreadable_masks"]),
        "images left out, for any reason": sum(report["exclusions"].values()),
    }
    width = max(len(line) for line in lines)  # so that the questions stand flush left when printed
    questions = [line.ljust(width) for line in lines]
    return pd.DataFrame({"question": questions, "answer": [str(value) for value in lines.values()]})
