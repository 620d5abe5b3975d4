"""What readers of a csv file over a tree of images need: its words, checked, and the files that its rows mean."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.data import decoding
from shared.data.readers import workbooks
from shared.data.readers.common import list_files
from shared.run import DataError, refuse_damage

SIDES = {"L": "LEFT", "R": "RIGHT"}
DENSITIES = {"A": "1", "B": "2", "C": "3", "D": "4"}  # BI-RADS, as letters and as CBIS-DDSM counts them


def read_words(
    path: Path, needed: Sequence[str], optional: Sequence[str] = (), *, separator: str = ","
) -> pd.DataFrame:
    """Read columns of a csv file, or of the first sheet of a workbook, as words, blanks and line breaks settled.

    A column's name is compared in lower case, with "_" for a blank, and without a byte order mark.
    Returns str columns `needed` and `optional`, "" where a cell or an optional column is missing.
    Raises DataError: no UTF-8 csv or no workbook, a column that is missing or stands there twice.
    """
    if path.suffix.lower() in (".xls", ".xlsx"):
        raw = pd.DataFrame(workbooks.read_rows(path))
    else:
        with refuse_damage(f"{path.name}: not a UTF-8 csv file", "fetch it again"):
            options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
            raw = pd.read_csv(path, sep=separator, header=None, **options)
    header = [str(word).strip().lower().replace(" ", "_") for word in raw.iloc[0]]
    wanted = [*needed, *optional]
    repeated = [column for column in wanted if header.count(column) > 1]
    if repeated:
        raise DataError(f"{path.name}: the column {repeated[0]} stands there twice; keep one")
    missing = [column for column in needed if column not in header]
    if missing:
        raise DataError(f"{path.name}: no column {', '.join(missing)}; fetch the file again")
    known = [column for column in wanted if column in header]
    frame = raw.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)[known]
    frame = frame.reindex(columns=wanted, fill_value="")
    return frame.map(lambda value: " ".join(value.split()) if isinstance(value, str) else "")


def check_column(file: str, column: pd.Series, allowed: Collection[str]) -> None:
    """Raise DataError with the first row of the csv file `file` where `column` holds no word of `allowed`."""
    for row in np.flatnonzero(~column.isin(list(allowed)))[:1]:
        words = ", ".join(allowed)
        raise DataError(f"{file}: row {row + 2}: {column.name} {column[row]!r} is not one of {words}")


def check_filled(file: str, table: pd.DataFrame, *columns: str) -> None:
    """Raise DataError with the first row of the csv file `file` where one of the `columns` is empty."""
    for column in columns:
        for row in np.flatnonzero(table[column].eq(""))[:1]:
            raise DataError(f"{file}: row {row + 2}: no {column}")


def find_images(data_dir: Path) -> pd.Series:
    """Find the DICOM and PNG files that are called `<group>/<image>` or `<group>_<image>`, at any depth.

    Returns str paths relative to `data_dir`, indexed by `<group>/<image>`; DICOM where a name is there as both.
    """
    paths = pd.Series(list_files(data_dir, *decoding.DICOM, ".png"), dtype=str)
    keys = paths.str.extract(r"([^/_]+)[/_]([^/_]+)\.[^./]+$")
    paths.index = pd.Index(keys[0].str.cat(keys[1], sep="/"))
    paths = paths[paths.index.notna()]
    paths = paths.iloc[paths.str.lower().str.endswith(".png").argsort(kind="stable")]
    return paths[~paths.index.duplicated()]


def join_images(table: pd.DataFrame, file: str, group: str, data_dir: Path, notes: list[str]) -> pd.DataFrame:
    """Add `image_path` to the rows of the csv file `file` whose images are on disk; drop the others, with a note.

    An image is found by its columns `group` and image_id, as `find_images` says.
    Raises DataError: no image is on disk.
    """
    paths = (table[group] + "/" + table.image_id).map(find_images(data_dir))
    present = table.assign(image_path=paths)[paths.notna()]
    if present.empty:
        expected = f"<{group}>/<image_id>.dcm or .png"
        raise DataError(f"{data_dir}: none of the {len(table):,} rows of {file} finds its image; expected {expected}")
    if len(present) < len(table):
        counts = f"{len(present):,} of {len(table):,} rows of {file}"
        notes.append(f"A partial copy: {counts} have their image on disk; the series goes on with those.")
    return present.reset_index(drop=True)
