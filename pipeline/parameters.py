"""What a run is given: the notebooks, their parameters as `papermill` reads them, and the command line's options."""

import ast
import difflib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.data import check_layout_name, detect_layout
from shared.data.readers import SIGNATURES
from shared.run import PROFILES, UsageError, check_choice, full_path, project_root, refuse_damage, resolve_run_dir

CORE_PATTERN = "[0-9][0-9]_*.ipynb"
OPTIONAL_PATTERN = "[0-9][0-9][a-z]_*.ipynb"  # run only where it is asked for
OPTION_PARAMETERS = ("DATASET", "DATA_DIR", "RUN_DIR", "PROFILE", "WEIGHTS", "SCHEDULER")
WEIGHTS_WORDS = ("", "imagenet", "demo", "none")


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
    defaults: dict[str, Any]
    parameters: dict[str, Any]


def plan(
    options: RunOptions, notebooks_dir: Path | str | None = None, *, echo: Callable[[str], None] = print
) -> tuple[list[Stage], list[Stage], dict[str, Any]]:
    """Find the notebooks, and work out the parameters of each; one goes only into the notebooks that declare it.

    A parameter of a notebook that is not selected is accepted: it belongs to the settings that the run is known by.
    Without `only`, optional notebooks are left out, and one line says so.

    Returns the stages that are selected, all there are, in order, and {NAME: value} of what was given or follows.
    """
    folder = Path(notebooks_dir or project_root() / "notebooks")
    read = {path: read_notebook(path) for path in list_notebooks(folder)}
    given = parse_parameters(options.parameters, [defaults for _, defaults in read.values()])
    selected = select_notebooks(folder, options.only)
    for path in [] if options.only else [path for path in read if path not in selected]:
        echo(f"left out: {path.stem} is optional; --only {notebook_number(path.stem)} runs it")
    injected = merge_options(options, given, echo=echo)
    series = []
    for path, (code, defaults) in read.items():
        own = {name: value for name, value in injected.items() if name in defaults}
        series.append(Stage(path.stem, path, code, defaults, own))
    return [stage for stage in series if stage.path in selected], series, injected


def notebook_number(name: str) -> str:
    """Return what a notebook's name begins with: "02" of "02_synthetic_vs_real", "02b" of an optional one."""
    return name.split("_")[0]


def is_optional(name: str) -> bool:
    """Tell by its name whether a notebook is optional: a letter follows its number."""
    return notebook_number(name)[-1:].isalpha()


def list_notebooks(folder: Path) -> list[Path]:
    """Return all notebooks in a folder, the optional ones included, in order."""
    paths = sorted([*folder.glob(CORE_PATTERN), *folder.glob(OPTIONAL_PATTERN)])
    if not paths:
        raise UsageError(f"{folder}: no notebooks ({CORE_PATTERN}) there")
    return paths


def select_notebooks(folder: Path, only: Iterable[str] = ()) -> list[Path]:
    """Return a folder's notebooks, in order: the core series, or those that `only` names by number or name."""
    paths = list_notebooks(folder)
    chosen: list[Path] = []
    for word in only:
        number = word.lstrip("0")
        found = [path for path in paths if path.stem == Path(word).stem]
        found = found or [path for path in paths if notebook_number(path.stem).lstrip("0") == number]
        if not found:
            raise UsageError(f"--only {word}: no such notebook; there are {', '.join(path.stem for path in paths)}")
        chosen += found
    return [path for path in paths if (path in chosen if chosen else not is_optional(path.stem))]


