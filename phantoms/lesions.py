"""Draw masses, architectural distortions and calcifications into a phantom film, as (y, x) px at full resolution."""

import math

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.noise import random_fields, sigmoid
from phantoms.patients import DISTORTION, MASS, MM, TABLES, Lesion

GRAIN = 0.70  # brightness that the densest grain adds, share of full scale
SCALE = 4  # calcifications are drawn this much larger and averaged down
MARGIN_WIDTHS, ROUGHNESS, LOBES, GRAINS = (TABLES[name] for name in ("margin_widths", "roughness", "lobes", "grains"))


def add_lesion(rng: Generator, signal: np.ndarray, lesion: Lesion, centre: tuple[float, float]) -> np.ndarray:
    """Add a lesion to `signal`, float32 (h, w), in place, and return its mask, bool (h, w)."""
    own = np.random.default_rng((*lesion.seed, 1))  # what the views share
    half = int(1.25 * lesion.diameter) + 8
    offset = np.array([place - round(place) for place in centre], np.float32)
    grid = np.indices((2 * half + 1,) * 2, np.float32) - half - offset[:, None, None]
    mask = np.zeros_like(signal, bool)
    top, left = round(centre[0]) - half, round(centre[1]) - half
    bottom, right = min(top + 2 * half + 1, mask.shape[0]), min(left + 2 * half + 1, mask.shape[1])
    on_film = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    on_patch = (slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left))
    if lesion.margins == "SPICULATED" and lesion.kind == MASS:
        signal[on_film] = pull_tissue(signal[on_film], grid[(slice(None), *on_patch)], lesion.diameter / 2)
    draw = draw_mass if lesion.kind == MASS else draw_calcifications
    patch, region = draw(rng, own, lesion, grid)
    signal[on_film] += patch[on_patch] * np.clip(signal[on_film] / 0.25, 0, 1)  # nothing outside the breast
    mask[on_film] = region[on_patch]
    return mask


