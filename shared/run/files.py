"""Read and write what a run directory holds. Every file is written under a temporary name and then renamed."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shared.run.names import DataError


@contextmanager
def atomic_write(path):
    """Give a temporary path beside `path` and rename it to `path` once the block has ended well.

    A reader, or a run that is killed, therefore never meets half a file. The temporary name keeps the last two
    suffixes, because Keras wants `.weights.h5`.

    Args:
        path: the file to write; its folder is made.
    Yields:
        pathlib.Path: where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` (str) as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write `content` as indented JSON; NumPy scalars and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")


def write_csv(path, frame):
    """Write a DataFrame without its index; floats with up to ten significant digits, line ends "\\n"."""
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def write_array(path, array):
    """Write a NumPy array as `.npy`, never pickled."""
    with atomic_write(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def read_json(path):
    """Read a JSON file; raises FileNotFoundError, or DataError where it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value
