"""Split by patient, and say what would have leaked: the audit that every run starts with."""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from shared.run import EXCLUDED, SPLITS, TEST, TRAIN, VALIDATION, DataError

VALIDATION_SHARE = 5  # validation is one in five of the patients that are not in test


def assign_splits(manifest, statistics, *, shared_patients=(), n_folds=5, seed=0):
    """Give every row a split and a fold, so that no patient and no picture stands on two sides.

    The official test split is kept. Where the data set has none, a fifth of the patients becomes test. Validation
    is a fifth of the remaining patients; folds run over train and validation together. All are stratified by label.

    Args:
        manifest: DataFrame as a reader returns it.
        statistics: DataFrame as `images.build_image_store` returns it: `content` and `problem` of each row.
        shared_patients: patients known to stand in both official splits; their train rows are excluded.
        n_folds: number of folds.
        seed: seed of the shuffling.
    Returns:
        the manifest with `split`, `exclusion_reason` and `fold` filled in.
    Raises:
        DataError: a split that lacks a class.
    """
    manifest = manifest.copy()
    _exclude(manifest, statistics.problem.to_numpy() != "", statistics.problem.to_numpy())
    official = manifest.official_split
    usable = manifest.split != EXCLUDED
    has_test = bool((official[usable] == TEST).any()) and bool((official[usable] != TEST).any())
    if has_test:
        both = set(shared_patients) | set(_patients(manifest, official == TEST))
        _exclude(
            manifest,
            manifest.patient_id.isin(both) & (official != TEST),
            "patient stands in the official test split as well",
        )
        is_test = (official == TEST).to_numpy()
    else:
        is_test = np.zeros(len(manifest), bool)
        is_test[_held_out(manifest, usable.to_numpy(), VALIDATION_SHARE, seed + 1)] = True
    _exclude_copies(manifest, statistics.content.to_numpy(), is_test)
    usable = (manifest.split != EXCLUDED).to_numpy()
    manifest.loc[usable, "split"] = np.where(is_test, TEST, TRAIN)[usable]
    development = usable & ~is_test
    manifest.loc[_held_out(manifest, development, VALIDATION_SHARE, seed), "split"] = VALIDATION
    for fold, rows in enumerate(_group_folds(manifest, development, n_folds, seed + 2)):
        manifest.loc[rows, "fold"] = fold
    check_splits(manifest)
    return manifest


def check_splits(manifest):
    """Raise DataError where a split lacks a class, or a patient stands on two sides."""
    for split in (TRAIN, VALIDATION, TEST):
        labels = manifest.label[manifest.split == split]
        for label in (0, 1):
            if not (labels == label).any():
                raise DataError(
                    f"the {split} split has {len(labels)} images and none of class {label}; "
                    "at least some patients of both classes are needed in each split: is the copy complete?"
                    + _most_left_out(manifest[manifest.label == label])
                )
    sides = manifest[manifest.split != EXCLUDED].groupby("patient_id").split.nunique()
    if (sides > 1).any():
        raise DataError(f"{int((sides > 1).sum())} patients stand on two sides of the split, e.g. {sides.idxmax()}")


def _most_left_out(rows):
    """Say why rows are left out: where a class is missing, that is the likely cause."""
    reasons = rows.exclusion_reason[rows.split == EXCLUDED]
    if reasons.empty:
        return ""
    return f" {len(reasons)} of its {len(rows)} images are left out, e.g. because of: {reasons.mode()[0]}"


def find_copies(manifest, content):
    """Group rows whose prepared pictures are identical.

    Returns:
        list of lists of row positions, each of two rows or more.
    """
    rows = pd.Series(np.arange(len(manifest)))[np.asarray(content) != ""]
    groups = rows.groupby(np.asarray(content)[rows]).agg(list)
    return [group for group in groups if len(group) > 1]


def _exclude(manifest, mask, reason):
    mask = np.asarray(mask) & (manifest.split != EXCLUDED).to_numpy()
    manifest.loc[mask, "exclusion_reason"] = reason[mask] if isinstance(reason, np.ndarray) else reason
    manifest.loc[mask, "split"] = EXCLUDED


def _exclude_copies(manifest, content, is_test):
    """Drop copies outside test that conflict in their label, repeat a test image, or join two patients."""
    for group in find_copies(manifest, content):
        group = [row for row in group if manifest.split[row] != EXCLUDED]
        outside = [row for row in group if not is_test[row]]
        first = next((row for row in group if is_test[row]), group[0] if group else None)
        if manifest.label[group].nunique() > 1:
            drop, reason = outside, "the same picture stands with another label"
        elif manifest.patient_id[group].nunique() > 1:
            drop, reason = [row for row in outside if row != first], "the same picture stands under another patient"
        else:
            continue
        mask = np.zeros(len(manifest), bool)
        mask[drop] = True
        _exclude(manifest, mask, f"{reason} ({manifest.image_id[first]})")


