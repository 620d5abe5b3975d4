"""Reader of paired folders: originals as `.png`, synthetic images as `.npz` (one array, any key and number type).

Labels as in the source project: 1 original, 0 synthetic. Sizes, bit depths and intensity scales may differ between the
two folders; nothing is made alike here, because finding out what the difference does is the task of notebook 02.

Patients are read from the originals' names (`P_00001_LEFT_CC_1_M.png`; of other names the stem is the patient), the
generator's batches from the synthetic ones' (`batch_<b>_<i>_malignant.npz`). A synthetic image with the stem of an
original is its pair and belongs to the same patient.
"""

import re

from shared.data.readers import Dataset
from shared.data.readers.common import build_manifest, check_task, image_reader, patient_from_name, side_and_view
from shared.run import DataError

NAME = "png-npz"
TASKS = ("malignant", "original")
ORIGINAL_FOLDERS = ("original", "originals", "real", "png")
SYNTHETIC_FOLDERS = ("synthetic", "synthetics", "generated", "fake", "npz")

_BATCH = re.compile(r"(batch_\d+)_")
_WORD = re.compile(r"(benign|malignant)", re.IGNORECASE)
_LETTERS = {"M": "MALIGNANT", "B": "BENIGN", "N": "BENIGN_WITHOUT_CALLBACK"}


def load(data_dir, *, task="malignant", input="crop"):
    """List the two folders.

    Args:
        data_dir: the folder that holds both, by name (`original/`, `synthetic/` or the like) or by what is in them.
        task: "original" (1 original, 0 synthetic; `pathology` says which) or "malignant" (originals only, by the M or
            B at the end of the name; synthetic images are excluded).
        input: has no effect; every image is a patch.
    Returns:
        Dataset; the extra column `lesion` holds what the file's name says, whatever the task is.
    Raises:
        DataError: one of the two folders is missing or empty.
        UsageError: a task that this layout has no labels for.
    """
    check_task(NAME, task, TASKS)
    originals = _files(data_dir, ".png", ORIGINAL_FOLDERS)
    synthetic = _files(data_dir, ".npz", SYNTHETIC_FOLDERS)
    stems = {path.stem for path in originals}
    rows = [_original_row(path, task) for path in originals]
    rows += [_synthetic_row(path, task, stems) for path in synthetic]
    for row, path in zip(rows, originals + synthetic, strict=True):
        row["image_path"] = path.relative_to(data_dir).as_posix()
        if not path.stat().st_size:
            row["exclusion_reason"] = f"{path.name} is an empty file"
    return Dataset(
        name=NAME,
        data_dir=data_dir,
        manifest=build_manifest(rows, source=NAME),
        class_names=("synthetic", "original") if task == "original" else ("benign", "malignant"),
        read_image=image_reader(data_dir),
        notes=_notes(originals, synthetic, task),
    )


def _files(data_dir, suffix, names):
    """Return the sorted files of the folder called one of `names`, else of the only one that holds such files."""
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir())
    named = [folder for folder in folders if folder.name.lower() in names and any(folder.glob(f"*{suffix}"))]
    holding = named or [folder for folder in folders if any(folder.glob(f"*{suffix}"))]
    if len(holding) != 1:
        found = "no folder holds" if not holding else "more than one folder holds"
        raise DataError(
            f"{data_dir}: {found} *{suffix} files; expected one called {names[0]}/ "
            "(originals as .png in original/, synthetic images as .npz in synthetic/)"
        )
    return sorted(path for path in holding[0].glob(f"*{suffix}") if path.is_file())


def _original_row(path, task):
    side, view = side_and_view(path.stem)
    pathology = _LETTERS.get(path.stem.rpartition("_")[2], "")
    row = {
        "image_id": path.stem,
        "patient_id": patient_from_name(path.stem) or path.stem,
        "side": side,
        "view": view,
        "pathology": "ORIGINAL" if task == "original" else pathology,
        "label": 1 if task == "original" else int(pathology == "MALIGNANT"),
        "lesion": pathology,
    }
    if task == "malignant" and not pathology:
        row["exclusion_reason"] = "the file's name ends in neither _M nor _B"
    return row


def _synthetic_row(path, task, original_stems):
    batch = _BATCH.match(path.stem)
    if path.stem in original_stems:
        patient = patient_from_name(path.stem) or path.stem
    else:
        patient = batch.group(1) if batch else path.stem
    word = _WORD.search(path.stem)
    row = {
        "image_id": f"synthetic_{path.stem}",
        "patient_id": patient,
        "pathology": "SYNTHETIC",
        "label": 0,
        "lesion": word.group(1).upper() if word else "",
    }
    if task == "malignant":
        row["exclusion_reason"] = "synthetic image: task malignant uses originals"
    return row


def _notes(originals, synthetic, task):
    notes = ["Every image is a patch: INPUT has no effect."]
    unnamed = sum(not patient_from_name(path.stem) for path in originals)
    if unnamed:
        notes.append(f"{unnamed} originals carry no patient in their name: each counts as a patient of its own.")
    batches = {match.group(1) for path in synthetic if (match := _BATCH.match(path.stem))}
    if task == "original":
        notes.append(
            f"Synthetic images are grouped by generator batch ({len(batches)} batches), originals by patient; images "
            "of the same name in both folders stay on one side of every split."
        )
    else:
        notes.append(f"{len(synthetic)} synthetic images are excluded: task malignant uses originals.")
    return tuple(notes)
