"""The runner: the notebooks in order, headless, resumable, with a record in `run.json`. No TensorFlow here."""

import ast
import contextlib
import difflib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import execution
from shared import __version__
from shared.data import readers as datasets
from shared.evaluation import result_files
from shared.run import PROFILES, DataError, UsageError, files, project_root, resolve_settings

RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
NOTEBOOK_PATTERN = "[0-9][0-9]_*.ipynb"
OPTION_PARAMETERS = ("DATASET", "DATA_DIR", "RUN_DIR", "PROFILE", "WEIGHTS", "SCHEDULER")
WEIGHTS_WORDS = ("", "imagenet", "demo", "none")
OUTPUT_FOLDERS = ("data", "models", "results")
PACKAGES = (
    "tensorflow", "keras", "numpy", "pandas", "scipy", "scikit-learn", "opencv-python-headless", "pillow", "pydicom",
    "matplotlib", "joblib", "papermill", "nbconvert", "ipykernel", "jupyterlab",
)  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """What the command line gave; None where it gave nothing."""

    dataset: str | None = None
    data_dir: str | None = None
    profile: str | None = None
    run_dir: str | None = None
    weights: str | None = None
    scheduler: str | None = None
    only: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()  # (NAME, VALUE) as typed
    force: bool = False


@dataclass(frozen=True)
class Stage:
    """One notebook of the series and what is injected into it."""

    name: str  # "03_simple_cnn"
    path: Path
    code: tuple[str, ...]
    defaults: dict
    parameters: dict


# ------------------------------------------------------------------- the run
def run_series(options, *, notebooks_dir=None, echo=print):
    """Run the series, or what of it has changed since the last time, and return the run directory.

    Args:
        options: RunOptions.
        notebooks_dir: where the notebooks are; default: the project's own.
        say: called with each line for the user.
    Returns:
        pathlib.Path: the run directory.
    Raises:
        UsageError, DataError: nothing was run, or a notebook met unusable data (exit status 2).
        execution.NotebookError: a cell failed (exit status 1).
    """
    stages, values = plan(options, notebooks_dir=notebooks_dir)
    settings = _settings(stages, values)
    weights = weights_fingerprint(settings.weights)
    dataset = dataset_fingerprint(settings)
    with run_directory(settings.run_dir):
        record = open_record(settings, stages, dataset)
        basis = {"dataset": dataset["fingerprint"], "shared": _hash_sources(), "weights": weights}
        basis["packages"] = record["packages"]
        basis["external"] = external_fingerprint(all_parameters(stages))
        if all(_is_done(record, stage, basis, settings.run_dir) for stage in stages) and not options.force:
            echo(f"nothing has changed: {len(stages)} notebooks were done before (--force runs them again)")
        else:
            check_inputs(settings, weights_given="WEIGHTS" in values)
            _remove_leftovers(settings.run_dir)
            with execution.kernel_reserve(cwd=project_root(), run_dir=settings.run_dir) as kernel_for:
                _run_stages(record, stages, basis, settings.run_dir, kernel_for, force=options.force, echo=echo)
        finish(record, settings.run_dir, echo=echo)
    return settings.run_dir


def plan(options, *, notebooks_dir=None):
    """Find the notebooks, select them, and work out the parameters of each.

    A parameter goes only into the notebooks that declare it.

    Returns:
        list of Stage, in order, and {NAME: value} of what was given or follows from it.
    Raises:
        UsageError: an unknown notebook or parameter, a value of another type, an option given twice.
    """
    folder = Path(notebooks_dir or project_root() / "notebooks")
    paths = _select(sorted(folder.glob(NOTEBOOK_PATTERN)), options.only, folder)
    notebooks = {path: execution.read_notebook(path) for path in paths}
    defaults = {path: execution.default_parameters(notebook) for path, notebook in notebooks.items()}
    given = parse_parameters(options.parameters, defaults.values())
    injected = _with_options(options, given)
    stages = []
    for path in paths:
        own = {name: value for name, value in injected.items() if name in defaults[path]}
        stages.append(Stage(path.stem, path, tuple(execution.code_of(notebooks[path])), defaults[path], own))
    return stages, injected


