"""Train networks: losses, schedule, callbacks, resuming, prediction with averaged views."""

import contextlib
import hashlib
import json
import shutil
import time
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from shared.models import features, input_pipeline
from shared.models import networks as models
from shared.models.backend import keras, tf
from shared.run import UsageError, files

LOSSES = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}
BALANCING = ("class_weights", "balanced_batches", "none")
STRATEGIES = ("auto", "none", "mirrored")
LINEAR_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # scikit-learn's C, chosen on validation
FINE_TUNING = {
    # Chosen on the validation patients of CBIS-DDSM mass patches (MobileNetV2, 192 px; mean AUC of three seeds, spread
    # .003 to .006). Learning rates 1e-4, 3e-4, 6e-4: .82, .86, .85 (one seed). Heads at block 13, 16: .863, .877. From
    # there 15, 25 epochs: .878, .884. Brightness and contrast jitter, three copies of each view: .875, .886, no gain.
    # Nor did the head of the frozen stage: .875, .872, .864 at learning rates 3e-4, 2e-4, 1e-4 (one seed).
    "epochs": 25,
    "learning_rate": 3e-4,
    "batch_size": 32,
    "patience": 25,
}
EPOCHS_FOR_A_NEW_HEAD = 15  # fewer start from the head of the frozen stage (demo: validation AUC .79 instead of .71)
SECONDS_BETWEEN_BACKUPS = 10  # of a training; a killed one repeats at most as much
DRAWS_AN_EPOCH = 1_000_000  # more than the batches of an epoch
SENSITIVITY_AT = 0.8  # specificity at which ClinicalMonitor states the sensitivity


@dataclass(frozen=True)
class TrainingResult:
    """What `fit` hands back; the model itself was trained in place and holds its best weights."""

    history: pd.DataFrame  # one row an epoch: epoch, loss, val_auc, …
    seconds: float
    best_epoch: int  # counted from 0, as in `history.epoch`
    val_auc: float  # of the best epoch
    messages: tuple[str, ...] = field(default=())  # what the callbacks had to say
    collapsed: bool = False


# ------------------------------------------------------------------- devices
def set_up_devices(*, threads=0, mixed_precision=True):
    """Prepare TensorFlow: GPU memory on demand, mixed precision on GPUs only, number of CPU threads.

    Call it before anything else uses TensorFlow; thread counts cannot change later and are then left as they are.

    Args:
        threads: CPU threads; 0 leaves TensorFlow's choice.
        mixed_precision: False keeps float32 on GPUs too.
    Returns:
        str: one line that says which versions and devices will be used.
    """
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    gpus = tf.config.list_physical_devices("GPU")
    with contextlib.suppress(RuntimeError):  # TensorFlow is running already
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    if gpus and mixed_precision:
        keras.config.set_dtype_policy("mixed_float16")
        return f"{versions}; {len(gpus)} GPU(s), mixed precision"
    return f"{versions}; {len(gpus)} GPU(s)" if gpus else f"{versions}; no GPU found: training on the CPU"


