"""Reader of paired folders: originals as `.png`, synthetic images as `.npz` (one array, any key and number type).

Labels: 1 original, 0 synthetic. Sizes, bit depths and intensity scales may differ between the two folders; nothing is
made alike here, because finding out what the difference does is the task of notebook 02.
Patients are read from the originals' names (`P_00001_LEFT_CC_1_M.png`; of other names the stem is the patient), the
generator's batches from the synthetic ones' (`batch_<b>_<i>_malignant.npz`). A synthetic image with the stem of an
original is its pair and belongs to the same patient.
"""

import re
from pathlib import Path

from shared.data.readers import common
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "png-npz"
TASKS = ("malignant", "original")
ORIGINAL_FOLDERS = ("original", "originals", "real", "png")
SYNTHETIC_FOLDERS = ("synthetic", "synthetics", "generated", "fake", "npz")
LETTERS = {"M": "MALIGNANT", "B": "BENIGN", "N": "BENIGN_WITHOUT_CALLBACK"}


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """List the two folders.

    Task "original" sets originals against synthetic images (`pathology` says which); "malignant" takes originals
    only, by the M or B at the end of the name. The extra column `drawn_class` holds what the name says in either task.
    Raises DataError: one of the two folders is missing or empty; UsageError: a task that this layout has no labels for.
    """
    common.check_task(NAME, task, TASKS)
    originals = find_pictures(data_dir, ".png", ORIGINAL_FOLDERS)
    synthetic = find_pictures(data_dir, ".npz", SYNTHETIC_FOLDERS)
    stems = {path.stem for path in originals}
    rows = [original_row(path, task) for path in originals]
    rows += [synthetic_row(path, task, stems) for path in synthetic]
    for row, path in zip(rows, originals + synthetic, strict=True):
        row["image_path"] = path.relative_to(data_dir).as_posix()
    notes = ["Every image is a patch: INPUT has no effect."]
    unnamed = sum(not common.patient_from_name(path.stem) for path in originals)
    if unnamed:
        notes.append(f"{unnamed} originals carry no patient in their name: each counts as a patient of its own.")
    if task == "original":
        batches = {batch_of(path) for path in synthetic} - {""}
        notes.append(f"Synthetic images are grouped by generator batch ({len(batches)} batches), originals by patient.")
        notes.append("Images of the same name in both folders stay on one side of every split.")
    else:
        notes.append(f"{len(synthetic)} synthetic images are excluded: task malignant uses originals.")
    class_names = ("synthetic", "original") if task == "original" else ("benign", "malignant")
    return common.make_dataset(NAME, data_dir, rows, class_names, notes=notes)


def find_pictures(data_dir: Path, suffix: str, names: tuple[str, ...]) -> list[Path]:
    """Return the sorted files of the folder called one of `names`, else of the only one that holds such files."""
    holding = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and common.files_in(path, suffix)]
    holding = [folder for folder in holding if folder.name.lower() in names] or holding
    if len(holding) != 1:
        found = "no folder holds" if not holding else "more than one folder holds"
        raise DataError(f"{data_dir}: {found} *{suffix} files; expected original/ (.png) and synthetic/ (.npz)")
    return common.files_in(holding[0], suffix)


def original_row(path: Path, task: str) -> dict:
    """Return the manifest row of an original; its name ends in the pathology's letter."""
    pathology = LETTERS.get(path.stem.rpartition("_")[2], "")
    patient = common.patient_from_name(path.stem) or path.stem
    row = {"image_id": path.stem, "patient_id": patient, **common.side_and_view(path.stem), "drawn_class": pathology}
    if task == "original":
        return row | {"pathology": "ORIGINAL", "label": 1, "exclusion_reason": ""}
    reason = "" if pathology else "the file's name ends in neither _M nor _B"
    return row | {"pathology": pathology, "label": int(pathology == "MALIGNANT"), "exclusion_reason": reason}


def batch_of(path: Path) -> str:
    """Return the generator's batch of `batch_<b>_<i>_malignant.npz`; "" where the name has none."""
    match = re.match(r"(batch_\d+)_", path.stem)
    return match.group(1) if match else ""


def synthetic_row(path: Path, task: str, original_stems: set[str]) -> dict:
    """Return the manifest row of a synthetic image; the stem of an original makes it that patient's."""
    word = re.search(r"(benign|malignant)", path.stem, re.IGNORECASE)
    patient = common.patient_from_name(path.stem) if path.stem in original_stems else batch_of(path)
    return {
        "image_id": f"synthetic_{path.stem}",
        "patient_id": patient or path.stem,
        "pathology": "SYNTHETIC",
        "label": 0,
        "drawn_class": word.group(1).upper() if word else "",
        "exclusion_reason": "synthetic image: task malignant uses originals" if task == "malignant" else "",
    }
