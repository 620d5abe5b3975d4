"""Train the small backbone behind `WEIGHTS="demo"`, on abstract textures: `python -m phantoms.pretraining`.

No mammogram and no pathology is in here. Pictures of blobs, stars, line bundles and clusters of dots on streaky noise
are drawn from known numbers (how soft is the edge, how many rays, how unlike are the dots ...), and MobileNetV2 (alpha
0.35; Sandler et al., CVPR 2018, arXiv 1801.04381) learns to tell these numbers from the picture. Learning to name what
generated a synthetic picture is a known pretext for features of real ones (Baradad et al., NeurIPS 2021, arXiv
2106.05963). The textures were chosen by people who knew what the demo data look like, so the weights suit the demo data
better than they would suit real films; for those take ImageNet weights.
"""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from joblib import Parallel, delayed
from numpy.random import Generator

from phantoms.noise import random_fields, sigmoid
from phantoms.writing import load_tensorflow

SIDE = 64  # smaller than the demo's images: the network is convolutional, and this costs less than half
ZOOM = 5  # dots are drawn this much larger and averaged down
TEXTURES, UNSEEN = 40_000, 2000  # that are trained on, and that test
EPOCHS, BATCH_SIZE, SEED = 10, 64, 0
WEIGHTS_FILE = Path(__file__).parents[1] / "shared/models/weights/mobilenetv2_0.35_demo.weights.h5"
TARGETS = (
    "blob", "edge_softness", "lobes", "lobe_depth", "elongation", "rays", "ray_length", "loose_lines",
    "dots", "dot_count", "dot_size", "dot_unlikeness", "dot_stretch", "dot_hollow", "cluster_stretch", "cluster_spread",
)  # fmt: skip


