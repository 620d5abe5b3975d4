"""The series in one-line functions, under the names that older single-notebook projects used.

    from shared import quickstart
    quickstart.simple_train(epochs=10)
    print(quickstart.compare_models())

Every function takes the notebooks' parameters as keywords in lower case (`dataset`, `data_dir`, `run_dir`, `weights`,
`image_size`, …); without any, it works on the demo data and in `runs/demo`. Each is a few lines over the modules that
the notebooks use, and writes into the same run directory.
"""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared import plots
from shared.data import preparation
from shared.evaluation import ensembles, metrics, result_files
from shared.evaluation import scoring as evaluation
from shared.explain import heatmaps as explain
from shared.models import features, input_pipeline, pretrained, training
from shared.models import networks as models
from shared.run import BASELINES, UsageError
from shared.run import settings as config

MODEL_TYPES = {
    "simple_vgg": "deep_cnn",  # stacked 3 × 3 convolutions from scratch; the pretrained one is "vgg16"
    "simple_cnn": "simple_cnn",
    "small_cnn": "small_cnn",
    "custom_cnn": "lightweight_cnn",
    "mobilenet": "mobilenetv2",
    "efficientnet": "efficientnetb0",
    "enhanced_vgg": "vgg16_medical",
}


def prepare_data_only(**parameters):
    """Make manifest, split, audit and image store where they are missing, and open them.

    Args:
        parameters: the notebooks' parameters in lower case, as for every function here.
    Returns:
        preparation.Prepared
    Raises:
        UsageError, DataError: an unknown parameter, a wrong value, unusable data; one line.
    """
    unknown = set(parameters) - set(config.Settings.__dataclass_fields__)
    if unknown:
        raise UsageError(f"unknown parameter {', '.join(sorted(unknown))}; see config.Settings for those there are")
    settings = config.resolve_settings({name.upper(): value for name, value in parameters.items()})
    return preparation.prepare(settings)


def create_robust_dataset(**parameters):
    """Return the tf.data pipelines (train, validation, test); train is shuffled, balanced and augmented.

    Returns:
        three tf.data.Dataset of (images (B, S, S, 1) in 0…255, labels float32 (B,)).
    """
    prepared = prepare_data_only(**parameters)
    settings, labels = prepared.settings, prepared.labels
    augment = input_pipeline.make_augmentation(seed=settings.seed)
    train = input_pipeline.make_dataset(
        prepared.images, labels, prepared.rows("train"), batch_size=settings.batch_size,
        shuffle=True, balanced=True, augment=augment, seed=settings.seed,
    )  # fmt: skip
    held_out = (
        input_pipeline.make_dataset(prepared.images, labels, prepared.rows(split), batch_size=settings.batch_size)
        for split in ("validation", "test")
    )
    return train, *held_out


def simple_train(epochs=10, model_type="simple_vgg", **parameters):
    """Train one network and score it.

    Args:
        epochs: at most; for a pretrained network with a linear head none are needed.
        model_type: a key of `MODEL_TYPES` or a name of `models.NAMES`. Pretrained ones train their head on frozen
            features and need `weights` for their backbone.
    Returns:
        dict: the metrics of `evaluation.evaluate`.
    """
    prepared = prepare_data_only(epochs=epochs, **parameters)
    name = MODEL_TYPES.get(model_type, model_type)
    target, n_classes = evaluation.targets(prepared)
    options = {"image_size": prepared.settings.image_size, "n_classes": n_classes, "seed": prepared.settings.seed}
    if name in models.BACKBONES:
        weights = pretrained.resolve_weights(prepared.settings.weights, name)
        model = models.build(name, weights=weights, **options)
        run, _ = training.train_frozen(model, prepared, name=f"{name}_frozen", labels=target)
        label = pretrained.label(prepared.settings.weights, name)
        return _score(prepared, f"{name}_frozen", model, run, weights=label, tta=True)
    model = models.build(name, **options)
    augment = input_pipeline.make_augmentation(seed=prepared.settings.seed)
    run = training.fit(model, prepared, name=name, labels=target, augment=augment)
    return _score(prepared, name, model, run, weights="random")


def run_enhanced_training(epochs=None, **parameters):
    """Fine-tune the first backbone that there are weights for, and score it.

    Args:
        epochs: at most; None takes the recipe of `training.FINE_TUNING`.
    Returns:
        dict: the metrics of `evaluation.evaluate`.
    """
    prepared = prepare_data_only(**parameters)
    name = pretrained.available_backbones(prepared.settings.weights)[0]
    weights = pretrained.resolve_weights(prepared.settings.weights, name)
    target, n_classes = evaluation.targets(prepared)
    options = {"image_size": prepared.settings.image_size, "n_classes": n_classes, "seed": prepared.settings.seed}
    model = models.build(name, weights=weights, **options)
    more = {"epochs": epochs} if epochs else {}
    run, _ = training.fine_tune(model, prepared, name=name, labels=target, **more)
    return _score(prepared, name, model, run, weights=pretrained.label(prepared.settings.weights, name), tta=True)


