"""Check a machine for what the series needs, and say what to do about what is missing."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared.run import DESCRIPTOR_COLUMNS, EXCLUDED, full_path, project_root, resolve_settings

PYTHON_VERSIONS = ((3, 11), (3, 13))  # first and last that the pinned packages support
MEMORY_GB, DISK_GB = 3.0, 2.0
INSTALL = f"{Path(sys.executable).name} -m pip install -r requirements.txt"
WAYS_OUT = {  # a part of the words with which a reader leaves an image out: what to do about it
    "compares lesions": "-p TASK abnormal takes it", "uses originals": "-p TASK original takes it",
    "no crop": "-p INPUT full takes it", "missing": "fetch the file", "stands twice": "remove one",
    "no label": "add it if you know it", "no severity": "add it if you know it", "cannot be read": "correct the line",
}  # fmt: skip
SHOWN = 10  # problems at most
Lines = Iterator[tuple[str, str]]


def check(*, echo: Callable[[str], None] = print) -> bool:
    """Say "ok", "note" (works without) or "MISSING", what was found and what to do; True where the series can run."""
    good = True
    for part in (check_python, check_packages, check_machine, check_kernel, check_tensorflow, check_weights):
        for state, text in part():
            good = good and state != "MISSING"
            echo(f"{state:8}{text}")
        if part is check_packages and not good:
            break  # what follows needs them
    echo("ready: `python -m pipeline run`" if good else "not ready: see the lines marked MISSING")
    return good


def check_data(data_dir: Path | str, *, dataset: str | None = None, echo: Callable[[str], None] = print) -> None:
    """Say what a folder holds, as its reader finds it for the default task; `dataset` None: told from the files.

    Files are counted, not opened. Raises DataError, UsageError: see `detect_layout` and `load_layout`.
    """
    from shared.data import detect_layout, load_layout

    data_dir = full_path(data_dir, "--data-dir", start=Path.cwd())
    settings = resolve_settings({"DATASET": dataset or detect_layout(data_dir), "DATA_DIR": str(data_dir)})
    found = load_layout(settings.dataset, data_dir, task=settings.task, input=settings.input)
    for name, text in describe_data(found):
        echo(f"{name:12}{text}")


def describe_data(found: Any) -> Lines:
    """Yield what there is to say about a `Dataset`, images left out grouped by the reader's reason."""
    is_out = found.manifest.split == EXCLUDED
    rows, out = found.manifest[~is_out], found.manifest[is_out]
    yield "layout", found.name
    yield "images", f"{len(rows):,} can be used, {len(out):,} left out by the reader"
    yield "patients", f"{rows.patient_id.nunique():,}"
    for name, values in (("views", rows["view"]), ("classes", rows.label.map(dict(enumerate(found.class_names))))):
        yield name, ", ".join(f"{count:,} {value or 'unknown'}" for value, count in values.value_counts().items())
    filled = (rows[list(DESCRIPTOR_COLUMNS)] != "").mean()
    yield "descriptors", ", ".join(f"{name} {share:.0%}" for name, share in filled[filled > 0].items()) or "none"
    table = "" if found.coverage is None else found.coverage.to_string(index=False)
    yield from (("coverage", line) for line in table.splitlines())
    yield from (("note", note) for note in found.notes)
    reasons = out.groupby("exclusion_reason", sort=False).image_id.agg(["size", "first"])
    for reason, count, first in reasons[:SHOWN].itertuples():
        way_out = "".join(f"; {text}" for words, text in WAYS_OUT.items() if words in reason)
        yield "problem", f"{count:,} × {reason}{way_out} (first: {first})"
    if len(reasons) > SHOWN:
        yield "problem", f"and {len(reasons) - SHOWN:,} more; data/manifest.csv of a run has them all"