def parse_parameters(pairs, declared):
    """Turn (NAME, text) pairs into typed values by the defaults that notebooks declare.

    Args:
        pairs: (NAME, VALUE) as typed by the user.
        declared: one {NAME: default} for each selected notebook.
    Returns:
        dict {NAME: value}
    Raises:
        UsageError: a name that no notebook declares (the nearest one is named), a wrong type, a name given twice.
    """
    known = {}
    for defaults in declared:
        known.update(defaults)
    values = {}
    for name, text in pairs:
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
            raise UsageError(f"-p {name}: no selected notebook has this parameter; {hint}")
        if name in values:
            raise UsageError(f"-p {name} is given twice")
        values[name] = _parse_value(name, text, known[name])
    return values


def _parse_value(name, text, default):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(default, str):
        value = value if isinstance(value, str) else text
    elif isinstance(default, float) and type(value) is int:
        value = float(value)
    elif isinstance(default, list) and isinstance(value, tuple):
        value = list(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"-p {name}: {text!r} is not of type {type(default).__name__}, e.g. {default!r}")
    if isinstance(default, list) and default and any(type(item) is not type(default[0]) for item in value):
        raise UsageError(f"-p {name}: {text!r} must hold {type(default[0]).__name__} values only, e.g. {default!r}")
    if isinstance(default, str) and value and name.endswith("_DIR") and name != "RUN_DIR":
        value = str(Path(value).expanduser().resolve())
    return value


def _with_options(options, given):
    """Merge --dataset … with -p DATASET …, fill in what both leave open, and make paths absolute."""
    merged = dict(given)
    for name in OPTION_PARAMETERS:
        value = getattr(options, name.lower())
        if value is not None and name in given:
            raise UsageError(f"{name} is given twice: by --{name.lower().replace('_', '-')} and by -p")
        if value is not None:
            merged[name] = value
    dataset = merged.setdefault("DATASET", "demo")
    datasets.check_name(dataset)
    profile = merged.setdefault("PROFILE", "demo" if dataset == "demo" else "full")
    if profile not in PROFILES:
        raise UsageError(f"--profile: {profile!r} is not one of {', '.join(PROFILES)}")
    if merged.get("DATA_DIR"):
        merged["DATA_DIR"] = str(Path(merged["DATA_DIR"]).expanduser().resolve())
    elif dataset != "demo":
        raise UsageError(f"--dataset {dataset} needs --data-dir, the folder that holds it")
    if "WEIGHTS" in merged:
        merged["WEIGHTS"] = _absolute_weights(merged["WEIGHTS"])
    merged["RUN_DIR"] = str(_run_dir(merged.get("RUN_DIR"), dataset))
    return merged


def _run_dir(given, dataset):
    """A directory that was typed is relative to where it was typed; the default is relative to the project."""
    if given:
        return Path(given).expanduser().resolve()
    return (project_root() / (os.environ.get("MAMMO_RUN_DIR") or f"runs/{dataset}")).resolve()


def _absolute_weights(value):
    if value in WEIGHTS_WORDS:
        return value
    parts = []
    for part in value.split(","):
        backbone, equals, path = part.rpartition("=")
        here = Path(path).expanduser()
        parts.append(f"{backbone}{equals}{here.resolve() if here.is_file() else path}")
    return ",".join(parts)


def _select(paths, only, folder):
    if not paths:
        raise UsageError(f"{folder}: no notebooks ({NOTEBOOK_PATTERN}) there")
    if not only:
        return paths
    chosen = []
    for word in only:
        found = [path for path in paths if path.stem == Path(word).stem or path.name[:2] == word.zfill(2)]
        if not found:
            raise UsageError(f"--only {word}: no such notebook; there are {', '.join(path.stem for path in paths)}")
        chosen += found
    return [path for path in paths if path in chosen]


def _settings(stages, values):
    """Resolve the parameters as the notebooks will, so that a wrong value ends the run before it starts."""
    with _without_environment("MAMMO_RUN_DIR"):
        return resolve_settings({**all_parameters(stages), **values})


def all_parameters(stages):
    """Return {NAME: value} over the notebooks, as they are run."""
    parameters = {}
    for stage in stages:
        parameters.update({**stage.defaults, **stage.parameters})
    return parameters


