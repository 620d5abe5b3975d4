"""Training: learning, resuming, collapse, determinism, devices."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from shared.data import preparation
from shared.models import input_pipeline, training
from shared.models import networks as models
from shared.run import Settings, UsageError

SIZE = 32


def make_prepared(run_dir, *, n=160, epochs=3, n_classes=2):
    """Images in which class 1 has a brighter centre, split by rows."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    images = random.integers(60, 120, (n, SIZE, SIZE), dtype=np.uint8)
    images[:, 10:22, 10:22] += (30 * labels[:, None, None]).astype(np.uint8)
    split = np.array(["train", "train", "validation", "test"])[np.arange(n) // n_classes % 4]
    manifest = pd.DataFrame({"label": labels, "split": split, "patient_id": np.arange(n).astype(str)})
    settings = Settings(run_dir=Path(run_dir), image_size=SIZE, batch_size=16, epochs=epochs, learning_rate=1e-2)
    return preparation.Prepared(settings, manifest, images, None, pd.DataFrame(), ("benign", "malignant"))


def tiny_model(seed=0):
    keras.utils.set_random_seed(seed)
    steps = [
        keras.layers.Rescaling(1 / 20, offset=-4.5),
        keras.layers.AveragePooling2D(4),
        keras.layers.Flatten(),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(1, name="logit"),
        keras.layers.Activation("sigmoid", name="probability"),
    ]
    return keras.Sequential([keras.Input((SIZE, SIZE, 1)), *steps])


def test_fit_learns_saves_model_and_log_and_leaves_no_state(tmp_path):
    prepared = make_prepared(tmp_path, epochs=6)
    model = tiny_model()
    result = training.fit(model, prepared, name="tiny", augment=input_pipeline.make_augmentation(seed=0))
    scores = training.predict_scores(model, prepared.images, prepared.rows("test"), tta=True)
    labels = prepared.labels[prepared.rows("test")]
    assert scores.dtype == np.float64
    assert training.roc_auc_score(labels, scores) > 0.9
    log = pd.read_csv(tmp_path / "results/training_logs/tiny.csv")
    assert {"epoch", "loss", "val_loss", "val_auc", "val_sensitivity", "val_specificity"} <= set(log)
    assert result.val_auc == pytest.approx(log.val_auc.max())
    assert result.best_epoch == log.val_auc.idxmax()
    again = training.load_model(tmp_path, "tiny")
    np.testing.assert_array_equal(
        training.predict_scores(again, prepared.images, prepared.rows("test"), tta=True), scores
    )
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny.keras"]


def test_the_same_seed_gives_the_same_predictions(tmp_path):
    prepared = make_prepared(tmp_path, epochs=2)
    scores = []
    for seed in (1, 1, 2):
        model = models.build("lightweight_cnn", image_size=SIZE, seed=seed)
        augment = input_pipeline.make_augmentation(seed=seed)
        training.fit(model, prepared, name="same", seed=seed, augment=augment, balancing="balanced_batches", save=False)
        scores.append(training.predict_scores(model, prepared.images, prepared.rows("test")))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("loss", "balancing"), [("binary_focal_crossentropy", "none"), ("binary_crossentropy", "balanced_batches")]
)
def test_other_losses_and_ways_to_balance_train_too(loss, balancing, tmp_path):
    prepared = make_prepared(tmp_path, n=64, epochs=1)
    result = training.fit(tiny_model(), prepared, name="loss", loss=loss, balancing=balancing, save=False)
    assert np.isfinite(result.history.loss).all()


def test_several_classes_train_with_a_softmax(tmp_path):
    prepared = make_prepared(tmp_path, n_classes=3, n=192, epochs=2)
    model = models.build("synthetic_cnn", image_size=SIZE, n_classes=3)
    result = training.fit(model, prepared, name="classes", save=False)
    assert 0 <= result.val_auc <= 1
    scores = training.predict_scores(model, prepared.images, prepared.rows("test"))
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_a_collapsed_training_is_stopped_and_reported(tmp_path):
    prepared = make_prepared(tmp_path, epochs=12)
    model = models.build("simple_cnn", image_size=SIZE)
    result = training.fit(
        model, prepared, name="collapsed", learning_rate=10.0, collapse_patience=3, patience=20, save=False
    )
    assert result.collapsed
    assert any("collapsed" in message and "learning rate" in message for message in result.messages)
    assert len(result.history) < 12