def pull_tissue(tissue: np.ndarray, grid: np.ndarray, radius: float) -> np.ndarray:
    """Stretch tissue, float32 (n, m), along the ways to the middle of `grid` (2, n, m), as a scar or a tumour does."""
    y, x = grid
    away = np.hypot(y, x) / (1.6 * radius) + 1e-3
    shrink = np.maximum(away, 0.08) ** -0.45 - 1  # places come from the radius away^0.55: strands point to the middle
    weight = np.exp(-(away**4)) * shrink
    rows, columns = np.indices(tissue.shape, np.float32)
    return cv2.remap(tissue, columns + weight * x, rows + weight * y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def outline_distance(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> np.ndarray:
    """Return the distance from a mass's outline in px, negative inside: one or more balls that melt into each other."""
    radius, turn = lesion.diameter / 2, own.uniform(0, 2 * np.pi) + rng.normal(0, 0.25)
    cos, sin = math.cos(turn), math.sin(turn)
    along, across = grid[1] * cos + grid[0] * sin, grid[0] * cos - grid[1] * sin
    flat = {"ROUND": 0.94, "OVAL": own.uniform(0.58, 0.78)}.get(lesion.shape, own.uniform(0.70, 0.95))
    flat *= rng.uniform(0.96, 1.04)
    along, across = along * math.sqrt(flat), across / math.sqrt(flat)
    balls = [(0.0, 0.0, 0.55 if lesion.shape in LOBES else 1.0)]
    for few, many, near, far, small, large in (LOBES[word] for word in (lesion.shape, lesion.margins) if word in LOBES):
        count = int(own.integers(few, many))
        turns = np.arange(count) * 2 * np.pi / count + own.uniform(-0.4, 0.4, count)
        away = own.uniform(near, far, count) * rng.uniform(0.96, 1.04, count)
        sizes = own.uniform(small, large, count)
        balls += zip(away * np.cos(turns), away * np.sin(turns), sizes, strict=True)
    melt, total = 0.07 * radius, np.zeros_like(along)
    for v, u, size in np.array(balls).tolist():
        total += np.exp(np.minimum((size * radius - np.hypot(along - u * radius, across - v * radius)) / melt, 60))
    return -melt * np.log(total + 1e-30)


def draw_mass(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the brightness that a mass adds, float32 (n, n), and the region that a reader would outline, bool (n, n).

    What comes from `own`, the lesion's stream, is the same in all films; `rng` is the film's. `grid`, float32
    (2, n, n), says how far each pixel lies below and right of the lesion's middle, px.
    """
    (y, x), radius = grid, lesion.diameter / 2
    distance = outline_distance(rng, own, lesion, grid)
    region = distance < 0.04 * radius
    fray, cloud = random_fields(rng, x.shape, beta=2.6, low=1 / (2.5 * radius), high=4 / radius)
    sharp, soft = MARGIN_WIDTHS[lesion.margins]
    depth = -(distance + ROUGHNESS[lesion.margins] * radius * fray)
    rim = sigmoid(depth / ((sharp + lesion.edge * (soft - sharp)) * radius))
    body = rim * (0.65 + 0.35 * np.tanh(np.maximum(depth, 0) / (0.5 * radius))) * (1 + 0.14 * cloud)
    if lesion.margins in ("CIRCUMSCRIBED", "OBSCURED"):  # fat that is pressed aside
        body -= 0.18 * np.exp(-(((distance / radius - 0.10) / 0.09) ** 2))
    if lesion.shape == DISTORTION:  # pulls at the tissue, and has no body
        body *= 0.22
    if lesion.margins == "SPICULATED":
        body = body + (1 - 0.4 * np.clip(body, 0, 1)) * 1.3 * draw_spicules(rng, own, lesion, grid)
    near = np.exp(-((np.hypot(y, x) / (2.0 * radius)) ** 4))
    if lesion.hidden:  # tissue of the same brightness lies over one side
        turn = rng.uniform(0, 2 * np.pi)
        beyond = (x * math.cos(turn) + y * math.sin(turn)) / radius - 0.75 + 0.9 * lesion.hidden
        veil = sigmoid(3.5 * beyond + 1.8 * cloud) * near * rng.uniform(0.6, 1.0)
        body = 1 - (1 - body) * (1 - veil)
    turn = rng.uniform(0, 2 * np.pi)
    slope = rng.normal(0, 0.035) * (x * math.cos(turn) + y * math.sin(turn)) / radius
    return (lesion.contrast * body + near * slope).astype(np.float32), region


def draw_spicules(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> np.ndarray:
    """Draw many faint curved lines of unequal length that leave the middle in bundles, float32 (n, n), 0 ... 1."""
    radius, canvas = lesion.diameter / 2, np.zeros(grid.shape[1:], np.uint8)
    middle = -grid[:, 0, 0]  # (y, x) of the lesion's middle on the canvas
    count, bundles = int(own.integers(34, 70)), rng.uniform(0, 2 * np.pi, int(own.integers(5, 10)))
    for turn in rng.choice(bundles, count) + rng.normal(0, 0.30, count):
        start, length = rng.uniform(0.15, 0.7), rng.gamma(2.2, 0.34)
        steps = radius * np.linspace(start, start + 0.35 + length, 9)
        turns = turn + rng.normal(0, 0.10) + rng.normal(0, 0.11) * (steps / radius) ** 1.3
        points = np.stack([middle[0] + steps * np.sin(turns), middle[1] + steps * np.cos(turns)], 1)
        draw_curve(canvas, points, rng.uniform(80, 210) * np.linspace(1, 0.1, 9), 2 if rng.random() < 0.25 else 1)
    return cv2.GaussianBlur(canvas, (0, 0), 0.8).astype(np.float32) / 255


def draw_curve(canvas: np.ndarray, points: np.ndarray, shades: np.ndarray, width: int) -> None:
    """Draw a line through `points` (n, 2) (y, x) on a uint8 canvas, in place, each piece in its shade 0 ... 255."""
    ends = np.round(points[:, ::-1] * 16).astype(int).tolist()
    for start, end, shade in zip(ends[:-1], ends[1:], shades, strict=False):
        cv2.line(canvas, start, end, float(shade), width, cv2.LINE_AA, 4)


def draw_calcifications(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the same as `draw_mass` for a group of calcifications."""
    (y, x), side = grid, grid.shape[1]
    canvas = np.zeros((side * SCALE, side * SCALE), np.uint8)
    places, directions, region = scatter_grains(rng, own, lesion, grid)
    for place, direction in zip((places - grid[:, 0, 0] + 0.5) * SCALE, directions, strict=True):
        draw_grain(rng, canvas, lesion.shape, place, direction)
    grains: np.ndarray = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    if lesion.shape == "AMORPHOUS":
        grains = cv2.GaussianBlur(grains, (0, 0), 0.8)
    cloud = random_fields(rng, x.shape, beta=2.8, low=1 / lesion.diameter)[0]
    away = np.hypot(y, x) / (0.55 * lesion.diameter) + 0.25 * cloud
    haze = lesion.contrast * sigmoid(4 * (1 - away)) * (1 + 0.2 * cloud)
    return (GRAIN * grains + haze).astype(np.float32), region


def scatter_grains(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return places of the grains (n, 2) in px about the middle, their directions (n,), and what a reader outlines."""
    (y, x), radius = grid, lesion.diameter / 2
    count, turn = int(own.integers(*GRAINS[lesion.shape][:2])), rng.uniform(0, 2 * np.pi)
    long, short = TABLES["groups"][lesion.margins]
    u = rng.uniform(-1, 1, (count * 8, 2))
    u = u[(u**2).sum(1) < 1][:count]
    directions = np.full(len(u), turn)
    if lesion.margins == "CLUSTERED":
        u *= np.sqrt((u**2).sum(1, keepdims=True)) ** 0.4
    if lesion.margins == "SEGMENTAL":  # a wedge whose tip points to the nipple
        u[:, 1] *= 0.35 + 0.65 * (u[:, 0] + 1) / 2
    if lesion.shape == "VASCULAR":  # patches in the two walls of a winding vessel
        t = np.sort(rng.uniform(-1, 1, len(u)))
        walls = np.where(rng.random(len(u)) < 0.5, 1, -1)
        phase = own.uniform(0, 6)
        u = np.stack([t, 0.30 * np.sin(2.5 * t + phase) + 0.07 * walls], 1)
        directions = directions + np.arctan2(0.75 * np.cos(2.5 * t + phase), 1.25)
        long, short = 1.25, 1.0
    u = u * radius * np.array([long, short])
    cos, sin = np.cos(turn), np.sin(turn)
    places = np.stack([u[:, 0] * sin + u[:, 1] * cos, u[:, 0] * cos - u[:, 1] * sin], 1)
    along, across = x * cos + y * sin, y * cos - x * sin
    region = (along / (radius * long * 1.1 + 3)) ** 2 + (across / (radius * max(short, 0.4) * 1.1 + 3)) ** 2 < 1
    return places, directions, region


def draw_grain(rng: Generator, canvas: np.ndarray, kind: str, place: np.ndarray, direction: float) -> None:
    """Draw one grain at `place` (y, x) of the enlarged canvas, uint8, in place; `direction` is that of its duct."""
    low, high = GRAINS[kind][2:]
    size = MM * SCALE * float(np.clip(np.sqrt(low * high) * np.exp(rng.normal(0, np.log(high / low) / 3)), low, high))
    if kind == "LUCENT_CENTER":
        rim = add_speck(rng, canvas, place, size, rough=0.05, shade=rng.uniform(160, 240))
        hole = place[::-1] + rng.normal(0, 0.05 * size, 2) + rng.uniform(0.58, 0.72) * (rim - place[::-1])
        cv2.fillPoly(canvas, [np.round(hole).astype(np.int32)], rng.uniform(50, 100), cv2.LINE_AA)
    elif kind == "COARSE":  # popcorn: lumps that grew together
        for _ in range(int(rng.integers(4, 8))):
            near = place + rng.normal(0, 0.28 * size, 2)
            add_speck(rng, canvas, near, size * rng.uniform(0.35, 0.75), rough=0.15, shade=rng.uniform(120, 220))
    elif kind in ("FINE_LINEAR_BRANCHING", "VASCULAR"):  # broken casts of a duct, or pieces of a wall
        wanders, pieces = (0.0, 3) if kind == "VASCULAR" else (1.0, int(rng.integers(3, 8)))
        turn, points, shade = direction + wanders * rng.normal(0, 0.45), [place], rng.uniform(95, 185)
        for _ in range(pieces):
            turn += rng.normal(0, 0.05 + 0.2 * wanders)
            points.append(points[-1] + SCALE * MM * rng.uniform(0.15, 0.5) * np.array([np.sin(turn), np.cos(turn)]))
            turn += wanders * (rng.random() < 0.12) * rng.choice([-0.8, 0.8])
        shades = shade * rng.uniform(0.35, 1.0, pieces)
        draw_curve(canvas, np.array(points), shades, max(int(size * rng.uniform(0.7, 1.1)), 2))
    else:
        rough = {"PLEOMORPHIC": 0.45, "AMORPHOUS": 0.25}.get(kind, 0.06)
        dim = {"AMORPHOUS": (110, 220), "PLEOMORPHIC": (70, 190)}.get(kind, (150, 240))
        add_speck(rng, canvas, place, size, rough=rough, shade=rng.uniform(*dim))


def add_speck(
    rng: Generator, canvas: np.ndarray, place: np.ndarray, size: float, *, rough: float, shade: float
) -> np.ndarray:
    """Draw a speck of mean diameter `size` px on a uint8 canvas, in place, and return its outline (12, 2) (x, y)."""
    turns = np.arange(12) * np.pi / 6
    waves = [rng.normal(0, rough / order) * np.cos(order * turns + rng.uniform(0, 6.3)) for order in (1, 2, 3, 4)]
    away = 0.5 * size * np.maximum(1 + np.sum(waves, axis=0), 0.25)
    stretch, turn = 1 + rough * rng.random(), rng.uniform(0, np.pi)
    points = np.stack([away * np.cos(turns) * stretch, away * np.sin(turns) / stretch], 1)
    cos, sin = np.cos(turn), np.sin(turn)
    outline = points @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(place)[::-1]
    cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], float(shade), cv2.LINE_AA, 4)
    return outline
