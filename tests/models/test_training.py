"""Training: learning, saving, collapse, determinism, devices, prediction."""

import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from shared import models
from shared.data import Prepared
from shared.models import training
from shared.run import DataError, Settings, UsageError

SIZE = 32


def make_prepared(run_dir, *, n=160, epochs=3, n_classes=2):
    """Images in which classes differ in the brightness of their centre, split by rows."""
    random = np.random.default_rng(0)
    classes = np.arange(n) % n_classes
    images = random.integers(60, 120, (n, SIZE, SIZE), dtype=np.uint8)
    images[:, 10:22, 10:22] += (30 * classes[:, None, None]).astype(np.uint8)
    split = np.array(["train", "train", "validation", "test"])[np.arange(n) // n_classes % 4]
    columns = {"label": classes >= n_classes // 2, "subtype": classes, "split": split, "patient_id": np.arange(n)}
    settings = Settings(
        run_dir=Path(run_dir), image_size=SIZE, batch_size=16, epochs=epochs, learning_rate=1e-2,
        task="malignant" if n_classes == 2 else "subtype",
    )  # fmt: skip
    manifest = pd.DataFrame(columns).astype({"label": int, "patient_id": str})
    return Prepared(settings, manifest, images, None, pd.DataFrame(), ("benign", "malignant"))


def tiny_model(seed=0):
    keras.utils.set_random_seed(seed)
    steps = [
        keras.layers.Rescaling(1 / 20, offset=-4.5), keras.layers.AveragePooling2D(4), keras.layers.Flatten(),
        keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.1), keras.layers.Dense(1, name="logit"),
        keras.layers.Activation("sigmoid", name="probability"),
    ]  # fmt: skip
    return keras.Sequential([keras.Input((SIZE, SIZE, 1)), *steps])


def test_a_training_learns_keeps_its_best_epoch_and_saves_model_and_log(tmp_path):
    prepared = make_prepared(tmp_path, epochs=6)
    model = tiny_model()
    run = models.train(model, prepared, models.training_options(prepared.settings, augment=True), name="tiny")
    scores = models.predict_held_out(prepared, model, orientations=models.ORIENTATIONS)
    rows = prepared.rows("test")
    assert scores.dtype == np.float64
    assert roc_auc_score(prepared.labels[rows], scores[rows]) > 0.9
    log = pd.read_csv(tmp_path / "results/training_logs/tiny.csv")
    assert {"epoch", "loss", "auc", "val_loss", "val_auc", "val_sensitivity_at_specificity"} <= set(log)
    assert run.best_epoch == log.val_auc.idxmax()
    held_out = prepared.rows("validation")
    exact = roc_auc_score(prepared.labels[held_out], models.predict(model, prepared.images, held_out))
    assert run.val_auc == exact
    assert run.val_auc == pytest.approx(log.val_auc.max(), abs=0.01)  # the best weights, though all epochs ran
    again = models.load_model(tmp_path / "models/tiny.keras")
    np.testing.assert_array_equal(models.predict_held_out(prepared, again, orientations=models.ORIENTATIONS), scores)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny.keras"]


def test_the_last_epoch_is_kept_where_validation_is_to_choose_nothing(tmp_path):
    """Validation labels turned round would make the first epoch the best one."""
    prepared = make_prepared(tmp_path, epochs=4)
    rows, labels = prepared.rows("test"), prepared.labels.copy()
    labels[prepared.rows("validation")] = 1 - labels[prepared.rows("validation")]
    model = tiny_model()
    run = models.train(
        model, prepared, models.training_options(prepared.settings, patience=1, keep_last=True), labels=labels
    )
    assert run.best_epoch == 3 == run.history.epoch.iloc[-1]
    assert roc_auc_score(prepared.labels[rows], models.predict(model, prepared.images, rows)) > 0.9


def test_the_same_seed_gives_the_same_scores_and_no_name_saves_nothing(tmp_path):
    prepared = make_prepared(tmp_path, epochs=2)
    scores = []
    for seed in (1, 1, 2):
        model = models.build("lightweight_cnn", image_size=SIZE, seed=seed)
        options = models.training_options(prepared.settings, seed=seed, augment=True, balancing="balanced_batches")
        models.train(model, prepared, options, orientations=models.ORIENTATIONS)
        scores.append(models.predict(model, prepared.images, prepared.rows("test")))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
    assert not list(tmp_path.rglob("*.keras"))


def test_other_labels_and_focal_loss_train_too(tmp_path):
    prepared = make_prepared(tmp_path, epochs=6)
    model = tiny_model()
    options = models.training_options(prepared.settings, loss="binary_focal_crossentropy", balancing="none")
    run = models.train(model, prepared, options, labels=1 - prepared.labels)
    rows = prepared.rows("test")
    assert run.val_auc > 0.9
    assert roc_auc_score(prepared.labels[rows], models.predict(model, prepared.images, rows)) < 0.1


def test_four_subtypes_train_with_a_softmax_and_score_as_the_two_malignant_ones(tmp_path):
    prepared = make_prepared(tmp_path, n_classes=4, n=192, epochs=3)
    model = models.build("synthetic_cnn", image_size=SIZE, n_classes=prepared.n_classes)
    run = models.train(model, prepared, models.training_options(prepared.settings))
    assert {"accuracy", "val_accuracy"} <= set(run.history)
    assert run.best_epoch == run.history.val_loss.idxmin()
    rows = prepared.rows("validation")
    softmax = model.predict(prepared.images[rows][..., np.newaxis], verbose=0)
    scores = models.predict(model, prepared.images, rows)
    np.testing.assert_allclose(scores, softmax[:, 2] + softmax[:, 3], atol=1e-6)
    np.testing.assert_allclose(softmax.sum(axis=1), 1, rtol=1e-5)
    assert run.val_auc == roc_auc_score(prepared.labels[rows], scores)


def test_a_collapsed_training_is_stopped_and_reported(tmp_path):
    prepared = make_prepared(tmp_path, epochs=12)
    blind = [keras.layers.Rescaling(0.0), keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 1)), *blind])
    run = models.train(model, prepared, models.training_options(prepared.settings, patience=20))
    assert any("collapsed" in message and "learning rate" in message for message in run.messages)
    assert any(message.startswith("sensitivity at specificity 0.80 was below 0.50") for message in run.messages)
    assert len(run.history) < 12


