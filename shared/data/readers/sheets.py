"""Read a table of words from an Excel workbook (.xlsx by openpyxl, .xls by xlrd) or a csv file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shared.run import DataError, refuse_damage

MAX_BYTES = 50_000_000  # of a table, unpacked; that of CMMD has 0.5 MB
XLSX, XLS = (b"PK\x03\x04",), (b"\xd0\xcf\x11\xe0", b"\x09\x00\x04\x00", b"\x09\x02\x06\x00", b"\x09\x04\x06\x00")


def read_sheet(path: Path, needed: Sequence[str], *, separator: str = ",") -> pd.DataFrame:
    """Read the columns `needed` of a table, the first sheet of a workbook; `separator` is that of a csv file.

    Column names are compared in lower case, blanks at their ends left out. Rows count from 2, as a spreadsheet shows.
    Returns words, "" where a cell is empty; whole numbers without a decimal point; the index is the row's number.
    Raises DataError: not such a file, or a column that is missing or stands there twice.
    """
    way_out = "fetch it again"
    with refuse_damage(f"{path.name}: a table that cannot be read", way_out):
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB, far larger than the table; {way_out}")
        rows = read_csv(path, separator) if path.suffix.lower() == ".csv" else read_workbook(path)
    if not rows:
        raise DataError(f"{path.name}: an empty table; {way_out}")
    header = [" ".join(as_word(cell).lower().split()) for cell in rows[0]]
    for column in needed:
        if header.count(column) != 1:
            problem = f"no column {column!r}" if column not in header else f"the column {column!r} stands there twice"
            raise DataError(f"{path.name}: {problem}; {way_out}, its columns are {', '.join(needed)} and others")
    places = [header.index(column) for column in needed]
    words = [[as_word(row[place]) if place < len(row) else "" for place in places] for row in rows[1:]]
    return pd.DataFrame(words, columns=list(needed), index=range(2, len(words) + 2), dtype=object)


def as_word(cell: Any) -> str:
    """Return a cell as text: "" for none, `12` for 12.0, blanks at the ends left out."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip()


def read_csv(path: Path, separator: str) -> list[list[str]]:
    """Return the rows of a csv file, whatever its bytes outside ASCII mean."""
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "encoding_errors": "replace"}
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", **options).to_numpy().tolist()


def read_workbook(path: Path) -> list[Sequence[Any]]:
    """Return the rows of the first sheet of a workbook; what its name ends in does not matter, its content does."""
    content = path.read_bytes()
    if content.startswith(XLSX):
        import openpyxl

        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(
                f"{path.name}: {size / 1e6:,.0f} MB once unpacked, far larger than the table; fetch it again"
            )
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        return list(book.worksheets[0].iter_rows(values_only=True))
    if content.startswith(XLS):
        import xlrd

        sheet = xlrd.open_workbook(file_contents=content, logfile=io.StringIO()).sheet_by_index(0)
        return [sheet.row_values(row) for row in range(sheet.nrows)]
    beginning = " ".join(content[:40].decode("ascii", "replace").split())
    kind = "a web page" if b"<" in content[:10] else "no Excel workbook"
    raise DataError(f"{path.name}: {kind} (it begins {beginning!r}); fetch it again, or save it as a workbook")