def scope(strategy="auto"):
    """Return the context in which a model is built and compiled so that `fit` uses several GPUs of this machine.

    Args:
        strategy: "none"; "mirrored" for a `tf.distribute.MirroredStrategy` over all GPUs, or over the virtual CPU
            devices where there are several and no GPU; "auto" for mirrored where there are two GPUs or more.
    Raises:
        UsageError: another word.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"STRATEGY: {strategy!r} is not one of {', '.join(STRATEGIES)}")
    gpus = tf.config.list_logical_devices("GPU")
    if strategy == "none" or (strategy == "auto" and len(gpus) < 2):
        return contextlib.nullcontext()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()


# ----------------------------------------------------------------- callbacks
class ClinicalMonitor(keras.callbacks.Callback):
    """Score the validation rows after each epoch and put the results into the logs.

    Adds `val_loss`, `val_auc`, `val_sensitivity` and `val_specificity` at 0.5, `val_sensitivity_at_specificity`
    (at specificity 0.80), `val_spread` (standard deviation of the scores) and the `seconds` of the epoch, so that
    early stopping, the CSV log and the collapse check work on the same numbers. With more than two classes `val_auc`
    is the mean of one class against the rest, and the two-class figures are left out.

    Args:
        dataset: batches of images in the order of `labels`, without shuffling; more behind them are passed over.
        labels: int (n,).
        floor: sensitivity at that specificity below which `message` warns.
        views: how many views of each row `dataset` holds; their scores are averaged.
    """

    def __init__(self, dataset, labels, *, floor=0.5, views=1):
        super().__init__()
        self.dataset, self.labels, self.floor, self.views = dataset, np.asarray(labels), floor, views
        self.low_epochs, self.started = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        scores = _average_views(self.model.predict(self.dataset, verbose=0), len(self.labels), self.views)
        logs.update(validation_figures(self.labels, scores), seconds=time.perf_counter() - self.started)
        self.count(epoch, logs)

    def count(self, epoch, logs):
        """Take note of an epoch: one that ends, or one of the log of a training that goes on."""
        best = logs.get("val_sensitivity_at_specificity", 1.0)
        if np.isfinite(best) and best < self.floor:
            self.low_epochs.append(epoch + 1)

    @property
    def message(self):
        """Say in which epochs the sensitivity was below the floor; "" where it never was."""
        if not self.low_epochs:
            return ""
        return (
            f"sensitivity at specificity {SENSITIVITY_AT:.2f} was below {self.floor:.2f} in {len(self.low_epochs)} "
            f"epoch(s), the last of them {self.low_epochs[-1]}"
        )


def validation_figures(labels, scores):
    """Return the figures that `ClinicalMonitor` logs, as a dict of floats; NaN where they cannot be computed.

    Args:
        labels: int (n,).
        scores: float (n,) probability of class 1, or (n, classes).
    """
    if scores.ndim == 2 and scores.shape[1] > 2:
        return _several_class_figures(labels, scores)
    scores = scores[:, 1] if scores.ndim == 2 else scores
    spread = float(np.std(scores))
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    figures = {"val_loss": float(-np.mean(np.where(labels == 1, np.log(clipped), np.log(1 - clipped))))}
    if len(np.unique(labels)) < 2 or not np.isfinite(scores).all():
        return figures | {"val_auc": np.nan, "val_spread": spread}
    positive = scores >= 0.5
    false_positive, sensitivity, _ = roc_curve(labels, scores)
    return figures | {
        "val_auc": float(roc_auc_score(labels, scores)),
        "val_sensitivity": float(positive[labels == 1].mean()),
        "val_specificity": float(1 - positive[labels == 0].mean()),
        "val_sensitivity_at_specificity": float(sensitivity[false_positive <= 1 - SENSITIVITY_AT + 1e-9].max()),
        "val_spread": spread,
    }


def _several_class_figures(labels, scores):
    chosen = np.clip(scores[np.arange(len(labels)), labels], 1e-7, 1)
    areas = [
        roc_auc_score(labels == k, scores[:, k])
        for k in range(scores.shape[1])
        if 0 < np.sum(labels == k) < len(labels)
    ]
    return {
        "val_loss": float(-np.log(chosen).mean()),
        "val_auc": float(np.mean(areas)) if areas and np.isfinite(scores).all() else np.nan,
        "val_spread": float(scores.std(axis=0).mean()),
    }


class _EpochSeeds(keras.callbacks.Callback):
    """Give every epoch random numbers of its own, so that a training which was killed goes on as it would have.

    `epoch` decides the order of the images, and where each dropout and augmentation layer stands in its stream.
    """

    def __init__(self, augment):
        super().__init__()
        self.augment, self.epoch = augment, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        for part in filter(None, (self.model, self.augment)):
            for variable in part.non_trainable_variables:
                if variable.path.endswith("seed_generator_state"):
                    seed, _ = variable.numpy()
                    variable.assign([seed, epoch * DRAWS_AN_EPOCH])


class ClassCollapse(keras.callbacks.Callback):
    """Stop a training whose predictions no longer vary, or name one class only, and say so.

    Reads what `ClinicalMonitor` logged, so it must stand behind it.

    Args:
        patience: epochs in a row that count as collapsed.
        spread: standard deviation of the validation scores below which they count as constant.
    """

    def __init__(self, *, patience=5, spread=1e-3):
        super().__init__()
        self.patience, self.spread = patience, spread
        self.bad_epochs, self.message = 0, ""

    def on_epoch_end(self, epoch, logs=None):
        reason = self.count(logs)
        if self.bad_epochs >= self.patience:
            self.message = (
                f"collapsed: {reason} for {self.bad_epochs} epochs (epoch {epoch + 1}); "
                "lower the learning rate, or balance the classes"
            )
            self.model.stop_training = True

    def count(self, logs):
        """Take note of an epoch, and return why it counts as collapsed; "" where it does not."""
        reason = self._reason(logs)
        self.bad_epochs = self.bad_epochs + 1 if reason else 0
        return reason

    def _reason(self, logs):
        if not np.isfinite([logs["loss"], logs["val_loss"], logs["val_spread"]]).all():
            return "loss or scores are not finite"
        if logs["val_spread"] < self.spread:
            return "all validation scores are equal"
        one_class = {logs.get("val_sensitivity"), logs.get("val_specificity")} == {0.0, 1.0}
        return "one class only is predicted" if one_class and not logs["val_auc"] > 0.6 else ""


class _Record(keras.callbacks.Callback):
    """Keep the log, the best weights and a backup of a training, each file there whole or not at all.

    Keras' CSVLogger, ModelCheckpoint and BackupAndRestore write in place, and the last keeps weights and epoch in two
    files: a kill between them repeats an epoch on top of its own result. It also writes after every epoch, and Keras'
    weights files take longer to write than a short epoch takes; so these are plain arrays.
    """

    def __init__(self, folder, history):
        super().__init__()
        self.folder, self.rows, self.saved = folder, history.to_dict("records"), time.monotonic()
        self.best = _best(history)[0] if len(history) else -np.inf

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch, **dict(sorted(logs.items()))})
        files.write_text(self.folder / "log.csv", pd.DataFrame(self.rows).to_csv(index=False))
        if logs["val_auc"] > self.best:
            self.best = logs["val_auc"]
            self._save("best")
        if not self.model.stop_training and time.monotonic() - self.saved >= SECONDS_BETWEEN_BACKUPS:
            self._save(epoch + 1)
            for path in _backups(self.folder)[:-1]:
                path.unlink()
            self.saved = time.monotonic()

    def _save(self, name):
        with files.atomic_write(self.folder / f"{name}.npz") as temporary:
            np.savez(temporary, *(variable.numpy() for variable in _state(self.model)))


def _state(model):
    """Everything of a training that changes from step to step, in a fixed order: weights, then the optimiser's."""
    return [*model.weights, *model.optimizer.variables]