@pytest.mark.parametrize(("scores", "val_auc", "reason"), [
    ([0.2, 0.2, 0.2], 0.7, "equal"), ([0.1, 0.2, 0.3], 0.5, "one class"), ([0.1, 0.2, 0.3], 0.8, ""),
    ([0.1, 0.2, 0.8], 0.5, ""), ([0.1, np.nan, 0.8], np.nan, "not finite"),
])  # fmt: skip
def test_what_counts_as_collapsed(scores, val_auc, reason):
    found = training.find_collapse(np.array(scores)[:, None], {"loss": 0.7, "val_loss": 0.7, "val_auc": val_auc})
    assert reason in found
    assert bool(found) == bool(reason)


def test_the_warning_counts_epochs_of_low_sensitivity():
    history = pd.DataFrame({"epoch": [0, 1, 2], "val_sensitivity_at_specificity": [0.4, 0.3, 0.6]})
    assert "in 2 epoch(s), the last of them 2" in training.warn_of_sensitivity(history)
    assert training.warn_of_sensitivity(history[2:]) == ""


def test_the_learning_rate_warms_up_and_falls():
    model = tiny_model()
    options = models.TrainingOptions(epochs=5, batch_size=16, learning_rate=0.1)
    training.compile_model(model, options, steps=10)
    schedule = keras.optimizers.schedules.deserialize(model.optimizer.get_config()["learning_rate"])
    np.testing.assert_allclose([schedule(step) for step in (0, 10, 30, 50)], [0.01, 0.1, 0.0505, 0.001], rtol=0.01)


def test_training_can_be_continued_with_the_optimisers_state(tmp_path):
    prepared = make_prepared(tmp_path, epochs=2)
    models.train(tiny_model(), prepared, models.training_options(prepared.settings), name="first")
    steps = int(models.load_model(tmp_path / "models/first.keras", optimizer=True).optimizer.iterations)
    assert steps == 2 * 5  # epochs, batches
    model, run = models.continue_training(
        prepared, "first", models.training_options(prepared.settings, learning_rate=1e-3), name="second"
    )
    assert (int(model.optimizer.iterations), len(run.history)) == (2 * steps, 2)
    assert (tmp_path / "models/second.keras").exists()
    bare = tiny_model()
    models.save_model(keras.Model(bare.inputs, bare.outputs), tmp_path / "models/bare.keras")
    with pytest.raises(UsageError, match="bare: saved without an optimiser"):
        models.continue_training(prepared, "bare", models.training_options(prepared.settings), name="third")


def test_two_virtual_devices_train_one_mirrored_model(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from tests.models.test_training import make_prepared, models, tiny_model
        with models.multi_gpu_scope("mirrored"):
            assert tf.distribute.get_strategy().num_replicas_in_sync == 2
            model, prepared = tiny_model(), make_prepared({str(tmp_path)!r}, epochs=2)
            run = models.train(model, prepared, models.training_options(prepared.settings), name="mirrored")
        assert len(run.history) == 2
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "models/mirrored.keras").exists()


def test_devices_are_named_and_wrong_words_sizes_and_files_are_refused_in_one_line(tmp_path):
    prepared = make_prepared(tmp_path, n=16)
    assert models.set_up_devices().startswith(f"Keras {keras.__version__}, TensorFlow")
    with pytest.raises(UsageError, match="STRATEGY: 'all'"):
        models.multi_gpu_scope("all")
    for name, value in {"loss": "hinge", "balancing": "some"}.items():
        with pytest.raises(UsageError, match=f"{name}: '{value}'"):
            models.train(tiny_model(), prepared, models.training_options(prepared.settings, **{name: value}))
    with pytest.raises(UsageError, match=r"takes images of 48 px.*IMAGE_SIZE"):
        models.predict_held_out(prepared, models.build("small_cnn", image_size=48))
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        models.load_model(tmp_path / "nothing.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(DataError, match=r"\A.*broken\.keras: not a Keras model.*\Z"):
        models.load_model(tmp_path / "broken.keras")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        models.nonsense  # noqa: B018
