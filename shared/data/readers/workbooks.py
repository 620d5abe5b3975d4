"""Read the first sheet of an Excel workbook: .xlsx by openpyxl, .xls by xlrd."""

import io
import zipfile
from pathlib import Path
from typing import Any

from shared.run import DataError, refuse_damage

MAX_BYTES = 50_000_000  # of a workbook, unpacked; that of CMMD has 0.5 MB
XLSX = b"PK\x03\x04"
XLS = (b"\xd0\xcf\x11\xe0", b"\x09\x00\x04\x00", b"\x09\x02\x06\x00", b"\x09\x04\x06\x00")


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of the first sheet as words; blank rows at its foot are left out.

    An empty cell is "", 12.0 is `12`. The file's content decides how it is read, not its name.
    Raises DataError: a web page or text under a workbook's name, a damaged file, an empty or far too large sheet.
    """
    with refuse_damage(f"{path.name}: a workbook that cannot be read", "fetch it again"):
        check_size(path, path.stat().st_size)
        content = path.read_bytes()
        if content.startswith(XLSX):
            cells = read_xlsx(path, content)
        elif content.startswith(XLS):
            cells = read_xls(content)
        else:
            beginning = " ".join(content[:40].decode("ascii", "replace").split())
            kind = "a web page" if b"<" in content[:10] else "no Excel workbook"
            way_out = "fetch it again, or save it as a workbook"
            raise DataError(f"{path.name}: {kind} (it begins {beginning!r}); {way_out}")
    rows = [[as_word(cell) for cell in row] for row in cells]
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise DataError(f"{path.name}: an empty table; fetch it again")
    return rows


def check_size(path: Path, size: int) -> None:
    """Raise DataError where a workbook has, or unpacks to, more bytes than any of these data sets' tables."""
    if size > MAX_BYTES:
        raise DataError(f"{path.name}: {size / 1e6:,.0f} MB, far larger than the table; fetch it again")


def read_xlsx(path: Path, content: bytes) -> list:
    """Return the rows of an .xlsx file, cells as openpyxl has them; raises many types on a damaged one."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_size(path, sum(part.file_size for part in archive.infolist()))
    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    return list(book.worksheets[0].iter_rows(values_only=True))


def read_xls(content: bytes) -> list:
    """Return the rows of an .xls file, cells as xlrd has them; raises many types on a damaged one."""
    import xlrd

    sheet = xlrd.open_workbook(file_contents=content, logfile=io.StringIO()).sheet_by_index(0)
    return [sheet.row_values(row) for row in range(sheet.nrows)]


def as_word(cell: Any) -> str:
    """Return a cell as text: "" for none, `12` for 12.0."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell)
