"""Time sides in turn, and watch the memory of child processes."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

SAMPLE_SECONDS = 0.01  # between two looks at a child's memory


@dataclass(frozen=True)
class Row:
    """One line of the table: ours beside what people use today."""

    name: str  # group, as `--only` takes it
    what: str
    peer: str
    unit: str
    ours: float = 0.0  # median
    theirs: float = 0.0  # median
    ratio: float = 0.0  # how many times better ours is
    goal: str = ""
    met: bool | None = None  # None: no goal
    details: dict = field(default_factory=dict)  # all repeats, and whatever else explains the figure


@dataclass(frozen=True)
class Child:
    """What a child process returned and the memory that it took."""

    result: Any
    start_mb: float  # resident when its modules were loaded and the work began
    peak_mb: float  # highest resident memory, pages of mapped files included


def in_child(function: Callable[..., Any], **options: Any) -> Child:
    """Call a function that is importable by name in a fresh process, and watch its memory until it returns.

    What it raises is raised here; RuntimeError where the process died.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            child = psutil.Process(pool.submit(load, function).result())
            start = peak = child.memory_info().rss
            work = pool.submit(function, **options)
            while not wait([work], timeout=SAMPLE_SECONDS).done:
                peak = max(peak, child.memory_info().rss)
            return Child(work.result(), start / 1e6, peak / 1e6)
        except (BrokenProcessPool, psutil.NoSuchProcess):
            raise RuntimeError(f"{function.__name__}: the child process died; was there enough memory?") from None


def load(function: Callable) -> int:
    """Return the process's number; to send `function` here imports its module."""
    return os.getpid()


def in_turn(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return {name: seconds of each call}; sides take turns, after one call of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            started = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def compare(row: Row, ours: Sequence[float], theirs: Sequence[float], *, least: float = 0, most: float = 0) -> Row:
    """Fill in a row from the repeats of both sides; units with a slash are rates, of which more is better.

    The goal is a ratio of at least `least`, or a figure of our own of at most `most`; there is none where both are 0.
    """
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratio = mine / other if "/" in row.unit else other / mine
    goal = f"≥ {least:g} ×" if least else f"≤ {most:g} {row.unit}" if most else ""
    met = ratio >= least if least else mine <= most if most else None
    details = {"ours": list(ours), "theirs": list(theirs), **row.details}
    return replace(row, ours=mine, theirs=other, ratio=ratio, goal=goal, met=met, details=details)
