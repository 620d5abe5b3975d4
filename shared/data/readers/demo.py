"""The embedded data set: phantom patients, drawn by the package `phantoms` in the files of a real layout."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared.data.readers import cbis_ddsm, common
from shared.data.readers.common import Dataset
from shared.run import DataError, read_json, write_json
from shared.run.progress import is_watched

ORACLE = "oracle.csv"  # beside all that `phantoms` draws


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """Read the demo data, which have the form of CBIS-DDSM; see `cbis_ddsm.load`.

    Raises DataError: also where `phantoms` has not drawn the folder, so that no real data are taken for drawn ones.
    """
    common.check_task("demo", task, cbis_ddsm.TASKS)
    if not (data_dir / ORACLE).is_file():
        raise DataError(f"{data_dir}: no {ORACLE}, so phantoms has not drawn it; set DATASET to its layout, not 'demo'")
    dataset = cbis_ddsm.load(data_dir, task=task, input=input)
    # drawn, and so of no patient of the data set whose form they have
    return replace(dataset, name="demo", manifest=dataset.manifest.assign(source="demo"))


def score_ideal_observer(data_dir: Path | str, image_ids: Sequence[str]) -> np.ndarray | None:
    """Read how likely each finding is malignant given what it was drawn from: a ceiling for models that read images.

    The scores lie beside the demo data and are no part of the manifest, whose `image_ids` are asked for. A whole
    mammogram takes its highest finding.
    Returns float64 (len(image_ids),), 0 ... 1; None where the folder holds no such scores, as with real data.
    Raises DataError: an image has no score.
    """
    path = Path(data_dir) / ORACLE
    if not path.is_file():
        return None
    scores = pd.read_csv(path).set_index("image_id").oracle_score
    whole = scores.groupby(scores.index.str.rsplit("_", n=1).str[0]).max()
    found = pd.concat([scores, whole]).reindex(list(image_ids))
    if found.isna().any():
        raise DataError(f"{path}: no score for {found.index[found.isna()][0]}; remove the folder, it is drawn again")
    return found.to_numpy()


def provide_demo(
    folder: Path | str, *, layout: str = "cbis-ddsm", patients: int | None = None, seed: int = 0, acquisition: str = "A"
) -> Path:
    """Draw phantom patients into `folder`, unless this version of `phantoms` drew the same there already; return it.

    It is written anew where the generator or an option (see `phantoms.write_demo_data`) has changed; what was drawn is
    noted in `<folder>.json` beside it. Without that note, a folder that holds anything is refused.
    Raises DataError: an option that is not known, or a folder that cannot be written or is not ours.
    """
    import phantoms

    folder = Path(folder)
    options: dict[str, Any] = {"layout": layout, "patients": patients, "seed": seed, "acquisition": acquisition}
    note = folder.with_suffix(".json")
    drawn = {"generator": phantoms.fingerprint(), **options}
    before = read_json(note) if note.exists() else None
    if folder.is_dir() and before == drawn:
        return folder
    if folder.exists() and not (isinstance(before, dict) and set(before) <= set(drawn)):
        raise DataError(f"{folder}: is there, and no {note.name} says that it was drawn here; move it away")
    try:
        write_json(note, {})  # begun: drawn anew where this is killed
        shutil.rmtree(folder, ignore_errors=True)
        phantoms.write_demo_data(folder, **options, progress=is_watched())
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from None
    write_json(note, drawn)
    return folder