@contextlib.contextmanager
def _without_environment(name):
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


# ----------------------------------------------------- checks before the run
def weights_fingerprint(weights):
    """Return [path, size, time of change] of each file that a WEIGHTS value names.

    Raises:
        UsageError: a file that is not there, or an unknown backbone.
    """
    if weights in WEIGHTS_WORDS:
        return []
    from shared.models import pretrained

    paths = [pretrained.find_file(value) for value in pretrained.parse_spec(weights).values()]
    return [[path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def check_inputs(settings, *, weights_given):
    """Find unusable data or weights before the first notebook does; raises DataError or UsageError.

    Args:
        settings: config.Settings.
        weights_given: the user asked for these weights; then a look whether they can be had is due.
    """
    from shared.data import preparation
    from shared.models import pretrained

    preparation.check(settings)
    if weights_given:
        pretrained.check(settings.weights)


@contextlib.contextmanager
def run_directory(run_dir):
    """Make and lock the run directory; one that was made here and stayed empty is removed again.

    Raises:
        UsageError: it cannot be written, or another run holds it.
    """
    is_new = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"{run_dir}: cannot be written ({error.strerror}); give another --run-dir") from None
    try:
        with locked(run_dir, handle):
            yield
    finally:
        os.close(handle)
        if is_new and [path.name for path in run_dir.iterdir()] == [LOCK_FILE]:
            shutil.rmtree(run_dir)


@contextlib.contextmanager
def locked(run_dir, handle):
    """Hold an open lock file; the system lets go of it when the process ends, however it ends.

    Raises:
        UsageError: another run holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 20).decode(errors="replace").strip()
        raise UsageError(
            f"{run_dir}: another run is going on there{f' (process {holder})' if holder else ''}; "
            "wait for it or give another --run-dir"
        ) from None
    os.truncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    yield


# ------------------------------------------------------- what decides a rerun
def dataset_fingerprint(settings):
    """Describe the data set by the names, sizes and times of change of its files.

    Returns:
        dict with `name`, `data_dir`, `files`, `bytes` and `fingerprint` (SHA-256). The demo data follow from
        the package, so there is nothing to look at.
    Raises:
        DataError: the data directory is not there.
    """
    fact = {"name": settings.dataset, "data_dir": None, "files": None, "bytes": None}
    if settings.data_dir is None:
        return {**fact, "fingerprint": "generated"}
    if not settings.data_dir.is_dir():
        raise DataError(f"{settings.data_dir}: no such directory; --data-dir is the folder that holds the data set")
    digest, files, size = _hash_folder(settings.data_dir, without=settings.run_dir)
    return {**fact, "data_dir": settings.data_dir.as_posix(), "files": files, "bytes": size, "fingerprint": digest}


def external_fingerprint(parameters):
    """Describe the folder of EXTERNAL_DATA_DIR, where one is given, as `dataset_fingerprint` does: SHA-256 or "".

    Raises:
        UsageError: EXTERNAL_DATASET without EXTERNAL_DATA_DIR, or no such folder.
    """
    name, folder = parameters.get("EXTERNAL_DATASET"), parameters.get("EXTERNAL_DATA_DIR")
    if not name:
        return ""
    if not folder or not Path(folder).is_dir():
        raise UsageError(f"EXTERNAL_DATASET {name!r} needs EXTERNAL_DATA_DIR, an existing folder, not {folder!r}")
    return _hash_folder(Path(folder))[0]


def _hash_folder(folder, *, without=None):
    digest, files, size = hashlib.sha256(), 0, 0
    for entry in sorted(_walk(folder, without=without), key=lambda entry: entry.path):
        stat = entry.stat()
        digest.update(f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        files, size = files + 1, size + stat.st_size
    return digest.hexdigest(), files, size


def _walk(folder, *, without):
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if Path(entry.path) != without:
                    yield from _walk(entry.path, without=without)
            elif entry.is_file():
                yield entry


def _hash_sources():
    digest, folder = hashlib.sha256(), project_root() / "shared"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def stage_key(stage, basis, record):
    """Return the SHA-256 of all that decides whether a stage's results still hold.

    Notebook code, parameters, data, package sources, weights, versions, and the keys of the earlier stages that are
    done: what they left behind is this stage's input.
    """
    earlier = {
        name: entry["key"]
        for name, entry in record["stages"].items()
        if name < stage.name and entry["status"] == "done"
    }
    parameters = {name: value for name, value in stage.parameters.items() if name != "RUN_DIR"}
    content = json.dumps([stage.code, parameters, basis, sorted(earlier.items())], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _is_done(record, stage, basis, run_dir):
    entry = record["stages"].get(stage.name)
    return (
        entry is not None
        and entry["status"] == "done"
        and entry["key"] == stage_key(stage, basis, record)
        and all((run_dir / output).is_file() for output in entry["outputs"])
    )


# ---------------------------------------------------------------- the record
def open_record(settings, stages, dataset):
    """Start the record of this run from the one that is there.

    Raises:
        UsageError: the directory holds a run on another data set.
    """
    path = settings.run_dir / RECORD_FILE
    before = _read_record(path)
    name = before.get("dataset", {}).get("name", dataset["name"])
    if name != dataset["name"]:
        raise UsageError(f"{settings.run_dir}: holds a run on {name!r}; give another --run-dir for {dataset['name']!r}")
    return {
        "status": "running",
        "started": _now(),
        "finished": None,
        "version": __version__,
        "parameters": all_parameters(stages),
        "settings": settings.as_dict(),
        "seeds": {"SEED": settings.seed, "SEEDS": list(settings.seeds)},
        "dataset": dataset,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "git": git_state(),
        "peak_memory_mb": None,
        "seconds": None,
        "stages": before.get("stages", {}),
    }


def _read_record(path):
    try:
        record = files.read_json(path)
    except FileNotFoundError:
        return {}
    return record if isinstance(record, dict) else {}


def package_versions(names=PACKAGES):
    """Return {package: installed version}, None where it is not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder=None):
    """Return {"commit": hash, "dirty": bool} of the project, or None outside a git clone."""
    folder = folder or project_root()
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def _save_record(record, run_dir):
    stages = record["stages"].values()
    record["seconds"] = round(sum(entry.get("seconds") or 0 for entry in stages), 2)
    record["peak_memory_mb"] = max((entry.get("peak_memory_mb") or 0 for entry in stages), default=0)
    files.write_json(run_dir / RECORD_FILE, record)


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- the stages
def _run_stages(record, stages, basis, run_dir, kernel_for, *, force, echo):
    clock = {name: entry.get("seconds") for name, entry in record["stages"].items()}
    for number, stage in enumerate(stages, start=1):
        label = f"[{number}/{len(stages)}] {stage.name}"
        if not force and _is_done(record, stage, basis, run_dir):
            echo(f"{label}: unchanged, not run again")
            continue
        earlier = record["stages"].get(stage.name, {}).get("outputs", [])
        entry = {
            "status": "running",
            "key": stage_key(stage, basis, record),
            "parameters": {**stage.defaults, **stage.parameters},
            "git": record["git"],
            "started": _now(),
            "outputs": earlier,
        }
        record["stages"][stage.name] = entry
        record["stages"] = dict(sorted(record["stages"].items()))
        _save_record(record, run_dir)
        if not sys.stderr.isatty():
            echo(f"{label}: running …")
        try:
            kernel = kernel_for(stage.code, stages[number].code if number < len(stages) else None)
            _run_stage(stage, entry, run_dir, label, kernel)
        except BaseException as error:
            entry.update(status="failed", error=str(error) or "interrupted")
            record.update(status="failed", finished=_now())
            _save_record(record, run_dir)
            _report_failed_run(run_dir)
            raise
        clock[stage.name] = entry["seconds"]
        _save_record(record, run_dir)
        left = _time_left(clock, [later.name for later in stages[number:]])
        echo(f"{label}: {entry['seconds']:.0f} s{left}")


