"""Time sides in turn, and watch the memory of child processes."""

import multiprocessing
import os
import statistics
import time
import traceback
from dataclasses import dataclass

import psutil

from shared.run import native_output

SAMPLE_SECONDS = 0.01  # between two looks at a child's memory
MB = 1e6


@dataclass(frozen=True)
class Comparison:
    """One line of the table: ours beside what people use today."""

    name: str  # group, as `--only` takes it
    what: str
    peer: str
    unit: str
    ours: float  # median
    theirs: float  # median
    ratio: float  # how many times better ours is
    goal: str = ""
    met: bool | None = None  # None: no goal
    details: dict | None = None  # all repeats, memory, and whatever else explains the figure


@dataclass(frozen=True)
class Child:
    """What a child process returned and the memory that it took."""

    result: object
    start_mb: float  # resident when its modules were loaded and the work began
    peak_mb: float  # highest resident memory, pages of mapped files included
    own_mb: float  # the same without pages of files, which the system can take back at any time

    @property
    def growth_mb(self):
        """Return what the work added, in MB."""
        return self.peak_mb - self.start_mb


def in_child(function, **options):
    """Call a function in a fresh Python process and watch its memory until it returns.

    Args:
        function: importable by name; what it returns must pickle.
        options: its arguments.
    Returns:
        Child
    Raises:
        RuntimeError: the child's own traceback, or that it died.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, function, options), daemon=False)
    process.start()
    there.close()
    try:
        watched = psutil.Process(process.pid)
        here.recv()  # its modules are loaded
        start = peak = watched.memory_info().rss
        own = _without_files(watched.memory_info())
        here.send("go")
        while not here.poll(SAMPLE_SECONDS):
            memory = watched.memory_info()
            peak, own = max(peak, memory.rss), max(own, _without_files(memory))
        result, problem = here.recv()
    except (EOFError, psutil.NoSuchProcess):
        raise RuntimeError(f"{function.__name__}: the child process died; was there enough memory?") from None
    finally:
        if process.is_alive() and not here.closed:
            here.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
    if problem:
        raise RuntimeError(f"{function.__name__}: {problem}")
    return Child(result, start / MB, peak / MB, own / MB)


def _without_files(memory):
    return memory.rss - getattr(memory, "shared", 0)  # psutil knows `shared` on Linux only


def _work(connection, function, options):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    connection.send("ready")
    connection.recv()
    try:
        with native_output.quiet_native_output():
            answer = function(**options), ""
    except Exception:
        answer = None, traceback.format_exc()
    connection.send(answer)


def seconds(call):
    """Return (seconds, result) of one call."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def in_turn(sides, repeats):
    """Time several functions in turn, so that whatever else the machine does falls on all of them.

    Args:
        sides: {name: function without arguments}; each is called once before, not counted.
        repeats: int.
    Returns:
        {name: list of seconds}
    """
    for call in sides.values():
        call()
    times = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            times[name].append(seconds(call)[0])
    return times


def compare(name, what, peer, unit, ours, theirs, *, more_is_better=False, least=None, most=None, details=None):
    """Make a Comparison from the repeats of both sides.

    Args:
        ours, theirs: lists of figures, one a repeat.
        more_is_better: True for rates.
        least: the ratio that is the goal; or
        most: the largest value of our own figure that is the goal.
    """
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratio = mine / other if more_is_better else other / mine
    goal, met = "", None
    if least is not None:
        goal, met = f"≥ {least:g} ×", ratio >= least
    elif most is not None:
        goal, met = f"≤ {most:g} {unit}", mine <= most
    details = {"ours": list(ours), "theirs": list(theirs), **(details or {})}
    return Comparison(name, what, peer, unit, mine, other, ratio, goal, met, details)
