"""Check a machine for what the series needs, and say what to do about what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from shared.run import project_root

PYTHON_VERSIONS = ((3, 11), (3, 13))  # first and last that the pinned packages support
MEMORY_GB, DISK_GB = 3.0, 2.0
INSTALL = f"{Path(sys.executable).name} -m pip install -r requirements.txt"
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


def check_python() -> Lines:
    """Compare the interpreter's version with those that the pinned packages support."""
    first, last = (".".join(map(str, version)) for version in PYTHON_VERSIONS)
    good = PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]
    hint = "" if good else f"; the packages need {first} to {last}: `make PYTHON=python{last} run`"
    yield "ok" if good else "MISSING", f"Python {platform.python_version()} on {platform.system()}{hint}"


def pinned_packages() -> dict[str, str]:
    """Return {package: version} of requirements.txt."""
    text = (project_root() / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, flags=re.MULTILINE))


def check_packages() -> Lines:
    """Compare the installed packages with requirements.txt."""
    pins, found = pinned_packages(), {item.name.lower(): item.version for item in importlib.metadata.distributions()}
    missing = [name for name in pins if name.lower() not in found]
    versions = [(name, found.get(name.lower(), pin), pin) for name, pin in pins.items()]
    other = [f"{name} {version} (tested with {pin})" for name, version, pin in versions if version != pin]
    if missing:
        yield "MISSING", f"{len(missing)} packages: {', '.join(missing)}; `{INSTALL}`"
    if other:
        yield "note", f"other versions: {', '.join(other)}; `{INSTALL}` for those tested"
    if not missing and not other:
        yield "ok", f"{len(pins)} packages, all as in requirements.txt"


def check_machine() -> Lines:
    """Look at free memory, processor cores, and the room for run directories."""
    import psutil

    free, root = psutil.virtual_memory().available / 2**30, project_root()
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