def read_notebook(path: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return a notebook's code cells and the {NAME: default} of its parameters; DataError where it is no notebook."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    with refuse_damage(f"{path}: not a notebook", "restore it, or take it out of the folder"):
        node = nbformat.from_dict(json.loads(path.read_bytes()))  # not validated: that takes a third of a second each
        for cell in node.cells:
            cell.source = "".join(cell.source)
    defaults = {}
    for name, declared in papermill.inspect_notebook(node).items():
        with refuse_damage(f"{path}: parameter {name}: `{declared['default']}` is not a literal", "write one there"):
            defaults[name] = ast.literal_eval(declared["default"])
    return tuple(cell.source for cell in node.cells if cell.cell_type == "code"), defaults


def parse_parameters(pairs: Iterable[tuple[str, str]], declared: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Turn (NAME, text) pairs into {NAME: value} by the {NAME: default} that each notebook declares, or UsageError."""
    known = {name: default for defaults in declared for name, default in defaults.items()}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
            raise UsageError(f"-p {name}: no notebook has this parameter; {hint}")
        if name in values:
            raise UsageError(f"-p {name} is given twice")
        values[name] = parse_value(name, text, known[name])
    return values


def parse_value(name: str, text: str, default: Any) -> Any:
    """Turn the text behind `-p NAME` into a value of the default's type; raises UsageError where it is none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(default, str) and not isinstance(value, str):
        value = text
    elif (type(default), type(value)) in ((float, int), (list, tuple)):
        value = type(default)(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"-p {name}: {text!r} is not of type {type(default).__name__}, e.g. {default!r}")
    if isinstance(default, list) and default and any(type(item) is not type(default[0]) for item in value):
        raise UsageError(f"-p {name}: {text!r} must hold {type(default[0]).__name__} values only, e.g. {default!r}")
    if isinstance(default, str) and value and name.endswith("_DIR"):
        places = value.split(",") if name == "EXTERNAL_DATA_DIR" else [value]
        value = ",".join(str(full_path(place, f"-p {name}", start=Path.cwd())) for place in places)
    return value


def merge_options(options: RunOptions, given: dict[str, Any], *, echo: Callable[[str], None] = print) -> dict[str, Any]:
    """Merge --dataset … with -p DATASET …, fill in what both leave open, and make paths absolute, or UsageError.

    A path that was typed is relative to where it was typed; the default run directory is relative to the project. A
    folder without the data set's name is looked into, and what it was taken for is said in one line.
    """
    typed = {name: value for name in OPTION_PARAMETERS if (value := getattr(options, name.lower())) is not None}
    for name in typed.keys() & given.keys():
        raise UsageError(f"{name} is given twice: by --{name.lower().replace('_', '-')} and by -p")
    merged = {**given, **typed}
    if merged.get("DATA_DIR"):
        merged["DATA_DIR"] = str(full_path(merged["DATA_DIR"], "--data-dir", start=Path.cwd()))
        if "DATASET" not in merged:
            merged["DATASET"] = detect_layout(merged["DATA_DIR"])
            echo(f"taken as --dataset {merged['DATASET']}: the folder holds {SIGNATURES[merged['DATASET']][0]}")
    dataset = merged.setdefault("DATASET", "demo")
    check_layout_name(dataset)
    profile = merged.setdefault("PROFILE", "demo" if dataset == "demo" else "full")
    check_choice("--profile", profile, PROFILES)
    if not merged.get("DATA_DIR") and dataset != "demo":
        raise UsageError(f"--dataset {dataset} needs --data-dir, the folder that holds it")
    if "WEIGHTS" in merged:
        merged["WEIGHTS"] = ",".join(backbone + path for backbone, path in weight_files(merged["WEIGHTS"]))
    typed_dir = merged.get("RUN_DIR") and full_path(merged["RUN_DIR"], "--run-dir", start=Path.cwd())
    merged["RUN_DIR"] = str(typed_dir or resolve_run_dir(f"runs/{dataset}"))
    return merged


def weight_files(weights: str) -> list[tuple[str, str]]:
    """Split WEIGHTS into ("backbone=" or "", path) pairs, a file that is there as an absolute path."""
    pairs = []
    for part in weights.split(","):
        backbone, equals, path = part.rpartition("=")
        here = full_path(path, "--weights", start=Path.cwd())
        pairs.append((backbone + equals, str(here) if path and here.is_file() else path))
    return pairs


def all_parameters(stages: Iterable[Stage]) -> dict[str, Any]:
    """Return {NAME: value} over the notebooks, as they are run."""
    return {name: value for stage in stages for name, value in {**stage.defaults, **stage.parameters}.items()}
