"""Compare training a head on cached features with training it through the frozen backbone."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

import phantoms
from benchmarks import measure
from benchmarks.measure import Row

EPOCHS = 20
SIZE = 224  # pixels


def compare_head(folder: Path, quick: bool) -> Iterator[Row]:
    """Twenty epochs of the head of a frozen MobileNetV2, with validation after each."""
    patients, epochs, repeats = (24, 2, 1) if quick else (480, EPOCHS, 2)
    phantoms.write_demo_data(folder / "demo", patients=patients, progress=False)
    found = measure.in_child(train_both, folder=folder, epochs=epochs, repeats=repeats).result
    what = f"{epochs} epochs of the head, {found['images']} images of {SIZE} px, frozen {found['weights']}"
    row = Row("head", what, "fit through the frozen backbone", "s", details=found)
    yield measure.compare(row, found["cached"], found["through"], least=0 if quick else 8)
    later = [total - once for total, once in zip(found["cached"], found["extraction"], strict=True)]
    yield measure.compare(replace(row, what="the same, features computed before"), later, found["through"])
    mine, other = found["auc_cached"], found["auc_through"]
    met = None if quick else abs(mine - other) <= 0.01 and min(mine, other) > 0.55
    row = replace(row, what="test AUC of these heads", unit="", goal="within .01, above .55", met=met)
    yield replace(row, ours=mine, theirs=other, ratio=mine / other)


def train_both(folder: Path, epochs: int, repeats: int) -> dict[str, Any]:
    """Train the same head, same first weights, same order of images, on both sides in turn."""
    from shared import data, models, run

    given = {
        "DATASET": "cbis-ddsm", "DATA_DIR": str(folder / "demo"), "RUN_DIR": str(folder / "run"),
        "PROFILE": "demo", "IMAGE_SIZE": SIZE,
    }  # fmt: skip
    prepared = data.prepare(run.resolve_settings(given))
    weights = models.find_weights(os.environ.get("MAMMO_MOBILENETV2_WEIGHTS") or "demo", "mobilenetv2")
    options = models.training_options(prepared.settings, epochs=epochs, patience=epochs + 1)
    test = prepared.rows("test")
    labels = prepared.labels[test]

    def build() -> Any:
        model = models.build("mobilenetv2", image_size=SIZE, weights=weights.file, alpha=weights.alpha)
        model.get_layer("dropout").rate = 0.0  # what it drops would differ
        return model

    found: dict[str, Any] = {"cached": [], "extraction": [], "through": [], "images": len(prepared.images)}
    found["weights"] = f"MobileNetV2 {weights.label}"
    models.predict(build(), prepared.images, test[:64])  # TensorFlow's own start falls on neither side
    for _ in range(repeats):
        model = build()
        shutil.rmtree(prepared.settings.run_dir / "data/features", ignore_errors=True)
        started = time.perf_counter()
        features = models.extract_features(prepared, model, "pooled", orientations=(0,))
        _, head = models.split(model, "pooled")
        models.train(head, prepared, options, inputs=features)
        found["auc_cached"] = float(roc_auc_score(labels, models.predict(head, features, test)))
        found["cached"].append(time.perf_counter() - started)
        found["extraction"].append(features.seconds)
        model = build()
        started = time.perf_counter()
        models.train(model, prepared, options)
        found["auc_through"] = float(roc_auc_score(labels, models.predict(model, prepared.images, test)))
        found["through"].append(time.perf_counter() - started)
    return found
