"""Compare training a head on cached features with training it through the frozen backbone."""

import os
import time
from pathlib import Path

from benchmarks import measure

EPOCHS = 20
TOLERANCE = 0.01  # AUC
SIZE = 224  # pixels


def head(folder, *, quick):
    """Twenty epochs of the head of a frozen MobileNetV2, with validation after each."""
    patients, epochs, repeats = (24, 2, 1) if quick else (480, EPOCHS, 2)
    found = measure.in_child(_train_both, folder=folder, patients=patients, epochs=epochs, repeats=repeats).result
    what = f"{epochs} epochs of the head, {found['images']} images of {SIZE} px, frozen {found['weights']}"
    peer = "fit through the frozen backbone"
    yield measure.compare(
        "head", what, peer, "s", found["cached"], found["through"], least=None if quick else 14, details=found
    )
    later = [total - once for total, once in zip(found["cached"], found["extraction"], strict=True)]
    yield measure.compare("head", "the same, features computed before", peer, "s", later, found["through"])
    if not quick:
        mine, other = found["auc_cached"], found["auc_through"]
        goal, met = f"within {TOLERANCE}", abs(mine - other) <= TOLERANCE
        yield measure.Comparison("head", "test AUC of these heads", peer, "", mine, other, mine / other, goal, met)


def _train_both(folder, patients, epochs, repeats):
    """Train the same head, same first weights, same order of images, on both sides in turn."""
    import shutil

    import phantoms as demo_data
    from shared.data import preparation
    from shared.evaluation import metrics
    from shared.models import networks as models
    from shared.models import pretrained, training
    from shared.run import settings as config

    demo_data.write_demo_data(folder / "demo", patients=patients, progress=False)
    given = {
        "DATASET": "cbis-ddsm", "DATA_DIR": str(folder / "demo"), "RUN_DIR": str(folder / "run"),
        "PROFILE": "demo", "IMAGE_SIZE": SIZE,
    }  # fmt: skip
    prepared = preparation.prepare(config.resolve_settings(given))
    spec = os.environ.get("MAMMO_MOBILENETV2_WEIGHTS") or "none"  # time and equality do not depend on the weights
    weights = pretrained.resolve_weights(spec, "mobilenetv2")
    test, labels = prepared.rows("test"), prepared.labels
    found = {"cached": [], "extraction": [], "through": [], "images": len(prepared.images)}
    found["weights"] = (
        f"MobileNetV2 {pretrained.alpha_of(weights):g}, {'random' if spec == 'none' else Path(spec).name}"
    )

    options = {"epochs": epochs, "patience": epochs + 1, "collapse_patience": epochs + 1, "save": False, "seed": 0}

    def build():
        model = models.build("mobilenetv2", image_size=SIZE, weights=weights, dropout=0.0)
        models.freeze_backbone(model)
        return model

    build().predict(prepared.images[:64, ..., None], verbose=0)  # TensorFlow's own start falls on neither side
    for _ in range(repeats):
        model = build()
        shutil.rmtree(prepared.settings.run_dir / "data/features", ignore_errors=True)
        started = time.perf_counter()
        cached, scores = _through_cache(model, prepared, test, options)
        found["cached"].append(time.perf_counter() - started)
        found["extraction"].append(cached.seconds)
        found["auc_cached"] = metrics.auc(labels[test], scores)
        model = build()
        started = time.perf_counter()
        training.fit(model, prepared, name="through", **options)
        scores = training.predict_scores(model, prepared.images, test)
        found["through"].append(time.perf_counter() - started)
        found["auc_through"] = metrics.auc(labels[test], scores)
    return found


def _through_cache(model, prepared, test, options):
    from shared.models import features, training
    from shared.models import networks as models

    cached = features.extract(prepared, model, "pooled", views=(0,))
    _, part = models.split(model, "pooled")
    training.fit(part, prepared, name="cached", source=cached, **options)
    return cached, training.predict_scores(part, cached, test)
