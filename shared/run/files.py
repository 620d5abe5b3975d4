"""Read and write what a run directory holds. Every file is written under a temporary name and then renamed."""

import csv
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.run.names import DataError, OneLineError

TEMPORARY = "MAMMO_TEMPORARY"  # environment variable: how the name of a file begins that is being written
FORMULA = r"^(?![+-][\d.]+(?:[eE][+-]?\d+)?$)('*[=+\-@])"  # begins as a formula does, and is no number


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it to `path` once the block has ended well.

    A reader, or a run that is killed, never meets half a file. The temporary name ends as the real one does, because
    Keras and NumPy look at the suffix. A symbolic link is written through to its target. Its folder is made.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])[-40:]
    name = f"{os.getpid()}-{threading.get_ident()}-{path.name.removesuffix(suffix)[:60]}{suffix}"
    temporary = path.with_name(os.environ.get(TEMPORARY, ".part-") + name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON; NumPy scalars and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(as_plain(content), indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path | str, frame: pd.DataFrame) -> None:
    """Write a DataFrame without its index; floats with up to ten significant digits, line ends "\\n".

    A word that a spreadsheet would take for a formula gets a leading apostrophe, see `plain_words`.
    """
    frame = frame.replace(FORMULA, r"'\1", regex=True)
    options: dict[str, Any] = {"index": False, "float_format": "%.10g", "lineterminator": "\n"}
    text = frame.to_csv(**options)
    if "\r" in text:  # which Python 3.11 leaves unquoted
        text = frame.to_csv(**options, quoting=csv.QUOTE_ALL)
    write_text(path, text)


def plain_words(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the apostrophes of `write_csv` off again."""
    return frame.replace(r"^'('*[=+\-@])", r"\1", regex=True)


def read_json(path: Path | str) -> Any:
    """Read a JSON file; raises FileNotFoundError, or DataError where it does not parse."""
    text = Path(path).read_bytes()
    with refuse_damage(f"{path}: not valid JSON", "delete it and run again"):
        return json.loads(text.decode("utf-8"))


@contextmanager
def refuse_damage(what: str, way_out: str) -> Iterator[None]:
    """Turn what libraries raise on a damaged file, of many types, into one DataError: `what` (reason); `way_out`."""
    try:
        yield
    except OneLineError:
        raise
    except Exception as error:
        raise DataError(f"{what} ({str(error)[:120]}); {way_out}") from None


def as_plain(value: Any) -> Any:
    """Return `value` with what JSON knows: dict, list, str, finite numbers, None."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        return [as_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.as_posix() if isinstance(value, Path) else value
