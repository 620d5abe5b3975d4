"""The series in one-line functions, under the names of older projects: `quickstart.simple_train(epochs=10)`.

Every function takes the notebooks' parameters as keywords in lower case (`dataset`, `data_dir`, `run_dir`, `weights`,
`image_size`, …); without any, it works on the demo data and in `runs/demo`. Each runs the notebooks that answer it,
as `python -m pipeline run` does, or is a few calls that the notebooks make.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.parameters import merge_options
from pipeline.series import RunOptions, run_series
from shared import data, evaluation, explain, models, plots
from shared.run import Settings, UsageError, resolve_settings

Row = dict[str, Any]  # what `shared.evaluation.evaluate` measures
MODEL_TYPES = {  # "simple_vgg" has stacked 3 × 3 convolutions from scratch; the pretrained one is "vgg16"
    "simple_vgg": "deep_cnn", "custom_cnn": "lightweight_cnn", "mobilenet": "mobilenetv2",
    "efficientnet": "efficientnetb0", "enhanced_vgg": "vgg16_medical",
}  # fmt: skip


def run_notebooks(*numbers: str, **parameters: Any) -> Path:
    """Run some of the notebooks, or what of them has changed, and return the run directory."""
    pairs = [(name, value if isinstance(value, str) else repr(value)) for name, value in as_typed(parameters).items()]
    return run_series(RunOptions(only=numbers, parameters=tuple(pairs)))


def as_typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return {NAME: value} with paths as text."""
    return {
        name.upper(): os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in parameters.items()
    }


def prepare_data_only(**parameters: Any) -> data.Prepared:
    """Make manifest, split, audit and image store where they are missing, and open them.

    Folders and the data set are found as `run_notebooks` finds them.
    """
    unknown = set(parameters) - set(Settings.__dataclass_fields__)
    if unknown:
        raise UsageError(f"unknown parameter {', '.join(sorted(unknown))}; see shared.run.Settings for those there are")
    values = merge_options(RunOptions(), as_typed(parameters))
    return data.prepare(replace(resolve_settings(values), run_dir=Path(values["RUN_DIR"])))


def create_robust_dataset(**parameters: Any) -> tuple[Any, ...]:
    """Return tf.data pipelines (train, validation, test) of images (B, S, S, 1) and labels (B,); train is balanced."""
    prepared = prepare_data_only(**parameters)
    sources = (prepared.images, prepared.labels)
    size = prepared.settings.batch_size
    options = {"order": "balanced", "augment": models.make_augmentation(), "seed": prepared.settings.seed}
    train = models.make_dataset(*sources, prepared.rows("train"), batch_size=size, **options)
    held_out = [models.make_dataset(*sources, prepared.rows(s), batch_size=size) for s in ("validation", "test")]
    return train, *held_out


def simple_train(epochs: int = 10, model_type: str = "simple_vgg", **parameters: Any) -> Row:
    """Train one network from scratch, or the linear head of a pretrained one in notebook 04; return its measures.

    `model_type` is a key of `MODEL_TYPES` or a name of `shared.models.NAMES`; a pretrained one needs `weights`.
    """
    name = MODEL_TYPES.get(model_type, model_type)
    if name in models.BACKBONES:
        run_dir = run_notebooks("04", epochs=epochs, backbones=[name], **parameters)
        return evaluation.load_results(run_dir)[f"{name}_frozen"]
    prepared = prepare_data_only(epochs=epochs, **parameters)
    settings = prepared.settings
    model = models.build(name, image_size=settings.image_size, n_classes=prepared.n_classes, seed=settings.seed)
    training = models.train(model, prepared, models.training_options(settings, augment=True), name=name)
    return score(prepared, model, name, weights="random", train_seconds=training.seconds)


def run_enhanced_training(epochs: int = 0, **parameters: Any) -> Row:
    """Fine-tune the first of `backbones` that there are weights for, in notebook 04, and return its measures."""
    run_dir = run_notebooks("04", epochs=epochs, **parameters)
    weights = str(parameters.get("weights", "demo"))
    wanted = parameters.get("backbones") or models.available_backbones(weights)
    chosen, _ = models.choose_backbones(wanted, weights)
    return evaluation.load_results(run_dir)[chosen[0]]


def continue_training(model: str = "deep_cnn", epochs: int = 5, learning_rate: float = 1e-4, **parameters: Any) -> Row:
    """Train `models/<model>.keras` on, with its optimiser's state, and return the measures of `<model>_continued`."""
    prepared, name = prepare_data_only(**parameters), f"{model}_continued"
    options = models.training_options(prepared.settings, epochs=epochs, learning_rate=learning_rate)
    continued, training = models.continue_training(prepared, model, options, name=name)
    return score(prepared, continued, name, weights="continued", train_seconds=training.seconds)


def evaluate_only(model_path: Path | str, **parameters: Any) -> Row:
    """Score a saved model on validation and test, as a row `<file>_alone`; nothing is trained."""
    prepared, name = prepare_data_only(**parameters), Path(model_path).stem
    return score(prepared, models.load_model(model_path), f"{name}_alone", weights="as saved", extra={"files": [name]})


def compare_models(**parameters: Any) -> pd.DataFrame:
    """Run notebook 07 and return the comparison table, best test AUC first."""
    return evaluation.load_table(run_notebooks("07", **parameters))


def run_working_gradcam(model_path: Path | str, num_samples: int = 10, **parameters: Any) -> Figure:
    """Draw Grad-CAM maps of test images, half of each class, into `results/gradcam_visualizations/`."""
    prepared, model = prepare_data_only(**parameters), models.load_model(model_path)
    test = prepared.rows("test")
    halves = ((1, (num_samples + 1) // 2), (0, num_samples // 2))
    rows = np.concatenate([test[prepared.labels[test] == label][:count] for label, count in halves])
    images, titles = prepared.images[rows], [prepared.class_names[label] for label in prepared.labels[rows]]
    masks = None if prepared.masks is None else prepared.masks[rows]
    figure = plots.show_heatmaps(images, {"Grad-CAM": explain.heatmap(model, images)}, masks=masks, titles=titles)
    name = f"quickstart_{Path(model_path).stem}"
    return plots.save_figure(figure, prepared.settings.run_dir, name, folder="gradcam_visualizations")


def run_complete_improvement(epochs: int = 10, **parameters: Any) -> tuple[Row, pd.DataFrame, str | None]:
    """Train, cross-validate and compare in notebooks 03, 04, 05 and 07: (cv_metrics, comparison_results, best_model).

    They are `auc`, `auc_low`, `auc_high`, `n` of the linear head out of fold, folds by patient; the comparison table;
    the image model with the highest *validation* AUC, in whose choice test plays no part.
    """
    run_dir = run_notebooks("03", "04", "05", "07", epochs=epochs, **parameters)
    rows = evaluation.load_predictions(run_dir, "cv_linear").query("fold >= 0")
    area = evaluation.bootstrap_interval(rows.label, rows.score, rows.patient_id)
    cv_metrics = {"auc": area.value, "auc_low": area.low, "auc_high": area.high, "n": len(rows)}
    return cv_metrics, evaluation.load_table(run_dir), evaluation.choose_image_model(evaluation.load_results(run_dir))


def score(prepared: data.Prepared, model: Any, name: str, **details: Any) -> Row:
    """Score a network on validation and test as the row `name` of the table."""
    scores = models.predict_held_out(prepared, model)
    return evaluation.evaluate(prepared, name, scores, parameters=model.count_params(), **details)
