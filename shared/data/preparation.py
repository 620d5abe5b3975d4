"""From settings to data that a model can use: manifest, split, audit and image store, made once per run directory."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from shared.data import manifests, readers, splits, store
from shared.data.images import ImageSteps
from shared.run import EXCLUDED, TEST, TRAIN, VALIDATION, DataError, Settings, claim_run_dir, write_json


@dataclass(frozen=True)
class Prepared:
    """Data ready for a model."""

    settings: Settings  # what it was made with
    manifest: pd.DataFrame  # row i belongs to images[i]
    images: np.ndarray  # uint8 memory map (N, S, S), 0–255
    masks: np.ndarray | None  # uint8 memory map (N, S, S) of 0 and 1; None where the source has no lesion masks
    statistics: pd.DataFrame  # what the files' own pixels echo (`store.STATISTICS_COLUMNS`)
    class_names: tuple[str, str]  # the words for label 0 and label 1
    ideal: np.ndarray | None = None  # float64 (N,), how likely class 1 is given what a phantom was drawn from

    @property
    def labels(self) -> np.ndarray:
        """int (N,): 0 or 1."""
        return self.manifest.label.to_numpy()

    @property
    def patients(self) -> np.ndarray:
        """str (N,): the unit of every split and every interval."""
        return self.manifest.patient_id.to_numpy()

    @property
    def targets(self) -> np.ndarray:
        """int (N,), what a network is trained on: the labels, or with task "subtype" the subtypes 0 to 3."""
        return self.manifest.subtype.to_numpy() if self.settings.task == "subtype" else self.labels

    @property
    def n_classes(self) -> int:
        """How many values `targets` can take: 2, or 4 with task "subtype"."""
        return 4 if self.settings.task == "subtype" else 2

    def rows(self, *splits: str) -> np.ndarray:
        """Return the positions of the rows of one or more splits: int (n,), ascending."""
        return np.flatnonzero(self.manifest.split.isin(splits))

    def hold_out(self, fold: int) -> "Prepared":
        """Return the same data with one fold as validation and all others as train; test stays test."""
        fold_of = self.manifest.fold
        split = self.manifest.split.mask(fold_of >= 0, TRAIN).mask(fold_of == fold, VALIDATION)
        return replace(self, manifest=self.manifest.assign(split=split))


def load_dataset(settings: Settings) -> readers.Dataset:
    """Read the data set that `settings` name; the demo data are drawn first where they are missing.

    Raises DataError, UsageError: see `readers.load_layout`; also where no image at all can be read.
    """
    data_dir = settings.data_dir
    if data_dir is None:
        claim_run_dir(settings.run_dir)
        data_dir = readers.provide_demo(settings.run_dir / "data/demo")
    dataset = readers.load_layout(settings.dataset, data_dir, task=settings.task, input=settings.input)
    first = ""
    for row in dataset.manifest.itertuples():
        try:
            if row.split == EXCLUDED:
                raise DataError(row.exclusion_reason)
            dataset.read_image(row.image_path)
            return dataset
        except DataError as error:
            first = first or str(error)
    raise DataError(f"{data_dir}: none of its {len(dataset.manifest)} images can be used; the first: {first}")


def image_steps(settings: Settings) -> ImageSteps:
    """Return the steps that `settings` ask for."""
    return ImageSteps(settings.image_size, settings.window, settings.keep_aspect, settings.breast_crop)


def check_can_run(settings: Settings) -> None:
    """Find out quickly whether a run can start (data readable, disk large enough); else DataError or UsageError."""
    if settings.data_dir is None:
        return
    dataset = load_dataset(settings)
    needed = len(dataset.manifest) * settings.image_size**2
    store.check_disk(settings.run_dir, needed * (2 if dataset.read_mask else 1))
    rows = dataset.manifest[dataset.manifest.split == ""]
    if rows.label.nunique() < 2:
        raise DataError(f"{settings.data_dir}: only one class is on disk ({len(rows)} images); two are needed")
    is_test = rows.official_split == TEST
    for place, part in (("in", rows[is_test]), ("outside", rows[~is_test])):
        if 0 < len(part) < len(rows) and part.label.nunique() < 2:
            where = f"on disk {place} the official test split ({len(part)} images)"
            raise DataError(f"{settings.data_dir}: only one class {where}; two are needed: is the copy complete?")
    labels, patients = rows.label.to_numpy(), rows.patient_id.to_numpy()
    splits.group_folds(labels, patients, np.arange(len(rows)), count=splits.VALIDATION_SHARE, seed=settings.seed)


def prepare(settings: Settings) -> Prepared:
    """Make what is missing of manifest, split, audit and image store in the run directory, and open it.

    Raises DataError: see `load_dataset`, `build_image_store`, `assign_splits`.
    """
    folder = settings.run_dir / "data"
    dataset = load_dataset(settings)
    claim_run_dir(settings.run_dir)
    images, masks, statistics = store.build_image_store(dataset, folder, image_steps(settings))
    shared = dataset.facts.get("official_shared_patients", ())
    counts = {"n_folds": settings.n_folds, "seed": settings.seed}
    manifest = splits.assign_splits(dataset.manifest, statistics, shared_patients=shared, **counts)
    manifests.save_manifest(settings.run_dir, manifest)
    write_json(folder / "audit.json", splits.audit(dataset, manifest, statistics, seed=settings.seed))
    ideal = None
    if settings.dataset == "demo" and settings.task == "malignant":
        ideal = readers.score_ideal_observer(dataset.data_dir, manifest.image_id)
    return Prepared(settings, manifest, images, masks, statistics, dataset.class_names, ideal)


def describe(prepared: Prepared) -> str:
    """Return one line that says what is there: images, patients, split, prevalence of test."""
    counts = ", ".join(f"{len(prepared.rows(name))} {name}" for name in (TRAIN, VALIDATION, TEST))
    share = f"{prepared.labels[prepared.rows(TEST)].mean():.0%} of test is {prepared.class_names[1]}"
    patients = prepared.manifest.patient_id[prepared.manifest.split != EXCLUDED].nunique()
    name = f"{prepared.settings.dataset}, profile {prepared.settings.profile}"
    size = prepared.images.shape[1]
    return f"{name}: {patients} patients, {counts} images of {size} px; {share}"