@pytest.mark.parametrize(
    ("logs", "collapsed"),
    [
        ({"val_spread": 1e-5, "val_auc": 0.7}, True),
        ({"val_spread": 0.1, "val_auc": 0.5, "val_sensitivity": 0.0, "val_specificity": 1.0}, True),
        ({"val_spread": 0.1, "val_auc": 0.8, "val_sensitivity": 0.0, "val_specificity": 1.0}, False),
        ({"val_spread": 0.1, "val_auc": 0.5, "val_sensitivity": 0.4, "val_specificity": 0.6}, False),
        ({"val_spread": np.nan, "val_auc": np.nan}, True),
    ],
)
def test_what_counts_as_collapsed(logs, collapsed):
    callback = training.ClassCollapse(patience=2)
    callback.set_model(keras.Sequential())
    for epoch in range(2):
        callback.on_epoch_end(epoch, {"loss": 0.7, "val_loss": 0.7} | logs)
    assert bool(callback.message) == collapsed


def test_validation_figures_agree_with_counting_by_hand():
    figures = training.validation_figures(np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.9, 0.4, 0.8]))
    assert figures["val_auc"] == pytest.approx(6 / 8)
    assert figures["val_sensitivity"] == 0.5
    assert figures["val_specificity"] == 0.75
    assert figures["val_sensitivity_at_specificity"] == 0.0  # at specificity 1; 0.75 is below 0.80


def test_the_monitor_warns_below_its_floor(tmp_path):
    prepared = make_prepared(tmp_path, n=64, epochs=1)
    result = training.fit(tiny_model(), prepared, name="floor", sensitivity_floor=1.1, save=False)
    assert "below 1.10" in result.messages[0]


def test_class_weights_balance_and_average_to_one():
    labels = np.array([0] * 30 + [1] * 10)
    weights = training.class_weights(labels)
    assert weights[0] * 30 == pytest.approx(weights[1] * 10)
    assert np.mean([weights[label] for label in labels]) == pytest.approx(1)


def test_training_can_be_continued_with_the_optimisers_state(tmp_path):
    prepared = make_prepared(tmp_path, epochs=2)
    training.fit(tiny_model(), prepared, name="first")
    before = training.load_model(tmp_path, "first", optimizer=True)
    steps = int(before.optimizer.iterations)
    assert steps > 0
    model, result = training.continue_training(prepared, "first", name="second", epochs=2, learning_rate=1e-3)
    assert int(model.optimizer.iterations) > steps
    assert len(result.history) == 2
    assert (tmp_path / "models/second.keras").exists()
    bare = tiny_model()
    training.save_model(tmp_path, "bare", keras.Model(bare.inputs, bare.outputs))
    with pytest.raises(UsageError, match="bare: saved without an optimiser"):
        training.continue_training(prepared, "bare", name="third", epochs=1, learning_rate=1e-3)


