"""Train networks: recipe, callbacks, fine-tuning on cached features, saved models, prediction."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_limits

from shared.data import Prepared, make_logistic
from shared.models import features, networks
from shared.models.backend import keras, quiet_native_output
from shared.models.input_pipeline import CachedFeatures, make_augmentation, make_dataset, read_inputs
from shared.run import DataError, Settings, UsageError, atomic_write, check_choice, refuse_damage, write_csv

Inputs = np.ndarray | CachedFeatures
LOSSES = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
}
BALANCING = ("class_weights", "balanced_batches", "none")
LINEAR_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # scikit-learn's C, chosen by cross-validation in train
EPOCHS_FOR_A_NEW_HEAD = 10  # fewer start from the head of the frozen stage: a random one has no time to learn
SPECIFICITY = 0.8  # at which sensitivity is measured after each epoch
SENSITIVITY_FLOOR = 0.5  # a training says so where it finds a smaller share
TOLERANCE = 0.01  # by which probabilities may miss [0, 1], and their sum 1: half precision
COLLAPSE_SAMPLE = 64  # validation images that are looked at for a collapse after each epoch


@dataclass(frozen=True)
class TrainingOptions:
    """How to train."""

    epochs: int  # at most
    batch_size: int
    learning_rate: float  # its highest value; it falls as a cosine to 1 %
    seed: int = 0  # order of the images, augmentation, dropout
    patience: int = 8  # epochs without a better validation AUC before training stops
    keep_last: bool = False  # train all epochs and keep the last weights: then validation has chosen nothing
    loss: str = "binary_crossentropy"  # or "binary_focal_crossentropy"; a softmax takes its own cross-entropy
    balancing: str = "class_weights"  # or "balanced_batches" (classes drawn equally often) or "none"
    augment: bool = False  # change training images at random, see `make_augmentation`
    keep_optimizer: bool = False  # go on with the state of the optimiser that the model was loaded with


@dataclass(frozen=True)
class Training:
    """What a training hands back; the model itself was trained in place and holds its best weights."""

    history: pd.DataFrame  # one row an epoch: epoch, loss, auc, val_loss, val_auc, …, learning_rate (its highest)
    seconds: float
    best_epoch: int  # whose weights were kept, counted from 0, as in `history.epoch`
    val_auc: float  # of the weights kept, orientations averaged
    messages: tuple[str, ...] = ()  # what there is to warn of


def training_options(settings: Settings, **changes: Any) -> TrainingOptions:
    """Return the options of a run's settings (epochs, batch size, learning rate, seed), with changes by name."""
    names = ("epochs", "batch_size", "learning_rate", "seed")
    return TrainingOptions(**({name: getattr(settings, name) for name in names} | changes))