def _load_state(model, path):
    with np.load(path, allow_pickle=False) as stored:
        for number, variable in enumerate(_state(model)):
            variable.assign(stored[f"arr_{number}"])


def _backups(folder):
    """List the backups in a folder, the newest last; each is called after the number of its epochs."""
    return sorted(folder.glob("[0-9]*.npz"), key=_epochs_of)


def _epochs_of(path):
    return int(path.stem)


def _resume(model, state_dir):
    """Load the newest backup, and return the log up to there; empty where there is none."""
    found = _backups(state_dir)
    if not found:
        return _read_log(state_dir).iloc[:0]
    _load_state(model, found[-1])
    return _read_log(state_dir).iloc[: _epochs_of(found[-1])]


class _ResumableEarlyStopping(keras.callbacks.EarlyStopping):
    """Keras' early stopping, which otherwise forgets the best epoch when a killed training goes on."""

    def __init__(self, *, history, **options):
        super().__init__(**options)
        self.history = history

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if len(self.history):
            self._set_monitor_op()
            self.best, self.best_epoch = _best(self.history)
            self.wait = int(self.history.epoch.max()) - self.best_epoch


def _best(history):
    """Return (validation AUC, epoch) of the best epoch of a log; epochs without AUC count as 0."""
    values = history["val_auc"].fillna(0.0)
    return float(values.max()), int(history.epoch[values.idxmax()])


