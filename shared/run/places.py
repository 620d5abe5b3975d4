"""Where a run may read and write: paths as users type them, run directories, folders of any depth."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.run.files import read_json, write_json
from shared.run.names import DataError, UsageError
from shared.run.settings import full_path, project_root

RECORD_FILE = "run.json"
PROJECT = "mammogram-notebooks"  # what a record says that is ours


def check_out(text: Path | str, *, is_folder: bool = False) -> Path:
    """Return the file, or folder, that `--out` names; UsageError where none can be written there."""
    path = full_path(text, "--out", start=Path.cwd())
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
        raise UsageError(f"--out {path}: no {'folder' if is_folder else 'regular file'}; give another name")
    try:
        tempfile.TemporaryFile(dir=nearest_folder(path if is_folder else path.parent)).close()
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); give another place") from None
    return path


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a record of this project: what a run, or a notebook, has left there."""
    try:
        record = read_json(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else {}
    except (OSError, DataError):
        return False
    known = isinstance(record, dict) and isinstance(record.get("stages"), dict)
    return known and (record.get("project") == PROJECT or {"settings", "seeds", "packages"} <= set(record))


def check_run_dir(run_dir: Path, *, spare: str = "") -> None:
    """Raise UsageError for a folder that is not for results: one is new, or empty, or holds what a run left there.

    `run_dir` is absolute, links resolved. An empty file of the name `spare` does not count.
    """
    root = project_root()
    place = f"run directory {run_dir}"
    for kept in (Path(os.path.expanduser("~")), root, root / "notebooks", root / "shared"):
        if kept.resolve().is_relative_to(run_dir):
            raise UsageError(f"{place}: holds {kept}; give a folder of its own, e.g. runs/demo")
    try:
        there = run_dir.is_dir() and any(path.name != spare or path.stat().st_size for path in run_dir.iterdir())
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror}); give another") from None
    if there and not is_run(run_dir):
        raise UsageError(f"{place}: holds files, but no run of this series; give a new or empty folder")
    within = (path.parent for path in list_tree(run_dir) if path.name == RECORD_FILE and path.parent != run_dir)
    for other in filter(is_run, (*run_dir.parents, *within)):
        raise UsageError(f"{place}: lies in another run or holds another run, {other}; give a folder of its own")


def claim_run_dir(run_dir: Path) -> None:
    """Mark a new or empty run directory as ours, so that later runs may write there; UsageError where it is not."""
    if not is_run(run_dir):
        check_run_dir(run_dir)
        write_json(run_dir / RECORD_FILE, {"project": PROJECT, "stages": {}})


def list_tree(folder: Path | str, *, without: Path | str | None = None) -> Iterator[Path]:
    """Yield the regular files below a folder of any depth, folder by folder, in the order of their names.

    Linked files and folders are followed, but no folder is entered twice; `without` and what is below is left out.
    """
    seen = set()
    waiting = [str(folder)]
    if without and os.path.isdir(without):
        seen.add(os.stat(without)[1:3])
    while waiting:
        here = waiting.pop()
        try:
            identity = os.stat(here)[1:3]  # inode and device
            found = [] if identity in seen else sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:  # may not be read, or its path is too long
            continue
        seen.add(identity)
        entries = [entry for entry in found if not entry.is_symlink() or os.path.exists(entry.path)]
        waiting += [entry.path for entry in reversed(entries) if entry.is_dir()]
        yield from (Path(entry.path) for entry in entries if entry.is_file())