def _patients(manifest, mask):
    return manifest.patient_id[mask & (manifest.split != EXCLUDED)].unique()


def _held_out(manifest, mask, share, seed):
    folds = _group_folds(manifest, mask, share, seed)
    return folds[0]


def _group_folds(manifest, mask, count, seed):
    """Cut the rows of `mask` into `count` parts by patient, stratified by label: list of row positions."""
    rows = np.flatnonzero(mask)
    groups, labels = manifest.patient_id.to_numpy()[rows], manifest.label.to_numpy()[rows]
    if len(np.unique(groups)) < count:
        raise DataError(
            f"{len(np.unique(groups))} patients are too few for {count} groups of patients; "
            "is the copy complete? Fewer folds: N_FOLDS"
        )
    folder = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    try:
        return [rows[held_out] for _, held_out in folder.split(rows, labels, groups)]
    except ValueError:
        counts = np.bincount(labels, minlength=2)
        raise DataError(
            f"no split by patient is possible: each class needs at least {count} images, there are {counts[0]} of "
            f"class 0 and {counts[1]} of class 1; is the copy complete?"
        ) from None


# --------------------------------------------------------------------- audit
def audit(dataset, manifest, statistics, *, seed=0):
    """Collect what a reader should know before believing a score; goes to `data/audit.json`.

    Returns:
        dict of plain values: counts per split, coverage, exclusions by reason, patients in both official splits,
        copies by picture content, label conflicts, the facts and notes of the reader.
    """
    copies = find_copies(manifest, statistics.content.to_numpy())
    sides = manifest.assign(used=manifest.split)
    used = sides[sides.split != EXCLUDED]
    shared = used.groupby("patient_id").split.nunique()
    official = manifest[manifest.official_split != ""].groupby("patient_id").official_split.nunique()
    by_content = [
        {
            "image_ids": manifest.image_id[group].tolist(),
            "patients": sorted(set(manifest.patient_id[group])),
            "official_splits": sorted(set(manifest.official_split[group])),
            "labels": sorted({int(label) for label in manifest.label[group]}),
        }
        for group in copies
    ]
    is_official = bool(((used.official_split == TEST) == (used.split == TEST)).all())
    notes = list(dataset.notes)
    if not is_official:
        missing = "other" if (used.official_split == TEST).any() else "official test"
        notes.append(f"No {missing} image is on disk: a fifth of the patients was set aside as test.")
    return {
        "dataset": dataset.name,
        "seed": seed,
        "test_split": "official" if is_official else "made here, by patient",
        "splits": split_table(manifest, dataset.class_names).to_dict("records"),
        "patients_on_two_sides": int((shared > 1).sum()),
        "official_shared_patients": dataset.facts.get("official_shared_patients", sorted(official.index[official > 1])),
        "official_shared_test_rois": dataset.facts.get(
            "official_shared_test_rois",
            int((manifest.patient_id.isin(official.index[official > 1]) & (manifest.official_split == TEST)).sum()),
        ),
        "exclusions": manifest.exclusion_reason[manifest.split == EXCLUDED].value_counts().to_dict(),
        "unreadable": {
            row.image_id: row.problem for row in statistics.itertuples() if row.problem
        },
        "unreadable_masks": {
            row.image_id: row.mask_problem for row in statistics.itertuples() if row.mask_problem
        },
        "copies_by_content": len(copies),
        "copies_across_official_splits": sum(len(group["official_splits"]) > 1 for group in by_content),
        "label_conflicts": [group for group in by_content if len(group["labels"]) > 1],
        "copies": by_content,
        "coverage": [] if dataset.coverage is None else dataset.coverage.to_dict("records"),
        "facts": dataset.facts,
        "notes": notes,
    }  # fmt: skip


def split_table(manifest, class_names):
    """Count images, patients and classes per split: a DataFrame to show."""
    rows = []
    for split in SPLITS:
        part = manifest[manifest.split == split]
        counts = {name: int((part.label == label).sum()) for label, name in enumerate(class_names)}
        share = round(float(part.label.mean()), 3) if len(part) else None
        patients = part.patient_id.nunique()
        rows.append({"split": split, "images": len(part), "patients": patients, **counts, "prevalence": share})
    return pd.DataFrame(rows)


def audit_table(report):
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