# ----------------------------------------------------------------------- fit
def fit(
    model,
    prepared,
    *,
    name,
    epochs=None,
    batch_size=None,
    learning_rate=None,
    loss="binary_crossentropy",
    balancing="class_weights",
    augment=None,
    source=None,
    labels=None,
    views=(0,),
    validation_views=(0,),
    train_rows=None,
    validation_rows=None,
    warmup_epochs=1,
    weight_decay=1e-4,
    patience=8,
    collapse_patience=5,
    sensitivity_floor=0.5,
    seed=None,
    save=True,
    whole=None,
    keep_optimizer=False,
    tensorboard=False,
    verbose=0,
):
    """Train a model on the training rows, keep the weights of the epoch with the best validation AUC, and save it.

    A training that was killed goes on when it is started again with the same options and data, and ends with the very
    same weights: after each epoch, but at most every `SECONDS_BETWEEN_BACKUPS`, weights and optimiser are kept.
    Writes `models/<name>.keras` and `results/training_logs/<name>.csv`.

    Args:
        model: keras.Model from `models.build`; trained in place.
        prepared: `preparation.Prepared`: its settings, images, labels and rows.
        name: file name of the saved model and its log.
        epochs, batch_size, learning_rate, seed: None takes the value of `prepared.settings`.
        loss: one of `LOSSES`; a softmax output takes "sparse_categorical_crossentropy" whatever is given here.
        balancing: "class_weights", "balanced_batches" (both classes drawn equally often) or "none".
        augment: a Keras model as from `input_pipeline.make_augmentation`, or None. Training rows only.
        source: what to read inputs from instead of `prepared.images`, as `features.CachedViews`.
        labels: int (N,), instead of `prepared.labels`.
        views, validation_views: numbers of the turned and flipped views, see `input_pipeline.make_dataset`.
        train_rows, validation_rows: int arrays, instead of the manifest's splits (folds).
        warmup_epochs: epochs in which the learning rate rises; after that it falls as a cosine to 1 %.
        weight_decay: of AdamW (Loshchilov and Hutter 2019); not on biases and batch normalisation.
        patience: epochs without a better validation AUC before training stops.
        collapse_patience: epochs of constant predictions before training stops, see `ClassCollapse`.
        sensitivity_floor: see `ClinicalMonitor`.
        save: False writes neither model nor log.
        whole: the model to save where `model` is only its trained part, see `models.split`.
        keep_optimizer: go on with the state of the optimiser that the model comes with, see `continue_training`.
        tensorboard: write TensorBoard events to `results/training_logs/tensorboard/<name>`.
        verbose: as in `keras.Model.fit`.
    Returns:
        TrainingResult
    Raises:
        UsageError: unknown loss or balancing.
    """
    settings = prepared.settings
    options = {
        "epochs": epochs or settings.epochs,
        "batch_size": batch_size or settings.batch_size,
        "learning_rate": learning_rate or settings.learning_rate,
        "seed": settings.seed if seed is None else seed,
        "loss": loss, "balancing": balancing, "views": list(views), "warmup_epochs": warmup_epochs,
        "weight_decay": weight_decay, "patience": patience,
        "augment": [layer.get_config() | {"name": ""} for layer in augment.layers] if augment else [],
    }  # fmt: skip
    if balancing not in BALANCING:
        raise UsageError(f"balancing {balancing!r} is not one of {', '.join(BALANCING)}")
    labels = np.asarray(prepared.labels if labels is None else labels)
    train_rows = prepared.rows("train") if train_rows is None else np.asarray(train_rows)
    validation_rows = prepared.rows("validation") if validation_rows is None else np.asarray(validation_rows)
    source = prepared.images if source is None else source
    keras.utils.set_random_seed(options["seed"])
    _compile(model, len(train_rows), options, model.optimizer if keep_optimizer else None)

    data = (train_rows, validation_rows, labels, *_sample(source, train_rows))
    state_dir = settings.run_dir / "models" / f".training-{name}-{_state_key(model, options, data)}"
    for stale in state_dir.parent.glob(f".training-{name}-????????"):
        if stale != state_dir:
            shutil.rmtree(stale, ignore_errors=True)
    seeds = _EpochSeeds(augment)
    training = input_pipeline.make_dataset(
        source, labels, train_rows, batch_size=options["batch_size"], shuffle=True, augment=augment,
        balanced=balancing == "balanced_batches", seed=options["seed"], views=views, epoch=lambda: seeds.epoch,
    )  # fmt: skip
    validation = input_pipeline.make_dataset(
        source, None, validation_rows, batch_size=max(64, options["batch_size"]), views=validation_views
    )
    monitor = ClinicalMonitor(validation, labels[validation_rows], floor=sensitivity_floor, views=len(validation_views))
    collapse = ClassCollapse(patience=collapse_patience)
    log_dir = settings.run_dir / "results/training_logs/tensorboard" / name if tensorboard else None
    earlier = _resume(model, state_dir)  # epochs before a kill
    for row in earlier.to_dict("records"):
        monitor.count(row["epoch"], row)
        collapse.count(row)
    started = time.perf_counter()
    model.fit(
        training,
        epochs=options["epochs"],
        initial_epoch=len(earlier),
        callbacks=[seeds, monitor, collapse, *_callbacks(state_dir, earlier, patience, log_dir)],
        class_weight=class_weights(labels[train_rows]) if balancing == "class_weights" else None,
        shuffle=False,  # the pipeline does it
        verbose=verbose,
    )
    history = _read_log(state_dir)
    if (state_dir / "best.npz").exists():
        _load_state(model, state_dir / "best.npz")
    best_auc, best_epoch = _best(history)
    seconds = earlier.seconds.sum() + time.perf_counter() - started
    if save:
        save_model(settings.run_dir, name, _with_optimizer(whole, model))
        files.write_csv(settings.run_dir / f"results/training_logs/{name}.csv", history)
    shutil.rmtree(state_dir, ignore_errors=True)
    messages = tuple(text for text in (monitor.message, collapse.message) if text)
    return TrainingResult(history, seconds, best_epoch, best_auc, messages, bool(collapse.message))


