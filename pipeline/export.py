"""Write a saved model as TensorFlow Lite files, and measure what that costs and gains."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import predict
from shared.data import manifests
from shared.evaluation import metrics
from shared.run import TEST, TRAIN, UsageError, files
from shared.run.native_output import quiet_native_output

KINDS = ("float16", "int8")
CALIBRATION_IMAGES = 100
TIMED_IMAGES = 30


def export(model_file, *, out=None, kinds=KINDS):
    """Convert a model of a run to TensorFlow Lite and score all forms on the run's test images.

    float16 halves the weights' size; int8 also computes in integers, with ranges measured on training images.

    Args:
        model_file: `<run>/models/<name>.keras`.
        out: folder for `<name>.<kind>.tflite`; default: beside the model.
        kinds: some of `KINDS`.
    Returns:
        DataFrame form, file, megabytes, test_auc, delta_auc (to the Keras model), largest_score_change, ms_per_image
        (median, one image at a time, after a warm-up).
    Raises:
        UsageError: no model, or no image store of its size beside it.
    """
    path = Path(model_file)
    saved = predict.load(path)
    store, manifest = _run_of(path, saved)
    test = np.flatnonzero(manifest.split == TEST)
    train = np.flatnonzero(manifest.split == TRAIN)
    labels = manifest.label.to_numpy()[test]
    batch = np.ascontiguousarray(store[test])
    network = saved.networks[0]
    scores = predict.score_arrays(network, batch)
    one_by_one = _timed(lambda image: predict.score_arrays(network, image[np.newaxis]), batch)
    rows = [_row("keras", path, scores, scores, labels, one_by_one)]
    for kind in kinds:
        content = convert(network, kind, store[train[:: max(1, len(train) // CALIBRATION_IMAGES)]])
        target = Path(out or path.parent) / f"{path.stem}.{kind}.tflite"
        with files.atomic_write(target) as temporary:
            temporary.write_bytes(content)
        score = scorer(content)
        rows.append(
            _row(kind, target, np.array([score(image) for image in batch]), scores, labels, _timed(score, batch))
        )
    return pd.DataFrame(rows)


def _run_of(path, saved):
    run_dir = path.resolve().parent.parent
    if not (run_dir / "data/images.npy").is_file() or not (run_dir / "data/manifest.csv").is_file():
        raise UsageError(f"{path}: no data/images.npy and manifest.csv two folders up; export a model of a run")
    store = np.load(run_dir / "data/images.npy", mmap_mode="r")
    if store.shape[1] != saved.steps.size:
        raise UsageError(f"{path}: takes {saved.steps.size} px, the run's images have {store.shape[1]} px")
    return store, manifests.load_manifest(run_dir)


def _row(form, path, scores, reference, labels, seconds):
    area = metrics.auc(labels, scores)
    return {
        "form": form,
        "file": str(path),
        "megabytes": path.stat().st_size / 1e6,
        "test_auc": area,
        "delta_auc": area - metrics.auc(labels, reference),
        "largest_score_change": float(np.abs(scores - reference).max()),
        "ms_per_image": 1000 * seconds,
    }


def _timed(score, batch):
    """Median seconds of `score` on one image."""
    score(batch[0])
    seconds = []
    for image in batch[:TIMED_IMAGES]:
        start = time.perf_counter()
        score(image)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def convert(network, kind, calibration):
    """Convert a network to the bytes of a TensorFlow Lite file.

    Args:
        network: keras.Model, (B, S, S, 1) of 0…255 in.
        kind: "float16" or "int8".
        calibration: uint8 (n, S, S), images that int8 measures its ranges on.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: not one of {', '.join(KINDS)}")
    from shared.models.backend import tf

    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.representative_dataset = lambda: (
            [image[np.newaxis, ..., np.newaxis].astype(np.float32)] for image in calibration
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    with quiet_native_output():
        return converter.convert()


def scorer(content):
    """Return a function: uint8 (S, S) -> probability of class 1, by a TensorFlow Lite file's bytes."""
    from shared.models.backend import tf

    with quiet_native_output():
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def score(image):
        interpreter.set_tensor(given["index"], image[np.newaxis, ..., np.newaxis].astype(given["dtype"]))
        interpreter.invoke()
        return float(predict.positive_share(interpreter.get_tensor(result["index"]))[0])

    return score


def run(model_file, *, out=None, kinds=KINDS, echo=print):
    """Export and show the table of `export`."""
    result = export(model_file, out=out, kinds=kinds)
    shown = result.assign(file=[Path(file).name for file in result.file])
    echo(shown.to_string(index=False, float_format="%.4g"))
    echo(f"written: {', '.join(result.file[1:])}")
    return result
