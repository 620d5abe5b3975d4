"""Apply the saved networks of a run, unchanged, to other data sets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shared import data
from shared.evaluation import metrics
from shared.evaluation.results import load_predictions
from shared.evaluation.scoring import find_intervals
from shared.run import EXCLUDED, PREDICTION_COLUMNS, TEST, DataError, Settings, UsageError, write_csv

COLUMNS = (
    "model", "dataset", "n", "prevalence", "auc", "auc_low", "auc_high", "threshold",
    "sensitivity", "sensitivity_low", "sensitivity_high", "specificity", "specificity_low", "specificity_high",
)  # fmt: skip
SHARED = "EXTERNAL_DATASET {}: {} of its {} stand in the first data set, e.g. {}; validation needs other patients"


def validate_externally(
    settings: Settings, dataset_names: str, data_dirs: Path | str, results: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, data.Prepared], pd.DataFrame]:
    """Score saved networks on other data sets, with the image steps and the thresholds that they have.

    Several data sets are separated by commas, in names and folders alike. UsageError where these do not pair up,
    DataError where one holds patients or pictures of the first. No folder with the data set "demo" draws a second
    hospital, with another film. `results` are as from `load_results`. Scores of the networks of a row (`files`,
    default: its name) are averaged, with `tta` over the orientations too; rows without saved networks are passed over.
    Returns the data sets by name, all of each test, and the table that is written to `results/external_validation.csv`.
    """
    sets = {}
    rows = []
    for dataset_name, data_dir in pair_sets(dataset_names, str(data_dirs)):
        if dataset_name == "demo" and not data_dir:
            data_dir = str(settings.run_dir / "data/demo_second_hospital")
            data.provide_demo(data_dir, patients=60, acquisition="B")
        sets[dataset_name] = read_second(settings, dataset_name, data_dir)
        rows += score_second(settings, sets[dataset_name], results)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(settings.run_dir / "results/external_validation.csv", table)
    return sets, table


def pair_sets(names: str, folders: str) -> list[tuple[str, str]]:
    """Return the (layout, folder) pairs of EXTERNAL_DATASET and EXTERNAL_DATA_DIR; UsageError where they are no pairs.

    The demo needs no folder.
    """
    if names == "demo" and not folders:
        return [("demo", "")]
    layouts, places = names.split(",") if names else [], folders.split(",") if folders else []
    if len(layouts) != len(places) or len(set(layouts)) != len(layouts):
        given = f"EXTERNAL_DATASET {names!r} and EXTERNAL_DATA_DIR {folders!r}"
        raise UsageError(f"{given}: give one folder for each layout, in the same order, each layout once")
    return list(zip(layouts, places, strict=True))


def score_second(
    settings: Settings, external: data.Prepared, results: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Score the saved networks of `results` on a second data set; write the scores, return rows of `COLUMNS`."""
    from shared import models

    rows = []
    dataset_name = external.settings.dataset
    for name, result in results.items():
        paths = [settings.run_dir / f"models/{file}.keras" for file in result.get("files", [name])]
        if not all(path.exists() for path in paths):
            continue
        orientations = models.ORIENTATIONS if result.get("tta") else (0,)
        networks = [models.load_model(path) for path in paths]
        scores = [models.predict_held_out(external, network, orientations=orientations) for network in networks]
        scored = external.manifest.assign(score=np.mean(scores, axis=0))[external.manifest.split == TEST]
        write_csv(settings.run_dir / f"results/external/{dataset_name}/{name}.csv", scored[list(PREDICTION_COLUMNS)])
        home = load_predictions(settings.run_dir, name)  # where the threshold was chosen
        figures = metrics.summarise(scored.label, scored.score, threshold=result["threshold"])
        figures |= find_intervals(home[home.split != TEST], scored, 0) | {"model": name, "dataset": dataset_name}
        rows.append(figures)
    return rows


def read_second(settings: Settings, dataset_name: str, data_dir: Path | str) -> data.Prepared:
    """Read a second data set with the image steps of the first, all of it as one test set.

    Raises DataError: it holds patients or pictures of the first, or no image that can be used.
    """
    dataset = data.load_layout(dataset_name, data_dir, task=settings.task, input=settings.input)
    first, second = (data.FAMILIES.get(name, name) for name in (settings.dataset, dataset_name))
    both = set(data.load_manifest(settings.run_dir).patient_id) & set(dataset.manifest.patient_id)
    if both and first == second:
        raise DataError(SHARED.format(dataset_name, len(both), "patients", min(both)))
    folder = settings.run_dir / "results/external" / dataset_name / "data"
    images, masks, statistics = data.build_image_store(dataset, folder, data.image_steps(settings))
    if statistics.problem.ne("").all():
        what = f"EXTERNAL_DATASET {dataset_name}: none of its {len(statistics)} images in {data_dir} can be used"
        raise DataError(f"{what}; the first: {statistics.problem.iloc[0]}")
    own = data.open_image_store(settings.run_dir / "data")[2]
    copies = statistics.image_id[statistics.content.ne("") & statistics.content.isin(own.content)]
    if len(copies):
        raise DataError(SHARED.format(dataset_name, len(copies), "pictures", copies.iloc[0]))
    split = np.where(statistics.problem == "", TEST, EXCLUDED)
    there = replace(settings, dataset=dataset_name, data_dir=dataset.data_dir)
    manifest = dataset.manifest.assign(split=split, fold=-1)
    return data.Prepared(there, manifest, images, masks, statistics, dataset.class_names)