def train_frozen(model, prepared, *, name, labels=None, views=None, save=True, **options):
    """Train only the head of a transfer model, on features that the frozen backbone computes once.

    A head that is one linear layer behind `pooled` is fitted by logistic regression (`features.fit_linear_head`),
    with the penalty that does best on validation; any other by `fit` on the cached features of all views.

    Args:
        model: a transfer model of `models.build`; its head is trained in place.
        prepared: preparation.Prepared.
        name: file name of the saved model.
        labels: int (N,), instead of `prepared.labels`.
        views: turned and flipped views to average over; None takes the backbone's (`models.BACKBONES`).
        save: False writes no model.
        options: for `fit`, where that is used.
    Returns:
        (TrainingResult, float64 (N,) or (N, classes)): its `seconds` count the features, also where they were
        computed before; and the scores of validation and test, averaged over the views, NaN elsewhere.
    """
    models.freeze_backbone(model)
    labels = np.asarray(prepared.labels if labels is None else labels)
    backbone = models.BACKBONES[model.name]
    cached = features.extract(prepared, model, "pooled", views=views or backbone.views, through=backbone.cut)
    _, head = models.split(model, "pooled")
    if models.has_linear_head(model) and model.output_shape[-1] == 1:
        result = _fit_linear(model, prepared, cached, labels)
        if save:
            save_model(prepared.settings.run_dir, name, model)
    else:
        columns = {"views": cached.views, "validation_views": cached.views}
        options = columns | {"labels": labels, "save": save} | options
        result = fit(head, prepared, name=name, source=cached, whole=model, **options)
    scores = _held_out_scores(head, prepared, cached)
    return replace(result, seconds=cached.seconds + result.seconds), scores


def _fit_linear(model, prepared, cached, labels):
    """Choose the penalty of the logistic regression on validation, and set the model's `logit`."""
    started = time.perf_counter()
    train, validation = prepared.rows("train"), prepared.rows("validation")
    averaged, log, heads = cached.averaged(), [], []
    for strength in LINEAR_STRENGTHS:
        heads.append(features.fit_linear_head(averaged, labels, train, strength=strength))
        scores = features.head_scores(averaged[validation], *heads[-1])
        log.append({"epoch": len(log), "strength": strength} | validation_figures(labels[validation], scores))
    history = pd.DataFrame(log)
    best_auc, best = _best(history)
    features.set_linear_head(model, *heads[best])
    return TrainingResult(history, time.perf_counter() - started, best, best_auc)


def _held_out_scores(part, prepared, cached):
    """Score validation and test from cached outputs, averaged over the views; NaN elsewhere."""
    rows = prepared.rows("validation", "test")
    found = _predict_views(part, cached, rows, 128, cached.views)
    scores = np.full((len(prepared.images), *found.shape[1:]), np.nan)
    scores[rows] = found
    return scores


