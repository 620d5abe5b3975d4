"""From settings to data that a model can use: manifest, split, audit and image store, made once per run directory."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shared.data import images, manifests, splits
from shared.data import readers as datasets
from shared.run import TEST, DataError, Settings, UsageError, files


@dataclass(frozen=True)
class Prepared:
    """Data ready for a model.

    Attributes:
        settings: what it was made with.
        manifest: DataFrame, row i belongs to images[i].
        images: uint8 memory map (N, S, S), 0–255.
        masks: uint8 memory map (N, S, S) of 0 and 1, or None where the source has no lesion masks.
        statistics: DataFrame with what the files' own pixels echo (`images.STATISTICS_COLUMNS`).
        class_names: the words for label 0 and label 1.
    """

    settings: Settings
    manifest: pd.DataFrame
    images: np.ndarray
    masks: np.ndarray | None
    statistics: pd.DataFrame
    class_names: tuple[str, str]

    @property
    def labels(self):
        """int (N,): 0 or 1."""
        return self.manifest.label.to_numpy()

    def rows(self, *names):
        """Return the positions of the rows of one or more splits: int (n,), ascending."""
        return np.flatnonzero(self.manifest.split.isin(names))


def load_dataset(settings):
    """Read the data set that `settings` name; the demo data are written first where they are missing.

    Returns:
        datasets.Dataset
    """
    data_dir = settings.data_dir
    if data_dir is None:
        import phantoms as demo_data

        data_dir = settings.run_dir / "data/demo"
        demo_data.provide_demo_data(data_dir, seed=0)
    return datasets.load(settings.dataset, data_dir, task=settings.task, input=settings.input)


def image_steps(settings):
    """Return the images.ImageSteps that `settings` ask for."""
    return images.ImageSteps(settings.image_size, settings.window, settings.keep_aspect, settings.breast_crop)


def check(settings):
    """Find out quickly whether a run can start: data readable, run directory writable, disk large enough.

    Raises:
        DataError, UsageError: one clear line.
    """
    check_run_dir(settings.run_dir)
    if settings.data_dir is None:
        return
    dataset = load_dataset(settings)
    needed = images.store_bytes(len(dataset.manifest), settings.image_size)
    images.check_disk(settings.run_dir, needed * (2 if dataset.read_mask else 1))
    _check_classes(settings.data_dir, dataset.manifest[dataset.manifest.split == ""])


def _check_classes(data_dir, rows):
    if rows.label.nunique() < 2:
        raise DataError(f"{data_dir}: only one class is on disk ({len(rows)} images); two are needed")
    is_test = rows.official_split == TEST
    for place, part in (("in", rows[is_test]), ("outside", rows[~is_test])):
        if 0 < len(part) < len(rows) and part.label.nunique() < 2:
            raise DataError(
                f"{data_dir}: only one class on disk {place} the official test split ({len(part)} images); "
                "two are needed: is the copy complete?"
            )


def check_run_dir(run_dir):
    """Raise UsageError where nothing can be written into `run_dir`."""
    try:
        with files.atomic_write(run_dir / ".writable"):
            pass
        (run_dir / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"RUN_DIR {run_dir}: cannot be written ({error.strerror}); choose another --run-dir") from None


def prepare(settings):
    """Make what is missing of manifest, split, audit and image store in the run directory, and open it.

    Returns:
        Prepared
    Raises:
        DataError: see `datasets.load`, `images.build_image_store`, `splits.assign_splits`.
    """
    folder = settings.run_dir / "data"
    dataset = load_dataset(settings)
    store, masks, statistics = images.build_image_store(dataset, folder, image_steps(settings))
    manifest = splits.assign_splits(
        dataset.manifest,
        statistics,
        shared_patients=dataset.facts.get("official_shared_patients", ()),
        n_folds=settings.n_folds,
        seed=settings.seed,
    )
    manifests.save_manifest(settings.run_dir, manifest)
    files.write_json(folder / "audit.json", splits.audit(dataset, manifest, statistics, seed=settings.seed))
    return Prepared(settings, manifest, store, masks, statistics, dataset.class_names)


def describe(prepared):
    """Return one line that says what is there: images, patients, split, prevalence of test."""
    counts = {name: len(prepared.rows(name)) for name in ("train", "validation", "test")}
    test = prepared.labels[prepared.rows(TEST)].mean()
    patients = prepared.manifest.patient_id[prepared.manifest.split != "excluded"].nunique()
    return (
        f"{prepared.settings.dataset}, profile {prepared.settings.profile}: {patients} patients, "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
        + f" images of {prepared.images.shape[1]} px; {test:.0%} of test is {prepared.class_names[1]}"
    )
