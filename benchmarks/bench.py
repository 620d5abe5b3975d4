"""Run the comparisons, print them as a table and keep all figures as JSON."""

import os
import platform
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
from tqdm import tqdm

from benchmarks import frozen, reading, scale
from shared.run import UsageError, files

ROWS = {
    "mammogram": reading.mammogram,
    "epoch": reading.epoch,
    "memory": reading.memory,
    "head": frozen.head,
    "scale": scale.scale,
    "bootstrap": scale.bootstrap,
}
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "keras", "tensorflow", "scikit-learn")


def run(*, only=(), quick=False, out=None, echo=print, progress=False):
    """Measure, print and write.

    All files are generated in a temporary directory (up to 3 GB), which is removed.

    Args:
        only: some of `ROWS`; none means all.
        quick: tiny sizes, to see that everything works; the figures mean little.
        out: JSON file to write, or None.
        say: called with each line.
        progress: show a progress bar.
    Returns:
        dict as it goes to JSON: `machine`, `comparisons` (measure.Comparison), `scale` (the curve).
    Raises:
        UsageError: an unknown name in `only`.
    """
    unknown = sorted(set(only) - set(ROWS))
    if unknown:
        raise UsageError(f"--only: {unknown[0]!r} is not one of {', '.join(ROWS)}")
    report = {"machine": describe_machine(), "quick": quick, "comparisons": [], "scale": []}
    with tqdm([name for name in ROWS if not only or name in only], disable=not progress, leave=False) as bar:
        for name in bar:
            bar.set_description(name)
            found = measure_row(name, quick=quick)
            report["scale"] += found["scale"]
            report["comparisons"] += found["comparisons"]
    for line in lines(report):
        echo(line)
    if out:
        files.write_json(out, report)
        echo(f"written: {out}")
    return report


def measure_row(name, *, quick):
    """Measure one of `ROWS`: {"comparisons": list of dict, "scale": list of dict}."""
    with tempfile.TemporaryDirectory(prefix="mammogram-bench-", ignore_cleanup_errors=True) as folder:
        found = ROWS[name](Path(folder), quick=quick)
        curve = found if name == "scale" else []
        comparisons = scale.flatness(curve) if name == "scale" else found
        return {"comparisons": [asdict(comparison) for comparison in comparisons], "scale": curve}


def describe_machine():
    """Return what the figures depend on, without names or paths."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def lines(report):
    """Return the report as lines of text."""
    machine = report["machine"]
    yield (
        f"{machine['cores']} cores, {machine['memory_gb']} GB, load {machine['load']} at the start; "
        f"Python {machine['python']}" + ("; --quick: figures mean little" if report["quick"] else "")
    )
    words = {True: "yes", False: "NO", None: ""}
    table = pd.DataFrame(
        {
            "what": row["what"],
            "beside": row["peer"],
            "ours": f"{row['ours']:,.4g} {row['unit']}",
            "theirs": f"{row['theirs']:,.4g} {row['unit']}",
            "ratio": f"{row['ratio']:,.3g} ×",
            "goal": row["goal"],
            "met": words[row["met"]],
        }
        for row in report["comparisons"]
    )
    names = pd.Series([row["name"] for row in report["comparisons"]])
    for name in names.unique():
        yield f"\n{name}"
        yield table[names == name].to_string(index=False, justify="left")
    if report["scale"]:
        columns = ["images", "stage", "seconds", "ms_per_image", "peak_mb", "own_mb"]
        curve = pd.DataFrame(report["scale"])[columns].sort_values(["stage", "images"])
        yield "\nscale, stage by stage (peak_mb: with pages of mapped files; own_mb: without)"
        yield curve.to_string(index=False, float_format=lambda value: f"{value:,.3g}")