def check_python() -> Lines:
    """Compare the interpreter's version with those that the pinned packages support."""
    first, last = (".".join(map(str, version)) for version in PYTHON_VERSIONS)
    good = PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]
    hint = "" if good else f"; the packages need {first} to {last}: `make PYTHON=python{last} run`"
    yield "ok" if good else "MISSING", f"Python {platform.python_version()} on {platform.system()}{hint}"


def pinned_packages() -> dict[str, str]:
    """Return {package: version} of what a reader needs: the dependencies in pyproject.toml."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(line.split("==") for line in project["dependencies"])


def check_packages() -> Lines:
    """Compare the installed packages with those in pyproject.toml."""
    pins, found = pinned_packages(), {item.name.lower(): item.version for item in importlib.metadata.distributions()}
    missing = [name for name in pins if name.lower() not in found]
    versions = [(name, found.get(name.lower(), pin), pin) for name, pin in pins.items()]
    other = [f"{name} {version} (tested with {pin})" for name, version, pin in versions if version != pin]
    if missing:
        yield "MISSING", f"{len(missing)} packages: {', '.join(missing)}; `{INSTALL}`"
    if other:
        yield "note", f"other versions: {', '.join(other)}; `{INSTALL}` for those tested"
    if not missing and not other:
        yield "ok", f"{len(pins)} packages, all as in pyproject.toml"


def check_machine() -> Lines:
    """Look at free memory, processor cores, and the room for run directories."""
    import psutil

    free = psutil.virtual_memory().available / 2**30
    root = project_root()
    hint = f", a run peaks near {MEMORY_GB:g} GB: close programs" if free < MEMORY_GB else ""
    yield ("note" if hint else "ok"), f"{free:.1f} GB of memory free{hint}"
    yield "ok", f"{os.cpu_count()} processor cores"
    free = shutil.disk_usage(root).free / 2**30
    hint = f", {DISK_GB:g} GB wanted: free some, or give --run-dir" if free < DISK_GB else ""
    yield ("MISSING" if hint else "ok"), f"{free:.1f} GB of disk free at {root}{hint}"
    if not os.access(root, os.W_OK):
        yield "note", f"{root} cannot be written: give --run-dir"


def check_kernel() -> Lines:
    """Look whether JupyterLab and the runner start this interpreter as the kernel `python3`."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        command = "not there"
    good = command == "python" or Path(command).resolve() == Path(sys.executable).resolve()
    fix = f"{command}, not this Python: `{Path(sys.executable).name} -m ipykernel install --sys-prefix`"
    yield "ok" if good else "note", f"the kernel python3 is {'this Python' if good else fix}"


def check_tensorflow() -> Lines:
    """Import TensorFlow, which takes seconds, and look for GPUs."""
    try:
        from shared.models.backend import tf

        gpus = tf.config.list_physical_devices("GPU")
    except Exception as error:  # a broken installation fails in many ways
        yield "MISSING", f"TensorFlow does not load ({' '.join(str(error).split())[:200]}); `{INSTALL}`"
        return
    hint = "no GPU: the demo profile is made for that, the full one takes longer"
    yield ("ok" if gpus else "note"), f"TensorFlow {tf.__version__}, {f'{len(gpus)} GPU' if gpus else hint}"


def check_weights() -> Lines:
    """Look for pretrained weights: the bundled ones, and those that Keras has downloaded before."""
    from shared.models import pretrained

    bundled = pretrained.DEMO_FILE
    hint = "" if bundled.is_file() else "; restore the file from the repository"
    yield "MISSING" if hint else "ok", f"bundled weights (WEIGHTS demo): {bundled}{hint}"
    for backbone, (url, _) in pretrained.SOURCES.items():
        path = pretrained.imagenet_cache(backbone)
        missing = f"no ImageNet weights of {backbone}: WEIGHTS imagenet downloads {url} to {path.parent}"
        yield ("ok", f"ImageNet weights of {backbone}: {path}") if path.is_file() else ("note", missing)
