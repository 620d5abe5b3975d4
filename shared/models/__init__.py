"""The models: networks, pretrained weights, the input pipeline, cached features and training.

TensorFlow is loaded, quietly, with the first name that needs it; the weights can be checked without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from shared.models.pretrained import Weights, available_backbones, check_weights, choose_backbones, find_weights

if TYPE_CHECKING:
    from shared.models.backend import multi_gpu_scope, set_up_devices
    from shared.models.features import extract_features
    from shared.models.input_pipeline import ORIENTATIONS, CachedFeatures, make_augmentation, make_dataset, orient
    from shared.models.networks import BACKBONES, NAMES, build, build_simple_cnn, build_small_cnn, split
    from shared.models.training import (
        Training,
        TrainingOptions,
        continue_training,
        fine_tune,
        load_model,
        predict,
        predict_held_out,
        save_model,
        train,
        train_frozen,
        training_options,
    )

__all__ = [
    "BACKBONES", "NAMES", "ORIENTATIONS", "CachedFeatures", "Training", "TrainingOptions", "Weights",
    "available_backbones", "build", "build_simple_cnn", "build_small_cnn", "check_weights", "choose_backbones",
    "continue_training", "extract_features", "find_weights", "fine_tune", "load_model", "make_augmentation",
    "make_dataset", "multi_gpu_scope", "orient", "predict", "predict_held_out", "save_model", "set_up_devices",
    "split", "train", "train_frozen", "training_options",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Find a name of the face in the module that has it."""
    if name in __all__:
        for module in ("backend", "input_pipeline", "networks", "features", "training"):
            found = getattr(importlib.import_module(f"shared.models.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
