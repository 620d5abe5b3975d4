"""Reader of class folders of arrays: `cancer/*.npz` and `non_cancer/*.npz`, normalised or not (one array a file)."""

from pathlib import Path

from shared.data.readers import common
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "npz"
TASKS = ("malignant", "abnormal")
POSITIVE = ("cancer", "malignant", "positive", "abnormal", "1")
NEGATIVE = ("non_cancer", "noncancer", "no_cancer", "benign", "negative", "normal", "healthy", "0")


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """List the class folders; the folder decides the label, whichever of the two tasks is asked for.

    One of two folders may have any name, if the other's is among `POSITIVE` or `NEGATIVE`.
    Raises DataError: no two class folders with `.npz` files, or names that do not say which is the positive class;
        UsageError: a task that this layout has no labels for.
    """
    common.check_task(NAME, task, TASKS)
    labels = label_folders(data_dir)
    rows = []
    for folder, label in labels.items():
        for path in common.files_in(folder, ".npz"):
            name = f"{folder.name}_{path.stem}"
            place = {"image_id": name, "patient_id": common.patient_from_name(path.stem) or name}
            place |= {"image_path": path.relative_to(data_dir).as_posix(), **common.side_and_view(path.stem)}
            rows.append({**place, "pathology": folder.name.upper(), "label": label})
    notes = ["Arrays are taken as they are: INPUT has no effect."]
    unnamed = sum(row["patient_id"] == row["image_id"] for row in rows)
    if unnamed:
        notes.append(f"{unnamed} of {len(rows)} files carry no patient in their name (P_00001_…): each counts as one.")
        notes.append("Images of one woman may then lie on both sides of a split, and scores are inflated.")
    zeros, ones = (" / ".join(path.name for path, label in labels.items() if label == value) for value in (0, 1))
    return common.make_dataset(NAME, data_dir, rows, (zeros, ones), notes=notes)


def label_folders(data_dir: Path) -> dict[Path, int]:
    """Return {folder: 0 or 1} of the folders that hold arrays, by their names."""
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and common.files_in(path, ".npz"))
    if len(folders) < 2:
        found = f"only {folders[0].name}/ holds" if folders else "no folder holds"
        raise DataError(f"{data_dir}: {found} *.npz files; expected class folders such as cancer/ and non_cancer/")
    labels = {}
    unknown = []
    for folder in folders:
        word = folder.name.lower().replace("-", "_").replace(" ", "_")
        if word not in POSITIVE + NEGATIVE:
            unknown.append(folder)
        labels[folder] = int(word in POSITIVE)
    if len(folders) == 2 and len(unknown) == 1:
        (known,) = set(folders) - set(unknown)
        labels[unknown[0]] = 1 - labels[known]
    elif unknown:
        words = f"call the positive one {', '.join(POSITIVE)}, the other {', '.join(NEGATIVE[:1] + NEGATIVE[3:])}"
        raise DataError(f"{data_dir}: folder {unknown[0].name}/ names no known class; {words}")
    if len(set(labels.values())) < 2:
        raise DataError(f"{data_dir}: {', '.join(f.name for f in folders)} are all one class; both are needed")
    return labels