def _run_stage(stage, entry, run_dir, label, kernel):
    before = _files(run_dir)
    copy = run_dir / "notebooks" / stage.path.name
    bar = {"desc": label, "leave": False, "bar_format": "{desc} {bar:20} cell {n}/{total} [{elapsed}<{remaining}]"}
    taken = execution.execute_copy(
        stage.path,
        copy,
        stage.parameters,
        kernel=kernel,
        progress=bar if sys.stderr.isatty() else None,
    )
    page = execution.write_html(copy)
    after = _files(run_dir)
    made = {name for name, stamp in after.items() if before.get(name) != stamp}
    kept = after.keys() & set(entry["outputs"])  # made by an earlier run of this stage, found good by this one
    copies = {path.relative_to(run_dir).as_posix() for path in (copy, page)}
    entry.update(
        status="done",
        seconds=taken.seconds,
        peak_memory_mb=taken.peak_memory_mb,
        finished=_now(),
        outputs=sorted(copies | made | kept),
    )


def _files(run_dir):
    """Stamp the files that stages make: all below models and results, and those directly in data."""
    found = {}
    for folder in OUTPUT_FOLDERS:
        pattern = "*" if folder == "data" else "**/*"
        for path in (run_dir / folder).glob(pattern):
            if path.is_file() and not path.name.startswith("."):
                stat = path.stat()
                found[path.relative_to(run_dir).as_posix()] = (stat.st_mtime_ns, stat.st_size)
    return found


