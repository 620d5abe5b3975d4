"""Names that more than one room needs: splits, columns, labels, and the two kinds of error a user can meet."""

from collections.abc import Collection
from typing import Any

TRAIN, VALIDATION, TEST, EXCLUDED = "train", "validation", "test", "excluded"
SPLITS = (TRAIN, VALIDATION, TEST, EXCLUDED)

DESCRIPTOR_COLUMNS = ("breast_density", "birads", "subtlety", "shape", "margins", "calc_type", "calc_distribution")

MANIFEST_COLUMNS = (
    "image_id", "patient_id", "side", "view", "lesion", "abnormality_type", "pathology", "label", "source",
    "official_split", "split", "exclusion_reason", "fold", "image_path", "mask_path", *DESCRIPTOR_COLUMNS,
)  # fmt: skip

PREDICTION_COLUMNS = ("image_id", "patient_id", "side", "lesion", "split", "fold", "label", "score")

TABLE_COLUMNS = (
    "model", "dataset", "weights", "n_test", "n_patients", "prevalence", "threshold",
    "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "recall", "f1",
    "auc", "auc_low", "auc_high", "case_auc", "average_precision", "brier", "ece",
    "val_auc", "train_seconds", "parameters",
)  # fmt: skip

BASELINES = ("majority", "mean_intensity", "birads", "descriptors")  # rows that need no image model

PATHOLOGIES = {"MALIGNANT": 1, "BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0, "NORMAL": 0}


class OneLineError(ValueError):
    """Line breaks, from a file's name or a library's message, become spaces; so do bytes that are no text."""

    def __str__(self) -> str:
        """Return the message on one line."""
        text = " ".join(super().__str__().splitlines())
        return text.encode("utf-8", "replace").decode("utf-8")


class DataError(OneLineError):
    """Data that cannot be used: says which file, which value, and the way out. Exit status 2."""


class UsageError(OneLineError):
    """A wrong option, parameter or combination of them. Exit status 2."""


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise UsageError that names the parameter, its value and the choices."""
    if value not in choices:
        raise UsageError(f"{name}: {value!r} is not one of {', '.join(choices)}")
