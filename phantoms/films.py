"""Draw the mammograms of phantom patients.

The drawing adds layers in film density, as a mammogram is a projection: compressed thickness, glandular tissue with a
power-law spectrum 1/f^beta (beta near 3; Burgess, Jacobson and Judy, Med Phys 2001;28:419), ducts that converge on the
nipple, ligaments, vessels, pectoral muscle, skin, lesions, then tone curve, blur and grain. All places are (y, x) in
px. Tissue is drawn at half the resolution, lesions at the full one.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.lesions import add_lesion, add_speck, draw_curve
from phantoms.noise import random_fields, sigmoid
from phantoms.patients import ACQUISITIONS, MM, VIEWS, Acquisition, Lesion, Patient


@dataclass(frozen=True)
class Film:
    """One drawn film."""

    image: np.ndarray  # float32 (h, w), 0 black ... 1 white
    lesions: tuple[Lesion, ...]
    masks: tuple[np.ndarray, ...]  # bool (h, w), one a lesion
    boxes: tuple[tuple[int, int, int, int], ...]  # crop of each lesion: top, bottom, left, right


@dataclass(frozen=True)
class Geometry:
    """Where breast, nipple and pectoral muscle lie on one film; the chest wall is the left edge."""

    y: np.ndarray  # float32 (h / 2, w / 2), row of each pixel on the whole film
    x: np.ndarray  # float32 (h / 2, w / 2), column of each pixel on the whole film
    depth: float  # px from chest wall to nipple
    nipple: tuple[float, float]
    inward: np.ndarray  # float32 (h / 2, w / 2), px below the skin; 0 outside the breast
    muscle: np.ndarray | None  # float32 (h / 2, w / 2), px within the pectoral muscle; None where it is not seen


def draw_film(patient: Patient, side: str, view: str) -> Film:
    """Draw one film of about 1,040 x 720 px, the chest wall at the left edge of a left breast.

    `side` is LEFT or RIGHT, `view` CC or MLO; a side without findings is drawn as a normal one.
    """
    hospital = ACQUISITIONS[patient.acquisition]
    rng = np.random.default_rng((*patient.seed, 90 + 2 * VIEWS.index(view) + (side == "RIGHT")))
    body = np.random.default_rng((*patient.seed, 88 + VIEWS.index(view)))  # shared by both breasts
    shape = ((1024, 1056)[int(body.random() < 0.5)], (672, 736)[int(body.random() < 0.5)])
    geometry = draw_geometry(rng, body, shape, view, patient.size)
    small = draw_tissue(rng, body, geometry, patient.density)
    signal = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    lesions = [lesion for lesion in patient.lesions if lesion.side == side]
    masks: list[np.ndarray] = []
    taken: list[tuple] = []
    for lesion in lesions:
        centre = find_place(rng, geometry, lesion, taken)
        taken.append((*centre, lesion.diameter))
        masks.append(add_lesion(rng, signal, lesion, centre))
    add_loose_specks(rng, signal)
    image = expose(rng, body, signal, hospital)
    if side == "RIGHT":
        image, masks = image[:, ::-1].copy(), [mask[:, ::-1].copy() for mask in masks]
    mark_film(rng, image, hospital, side, view)
    boxes = tuple(crop_box(rng, mask, lesion) for mask, lesion in zip(masks, lesions, strict=True))
    for (top, _, left, _), lesion in zip(boxes, lesions, strict=True):
        if lesion.marked:
            image[top + 8 : top + 15, left + 8 : left + 15] = 0.95
    return Film(image, tuple(lesions), tuple(masks), boxes)


def draw_geometry(rng: Generator, body: Generator, shape: tuple[int, int], view: str, size: float) -> Geometry:
    """Place breast, nipple and pectoral muscle: `body` is the woman's own stream, `rng` that of the film."""
    h, w = shape
    y, x = 2 * np.mgrid[0 : h // 2, 0 : w // 2].astype(np.float32)
    depth = w * size * body.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02)
    if view == "CC":
        nipple_y, droop = h * (0.5 + body.normal(0, 0.03)), h * rng.normal(0, 0.02)
        above, below = h * body.uniform(0.34, 0.46), h * body.uniform(0.34, 0.46)
    else:
        nipple_y, droop = h * body.uniform(0.50, 0.60), h * body.uniform(0.0, 0.10)
        above, below = h * body.uniform(0.60, 0.95), h * body.uniform(0.27, 0.36)
    turns = np.linspace(-np.pi / 2, np.pi / 2, 241)
    power = np.where(turns < 0, body.uniform(1.75, 2.5), body.uniform(1.9, 2.7))
    out = np.cos(turns).clip(1e-6) ** (2 / power)
    down = np.sign(turns) * np.abs(np.sin(turns)) ** (2 / power)
    for order in (2, 3, 4, 5):
        out = out * (1 + rng.normal(0, 0.010) * np.sin(order * turns + order))
    rows = nipple_y + np.where(down < 0, above, below) * down + droop * out**2
    in_profile = body.random() < 0.75
    columns = depth * out + in_profile * rng.uniform(10, 17) * np.exp(-(((rows - nipple_y - droop) / 13) ** 4))
    canvas = np.zeros(y.shape, np.uint8)
    ends = [[-80, rows[-1]], [-80, rows[0]]]
    cv2.fillPoly(canvas, [np.round(np.vstack([np.stack([columns, rows], 1), ends]) * 8).astype(np.int32)], 1, 8, 4)
    if view == "MLO" and body.random() < 0.6:  # the fold below the breast
        low, wide = int(rows[-1]) // 2, int(0.16 * depth)
        fold = [[-9, low - 40], [wide // 2, low + 20], [wide, h], [-9, h]]
        cv2.fillPoly(canvas, [np.array(fold, np.int32)], 1)
    inward = 2 * cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    muscle = None
    if view == "MLO" or body.random() < 0.25:
        reach, length = depth * body.uniform(0.36, 0.62), h * body.uniform(0.42, 0.66)
        along = np.clip(y / length, 0, 1) if view == "MLO" else 0.0 * y
        bulge = body.uniform(-0.05, 0.22) * np.sin(np.pi * along)
        edge = reach * (1 - along + bulge) if view == "MLO" else 0.06 * w * (1 - ((y - h / 2) / (0.3 * h)) ** 2)
        muscle = (edge - x).astype(np.float32)
    return Geometry(y, x, depth, (float(nipple_y + droop), float(depth)), inward, muscle)


def draw_tissue(rng: Generator, body: Generator, geometry: Geometry, density: int) -> np.ndarray:
    """Return the brightness of the breast without lesions, float32 (h / 2, w / 2), about 0 ... 1."""
    h, w = geometry.x.shape
    inward, depth, (nipple_y, nipple_x) = geometry.inward, geometry.depth, geometry.nipple
    small = (h // 2, w // 2)  # both breasts of a woman share a part of the pattern
    pairs = zip(random_fields(body, small, beta=2.9), random_fields(rng, small, beta=2.9), strict=True)
    gland, cloud = (cv2.resize(0.7 * hers + 0.714 * own, (w, h), interpolation=cv2.INTER_CUBIC) for hers, own in pairs)
    thickness = np.minimum(inward / 6, 1) * (0.20 + 0.80 * np.sqrt(np.minimum(inward / (0.20 * depth), 1)))
    # glandular tissue lies behind the nipple and spares the fat below the skin
    dx, dy = (geometry.x - 0.55 * nipple_x) / depth, (geometry.y - nipple_y + 0.10 * h) / (1.6 * h)
    bias = {1: -1.7, 2: -0.8, 3: 0.2, 4: 1.2}[density] + 1.3 - 3.2 * np.sqrt(dx**2 + dy**2)
    bias -= 1.4 * np.exp(inward * (-1 / (0.05 * depth)))
    glandular = sigmoid(2.2 * (1.1 * gland + bias))
    fibres = draw_fibres(rng, body, geometry)
    fat = rng.uniform(0.32, 0.42)
    signal = fat + rng.uniform(0.13, 0.22) * glandular + 0.032 * cloud + fibres * (0.014 + 0.023 * glandular)
    signal += 0.09 * draw_vessels(rng, geometry)
    signal *= thickness
    signal += 0.06 * np.exp(-(((inward - 5) / 3) ** 2))  # skin
    areola = np.exp(-(((geometry.y - nipple_y) ** 2 + (geometry.x - nipple_x + 16) ** 2) / 26**2))
    signal += 0.07 * areola * (inward > 0)
    if geometry.muscle is not None:
        shade = sigmoid(geometry.muscle / 5) * thickness
        signal += shade * (rng.uniform(0.15, 0.22) + 0.02 * cloud - 0.6 * (signal - fat))
    return signal.astype(np.float32)


def draw_fibres(rng: Generator, body: Generator, geometry: Geometry) -> np.ndarray:
    """Return ducts, ligaments and strands, float32 (h / 2, w / 2), mean about 0: streaks that bend with the tissue.

    Streaks are a random field read along stretched coordinates: towards the nipple for ducts, along two directions
    that bend for the rest; thin bright lines are where such a field crosses zero.
    """
    h, w = geometry.x.shape
    bends = [
        cv2.resize(field, (w, h), interpolation=cv2.INTER_CUBIC)
        for field in random_fields(rng, (h // 16, w // 16), beta=3.5, high=0.10)
    ]
    nipple_y, nipple_x = geometry.nipple
    distance, angle = cv2.cartToPolar(nipple_x + 40 - geometry.x, geometry.y - nipple_y)
    angle = np.where(angle > np.pi, angle - np.float32(2 * np.pi), angle)
    one = 0.3 + sigmoid(4 * bends[0] * bends[1])  # in most places one direction prevails
    ways = [(0.06 * distance, 110 * angle + 7 * bends[0], np.full_like(one, 0.9))]
    for bend, weight in zip(bends, (one, 1.6 - one), strict=True):
        turn = body.uniform(0, np.pi)
        cos, sin = math.cos(turn), math.sin(turn)
        along, across = geometry.x * cos + geometry.y * sin, geometry.y * cos - geometry.x * sin
        ways.append((0.06 * along, 0.38 * across + 23 * bend, weight))
    total: np.ndarray = np.full_like(geometry.x, -0.45)
    for column, row, weight in ways:
        fields = np.dstack(random_fields(rng, (256, 256), beta=2.5, low=0.010))
        read = cv2.remap(fields, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        streak, line = read[..., 0], read[..., 1]  # views: cv2.split would copy, and takes half as long again
        total += weight * (streak + 1.7 * np.maximum(1 - 5 * np.abs(line), 0) * (streak > -0.3))
    return total


def draw_vessels(rng: Generator, geometry: Geometry) -> np.ndarray:
    """Return some winding vessels between chest wall and nipple, float32 (h / 2, w / 2), 0 ... 1."""
    h, w = geometry.x.shape
    canvas = np.zeros((h, w), np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        steps = np.linspace(0, rng.uniform(0.4, 0.9), 24)
        start, end = rng.uniform(0.1, 0.9) * h, geometry.nipple[0] / 2 + rng.normal(0, 0.1) * h
        bend = rng.normal(0, 0.03, 3) * h
        rows = start + (end - start) * steps**1.5 + sum(b * np.sin((k + 2) * 3 * steps) for k, b in enumerate(bend))
        points = np.stack([rows, steps * geometry.nipple[1] / 2], 1)
        draw_curve(canvas, points, np.full(24, rng.uniform(90, 220)), int(rng.integers(2, 4)))
    return cv2.GaussianBlur(canvas, (0, 0), 0.9).astype(np.float32) / 255


def find_place(rng: Generator, geometry: Geometry, lesion: Lesion, taken: list[tuple]) -> tuple[float, float]:
    """Return (y, x) inside the breast, off the film's edge and off the other lesions' `taken` (y, x, diameter).

    The lesion's distance from the nipple is the same in both views, up to a few per cent.
    """
    h, w = 2 * geometry.x.shape[0], 2 * geometry.x.shape[1]
    nipple_y, nipple_x = geometry.nipple
    away, direction = lesion.place
    room = 0.55 * lesion.diameter
    for attempt in range(60):
        turn = np.clip(direction + rng.normal(0, 0.12 + 0.03 * attempt), -1, 1) * 1.1
        reach = np.clip(away + rng.normal(0, 0.02 + 0.004 * attempt), 0.15, 0.92) * nipple_x
        y, x = nipple_y + reach * np.sin(turn), nipple_x - reach * np.cos(turn)
        inside = room + 4 < y < h - room - 4 and room + 4 < x < w - room - 4
        if not inside or geometry.inward[int(y / 2), int(x / 2)] < room * 0.8:
            continue
        if all(np.hypot(y - other[0], x - other[1]) > 0.8 * (lesion.diameter + other[2]) for other in taken):
            return float(y), float(x)
    return float(nipple_y), float(np.clip(0.5 * nipple_x, room + 5, w - room - 5))


def add_loose_specks(rng: Generator, signal: np.ndarray) -> None:
    """Add some round benign calcifications anywhere in the breast, in place."""
    for _ in range(int(rng.poisson(1.5))):
        patch = np.zeros((96, 96), np.uint8)
        place = rng.integers(0, [size - 24 for size in signal.shape])
        add_speck(rng, patch, np.array([48.0, 48.0]), 4 * MM * rng.uniform(0.3, 1.2), rough=0.08, shade=200)
        part = signal[place[0] : place[0] + 24, place[1] : place[1] + 24]
        speck = cv2.resize(patch, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        part += rng.uniform(0.1, 0.4) * speck * np.clip(part / 0.25, 0, 1)


def expose(rng: Generator, body: Generator, signal: np.ndarray, how: Acquisition) -> np.ndarray:
    """Turn the signal into brightness on film: blur, tone curve, grain, dust."""
    gain = float(np.clip(np.exp(rng.normal(0, how.contrast)), 0.4, 2.0))  # about the grey of tissue
    tone = np.linspace(0, 2, 4096, dtype=np.float32)  # a table of what follows, for brightness 0 ... 2
    tone = np.maximum(tone + (gain - 1) * (tone - 0.42) * np.minimum(5 * tone, 1), 0)  # air stays black
    above = np.maximum(tone - 0.7, 0)
    tone -= above * above / (above + 0.3)  # the shoulder of the film: nothing burns out
    tone += body.uniform(*how.curve) * tone * (1 - tone)
    tone = how.base + (0.97 - how.base) * tone
    blurred = cv2.GaussianBlur(signal, (0, 0), how.blur)
    image: np.ndarray = tone[np.clip(blurred * (4095 / 2), 0, 4095).astype(np.uint16)]
    noise = rng.standard_normal((512, 512), dtype=np.float32)
    noise = how.grain_mix * noise + (2 - how.grain_mix) * cv2.GaussianBlur(noise, (0, 0), 0.9)
    image += np.tile(np.float32(rng.uniform(*how.grain)) * noise, (3, 2))[: image.shape[0], : image.shape[1]]
    for _ in range(int(rng.poisson(how.dust))):
        y, x = int(rng.integers(0, image.shape[0])), int(rng.integers(0, image.shape[1]))
        image[y : y + 1 + int(rng.integers(0, 2)), x : x + 1] += rng.choice([-0.3, 0.3])
    return np.clip(image, 0, 1, out=image)


def mark_film(rng: Generator, image: np.ndarray, hospital: Acquisition, side: str, view: str) -> None:
    """Add what else a scanned film shows, to some films, in place: label, bright border, tape, a long scratch."""
    h, w = image.shape
    has_label, has_edge, has_tape, has_scratch = rng.random(4) < (
        hospital.burn_in,
        hospital.film_edge,
        hospital.film_edge,
        hospital.film_edge,
    )
    marks, low, outer = np.zeros((h, w), np.uint8), rng.random() < 0.5, side == "LEFT"
    if has_tape:  # at a corner away from the chest wall
        middle = (w - 50 if outer else 50, 40 if low else h - 40)
        corners = cv2.boxPoints((middle, (float(rng.uniform(60, 110)), 30.0), float(rng.uniform(-50, 50))))
        cv2.fillPoly(marks, [corners.astype(np.int32)], rng.uniform(50, 110), cv2.LINE_AA)
    if has_label:
        text = hospital.label.format(side=side[0], view=view)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.9, 2)
        place = (w - width - 20 if outer else 20, h - 24 if low else height + 24)
        if hospital.lead_marker:
            corner = (place[0] + width + 9, place[1] - height - 10)
            cv2.rectangle(marks, (place[0] - 9, place[1] + 10), corner, rng.uniform(60, 120), 2)
        cv2.putText(marks, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.9, rng.uniform(190, 250), 2, cv2.LINE_AA)
    if has_scratch:
        start = rng.uniform(0, h), rng.uniform(0, w)
        points = np.array([start, (start[0] + rng.normal(0, 200), start[1] + rng.normal(0, 30))])
        draw_curve(marks, points, np.array([rng.uniform(140, 230)]), 1)
    if has_label or has_tape or has_scratch:
        np.maximum(image, marks.astype(np.float32) / 255, out=image)
    if has_edge:
        wide, edge = int(rng.integers(3, 22)), int(rng.integers(0, 3))
        away = np.s_[:, -wide:] if outer else np.s_[:, :wide]  # from the chest wall
        image[(np.s_[:wide], np.s_[-wide:], away)[edge]] = rng.choice([0.0, rng.uniform(0.85, 1.0)])


def crop_box(rng: Generator, mask: np.ndarray, lesion: Lesion) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right): the lesion takes 41 to 60 % of the side, its centre is off the middle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    share, aspect = rng.uniform(0.41, 0.60), rng.uniform(0.88, 1.14)
    side = 1.1 * lesion.diameter / share
    h = max(side * aspect, np.ptp(rows) * 1.06)
    w = max(side / aspect, np.ptp(columns) * 1.06)
    middle = (rows.mean() + rng.normal(0, 0.06) * h, columns.mean() + rng.normal(0, 0.06) * w)
    top = int(np.clip(middle[0] - h / 2, 0, max(mask.shape[0] - h, 0)))
    left = int(np.clip(middle[1] - w / 2, 0, max(mask.shape[1] - w, 0)))
    return top, min(top + int(h), mask.shape[0]), left, min(left + int(w), mask.shape[1])