def draw_texture(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one texture, uint8 (64, 64), and the numbers behind it, float32 (len(TARGETS),), 0 for absent parts."""
    truth = dict.fromkeys(TARGETS, 0.0)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - (SIDE - 1) / 2
    y, x = y - rng.normal(0, 3), x - rng.normal(0, 3)
    image = draw_ground(rng)
    kind = rng.choice(["blob", "dots", "both", "none"], p=[0.50, 0.42, 0.05, 0.03])
    if kind in ("blob", "both"):
        image += draw_blob(rng, truth, y, x)
    if kind in ("dots", "both"):
        image += draw_dots(rng, truth, y, x)
    if rng.random() < 0.15:  # a dark outside
        turn, offset = rng.uniform(0, 2 * np.pi), rng.uniform(18, 34)
        image -= rng.uniform(1, 3) * sigmoid(x * np.cos(turn) + y * np.sin(turn) - offset)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image = image + rng.uniform(0.02, 0.10) * rng.standard_normal(image.shape, dtype=np.float32)
    low, high = np.percentile(image, (1, 99))
    stretched = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return stretched, np.array(list(truth.values()), np.float32)


def draw_ground(rng: Generator) -> np.ndarray:
    """Draw power-law noise crossed by curved strands and drawn out in one direction, float32 (64, 64)."""
    slope, density, streaks = rng.uniform(2.0, 3.6), rng.uniform(0, 1), rng.uniform(0, 1)
    noise, patches = random_fields(rng, (SIDE, SIDE), beta=round(slope, 1))
    ways, finer = random_fields(rng, (SIDE, SIDE), beta=1.0, low=0.02, high=float(rng.choice([0.04, 0.07, 0.12])))
    strands = np.exp(-((4.5 * ways) ** 2)) + np.exp(-((4.5 * finer) ** 2))
    long, crossing = (draw_out(rng, field) for field in random_fields(rng, (SIDE, SIDE), beta=2.0, low=0.03))
    ground = 0.32 * noise + 0.4 * density * strands * sigmoid(1.5 * patches)
    return (ground + 0.35 * streaks * (long + 0.6 * (rng.random() < 0.5) * crossing)).astype(np.float32)


def draw_out(rng: Generator, field: np.ndarray) -> np.ndarray:
    """Stretch a field, float32 (64, 64), in a direction of its own."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(3, 9)
    along = np.array([np.cos(turn), np.sin(turn)], np.float32)
    shrink = np.eye(2, dtype=np.float32) + (1 / stretch - 1) * np.outer(along, along)  # where each pixel is read
    middle = (SIDE - 1) / 2 * (1 - shrink.sum(axis=1, keepdims=True))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(field, np.hstack([shrink, middle]), field.shape, flags=how, borderMode=cv2.BORDER_WRAP)


def draw_blob(rng: Generator, truth: dict[str, float], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draw a bright blob with a known edge, outline and rays, and note the numbers in `truth`."""
    radius, turn = rng.uniform(11, 22), rng.uniform(0, 2 * np.pi)
    angle, distance = np.arctan2(y, x) + turn, np.hypot(y, x)
    softness, stretch, depth = rng.uniform(0, 1) ** 1.3, rng.uniform(0, 1), rng.uniform(0, 1) * (rng.random() < 0.75)
    ratio = 1 - 0.5 * stretch
    outline = 1 / np.sqrt(np.cos(angle) ** 2 * ratio + np.sin(angle) ** 2 / ratio)
    lobes = int(rng.integers(3, 16))
    for order in (lobes, lobes + 1, max(lobes - 1, 2)):
        wave = depth * 0.30 / np.sqrt(lobes) * rng.uniform(0.3, 1)
        outline = outline + wave * np.cos(order * angle + rng.uniform(0, 6.3))
    relative = distance / (radius * np.maximum(outline, 0.3))
    width = 0.02 + 0.33 * softness
    hidden = 1 + (rng.random() < 0.5) * 5 * sigmoid(4 * np.cos(angle - rng.uniform(0, 6.3)))
    body = sigmoid((1 - relative) / (width * hidden)) * (0.65 + 0.35 * np.sqrt(np.clip(1 - relative**2, 0, 1)))
    count = int(rng.integers(6, 36)) if rng.random() < 0.5 else 0
    length, loose = rng.uniform(0, 1), int(rng.integers(0, 6))
    lines = np.zeros_like(x)
    for line in range(count + loose):
        if line < count:  # leaves the blob
            end = 1.05 + (0.15 + 0.9 * length) * rng.gamma(3.0, 0.33)
            offset, start = rng.normal(0, 0.1), rng.uniform(0.3, 0.7)
        else:  # passes by
            start = rng.uniform(-1.8, 0.3)
            offset, end = rng.uniform(-1.4, 1.4), start + rng.uniform(0.6, 2)
        turn, bend, thick = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.10) / radius, rng.uniform(0.6, 1.4)
        along = (x * np.cos(turn) + y * np.sin(turn)) / radius
        across = y * np.cos(turn) - x * np.sin(turn) - offset * radius - bend * (along * radius) ** 2
        taper = sigmoid((along - start) * 12) * sigmoid((end - along) * 8)
        lines += rng.uniform(0.2, 0.65) * taper * np.exp(-((across / thick) ** 2))
    truth |= {"blob": 1.0, "edge_softness": softness, "lobes": depth and lobes / 15, "lobe_depth": depth}
    truth |= {"elongation": stretch, "rays": count / 35, "ray_length": length * (count > 0), "loose_lines": loose / 5}
    return (rng.uniform(0.4, 2.0) * (body + np.minimum(lines, 1.0))).astype(np.float32)


def draw_dots(rng: Generator, truth: dict[str, float], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draw bright dots of known number, size, likeness, stretch and arrangement, and note the numbers in `truth`."""
    count, size = int(rng.integers(3, 36)), rng.uniform(0, 1)
    unlike, stretch, hollow = rng.uniform(0, 1), rng.uniform(0, 1) * (rng.random() < 0.5), float(rng.random() < 0.2)
    cluster_stretch, spread, turn = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 2 * np.pi)
    places = rng.normal(0, 1, (count, 2)) if rng.random() < 0.5 else rng.uniform(-1.7, 1.7, (count, 2))
    places = rotate(places * (3 + 11 * spread) * np.array([1, 1 - 0.85 * cluster_stretch]), turn)
    canvas = np.zeros((SIDE * ZOOM,) * 2, np.uint8)
    for place in (places - (x[0, 0], y[0, 0]) + 0.5) * ZOOM:
        if hollow:
            reach = ZOOM * (1.8 + 2.0 * size) * np.exp(0.3 * unlike * rng.normal())
            cv2.circle(canvas, place.astype(int).tolist(), int(reach), 220, int(ZOOM * 1.1), cv2.LINE_AA)
            continue
        # round where dots are alike, angular and of any size and brightness where they are not
        corners = 12 if unlike < 0.3 else int(rng.integers(3, 8))
        turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        if unlike >= 0.3:
            turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
        away = ZOOM * (0.5 + 1.5 * size) * np.exp(0.65 * unlike * rng.normal())
        away = away * rng.uniform(1 - 0.6 * unlike, 1, corners)
        points = np.stack([np.cos(turns) * (1 + 3 * stretch), np.sin(turns) / (1 + 0.6 * stretch)], 1) * away[:, None]
        points = rotate(points, rng.uniform(0, 2 * np.pi)) + place
        cv2.fillPoly(canvas, [points.round().astype(np.int32)], 255 - 140 * unlike * rng.random(), cv2.LINE_AA)
    dots = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    truth |= {
        "dots": 1.0,
        "dot_count": count / 35,
        "dot_size": size,
        "dot_unlikeness": unlike * (1 - hollow),
        "dot_stretch": stretch * (1 - hollow),
        "dot_hollow": hollow,
        "cluster_stretch": cluster_stretch,
        "cluster_spread": spread,
    }
    return rng.uniform(0.8, 4.0) * dots


def rotate(points: np.ndarray, turn: float) -> np.ndarray:
    """Turn points (n, 2) by an angle in radians."""
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def draw_textures(count: int, *, seed: int, n_jobs: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` textures in parallel: images uint8 (count, 64, 64), targets float32 (count, len(TARGETS))."""

    def draw(block: np.ndarray) -> tuple[np.ndarray, ...]:
        cv2.setNumThreads(1)
        pairs = [draw_texture(np.random.default_rng((seed, index))) for index in block]
        return tuple(np.stack(column) for column in zip(*pairs, strict=True))

    blocks = np.array_split(np.arange(count), max(count // 250, 1))
    images, truth = zip(*Parallel(n_jobs=n_jobs)(delayed(draw)(block) for block in blocks), strict=True)
    return np.concatenate(images), np.concatenate(truth)


def build_model(keras: Any) -> tuple[Any, Any]:
    """Return (backbone, model): the model predicts the targets from three blocks, so that all of them learn."""
    backbone = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.98  # 0.999 would lag behind in so few steps
    blocks = [backbone.get_layer(name).output for name in ("block_6_expand_relu", "block_13_expand_relu", "out_relu")]
    entry = keras.Input((SIDE, SIDE, 1))
    scaled = keras.layers.Concatenate()([keras.layers.Rescaling(1 / 127.5, offset=-1)(entry)] * 3)
    features = keras.Model(backbone.input, blocks)(scaled)
    pooled = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(feature) for feature in features])
    return backbone, keras.Model(entry, keras.layers.Dense(len(TARGETS), activation="sigmoid")(pooled))


def train(out: Path = WEIGHTS_FILE) -> dict[str, float]:
    """Train the backbone, save it, and return {target: R^2}, the share of the variance explained on unseen textures.

    `out` is a Keras `.weights.h5` file; `MobileNetV2(alpha=0.35, include_top=False, weights=out, input_shape=(96, 96,
    3))` reads it. Values are rounded to float16, so that the file compresses.
    """
    tf = load_tensorflow()
    tf.keras.utils.set_random_seed(SEED)
    start = time.time()
    images, truth = draw_textures(TEXTURES + UNSEEN, seed=SEED)
    print(f"{len(images)} textures drawn in {time.time() - start:.0f} s", flush=True)
    backbone, model = build_model(tf.keras)

    def orient(batch: Any, target: Any) -> tuple[Any, Any]:  # no target depends on the direction
        batch = tf.cast(batch, tf.float32)[..., None]
        batch = tf.image.rot90(tf.image.random_flip_left_right(batch), tf.random.uniform([], 0, 4, tf.int32))
        return tf.ensure_shape(batch, (None, SIDE, SIDE, 1)), target

    data = tf.data.Dataset.from_tensor_slices((images[UNSEEN:], truth[UNSEEN:]))
    data = data.shuffle(8192, seed=SEED).batch(BATCH_SIZE, drop_remainder=True).map(orient).prefetch(2)
    steps = EPOCHS * (TEXTURES // BATCH_SIZE)
    decay = tf.keras.optimizers.schedules.CosineDecay
    rate = decay(1e-4, steps, alpha=0.01, warmup_target=3e-3, warmup_steps=steps // 20)
    model.compile(tf.keras.optimizers.Adam(rate), "binary_crossentropy")
    model.fit(data, epochs=EPOCHS, verbose=2)
    backbone.set_weights([weight.astype(np.float16).astype(np.float32) for weight in backbone.get_weights()])
    backbone.save_weights(out)
    predicted = model.predict(images[:UNSEEN, ..., None].astype(np.float32), batch_size=200, verbose=0)
    residual = ((predicted - truth[:UNSEEN]) ** 2).mean(0) / truth[:UNSEEN].var(0)
    return {name: round(float(1 - value), 3) for name, value in zip(TARGETS, residual, strict=True)}


if __name__ == "__main__":
    scores = train()
    print(f"R^2 on unseen textures, mean {np.mean(list(scores.values())):.3f}:", scores)
