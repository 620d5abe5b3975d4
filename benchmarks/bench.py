"""Run the comparisons, print them as a table and keep all figures as JSON."""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
from tqdm import tqdm

from benchmarks import frozen, reading, scale
from shared.run import UsageError, write_json

ROWS: dict[str, Callable] = {
    "mammogram": reading.compare_mammogram, "epoch": reading.compare_epoch, "memory": reading.compare_memory,
    "head": frozen.compare_head, "scale": scale.compare_scale,
}  # fmt: skip
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "keras", "tensorflow", "scikit-learn")


def run(
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    out: Path | str | None = None,
    echo: Callable[[str], object] = print,
    progress: bool = False,
) -> dict:
    """Measure, hand each line to `echo`, and write; files go to a temporary directory (up to 3 GB), which is removed.

    Args:
        only: some of `ROWS`; none means all.
        quick: tiny sizes, to see that everything works; the figures mean little.
        out: JSON file to write, or None.
    Returns:
        what goes to JSON: `machine`, `quick`, `comparisons` (measure.Row).
    Raises:
        UsageError: an unknown name in `only`.
    """
    unknown = sorted(set(only) - set(ROWS))
    if unknown:
        raise UsageError(f"--only: {unknown[0]!r} is not one of {', '.join(ROWS)}")
    report: dict = {"machine": describe_machine(), "quick": quick, "comparisons": []}
    with tqdm([name for name in ROWS if not only or name in only], disable=not progress, leave=False) as bar:
        for name in bar:
            bar.set_description(name)
            with tempfile.TemporaryDirectory(prefix="mammogram-bench-", ignore_cleanup_errors=True) as folder:
                report["comparisons"] += [asdict(row) for row in ROWS[name](Path(folder), quick)]
    for line in format_report(report):
        echo(line)
    if out:
        write_json(out, report)
        echo(f"written: {out}")
    return report


def describe_machine() -> dict:
    """Return what the figures depend on, without names or paths."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 2), "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }  # fmt: skip


def format_report(report: dict) -> Iterator[str]:
    """Yield the report as lines of text."""
    machine = report["machine"]
    yield (
        f"{machine['cores']} cores, {machine['memory_gb']} GB, load {machine['load']} at the start; "
        f"Python {machine['python']}" + ("; --quick: figures mean little" if report["quick"] else "")
    )
    rows = pd.DataFrame(report["comparisons"])
    for side in ("ours", "theirs"):
        rows[side] = [f"{value:,.4g} {unit}" for value, unit in zip(rows[side], rows.unit, strict=True)]
    rows["ratio"] = [f"{value:,.3g} ×" for value in rows.ratio]
    rows["met"] = ["" if value is None else "yes" if value else "NO" for value in rows.met]
    rows = rows.rename(columns={"peer": "beside"})
    for name, table in rows.groupby("name", sort=False):
        columns = ["what", "beside", "ours", "theirs", "ratio", "goal", "met"]
        yield f"\n{name}\n{table[columns].to_string(index=False, justify='left')}"
