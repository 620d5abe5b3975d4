"""Check a machine for what the series needs, and say what to do about what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from shared.run import project_root
from shared.run.native_output import quiet_native_output

PYTHON_VERSIONS = ((3, 11), (3, 13))  # first and last that the pinned packages support
MEMORY_GB = 3.0
DISK_GB = 2.0
INSTALL = f"{Path(sys.executable).name} -m pip install -r requirements.txt"


def check(*, echo=print):
    """Go through all checks, one line each, and return True where the series can run.

    Args:
        say: called with each line: "ok", "note" (works without) or "MISSING", what was found, and what to do.
    """
    good = True
    for part in (check_python, check_packages, check_memory, check_disk, check_kernel, check_tensorflow, check_weights):
        for state, text in part():
            good = good and state != "MISSING"
            echo(f"{state:8}{text}")
    echo("ready: `python -m pipeline run`" if good else "not ready: see the lines marked MISSING")
    return good


def check_python():
    """Compare the interpreter's version with those that the pinned packages support."""
    first, last = (".".join(map(str, version)) for version in PYTHON_VERSIONS)
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]:
        yield "ok", found
    else:
        yield "MISSING", f"{found}; the packages need {first} to {last}: `make PYTHON=python{last} run`"


def pinned_packages():
    """Return {package: version} of requirements.txt."""
    text = (project_root() / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, flags=re.MULTILINE))


def check_packages():
    """Compare the installed packages with requirements.txt."""
    pins, missing, other = pinned_packages(), [], []
    for name, pin in pins.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version != pin:
            other.append(f"{name} {version} (tested with {pin})")
    if missing:
        yield "MISSING", f"{len(missing)} packages: {', '.join(missing)}; `{INSTALL}`"
    if other:
        yield "note", f"other versions: {', '.join(other)}; `{INSTALL}` for those tested"
    if not missing and not other:
        yield "ok", f"{len(pins)} packages, all as in requirements.txt"


def check_memory():
    """Look at free memory and at processor cores."""
    try:
        import psutil
    except ImportError:
        yield "MISSING", f"psutil, so free memory is not known; `{INSTALL}`"
        return
    free = psutil.virtual_memory().available / 2**30
    if free < MEMORY_GB:
        yield "note", f"{free:.1f} GB of memory free, a run peaks near {MEMORY_GB:g} GB: close other programs"
    else:
        yield "ok", f"{free:.1f} GB of memory free"
    yield (
        "ok",
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} processor cores",
    )


def check_disk():
    """Look at the room for run directories."""
    root = project_root()
    free = shutil.disk_usage(root).free / 2**30
    if not os.access(root, os.W_OK):
        yield "note", f"{root} cannot be written: give --run-dir"
    if free < DISK_GB:
        yield "MISSING", f"{free:.1f} GB of disk free at {root}, {DISK_GB:g} GB wanted: free some, or give --run-dir"
    else:
        yield "ok", f"{free:.1f} GB of disk free at {root}"


def check_kernel():
    """Look whether JupyterLab would start this interpreter; the runner itself needs no registered kernel."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        yield "MISSING", f"Jupyter; `{INSTALL}`"
        return
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        command = ""
    if command and (not os.path.isabs(command) or Path(command).resolve() == Path(sys.executable).resolve()):
        yield "ok", "JupyterLab's kernel python3 is this Python"
    else:
        yield (
            "note",
            f"JupyterLab's kernel python3 is {command or 'not there'}, not this Python: `{Path(sys.executable).name} "
            "-m ipykernel install --sys-prefix`, or `make lab`",
        )


def check_tensorflow():
    """Import TensorFlow, which takes seconds, and look for GPUs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_native_output():
            import tensorflow as tf

            gpus = tf.config.list_physical_devices("GPU")
    except Exception as error:  # a broken installation fails in many ways
        yield "MISSING", f"TensorFlow does not load ({' '.join(str(error).split())[:200]}); `{INSTALL}`"
        return
    if gpus:
        yield "ok", f"TensorFlow {tf.__version__}, {len(gpus)} GPU"
    else:
        yield (
            "note",
            f"TensorFlow {tf.__version__}, no GPU: the demo profile is made for that, the full one takes longer",
        )


def check_weights():
    """Look for pretrained weights: the bundled ones, and those that Keras has downloaded before."""
    from shared.models import pretrained

    if pretrained.DEMO_FILE.is_file():
        yield "ok", f"bundled weights: {pretrained.DEMO_FILE.name} (WEIGHTS demo)"
    else:
        yield "MISSING", f"{pretrained.DEMO_FILE}: bundled weights; restore the file from the repository"
    missing = {}
    for backbone, source in pretrained.SOURCES.items():
        path = pretrained.imagenet_cache(backbone)
        if path.is_file():
            yield "ok", f"ImageNet weights of {backbone}: {path}"
        else:
            missing.setdefault(source.url, []).append(backbone)
    if missing:
        folder = pretrained.imagenet_cache("vgg16").parent
        yield "note", f"not on this machine; WEIGHTS imagenet downloads them, by hand they go to {folder}:"
    for url, backbones in missing.items():
        yield "", f"  {', '.join(backbones)}: {url}"