class ClassCollapse(keras.callbacks.Callback):
    """Stop a training whose scores of some validation `inputs` stay equal or in one class, and say so in `message`."""

    def __init__(self, inputs: np.ndarray, *, patience: int = 5) -> None:
        super().__init__()
        self.inputs, self.patience = inputs, patience
        self.bad_epochs, self.message = 0, ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Count the epochs in a row that look collapsed."""
        reason = find_collapse(self.model.predict_on_batch(self.inputs), logs)
        self.bad_epochs = self.bad_epochs + 1 if reason else 0
        if self.bad_epochs >= self.patience:
            when = f"for {self.bad_epochs} epochs (epoch {epoch + 1})"
            self.message = f"collapsed: {reason} {when}; lower the learning rate, or balance the classes"
            self.model.stop_training = True


def find_collapse(scores: np.ndarray, logs: dict[str, float]) -> str:
    """Say why an epoch with these validation scores (n, 1) or (n, classes) counts as collapsed, or return ""."""
    if not np.isfinite([logs["loss"], logs["val_loss"], scores.sum()]).all():
        return "loss or scores are not finite"
    if scores.std(axis=0).max() < 1e-3:
        return "all validation scores are equal"
    positive = scores[:, 0] >= 0.5
    one_class = scores.shape[1] == 1 and positive.all() == positive.any()
    return "one class only is predicted" if one_class and not logs["val_auc"] > 0.6 else ""


def train(
    model: keras.Model,
    prepared: Prepared,
    options: TrainingOptions,
    *,
    name: str = "",
    inputs: Inputs | None = None,
    labels: np.ndarray | None = None,
    orientations: Sequence[int] = (0,),
    whole: keras.Model | None = None,
) -> Training:
    """Train a model on the training rows and keep the weights of the epoch with the best validation AUC.

    With four classes the epoch with the lowest validation loss is kept, with `keep_last` the last one. A training that
    was killed begins again.

    Args:
        name: writes `models/<name>.keras` and `results/training_logs/<name>.csv`; "" saves nothing.
        inputs: what to read instead of `prepared.images`, such as `CachedFeatures`.
        labels: int (N,), instead of `prepared.targets`.
        orientations: each training image comes in one of them at random, see `make_dataset`.
        whole: the model to save where `model` is only its trained part, see `split`.
    Raises UsageError: unknown loss or balancing.
    """
    inputs = prepared.images if inputs is None else inputs
    labels = np.asarray(prepared.targets if labels is None else labels)
    rows, held_out, two_classes = prepared.rows("train"), prepared.rows("validation"), model.output_shape[-1] == 1
    some = orientations[:: max(1, len(orientations) // 4)]  # of eight every other one: validation is quicker
    keras.utils.set_random_seed(options.seed)
    compile_model(model, options, steps=-(-len(rows) // options.batch_size))
    batches = make_dataset(
        inputs,
        labels,
        rows,
        batch_size=options.batch_size,
        seed=options.seed,
        orientations=orientations,
        order="balanced" if options.balancing == "balanced_batches" else "shuffled",
        augment=make_augmentation(seed=options.seed) if options.augment else None,
    )
    watched = some[:1] if options.keep_last else some  # where validation chooses nothing, one orientation will do
    validation = make_dataset(inputs, labels, held_out, batch_size=64, orientations=watched)
    sample = held_out[:: -(-len(held_out) // COLLAPSE_SAMPLE)]
    collapse = ClassCollapse(read_inputs(inputs, sample, np.full(len(sample), some[0])))
    monitor = {"monitor": "val_auc", "mode": "max"} if two_classes else {"monitor": "val_loss"}
    patience = options.epochs if options.keep_last else options.patience
    stopping = keras.callbacks.EarlyStopping(**monitor, patience=patience, restore_best_weights=not options.keep_last)
    weights = weigh_classes(labels[rows]) if options.balancing == "class_weights" else None
    started = time.perf_counter()
    log = model.fit(
        batches,
        validation_data=validation,
        epochs=options.epochs,
        class_weight=weights,
        callbacks=[stopping, collapse],
        shuffle=False,
        verbose=0,
    )
    history = pd.DataFrame({"epoch": log.epoch, **log.history, "learning_rate": options.learning_rate})
    scores = np.nan_to_num(predict(model, inputs, held_out, orientations=some), nan=0.5)
    auc = roc_auc_score(labels[held_out] if two_classes else labels[held_out] >= 2, scores)
    if name:
        if whole is not None:  # with the optimiser of its trained part, so that training can be continued
            whole.compile(optimizer=model.optimizer, loss=model.loss, jit_compile=False)
        save_model(model if whole is None else whole, prepared.settings.run_dir / f"models/{name}.keras")
        write_csv(prepared.settings.run_dir / f"results/training_logs/{name}.csv", history)
    messages = tuple(filter(None, (warn_of_sensitivity(history), collapse.message)))
    kept = log.epoch[-1] if options.keep_last else stopping.best_epoch
    return Training(history, time.perf_counter() - started, kept, float(auc), messages)


def weigh_classes(labels: np.ndarray) -> dict[int, float]:
    """Return {class: weight} by which all classes of labels int (n,) count alike."""
    classes = np.unique(labels)
    return dict(zip(classes.tolist(), compute_class_weight("balanced", classes=classes, y=labels), strict=True))


def compile_model(model: keras.Model, options: TrainingOptions, *, steps: int) -> None:
    """Compile with Adam, a learning rate that warms up and falls as a cosine over `steps` an epoch, and measures."""
    check_choice("loss", options.loss, LOSSES)
    check_choice("balancing", options.balancing, BALANCING)
    rate = options.learning_rate
    total = options.epochs * steps
    if options.keep_optimizer:  # as if its steps were a warm-up that is over: the cosine starts here
        optimizer = model.optimizer
        warmup, first = int(optimizer.iterations), rate
        total += warmup
    else:
        warmup = min(steps, total // 2)  # the first epoch
        first = rate * 0.1 if warmup else rate
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)  # made inside the first step, TensorFlow traces that step twice
    rise = {"warmup_target": rate if warmup else None, "warmup_steps": warmup}
    schedule = keras.optimizers.schedules.CosineDecay(first, max(1, total - warmup), alpha=0.01, **rise)
    optimizer.learning_rate = schedule
    loss, measures = keras.losses.SparseCategoricalCrossentropy(), ["accuracy"]
    if model.output_shape[-1] == 1:
        loss = LOSSES[options.loss]()
        sensitivity = keras.metrics.SensitivityAtSpecificity(SPECIFICITY, name="sensitivity_at_specificity")
        measures = [keras.metrics.AUC(name="auc", num_thresholds=1000), sensitivity]
    model.compile(optimizer=optimizer, loss=loss, metrics=measures, jit_compile=False)


def warn_of_sensitivity(history: pd.DataFrame) -> str:
    """Say in how many epochs the sensitivity at specificity 0.80 was below its floor; "" where it never was."""
    if "val_sensitivity_at_specificity" not in history:
        return ""
    low = history.epoch[history.val_sensitivity_at_specificity < SENSITIVITY_FLOOR]
    what = f"sensitivity at specificity {SPECIFICITY:.2f} was below {SENSITIVITY_FLOOR:.2f} in {len(low)} epoch(s)"
    return "" if low.empty else f"{what}, the last of them {low.iloc[-1] + 1}"


def train_frozen(
    model: keras.Model, prepared: Prepared, options: TrainingOptions | None = None, *, name: str
) -> tuple[Training, np.ndarray]:
    """Train only the head of a transfer model, on features that the frozen backbone computes once.

    A head that is one linear layer behind `pooled` is fitted by logistic regression, see `fit_linear`; any other by
    `train` on the cached features of all orientations.

    Args:
        model: a transfer model of `build`; its head is trained in place.
        options: where `train` is used; None takes those of the settings.
    Returns Training (its `seconds` count the features, also where they were computed before), and float64 (N,):
        probability of class 1 for validation and test, averaged over the orientations, NaN elsewhere.
    """
    backbone = networks.BACKBONES[model.name]
    head_layers = networks.behind_backbone(model)
    networks.freeze_all_but(model, head_layers)
    turned, through = backbone.orientations, backbone.fine_tune_from
    cached = features.extract_features(prepared, model, "pooled", orientations=turned, through=through)
    _, head = networks.split(model, "pooled")
    linear = {layer.name for layer in head_layers} <= {"pooled", "dropout", "logit", "probability"}
    if linear and model.output_shape[-1] == 1:
        training = fit_linear(head, prepared, cached)
        model.get_layer("dropout").rate = 0.0  # fitted without: in fine-tuning, noise times the large weights
        if name:
            save_model(model, prepared.settings.run_dir / f"models/{name}.keras")
    else:
        options = options or training_options(prepared.settings)
        training = train(head, prepared, options, name=name, inputs=cached, orientations=cached.columns, whole=model)
    scores = predict_held_out(prepared, head, orientations=cached.columns, inputs=cached)
    return replace(training, seconds=cached.seconds + training.seconds), scores


def fit_linear(head: keras.Model, prepared: Prepared, cached: CachedFeatures) -> Training:
    """Fit a logistic regression on the averaged features, and put its weights into the layer `logit`.

    The penalty (scikit-learn's C) is chosen by cross-validation over the patients of train, so that validation has
    chosen nothing.
    """
    started = time.perf_counter()
    rows, held_out, labels = prepared.rows("train"), prepared.rows("validation"), prepared.targets
    averaged = cached.averaged().astype(np.float64)
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=prepared.settings.seed)
    grid = {"logisticregression__C": list(LINEAR_STRENGTHS)}
    search = GridSearchCV(make_logistic(balanced=True, seed=0), grid, scoring="roc_auc", cv=folds)
    with threadpool_limits(1, user_api="blas"):  # the matrices are small: threads only wait for each other
        search.fit(averaged[rows], labels[rows], groups=prepared.patients[rows])
    scores = search.predict_proba(averaged[held_out])[:, 1]
    tried = {"strength": LINEAR_STRENGTHS, "cross_validated_auc": search.cv_results_["mean_test_score"]}
    history = pd.DataFrame({"epoch": range(len(LINEAR_STRENGTHS)), **tried})
    scaler, regression = search.best_estimator_
    kernel = regression.coef_[0] / scaler.scale_
    head.get_layer("logit").set_weights([kernel[:, np.newaxis], regression.intercept_ - scaler.mean_ @ kernel])
    auc = float(roc_auc_score(labels[held_out], scores))
    return Training(history, time.perf_counter() - started, int(search.best_index_), auc)


def fine_tune(
    model: keras.Model, prepared: Prepared, options: TrainingOptions, *, name: str, fine_tune_from: str | None = None
) -> tuple[Training, np.ndarray]:
    """Train the layers behind `fine_tune_from` (batch normalisation frozen) and the head.

    What lies before is frozen, so its output is computed once for each orientation of each image and kept on disk; an
    epoch then costs only the layers behind it. With fewer epochs than `EPOCHS_FOR_A_NEW_HEAD` the head is first
    trained as in `train_frozen`. The saved model is the whole network, from pixels on.

    Args:
        model: a transfer model of `build`; trained in place, from the weights it has.
        fine_tune_from: name of the last frozen layer; None takes the backbone's own (`BACKBONES`).
    Returns as `train_frozen`.
    """
    backbone = networks.BACKBONES[model.name]
    spent = 0.0
    last_frozen = fine_tune_from or backbone.fine_tune_from
    if options.epochs < EPOCHS_FOR_A_NEW_HEAD:
        head_options = training_options(prepared.settings, seed=options.seed)
        spent = train_frozen(model, prepared, head_options, name="")[0].seconds
    _, part = networks.split(model, last_frozen)
    networks.freeze_all_but(model, part.layers)
    cached = features.extract_features(prepared, model, last_frozen, orientations=backbone.orientations)
    training = train(part, prepared, options, name=name, inputs=cached, orientations=cached.columns, whole=model)
    scores = predict_held_out(prepared, part, orientations=cached.columns, inputs=cached)
    return replace(training, seconds=(spent or cached.seconds) + training.seconds), scores


def continue_training(
    prepared: Prepared, former: str, options: TrainingOptions, *, name: str
) -> tuple[keras.Model, Training]:
    """Load `models/<former>.keras` and train it on, with the optimiser's state (its moments and step count).

    `options` say how many more epochs, and the learning rate where the cosine starts.
    """
    model = load_model(prepared.settings.run_dir / f"models/{former}.keras", optimizer=True)
    check_size(model, prepared)
    if getattr(model, "optimizer", None) is None:
        raise UsageError(f"{former}: saved without an optimiser (its head was fitted in one step); continue another")
    return model, train(model, prepared, replace(options, keep_optimizer=True), name=name)


def save_model(model: keras.Model, path: Path | str) -> None:
    """Write a `.keras` file, whole or not at all."""
    with atomic_write(path) as temporary:
        model.save(temporary)


def load_model(path: Path | str, *, optimizer: bool = False) -> keras.Model:
    """Load a `.keras` file, with its optimiser where it is to be trained on; DataError where it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the notebook that trains {path.stem!r} first")
    with refuse_damage(f"{path}: not a Keras model", "train it again"), quiet_native_output():
        return keras.models.load_model(path, compile=optimizer, safe_mode=True)


def check_size(model: keras.Model, prepared: Prepared) -> None:
    """Raise UsageError where a loaded model takes images of another size than the image store's."""
    size = prepared.images.shape[1]
    if model.input_shape[1] != size:
        takes = model.input_shape[1]
        raise UsageError(f"{model.name}: takes images of {takes} px, the store has {size}; set IMAGE_SIZE to {takes}")


def predict(
    model: keras.Model, images: Inputs, rows: np.ndarray | Sequence[int], *, orientations: Sequence[int] = (0,)
) -> np.ndarray:
    """Return the probability of class 1 of some rows, averaged over orientations.

    Args:
        model: with a sigmoid, or a softmax over four subtypes: then it is the sum of the two malignant ones.
        images: the image store, uint8 (N, S, S), or `CachedFeatures`.
    Returns float64 (n,)
    Raises DataError: an output that is a number, and no probability.
    """
    each = len(orientations)
    step = max(1, 64 // each)
    padding = -len(rows) % step if len(rows) > step else 0  # batches of one size: the network is compiled once
    padded = np.pad(rows, (0, padding), mode="edge")
    batches = make_dataset(images, None, padded, batch_size=step * each, orientations=orientations)
    outputs = model.predict(batches, verbose=0).astype(np.float64)
    total = outputs.sum(axis=1)  # of one class, or of all
    wrong = outputs[(outputs < -TOLERANCE) | (outputs > 1 + TOLERANCE) | (total > 1 + TOLERANCE)[:, np.newaxis]]
    if wrong.size:
        raise DataError(f"the model {model.name} gives {wrong[0]:.4g}, no probability; end it in a sigmoid or softmax")
    outputs = outputs.reshape(len(padded), each, -1).mean(axis=1)[: len(rows)]
    return np.clip(outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 2:].sum(axis=1), 0, 1)


def predict_held_out(
    prepared: Prepared, model: keras.Model, *, orientations: Sequence[int] = (0,), inputs: CachedFeatures | None = None
) -> np.ndarray:
    """Return the probability of class 1 for validation and test, float64 (N,), NaN elsewhere; see `predict`."""
    if inputs is None:
        check_size(model, prepared)
    rows = prepared.rows("validation", "test")
    scores = np.full(len(prepared.images), np.nan)
    scores[rows] = predict(model, prepared.images if inputs is None else inputs, rows, orientations=orientations)
    return scores