KILLED = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import keras
    from tests.models.test_training import make_prepared, tiny_model
    from shared import input_pipeline, training

    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep({delay})

    training.SECONDS_BETWEEN_BACKUPS = 0
    original = training._callbacks
    training._callbacks = lambda *parts: [*original(*parts), Slow()]
    training.fit(tiny_model(), make_prepared({run_dir!r}, epochs=5), name="killed", patience=50, collapse_patience=50)
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_epochs(tmp_path):
    def start(delay):
        code = textwrap.dedent(KILLED.format(tests=str(Path(__file__).parents[2]), run_dir=str(tmp_path), delay=delay))
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)

    process = start(0.3)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        logs = list(tmp_path.glob("models/.training-*/log.csv"))
        if logs and len(logs[0].read_text().splitlines()) >= 3:  # header and two epochs
            break
        time.sleep(0.1)
    time.sleep(0.5)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    (log,) = tmp_path.glob("models/.training-*/log.csv")
    before = pd.read_csv(log)
    assert len(before) in (2, 3)
    assert not (tmp_path / "models/killed.keras").exists()
    assert start(0).wait() == 0
    history = pd.read_csv(tmp_path / "results/training_logs/killed.csv")
    assert history.epoch.tolist() == list(range(5))
    pd.testing.assert_frame_equal(history.iloc[: len(before)], before, check_dtype=False)
    assert history.loss[len(before)] < before.loss.iloc[0]  # went on, did not start anew


class Interrupt(keras.callbacks.Callback):
    """Stop a training the hard way in the middle of its third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 2 * self.params["steps"] + 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["plain", "views", "balanced", "augmented", "late"])
def test_an_interrupted_training_ends_with_the_very_same_scores(how, tmp_path, monkeypatch):
    options = {
        "views": {"views": range(8)}, "balanced": {"balancing": "balanced_batches"},
    }.get(how, {})  # fmt: skip

    def train(run_dir):
        prepared, model = make_prepared(run_dir, epochs=4), tiny_model()
        augment = input_pipeline.make_augmentation(seed=0) if how == "augmented" else None
        result = training.fit(model, prepared, name="x", augment=augment, collapse_patience=50, **options)
        return result.history, training.predict_scores(model, prepared.images, prepared.rows("test"))

    _, expected = train(tmp_path / "undisturbed")
    monkeypatch.setattr(training, "SECONDS_BETWEEN_BACKUPS", 0 if how != "late" else 1000)
    callbacks = training._callbacks
    monkeypatch.setattr(training, "_callbacks", lambda *parts: [*callbacks(*parts), Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    monkeypatch.undo()
    (log,) = (tmp_path / "stopped").glob("models/.training-*/log.csv")
    before = pd.read_csv(log)
    history, scores = train(tmp_path / "stopped")
    assert len(before) == 2
    went_on = history.seconds[:2].tolist() == before.seconds.tolist()
    assert went_on == (how != "late")  # nothing was kept yet: it starts anew, and comes out the same
    assert history.epoch.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(scores, expected)


def test_other_data_start_a_training_anew(tmp_path):
    prepared = make_prepared(tmp_path, n=40)
    rows, labels = prepared.rows("train"), prepared.labels
    key = training._state_key(tiny_model(), {}, (rows, labels, *training._sample(prepared.images, rows)))
    darker = training._sample(prepared.images // 2, rows)
    assert key == training._state_key(tiny_model(), {}, (rows, labels, *training._sample(prepared.images, rows)))
    assert key != training._state_key(tiny_model(), {}, (rows, labels, *darker))
    assert key != training._state_key(tiny_model(), {}, (rows, 1 - labels, *training._sample(prepared.images, rows)))


def test_two_virtual_devices_train_one_mirrored_model(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from tests.models.test_training import make_prepared, tiny_model
        from shared import training
        with training.scope("mirrored"):
            assert tf.distribute.get_strategy().num_replicas_in_sync == 2
            model = tiny_model()
            result = training.fit(model, make_prepared({str(tmp_path)!r}, epochs=2), name="mirrored")
        assert len(result.history) == 2
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "models/mirrored.keras").exists()


def test_wrong_words_are_refused_in_one_line(tmp_path):
    prepared = make_prepared(tmp_path, n=16)
    with pytest.raises(UsageError, match="STRATEGY: 'all'"):
        training.scope("all")
    with pytest.raises(UsageError, match="loss 'hinge'"):
        training.fit(tiny_model(), prepared, name="x", loss="hinge")
    with pytest.raises(UsageError, match="balancing 'some'"):
        training.fit(tiny_model(), prepared, name="x", balancing="some")
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        training.load_model(tmp_path, "nothing")
