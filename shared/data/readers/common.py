"""What several readers need: the Dataset, manifest rows with defaults, files on disk, patients and views from names."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from shared.data import decoding
from shared.run import EXCLUDED, MANIFEST_COLUMNS, DataError, UsageError, list_tree

# the position is the number of TASK="subtype"; -1 where a row has none
SUBTYPES = (("calcification", "BENIGN"), ("mass", "BENIGN"), ("calcification", "MALIGNANT"), ("mass", "MALIGNANT"))


@dataclass(frozen=True)
class Dataset:
    """What a reader returns.

    The manifest has one row per image, `MANIFEST_COLUMNS` and after them what the layout adds. `split` is "" or, where
    the reader itself rules a row out, "excluded" with `exclusion_reason`; `fold` is −1. `read_image` raises DataError,
    is safe in threads, and may return a smaller image whose shorter side is at least `min_side` pixels.
    """

    name: str  # of the layout in `READERS`
    data_dir: Path  # absolute; all paths of the manifest are relative to it
    manifest: pd.DataFrame
    class_names: tuple[str, str]  # the words for label 0 and label 1
    read_image: Callable[..., np.ndarray]  # (image_path, min_side=None) → (H, W) plane of uint8, uint16 or float
    read_mask: Callable[..., np.ndarray] | None = None  # manifest row → (H, W) lesion mask in its image's frame
    coverage: pd.DataFrame | None = None  # rows that the source lists and images on disk, per split and type
    facts: dict = field(default_factory=dict)  # what else the audit should echo, by name (numbers, lists)
    notes: tuple[str, ...] = ()  # sentences for the reader of the audit


def make_dataset(
    name: str, data_dir: Path, rows: list[dict] | pd.DataFrame, class_names: tuple[str, str], *, notes: list[str]
) -> Dataset:
    """Make a Dataset from rows that hold only what a reader knows; an image is a file, as `image_reader` reads it.

    `rows` hold at least image_id, patient_id, label, image_path; `exclusion_reason` sets `split` to "excluded". What is
    no manifest column becomes an extra column at the end.
    Returns Dataset whose manifest holds words as str ("" where unknown), and label, fold and subtype as int.
    """
    frame = pd.DataFrame(rows).reset_index(drop=True).assign(source=name, fold=-1)
    frame = frame.reindex(columns=[*MANIFEST_COLUMNS, *(column for column in frame if column not in MANIFEST_COLUMNS)])
    numbers = [column for column in ("label", "fold", "subtype") if column in frame]
    words = [column for column in frame if column not in numbers]
    frame[words] = frame[words].astype(object).fillna("").astype(str)
    frame[numbers] = frame[numbers].astype(int)
    frame["split"] = np.where(frame["exclusion_reason"] != "", EXCLUDED, "")
    return Dataset(name, data_dir, frame, class_names, image_reader(data_dir), notes=tuple(notes))


def subtype_of(abnormality_type: str, pathology: str) -> int:
    """Return the position in `SUBTYPES`, -1 where the pair is not one of the four."""
    pair = (abnormality_type, "BENIGN" if pathology.startswith("BENIGN") else pathology)
    return SUBTYPES.index(pair) if pair in SUBTYPES else -1


def check_task(name: str, task: str, tasks: tuple[str, ...]) -> None:
    """Raise UsageError where the layout `name` cannot answer `task`."""
    if task not in tasks:
        raise UsageError(f"TASK {task!r}: the layout {name!r} has no such labels; choose {' or '.join(tasks)}")


def check_input(name: str, input: str) -> None:
    """Raise UsageError where crops are asked of the layout `name`, which says nothing of where lesions lie."""
    if input != "full":
        raise UsageError(f"INPUT {input!r}: the layout {name!r} has whole mammograms alone; choose INPUT full")


def image_reader(data_dir: Path) -> Callable[..., np.ndarray]:
    """Return a function (image_path, min_side=None) → grey plane, where an image is a file below `data_dir`."""
    return lambda path, min_side=None: decoding.read_grey(decoding.inside(data_dir, path), min_side=min_side)


def square_at(shape: tuple[int, ...], row: int, column: int, side: int, file: str) -> tuple[slice, slice]:
    """Return the rows and columns of a square about a pixel, moved inside the image where it would stick out.

    `side`, pixels, shrinks to what the image of this `shape` holds. Raises DataError: the pixel lies outside.
    """
    height, width = shape
    if not (0 <= row < height and 0 <= column < width):
        raise DataError(f"{file}: x {column}, y {row} lies outside the image of {width} × {height} pixels")
    side = min(side, height, width)
    top = int(np.clip(row - side // 2, 0, height - side))
    left = int(np.clip(column - side // 2, 0, width - side))
    return slice(top, top + side), slice(left, left + side)


def list_files(data_dir: Path, *endings: str) -> list[str]:
    """List the files below `data_dir`, at any depth, whose names in lower case end in one of `endings`.

    Names that begin with a dot are left out: macOS puts a `._name` that is no picture beside each file.
    Returns sorted paths relative to `data_dir`, POSIX slashes.
    """
    files = (path for path in list_tree(data_dir) if has_ending(path, *endings))
    return sorted(path.relative_to(data_dir).as_posix() for path in files)


def files_in(folder: Path, ending: str) -> list[Path]:
    """Return the sorted files right in a folder, not below it, that `list_files` would list."""
    return sorted(path for path in folder.glob("*") if has_ending(path, ending) and path.is_file())


def has_ending(path: Path, *endings: str) -> bool:
    """Tell whether a file's name in lower case ends in one of `endings`, and does not begin with a dot."""
    return path.name.lower().endswith(endings) and not path.name.startswith(".")


def patient_from_name(name: str) -> str:
    """Find the patient in a file's name; "" where it holds none.

    `P_00001_LEFT_CC_1_M.png` (CBIS-DDSM) gives `P_00001`, `A_1141_1.RIGHT_CC.png` (DDSM) gives `A_1141_1`.
    """
    match = re.search(r"P_\d+|[A-D]_\d{4}_\d", name)
    return match[0] if match else ""


def side_and_view(name: str) -> dict[str, str]:
    """Find {side: LEFT or RIGHT, view: CC or MLO, lesion: its number} in a file's name; "" where it is silent."""
    match = re.search(r"(LEFT|RIGHT)(?:[_.]?(CC|MLO)(?:_(\d+))?)?", name, re.IGNORECASE)
    side, view, lesion = (word or "" for word in match.groups()) if match else ("", "", "")
    return {"side": side.upper(), "view": view.upper(), "lesion": lesion}
