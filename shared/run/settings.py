"""Turn a notebook's parameters into one frozen Settings object. No TensorFlow here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shared.run.names import UsageError, check_choice

ROOT_MARKER = "pyproject.toml"

PROFILES: dict[str, dict[str, Any]] = {  # what each profile fills in where a parameter was left at 0, "" or []
    "demo": {"image_size": 96, "batch_size": 32, "epochs": 20, "learning_rate": 3e-3, "n_folds": 3, "seeds": (0, 1)},
    "full": {"image_size": 128, "batch_size": 32, "epochs": 30, "learning_rate": 1e-3, "n_folds": 5,
             "seeds": (0, 1, 2)},
}  # fmt: skip
LIMITS = {  # smallest and largest value; too small an image leaves nothing behind the pooling
    "image_size": (32, 4096), "batch_size": (1, 4096), "epochs": (1, 10_000),
    "learning_rate": (1e-12, 10.0), "n_folds": (2, 100), "seed": (0, 2**31 - 1),
}  # fmt: skip
CHOICES = {
    "task": ("malignant", "abnormal", "original", "subtype", "birads-5"),
    "input": ("auto", "crop", "full"),
    "window": ("percentile", "zscore", "minmax", "none"),
    "strategy": ("auto", "none", "mirrored"),
}

WHOLE_IMAGES = ("vindr-mammo", "rsna-2023", "cmmd", "inbreast")  # layouts whose INPUT "auto" is full; else crop


@dataclass(frozen=True)
class Settings:
    """What a notebook works with, after its parameters were resolved by `resolve_settings`."""

    dataset: str = "demo"
    data_dir: Path | None = None  # None: the demo data is written below the run directory
    run_dir: Path = Path("runs/demo")
    profile: str = "demo"
    image_size: int = 96  # pixels, height and width of the image store
    batch_size: int = 32
    epochs: int = 20
    learning_rate: float = 3e-3
    weights: str = "demo"  # imagenet | demo | none | PATH | backbone=PATH[,backbone=PATH]
    n_folds: int = 3
    seeds: tuple[int, ...] = (0, 1)
    seed: int = 0
    task: str = "malignant"  # this and the next two, and `strategy`: see `CHOICES`
    input: str = "auto"  # `resolve_settings` makes it crop or full
    window: str = "percentile"
    keep_aspect: bool = True
    breast_crop: bool = False
    strategy: str = "auto"

    @property
    def is_demo(self) -> bool:
        """True for the quick profile."""
        return self.profile == "demo"


def project_root() -> Path:
    """Return the project's folder: the nearest one above this file that holds pyproject.toml."""
    for folder in Path(__file__).resolve().parents:
        if (folder / ROOT_MARKER).exists():
            return folder
    raise FileNotFoundError(f"no {ROOT_MARKER} above {__file__}: work inside a clone of the project")


def full_path(text: Path | str, name: str, *, start: Path | None = None) -> Path:
    """Return a path that a user gave as `name` as an absolute one, links resolved.

    A relative path is relative to `start`; None takes the project's root.
    Raises UsageError: no file can be called so: no such user, too long, a NUL byte, not UTF-8.
    """
    try:
        path = ((start or project_root()) / Path(text).expanduser()).resolve()
        str(path).encode("utf-8")
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name} {str(text)[:60]!r}: no usable path ({str(reason)[:80]}); give another") from None
    return path


def resolve_run_dir(value: Path | str) -> Path:
    """Return the run directory as an absolute path.

    `MAMMO_RUN_DIR` in the environment wins over `value`; a relative `value` is relative to the project's root.
    """
    return full_path(os.environ.get("MAMMO_RUN_DIR") or value, "RUN_DIR")


def resolve_settings(parameters: Mapping[str, Any]) -> Settings:
    """Check a notebook's parameters, fill in what the profile decides, and return Settings.

    `parameters` holds the UPPER_CASE names of the parameters cell; `globals()` will do. Other names are passed over. 0,
    "" and [] mean "as the profile says".
    Raises UsageError: a value that is not one of those allowed; names the parameter and the choices.
    """
    names = [field.name for field in fields(Settings)]
    given = {name: parameters[name.upper()] for name in names if name.upper() in parameters}
    profile = given.get("profile") or ("demo" if given.get("dataset", "demo") == "demo" else "full")
    check_choice("PROFILE", profile, PROFILES)
    given["profile"] = profile
    for name, value in PROFILES[profile].items():
        given[name] = given.get(name) or value
    check_numbers(given)
    given["seeds"] = tuple(given["seeds"])
    for name, choices in CHOICES.items():
        check_choice(name.upper(), given.get(name, getattr(Settings, name)), choices)
    given["input"] = resolve_input(given.get("input", "auto"), given.get("dataset", "demo"))
    given["run_dir"] = resolve_run_dir(given.get("run_dir") or f"runs/{given.get('dataset', 'demo')}")
    given["data_dir"] = full_path(given["data_dir"], "DATA_DIR") if given.get("data_dir") else None
    settings = replace(Settings(), **given)
    if settings.data_dir is None and settings.dataset != "demo":
        raise UsageError(f"DATASET {settings.dataset!r} needs DATA_DIR, the folder that holds it")
    return settings


def resolve_input(value: str, dataset: str) -> str:
    """Return crop or full; "auto" is what the layout `dataset` is made of.

    >>> resolve_input("auto", "rsna-2023")
    'full'
    """
    if value != "auto":
        return value
    return "full" if dataset in WHOLE_IMAGES else "crop"


def check_numbers(given: dict[str, Any]) -> None:
    """Raise UsageError for a number of another type, or outside `LIMITS`."""
    for name, (least, most) in LIMITS.items():
        kinds = (int, float) if name == "learning_rate" else (int,)
        value = given.get(name, getattr(Settings, name))
        if type(value) not in kinds or not least <= value <= most:
            kind = "number" if float in kinds else "whole number"
            raise UsageError(f"{name.upper()}: {value!r} is not a {kind} from {least} to {most}")
    seeds, most = given["seeds"], LIMITS["seed"][1]
    if not isinstance(seeds, list | tuple) or not all(type(seed) is int and 0 <= seed <= most for seed in seeds):
        raise UsageError(f"SEEDS: {seeds!r} is not a list of whole numbers from 0 to {most}, e.g. [0, 1]")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"SEEDS: {seeds!r} holds a seed twice")
