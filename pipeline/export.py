"""Write a saved model for phones and servers with Keras' own export, and measure what that costs and gains."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import predict
from shared.data import load_manifest
from shared.evaluation import auc
from shared.run import TEST, TRAIN, DataError, UsageError, atomic_write, check_out, full_path

KINDS = {  # name: suffix, format of keras.Model.export
    "float32": (".tflite", "litert"),
    "float16": (".float16.tflite", "litert"),  # half the size
    "int8": (".int8.tflite", "litert"),  # a quarter; computes in integers, with ranges measured on training images
    "onnx": (".onnx", "onnx"),
}
CALIBRATION_IMAGES = 100
Call = Callable[[np.ndarray], np.ndarray]  # float32 (1, S, S, 1) -> (1, outputs)


def run(
    model_file: Path | str,
    *,
    out: Path | str | None = None,
    kinds: Iterable[str] = ("float16", "int8"),
    echo: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Export `<run>/models/<name>.keras` to a folder, and show how what LiteRT runs scores the run's test images.

    One row a form; changes are to the Keras model, the first. UsageError where model, image store or package lacks.
    """
    path = full_path(model_file, "--model", start=Path.cwd())
    folder = check_out(out or path.parent, is_folder=True)
    saved = predict.load(path)
    data = path.parent.parent / "data"
    network = saved.networks[0]
    if not (data / "images.npy").is_file() or not (data / "manifest.csv").is_file():
        raise UsageError(f"{path}: no data/images.npy and manifest.csv two folders up; export a model of a run")
    images, manifest = np.load(data / "images.npy", mmap_mode="r"), load_manifest(data.parent)
    if images.shape[1] != saved.steps.size:
        raise UsageError(f"{path}: takes {saved.steps.size} px, the run's images have {images.shape[1]} px")
    train = images[manifest.split == TRAIN]
    test, labels = as_batches(images[manifest.split == TEST]), manifest.label[manifest.split == TEST].to_numpy()
    forms: dict[str, tuple[Path, Call | None]] = {"keras": (path, network.predict_on_batch)}
    for kind in kinds:
        target = folder / f"{path.stem}{KINDS[kind][0]}"
        convert(network, kind, target, as_batches(train[:: max(1, len(train) // CALIBRATION_IMAGES)]))
        forms[kind] = (target, load_litert(target) if target.suffix == ".tflite" else None)
    rows = []
    scores = {}
    for form, (file, call) in forms.items():
        rows.append({"form": form, "file": str(file), "megabytes": file.stat().st_size / 1e6})
        if call is not None:
            scores[form], seconds = time_scores(call, test)
            if not np.isfinite(scores[form]).all():
                raise DataError(f"{file}: gives no number for some test images; train the model again")
            area = auc(labels, scores[form])
            first = scores["keras"]
            rows[-1] |= {"test_auc": area, "delta_auc": area - auc(labels, first), "ms_per_image": 1000 * seconds}
            rows[-1]["largest_score_change"] = float(np.abs(scores[form] - first).max())
    result = pd.DataFrame(rows)
    echo(result.assign(file=[Path(file).name for file in result.file]).to_string(index=False, float_format="%.4g"))
    echo(f"written: {', '.join(result.file[1:])}")
    return result


def as_batches(images: np.ndarray) -> np.ndarray:
    """Turn uint8 (n, S, S) into float32 (n, 1, S, S, 1): n batches of one image."""
    return images[:, np.newaxis, ..., np.newaxis].astype(np.float32)


def convert(network: Any, kind: str, target: Path, calibration: np.ndarray) -> None:
    """Write a network as one of `KINDS`; int8 measures its ranges on `calibration`, float32 (n, 1, S, S, 1)."""
    from shared.models.backend import quiet_native_output, tf

    options: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]} if kind in ("float16", "int8") else {}
    if kind == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    if kind == "int8":
        options["representative_dataset"] = lambda: ([batch] for batch in calibration)
    try:
        with atomic_write(target) as temporary, quiet_native_output():
            network.export(temporary, format=KINDS[kind][1], verbose=False, **options)
    except ImportError as error:
        raise UsageError(f"--kind {kind}: {error}; install it with pip, or take float32, float16 or int8") from None


def load_litert(path: Path) -> Call:
    """Return a function that runs a LiteRT file."""
    from shared.models.backend import quiet_native_output, tf

    with quiet_native_output():
        run_once = tf.lite.Interpreter(str(path), num_threads=1).get_signature_runner()
        (given,), (result,) = run_once.get_input_details(), run_once.get_output_details()
        shape = run_once.get_input_details()[given]["shape"]
        run_once(**{given: np.zeros(shape, run_once.get_input_details()[given]["dtype"])})  # says what runs it, once
    return lambda batch: run_once(**{given: batch})[result]


def time_scores(call: Call, batches: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the probability of class 1 of each batch of one image, float64 (n,), and the median of the seconds."""
    scores, seconds = [], []
    call(batches[0])
    for batch in batches:
        start = time.perf_counter()
        outputs = np.asarray(call(batch), dtype=np.float64)[0]
        seconds.append(time.perf_counter() - start)
        scores.append(outputs[len(outputs) // 2 :].sum())  # of four subtypes, the two malignant ones
    return np.array(scores), float(np.median(seconds))
