"""What decides whether a stage is run again, and `run.json`, which says what was run. No TensorFlow here."""

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.parameters import WEIGHTS_WORDS, Stage, all_parameters, is_optional, weight_files
from shared import __version__
from shared.evaluation.external import pair_sets
from shared.models.pretrained import find_file
from shared.run import DataError, Settings, UsageError, list_tree, project_root, read_json, write_json
from shared.run.places import PROJECT, RECORD_FILE

TABLES = (".csv", ".txt")
MAX_TABLE_BYTES = 50_000_000
PACKAGES = (
    "tensorflow", "keras", "numpy", "pandas", "scipy", "scikit-learn", "opencv-python-headless", "pillow", "pydicom",
    "matplotlib", "joblib", "papermill", "nbconvert", "ipykernel", "jupyterlab",
)  # fmt: skip


def find_basis(settings: Settings, parameters: dict[str, Any]) -> dict[str, Any]:
    """Collect what all stages depend on; raises DataError or UsageError for a folder or file that is not there."""
    names, places = (parameters.get(f"EXTERNAL_{word}") or "" for word in ("DATASET", "DATA_DIR"))
    pairs = pair_sets(names, places) if names else []
    external = [(name, folder) for name, folder in pairs if folder or name != "demo"]  # the demo is drawn
    for name, folder in external:
        if not folder or not Path(folder).is_dir():
            raise UsageError(f"EXTERNAL_DATASET {name!r} needs EXTERNAL_DATA_DIR, an existing folder, not {folder!r}")
    installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    return {
        "dataset": describe_dataset(settings),
        "external": [hash_folder(Path(folder))[0] for _, folder in external],
        "sources": hash_sources(),
        "weights": [stamp(path) for _, path in weight_files(settings.weights) if path not in WEIGHTS_WORDS],
        "packages": {name: installed.get(name) for name in PACKAGES},
    }


def describe_dataset(settings: Settings) -> dict[str, Any]:
    """Describe the data set by its files; the demo follows from the package. Raises DataError for a missing folder."""
    folder, fact = settings.data_dir, {"name": settings.dataset, "data_dir": None, "files": None, "bytes": None}
    if folder is None:
        return {**fact, "fingerprint": "generated"}
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory; --data-dir is the folder that holds the data set")
    digest, files, size = hash_folder(folder, without=settings.run_dir)
    return {**fact, "data_dir": folder.as_posix(), "files": files, "bytes": size, "fingerprint": digest}


def hash_folder(folder: Path, *, without: Path | None = None) -> tuple[str, int, int]:
    """Hash the paths, sizes and times of change of all files below a folder, and what tables hold.

    Links are followed, see `list_tree`; `without` and what is below it do not count.
    Returns SHA-256, number of files, bytes.
    """
    digest = hashlib.sha256()
    files = 0
    size = 0
    for path in list_tree(folder, without=without):
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        if path.suffix.lower() in TABLES and stat.st_size < MAX_TABLE_BYTES:
            digest.update(path.read_bytes())
        files, size = files + 1, size + stat.st_size
    return digest.hexdigest(), files, size


def hash_sources() -> str:
    """Hash the sources that notebooks call: the packages `shared` and `phantoms`."""
    digest = hashlib.sha256()
    root = project_root()
    for path in sorted([*(root / "shared").rglob("*"), *(root / "phantoms").rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def stamp(value: str) -> list[Any]:
    """Return path, size and time of change of a weights file; raises UsageError where it is not there."""
    path = find_file(value)
    return [path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns]


def stage_key(stage: Stage, basis: dict[str, Any], record: dict[str, Any]) -> str:
    """Return the SHA-256 of all that decides whether a stage's results hold, the earlier core stages' keys included."""
    stages = sorted((name, entry) for name, entry in record["stages"].items() if not is_optional(name))
    earlier = [(name, entry["key"]) for name, entry in stages if name < stage.name and entry["status"] == "done"]
    parameters = {name: value for name, value in stage.parameters.items() if name != "RUN_DIR"}
    content = json.dumps([stage.code, parameters, basis, earlier], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def is_done(stage: Stage, basis: dict[str, Any], record: dict[str, Any], run_dir: Path) -> bool:
    """Tell whether a stage was done as it would be now, and what it made is there."""
    entry = record["stages"].get(stage.name, {"status": "new"})
    same = entry["status"] == "done" and entry["key"] == stage_key(stage, basis, record)
    return same and all((run_dir / output).is_file() for output in entry["outputs"])


def made_from(stage: Stage, basis: dict[str, Any]) -> dict[str, Any]:
    """Return what a stage's results say something about: data set, weights, parameters."""
    given = {name: value for name, value in all_parameters([stage]).items() if name not in ("RUN_DIR", "SCHEDULER")}
    return {"data": basis["dataset"]["fingerprint"], "weights": basis["weights"], "parameters": given}


def find_stale(record: dict[str, Any], stages: Iterable[Stage], basis: dict[str, Any]) -> dict[str, str]:
    """Return {file: reason} of the results that a stage made from other data, weights or parameters than it would now.

    What was stale before stays so until its stage makes it again.
    """
    found = dict(record["stale"])
    for stage in stages:
        entry, now_from = record["stages"].get(stage.name, {}), made_from(stage, basis)
        if entry.get("made_from", now_from) != now_from:
            reason = f"stale, as {stage.name} made it with other data, weights or parameters; run that notebook again"
            found |= {name: reason for name in entry["outputs"] if name.startswith("results/")}
    return found


def open_record(settings: Settings, stages: list[Stage], basis: dict[str, Any]) -> dict[str, Any]:
    """Start the record of this run from the one that is there; raises UsageError where that is on another data set."""
    dataset = basis["dataset"]
    path = settings.run_dir / RECORD_FILE
    before = read_json(path) if path.exists() else {}
    name = before.get("dataset", {}).get("name", dataset["name"])
    if name != dataset["name"]:
        raise UsageError(f"{settings.run_dir}: holds a run on {name!r}; give another --run-dir for {dataset['name']!r}")
    return {
        "project": PROJECT,
        "status": "running",
        "started": now(),
        "finished": None,
        "version": __version__,
        "temporary": before.get("temporary") or f".part-{secrets.token_hex(4)}-",
        "parameters": all_parameters(stages),
        "settings": asdict(settings),
        "seeds": {"SEED": settings.seed, "SEEDS": list(settings.seeds)},
        "dataset": dataset,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": basis["packages"],
        "git": git_state(),
        "peak_memory_mb": None,
        "seconds": None,
        "stages": before.get("stages", {}),
        "stale": before.get("stale", {}),
    }


def save_record(record: dict[str, Any], run_dir: Path) -> None:
    """Write `run.json`, with the sum of the stages' seconds and the largest of their peaks."""
    record["stages"] = dict(sorted(record["stages"].items()))
    stages = record["stages"].values()
    record["seconds"] = round(sum(entry.get("seconds") or 0 for entry in stages), 2)
    record["peak_memory_mb"] = max((entry.get("peak_memory_mb") or 0 for entry in stages), default=0)
    write_json(run_dir / RECORD_FILE, record)


def git_state() -> dict[str, Any] | None:
    """Return {"commit": hash, "dirty": bool} of the project, or None outside a git clone."""
    command = ["git", "-C", str(project_root()), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": found.removesuffix("-dirty"), "dirty": found.endswith("-dirty")}


def now() -> str:
    """Return the time in UTC, as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
