"""The runner: the notebooks in order, headless, resumable, with a record in `run.json`. No TensorFlow here."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from pipeline import execution, parameters, record, report
from pipeline.parameters import RunOptions, Stage, all_parameters
from shared.data import check_can_run
from shared.evaluation import load_table, renew_table, write_cards
from shared.models import check_weights
from shared.run import UsageError, check_run_dir, claim_run_dir, project_root, resolve_settings, write_text
from shared.run.files import TEMPORARY

LOCK_FILE = ".lock"
OUTPUT_FOLDERS = ("data", "models", "results", "notebooks")
Echo = Callable[[str], None]


def run_series(options: RunOptions, *, notebooks_dir: Path | str | None = None, echo: Echo = print) -> Path:
    """Run the series, or what of it has changed since the last time, and return the run directory.

    Raises UsageError or DataError (exit status 2) where nothing can be run, or a notebook meets unusable data, and
    NotebookError (exit status 1) where a cell fails.
    """
    stages, series, values = parameters.plan(options, notebooks_dir, echo=echo)
    settings = resolve_settings({**all_parameters(stages), **values})
    settings = replace(settings, run_dir=Path(values["RUN_DIR"]))  # MAMMO_RUN_DIR does not win over --run-dir
    basis = record.find_basis(settings, all_parameters(stages))
    with run_directory(settings.run_dir):
        content = record.open_record(settings, stages, basis)
        os.environ[TEMPORARY] = content["temporary"]
        content["stale"] = record.find_stale(content, series, basis)
        if not options.force and all(record.is_done(stage, basis, content, settings.run_dir) for stage in stages):
            echo(f"nothing has changed: {len(stages)} notebooks were done before (--force runs them again)")
        else:
            check_can_run(settings)  # before the first notebook finds out
            if "WEIGHTS" in values:
                check_weights(settings.weights)
            for path in list(settings.run_dir.rglob(f"{content['temporary']}*")):  # what a killed run has not finished
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            run_stages(content, stages, basis, settings.run_dir, force=options.force, echo=echo)
        content.update(status="done", finished=record.now())
        record.save_record(content, settings.run_dir)
        show_table(settings.run_dir, content["stale"], echo)
        write_cards(settings.run_dir)
        echo(f"open {report.write_index(settings.run_dir)}")
    return settings.run_dir


@contextlib.contextmanager
def run_directory(run_dir: Path) -> Iterator[None]:
    """Make and lock the run directory, or raise UsageError; one that was made here and stayed empty is removed."""
    check_run_dir(run_dir, spare=LOCK_FILE)
    is_new = not run_dir.exists()
    lock = FileLock(run_dir / LOCK_FILE, timeout=0, fallback_to_soft=False)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(f"{run_dir}: another run is going on there; wait for it, or give another --run-dir") from None
    except NotImplementedError:
        raise UsageError(f"{run_dir}: its file system cannot lock files; give a --run-dir on another disk") from None
    except OSError as error:
        raise UsageError(f"{run_dir}: cannot be written ({error.strerror}); give another --run-dir") from None
    try:
        yield
    finally:
        os.environ.pop(TEMPORARY, None)
        if is_new and {path.name for path in run_dir.iterdir()} <= {LOCK_FILE}:  # nobody else can have the lock yet
            (run_dir / LOCK_FILE).unlink(missing_ok=True)
            run_dir.rmdir()
        lock.release()


def run_stages(
    content: dict[str, Any], stages: list[Stage], basis: dict[str, Any], run_dir: Path, *, force: bool, echo: Echo
) -> None:
    """Run those of the stages that are not done, and keep the record; raises what a stage raises."""
    clock = {name: entry.get("seconds") for name, entry in content["stages"].items()}
    for number, stage in enumerate(stages, start=1):
        label = f"[{number}/{len(stages)}] {stage.name}"
        if not force and record.is_done(stage, basis, content, run_dir):
            echo(f"{label}: unchanged, not run again")
            continue
        before, made_from = content["stages"].get(stage.name, {}), record.made_from(stage, basis)
        earlier = before.get("outputs", [])
        entry: dict[str, Any] = {"status": "running", "started": record.now(), "outputs": earlier}
        entry |= {"key": record.stage_key(stage, basis, content), "parameters": all_parameters([stage])}
        entry |= {"git": content["git"], "made_from": before.get("made_from", made_from)}  # until it is done
        content["stages"][stage.name] = entry
        own = {name: reason for name, reason in content["stale"].items() if name in earlier}
        content["stale"] = {name: reason for name, reason in content["stale"].items() if name not in own}
        record.save_record(content, run_dir)
        if not sys.stderr.isatty():
            echo(f"{label}: running ...")
        try:
            run_stage(stage, entry, run_dir, label)
        except BaseException as error:
            entry.update(status="failed", error=str(error) or "interrupted")
            content.update(status="failed", finished=record.now(), stale=content["stale"] | own)
            record.save_record(content, run_dir)
            with contextlib.suppress(Exception):  # the error itself matters more
                report.write_index(run_dir)
            raise
        clock[stage.name], entry["made_from"] = entry["seconds"], made_from
        content["stale"] |= {name: reason for name, reason in own.items() if name not in entry["made"]}
        record.save_record(content, run_dir)
        echo(f"{label}: {entry['seconds']:.0f} s{time_left(clock, [later.name for later in stages[number:]])}")


def run_stage(stage: Stage, entry: dict[str, Any], run_dir: Path, label: str) -> None:
    """Execute one notebook and write its HTML; `entry` gets seconds, peak memory and the files that were made."""
    before = stamp_files(run_dir)
    copy = run_dir / "notebooks" / stage.path.name
    bar = {"desc": label, "leave": False, "bar_format": "{desc} {bar:20} cell {n}/{total} [{elapsed}<{remaining}]"}
    progress = sys.stderr.isatty() and bar
    taken = execution.execute_copy(stage.path, copy, stage.parameters, run_dir=run_dir, progress=progress)
    execution.write_html(copy)
    after = stamp_files(run_dir)
    made = {name for name, stamp in after.items() if before.get(name) != stamp}
    kept = after.keys() & set(entry["outputs"])  # made by an earlier run of this stage, found good by this one
    entry.update(taken, status="done", finished=record.now(), outputs=sorted(made | kept), made=sorted(made))


def stamp_files(run_dir: Path) -> dict[str, tuple[int, int]]:
    """Return {file: (time of change, size)} of what stages make; the data set below `data` is not looked at."""
    paths = (path for name in OUTPUT_FOLDERS for path in (run_dir / name).glob("*" if name == "data" else "**/*"))
    files = (path for path in paths if path.is_file() and not path.name.startswith("."))
    stats = {path.relative_to(run_dir).as_posix(): path.stat() for path in files}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def time_left(clock: dict[str, float | None], names: list[str]) -> str:
    """Say how long the rest may take: by the last run where there was one, else by the notebooks so far."""
    known = [seconds for seconds in clock.values() if seconds]
    left = sum(clock.get(name) or sum(known) / max(1, len(known)) for name in names)
    return (f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left") if names else ""


def show_table(run_dir: Path, stale: dict[str, str], echo: Echo) -> None:
    """Show the comparison table's main columns, once rows of another split than the manifest's have left it."""
    if (run_dir / "data/manifest.csv").exists():
        renew_table(run_dir)
    for file, reason in stale.items():
        echo(f"left out: {file}: {reason}")
    table = load_table(run_dir).fillna({"weights": ""})
    if len(table):
        interval = "test AUC [95%]"
        table[interval] = [f"{row.auc:.3f} [{row.auc_low:.3f}, {row.auc_high:.3f}]" for row in table.itertuples()]
        shown = table[["model", "weights", "n_test", interval, "case_auc", "balanced_accuracy"]]
        echo(f"\n{shown.to_string(index=False, float_format='%.3f')}\n")


def renew_notebooks(names: tuple[str, ...] | list[str] = (), *, echo: Echo = print) -> None:
    """Execute the committed notebooks, or those that `names` says as `--only` does, and store their clean outputs."""
    folder = project_root() / "notebooks"
    run_dir = project_root() / "runs/notebooks"
    paths = parameters.select_notebooks(folder, names) if names else parameters.list_notebooks(folder)
    if not names:
        shutil.rmtree(run_dir, ignore_errors=True)
    claim_run_dir(run_dir)
    for path in paths:
        copy = run_dir / "notebooks" / path.name
        taken = execution.execute_copy(path, copy, {}, run_dir=run_dir, cwd=path.parent)  # as JupyterLab does
        write_text(path, nbformat.writes(execution.clean(nbformat.read(copy, as_version=4))) + "\n")
        echo(f"{path.stem}: {taken['seconds']:.0f} s, {taken['peak_memory_mb']:,.0f} MB")