def _time_left(clock, names):
    """Say how long the rest may take: by the last run where there was one, else by the notebooks so far."""
    if not names:
        return ""
    known = [seconds for seconds in clock.values() if seconds]
    usual = sum(known) / len(known) if known else 0
    left = sum(clock.get(name) or usual for name in names)
    return f", about {left:.0f} s left" if left < 90 else f", about {left / 60:.0f} min left"


def _remove_leftovers(run_dir):
    for path in list(run_dir.rglob(".part-*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# ------------------------------------------------------------------- the end
def finish(record, run_dir, *, echo=print):
    """Close the record, write index.html, and show the comparison table and where the page is."""
    record.update(status="done", finished=_now())
    _save_record(record, run_dir)
    table = _renewed_table(run_dir)
    if len(table):
        echo("")
        echo(format_table(table))
    echo("")
    echo(f"open {_write_reports(run_dir)}")


def format_table(table):
    """Return the comparison table's main columns as text."""
    shown = table[["model", "weights", "n_test", "auc", "auc_low", "auc_high", "case_auc", "balanced_accuracy"]]
    shown = shown.assign(
        weights=shown.weights.fillna(""),
        auc=[f"{row.auc:.3f} [{row.auc_low:.3f}–{row.auc_high:.3f}]" for row in shown.itertuples()],
    ).drop(columns=["auc_low", "auc_high"])
    return shown.rename(columns={"auc": "test AUC [95 %]"}).to_string(index=False, float_format="%.3f")


def _renewed_table(run_dir):
    """Scores on another split than the manifest's leave the table here, where the last notebook did not see to it."""
    if (run_dir / "data/manifest.csv").exists():
        result_files.renew_table(run_dir)
    return result_files.load_table(run_dir)


def _report_failed_run(run_dir):
    """Renew the page where there are results, so that it says what went wrong; the error itself matters more."""
    if len(result_files.load_table(run_dir)):
        with contextlib.suppress(Exception):
            _write_reports(run_dir)


def _write_reports(run_dir):
    from pipeline import report

    report.write_model_card(run_dir)
    report.write_reporting_checklist(run_dir)
    return report.write_index(run_dir)


# ------------------------------------------------- the committed notebooks
def renew_notebooks(names=(), *, echo=print):
    """Execute the committed notebooks on the demo data, in order, and store their cleaned outputs.

    Args:
        names: as `--only`; none means all.
    """
    folder, run_dir = project_root() / "notebooks", project_root() / "runs/notebooks"
    paths = _select(sorted(folder.glob(NOTEBOOK_PATTERN)), tuple(names), folder)
    if not names:
        shutil.rmtree(run_dir, ignore_errors=True)
    for path in paths:
        taken = execution.execute_in_place(path, run_dir=run_dir)
        echo(f"{path.stem}: {taken.seconds:.0f} s, {taken.peak_memory_mb:,.0f} MB")