def continue_training(model="deep_cnn", epochs=5, learning_rate=1e-4, **parameters):
    """Train a saved model on, with its optimiser's state, and score the result as `<model>_continued`.

    Args:
        model: name of a file in `models/`.
        epochs: how many more, at most.
        learning_rate: where the falling rate starts.
    Returns:
        dict: the metrics of `evaluation.evaluate`.
    """
    prepared = prepare_data_only(**parameters)
    name = f"{model}_continued"
    target, _ = evaluation.targets(prepared)
    options = {"epochs": epochs, "learning_rate": learning_rate, "labels": target}
    continued, run = training.continue_training(prepared, model, name=name, **options)
    return _score(prepared, name, continued, run, weights="continued")


def evaluate_only(model_path, **parameters):
    """Score a saved model on validation and test; nothing is trained.

    Args:
        model_path: a `.keras` file made by this series.
    Returns:
        dict: the metrics of `evaluation.evaluate`; the row is named after the file, with `_alone` behind it where
        a row of that name is there already: that one may average several files, or turned copies.
    """
    prepared = prepare_data_only(**parameters)
    model = _load(model_path, prepared)
    name = Path(model_path).stem
    former = result_files.load_metrics(prepared.settings.run_dir).get(name)
    name += "_alone" if former and former["weights"] != "as saved" else ""
    return _score(prepared, name, model, None, weights="as saved", files=[Path(model_path).stem])


def compare_models(**parameters):
    """Return the comparison table of the run directory, best test AUC first; baselines are added where missing.

    Returns:
        DataFrame with `schema.TABLE_COLUMNS`.
    """
    prepared = prepare_data_only(**parameters)
    if BASELINES[0] not in result_files.load_metrics(prepared.settings.run_dir):
        evaluation.score_baselines(prepared)
    return result_files.renew_table(prepared.settings.run_dir)


def run_working_gradcam(model_path, num_samples=10, **parameters):
    """Draw Grad-CAM maps of test images, half of each class, into `results/gradcam_visualizations/`.

    Args:
        model_path: a `.keras` file made by this series.
        num_samples: how many images.
    Returns:
        matplotlib Figure
    """
    prepared = prepare_data_only(**parameters)
    model = _load(model_path, prepared)
    test = prepared.rows("test")
    ordered = [test[prepared.labels[test] == label] for label in (1, 0)]
    rows = np.concatenate([ordered[0][: (num_samples + 1) // 2], ordered[1][: num_samples // 2]])
    maps = {"Grad-CAM": explain.heatmap(model, prepared.images[rows])}
    masks = None if prepared.masks is None else prepared.masks[rows]
    titles = [prepared.class_names[label] for label in prepared.labels[rows]]
    figure = plots.show_heatmaps(prepared.images[rows], maps, masks=masks, titles=titles)
    name = f"quickstart_{Path(model_path).stem}"
    return plots.save_figure(figure, prepared.settings.run_dir, name, folder="gradcam_visualizations")


def run_complete_improvement(epochs=10, **parameters):
    """Cross-validate a head on frozen features, train two networks, compare, and name the best one.

    The best model is the one with the highest *validation* AUC; test plays no part in the choice.

    Args:
        epochs: at most, for each network.
    Returns:
        (dict, DataFrame, str): out-of-fold figures of the head by patient-level folds (`auc`, `auc_low`, `auc_high`,
        `n`); the comparison table; the name of the best model.
    """
    prepared = prepare_data_only(**parameters)
    simple_train(epochs=epochs, model_type="small_cnn", **parameters)
    run_enhanced_training(epochs=epochs, **parameters)
    cv_metrics = _cross_validated_head(prepared)
    comparison_results = compare_models(**parameters)
    networks = comparison_results[~comparison_results.model.isin(BASELINES)]
    return cv_metrics, comparison_results, networks.loc[networks.val_auc.idxmax(), "model"]


def _cross_validated_head(prepared):
    settings = prepared.settings
    name = pretrained.available_backbones(settings.weights)[0]
    weights = pretrained.resolve_weights(settings.weights, name)
    backbone = models.build(name, image_size=settings.image_size, weights=weights, seed=settings.seed)
    cached = features.extract(prepared, backbone, "pooled", views=models.BACKBONES[name].views)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    folds = prepared.manifest.fold.to_numpy()
    member = ensembles.Member("head", "pooled", head)
    found = ensembles.cross_validate(
        [member], {"pooled": cached.averaged()}, prepared.labels, {settings.seed: folds}, n_jobs=1
    )
    rows = np.flatnonzero(folds >= 0)
    scores = found["head"].scores[rows]
    patients = prepared.manifest.patient_id.to_numpy()[rows]
    area = metrics.bootstrap_interval(prepared.labels[rows], scores, patients, seed=settings.seed)
    return {"auc": area.value, "auc_low": area.low, "auc_high": area.high, "n": len(rows)}


def _score(prepared, name, model, run, *, weights, tta=False, files=()):
    return evaluation.evaluate(
        prepared,
        name,
        evaluation.predict_held_out(prepared, model, tta=tta),
        weights=weights,
        train_seconds=run.seconds if run else 0.0,
        parameters=model.count_params(),
        extra={"tta": tta, "files": [*files] or [name]},
    )


def _load(model_path, prepared):
    path = Path(model_path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: train a model first, e.g. quickstart.simple_train()")
    model = training.load_file(path)
    training.check_size(model, prepared)
    return model