def fine_tune(model, prepared, *, name, cut=None, **options):
    """Train the layers behind `cut` (batch normalisation frozen) and the head, from the weights the model has.

    What lies before `cut` is frozen, so its output is computed once for the views of each image and kept on
    disk; an epoch then costs only the layers behind it. Training images come in a view at random. With fewer epochs
    than `EPOCHS_FOR_A_NEW_HEAD` the head is first trained as in `train_frozen`. The saved model is the whole network,
    from pixels on.

    Args:
        model: a transfer model of `models.build`; trained in place.
        prepared: preparation.Prepared.
        name: file name of the saved model and its log.
        cut: name of the last frozen layer; None takes the backbone's own (`models.BACKBONES`).
        options: for `fit`; `FINE_TUNING` where they are not given.
    Returns:
        (TrainingResult, float64 (N,) or (N, classes)): as `train_frozen`.
    """
    cut, options, spent = cut or models.BACKBONES[model.name].cut, FINE_TUNING | options, 0.0
    if options["epochs"] < EPOCHS_FOR_A_NEW_HEAD:
        frozen = {key: options[key] for key in ("labels", "seed") if key in options}
        spent = train_frozen(model, prepared, name=f"{name}_head", save=False, **frozen)[0].seconds
    models.unfreeze_behind(model, cut)
    _, part = models.split(model, cut)
    cached = features.extract(prepared, model, cut, views=models.BACKBONES[model.name].views)
    views = {"views": cached.views, "validation_views": cached.views[:: max(1, len(cached.views) // 4)]}
    result = fit(part, prepared, name=name, source=cached, whole=model, **(views | options))
    scores = _held_out_scores(part, prepared, cached)
    return replace(result, seconds=(spent or cached.seconds) + result.seconds), scores


def continue_training(prepared, former, *, name, epochs, learning_rate, **options):
    """Load `models/<former>.keras` and train it on, with the optimiser's state (its moments and step count).

    Args:
        prepared: preparation.Prepared.
        former: name of the saved model.
        name: file name of the result.
        epochs: how many more.
        learning_rate: where the cosine starts; there is no second warm-up.
        options: for `fit`.
    Returns:
        (keras.Model, TrainingResult)
    Raises:
        FileNotFoundError: no such model.
        UsageError: it takes images of another size, or was fitted without an optimiser.
    """
    model = load_model(prepared.settings.run_dir, former, optimizer=True)
    check_size(model, prepared)
    if getattr(model, "optimizer", None) is None:
        raise UsageError(f"{former}: saved without an optimiser (its head was fitted in one step); continue another")
    options = {"epochs": epochs, "learning_rate": learning_rate, "keep_optimizer": True} | options
    return model, fit(model, prepared, name=name, **options)


def _compile(model, n_rows, options, former=None):
    """Compile with AdamW; `former` is an optimiser to go on with, its moments and step count included."""
    steps = -(-n_rows // options["batch_size"])
    rate, total = options["learning_rate"], options["epochs"] * steps
    if former is None:
        warmup = min(options["warmup_epochs"] * steps, total // 2)
        first = rate * 0.1 if warmup else rate
    else:
        warmup, first = int(former.iterations), rate  # as a warm-up that is over: the cosine starts at this step
    schedule = keras.optimizers.schedules.CosineDecay(
        first,
        max(1, total - (0 if former else warmup)),
        alpha=0.01,
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )
    if former is None:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=options["weight_decay"])
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        optimizer.build(model.trainable_variables)  # made inside the first step, TensorFlow traces that step twice
    else:
        optimizer = former
        optimizer.learning_rate = schedule
    measures = [keras.metrics.AUC(name="auc")] if model.output_shape[-1] == 1 else ["accuracy"]
    model.compile(optimizer=optimizer, loss=_make_loss(model, options["loss"]), metrics=measures, jit_compile=False)


def _make_loss(model, loss):
    if loss not in LOSSES:
        raise UsageError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")
    return LOSSES["sparse_categorical_crossentropy" if model.output_shape[-1] > 1 else loss]()


def class_weights(labels):
    """Return {class: weight} that gives every class the same total weight; their mean over the rows is 1.

    Args:
        labels: int (n,).
    """
    values, counts = np.unique(labels, return_counts=True)
    return {int(value): len(labels) / (len(values) * count) for value, count in zip(values, counts, strict=True)}


def _state_key(model, options, data):
    """Name a training by its options, its data and first weights, so that only the same one is taken up again."""
    checksum = 0
    for array in (*data, *model.get_weights()):
        checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
    return hashlib.sha256(json.dumps([options, checksum]).encode()).hexdigest()[:8]


def _sample(source, rows, count=32):
    """Return some of the inputs, spread over the rows: other data differ in them."""
    some = rows[:: max(1, len(rows) // count)][:count]
    read = source.read if hasattr(source, "read") else lambda rows, views: source[rows]
    return [read(some, np.zeros(len(some), int))]


def _callbacks(state_dir, history, patience, log_dir):
    callbacks = [
        _ResumableEarlyStopping(history=history, monitor="val_auc", mode="max", patience=patience),
        _Record(state_dir, history),
    ]
    return [*callbacks, keras.callbacks.TensorBoard(log_dir)] if log_dir else callbacks


def _read_log(state_dir):
    """Read the log of a training, one row an epoch."""
    path = state_dir / "log.csv"
    if not path.exists():
        return pd.DataFrame({"epoch": [], "val_auc": [], "seconds": []})
    return pd.read_csv(path, float_precision="round_trip")


def _with_optimizer(whole, part):
    """Give the whole model the optimiser that trained a part of it, so that training can be continued."""
    if whole is None or whole is part:
        return part
    whole.compile(optimizer=part.optimizer, loss=part.loss, jit_compile=False)
    return whole


# ------------------------------------------------------------ save and load
def model_path(run_dir, name):
    """Where the model `name` is saved."""
    return Path(run_dir) / f"models/{name}.keras"


def save_model(run_dir, name, model):
    """Write `models/<name>.keras`, whole or not at all."""
    with files.atomic_write(model_path(run_dir, name)) as temporary:
        model.save(temporary)


def load_model(run_dir, name, *, optimizer=False):
    """Load `models/<name>.keras`; as `load_file`."""
    return load_file(model_path(run_dir, name), optimizer=optimizer)


def load_file(path, *, optimizer=False):
    """Load a `.keras` file of the series, with its optimiser where it is to be trained on.

    Raises:
        FileNotFoundError: there is none; names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the notebook that trains {path.stem!r} first")
    return keras.models.load_model(path, compile=optimizer)


def check_size(model, prepared):
    """Raise UsageError where a loaded model takes images of another size than the image store's."""
    size = prepared.images.shape[1]
    if model.input_shape[1] != size:
        raise UsageError(
            f"{model.name}: takes images of {model.input_shape[1]} px, the image store has {size} px; "
            f"set IMAGE_SIZE to {model.input_shape[1]}"
        )


# ------------------------------------------------------------------- predict
def predict_scores(model, images, rows, *, batch_size=64, tta=False):
    """Return the model's scores for some rows.

    Args:
        model: keras.Model.
        images: the image store, uint8 (N, S, S), or an object with `read(rows, views)`.
        rows: int (n,).
        batch_size: images a step.
        tta: True averages the scores of the eight turned and flipped views (test-time augmentation).
    Returns:
        float64 (n,): probability of class 1; (n, classes) where there are more than two.
    """
    if len(rows) == 0:
        return np.empty(0)
    scores = _predict_views(model, images, rows, batch_size, input_pipeline.ALL_VIEWS if tta else (0,))
    return scores[:, 1] if scores.ndim == 2 and scores.shape[1] == 2 else scores


def _predict_views(model, images, rows, batch_size, views):
    dataset = input_pipeline.make_dataset(images, None, rows, batch_size=batch_size, views=views)
    return _average_views(model.predict(dataset, verbose=0), len(rows), len(views))


def _average_views(scores, count, views):
    """(count * views or more, classes) in row-major order -> (count,) or (count, classes)."""
    scores = scores[: count * views].astype(np.float64).reshape(count, views, scores.shape[-1]).mean(axis=1)
    return scores[:, 0] if scores.shape[-1] == 1 else scores
