"""Reader of class folders of arrays: `cancer/*.npz` and `non_cancer/*.npz`, normalised or not (one array a file)."""

from shared.data.readers import Dataset
from shared.data.readers.common import build_manifest, check_task, image_reader, patient_from_name, side_and_view
from shared.run import DataError

NAME = "npz"
TASKS = ("malignant", "abnormal")
POSITIVE = ("cancer", "malignant", "positive", "abnormal", "1")
NEGATIVE = ("non_cancer", "noncancer", "no_cancer", "benign", "negative", "normal", "healthy", "0")


def load(data_dir, *, task="malignant", input="crop"):
    """List the class folders; the folder decides the label, whichever of the two tasks is asked for.

    Args:
        data_dir: the folder that holds the class folders. One of two folders may have any name, if the other's is
            among `POSITIVE` or `NEGATIVE`.
        task: "malignant" or "abnormal"; both mean "in the positive folder".
        input: has no effect; an array is taken as it is.
    Returns:
        Dataset whose class names are the folders' names.
    Raises:
        DataError: no two class folders with `.npz` files, or names that do not say which is the positive class.
        UsageError: a task that this layout has no labels for.
    """
    check_task(NAME, task, TASKS)
    labels = _label_folders(data_dir)
    rows = [
        _row(path, label, data_dir)
        for folder, label in labels.items()
        for path in sorted(folder.glob("*.npz"))
        if path.is_file()
    ]
    return Dataset(
        name=NAME,
        data_dir=data_dir,
        manifest=build_manifest(rows, source=NAME),
        class_names=tuple(" / ".join(f.name for f, label in labels.items() if label == value) for value in (0, 1)),
        read_image=image_reader(data_dir),
        notes=_notes(rows),
    )


def _label_folders(data_dir):
    """Return {folder: 0 or 1} of the folders that hold arrays."""
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and any(path.glob("*.npz")))
    if len(folders) < 2:
        found = f"only {folders[0].name}/ holds" if folders else "no folder holds"
        raise DataError(f"{data_dir}: {found} *.npz files; expected class folders such as cancer/ and non_cancer/")
    labels = {folder: _label(folder.name) for folder in folders}
    unknown = [folder for folder, label in labels.items() if label is None]
    if len(folders) == 2 and len(unknown) == 1:
        (known,) = [label for label in labels.values() if label is not None]
        labels[unknown[0]] = 1 - known
    elif unknown:
        raise DataError(
            f"{data_dir}: folder {unknown[0].name}/ names no known class; call the positive one "
            f"{', '.join(POSITIVE)} and the other {', '.join(NEGATIVE[:1] + NEGATIVE[3:])}"
        )
    if len(set(labels.values())) < 2:
        raise DataError(f"{data_dir}: {', '.join(f.name for f in folders)} are all one class; both are needed")
    return labels


def _label(name):
    word = name.lower().replace("-", "_").replace(" ", "_")
    if word in POSITIVE:
        return 1
    return 0 if word in NEGATIVE else None


def _row(path, label, data_dir):
    side, view = side_and_view(path.stem)
    return {
        "image_id": f"{path.parent.name}_{path.stem}",
        "patient_id": patient_from_name(path.stem) or f"{path.parent.name}_{path.stem}",
        "side": side,
        "view": view,
        "pathology": path.parent.name.upper(),
        "label": label,
        "image_path": path.relative_to(data_dir).as_posix(),
        "exclusion_reason": "" if path.stat().st_size else f"{path.name} is an empty file",
    }


def _notes(rows):
    notes = ["Arrays are taken as they are: INPUT has no effect."]
    unnamed = sum(row["patient_id"] == row["image_id"] for row in rows)
    if unnamed:
        notes.append(
            f"{unnamed} of {len(rows)} files carry no patient in their name (P_00001_…): each counts as a patient of "
            "its own, so images of one woman may lie on both sides of a split; scores are then inflated."
        )
    return tuple(notes)
