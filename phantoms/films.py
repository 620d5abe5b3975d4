"""Draw the mammograms of phantom patients.

The drawing adds layers in film density, as a screen-film mammogram is a projection: compressed thickness, glandular
tissue with a power-law spectrum 1/f^beta (beta near 3; Burgess, Jacobson and Judy, Med Phys 2001;28:419), strands that
run to the nipple, pectoral muscle, skin, lesions, then film curve, blur and grain. All places are (y, x) in px.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from scipy import fft

from phantoms.patients import ACQUISITIONS, MASS, VIEWS, Acquisition, Lesion, Patient


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

    y: np.ndarray  # float32 (h, w), row of each pixel
    x: np.ndarray  # float32 (h, w), column of each pixel
    depth: float  # px from chest wall to nipple
    nipple: tuple[float, float]
    inward: np.ndarray  # (h, w), px below the skin, roughly; negative outside the breast
    muscle: np.ndarray | None  # (h, w), above 0 within the pectoral muscle; None in CC


@lru_cache(maxsize=32)
def make_spectrum(shape: tuple[int, ...], beta: float, low: float, high: float) -> np.ndarray:
    """Return the amplitude filter of a 1/f^beta field between two frequencies (cycles a pixel)."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])[None, :])
    amplitude = np.maximum(frequency, 1 / max(shape)) ** (-beta / 2)
    amplitude *= np.exp(-((frequency / high) ** 2)) * (1 - np.exp(-((frequency / low) ** 2)))
    return (amplitude / np.sqrt((amplitude**2).sum())).astype(np.float32)


def random_fields(
    rng: Generator, shape: tuple[int, ...], *, beta: float = 3.0, low: float = 1e-9, high: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return two independent Gaussian fields of mean 0 and variance 1 with the power spectrum 1/f^beta.

    Args:
        rng: the source of randomness.
        shape: (h, w) in px; both fields are float32 of this shape.
        beta: exponent of the power spectrum.
        low, high: frequencies (cycles a pixel) below and above which the spectrum falls off.
    """
    white = rng.standard_normal((2, *shape), dtype=np.float32)
    field = fft.ifft2((white[0] + 1j * white[1]) * make_spectrum(tuple(shape), beta, low, high))
    field *= field.size
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)); never overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def draw_film(patient: Patient, side: str, view: str) -> Film:
    """Draw one film of about 640 x 480 px, the chest wall at the left edge of a left breast.

    Args:
        patient: whose film.
        side: LEFT or RIGHT; a side without findings is drawn as a normal one.
        view: CC or MLO.
    """
    hospital = ACQUISITIONS[patient.acquisition]
    rng = np.random.default_rng((*patient.seed, 90 + 2 * VIEWS.index(view) + (side == "RIGHT")))
    body = np.random.default_rng((*patient.seed, 89))  # shared by all films of the woman
    shape = (int(rng.choice([600, 640, 672])), int(rng.choice([432, 480])))
    geometry = draw_geometry(rng, body, shape, view)
    signal = draw_tissue(rng, geometry, patient.density)
    lesions = [lesion for lesion in patient.lesions if lesion.side == side]
    masks: list[np.ndarray] = []
    taken: list[tuple] = []
    for lesion in lesions:
        centre = find_place(rng, geometry, lesion, taken)
        taken.append((*centre, lesion.diameter))
        masks.append(add_lesion(rng, signal, lesion, centre))
    image = expose(rng, body, signal, geometry.inward > 0, hospital)
    if side == "RIGHT":
        image, masks = image[:, ::-1].copy(), [mask[:, ::-1].copy() for mask in masks]
    burn_in(rng, image, hospital, side, view)
    boxes = tuple(crop_box(rng, mask, lesion) for mask, lesion in zip(masks, lesions, strict=True))
    return Film(image, tuple(lesions), tuple(masks), boxes)


def draw_geometry(rng: Generator, body: Generator, shape: tuple[int, int], view: str) -> Geometry:
    """Place breast, nipple and pectoral muscle: `body` is the woman's own stream, `rng` that of the film."""
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    depth = w * body.uniform(0.62, 0.88) * rng.uniform(0.96, 1.04)
    if view == "CC":
        nipple_y, above, below = h * rng.uniform(0.46, 0.54), h * body.uniform(0.38, 0.47), h * body.uniform(0.38, 0.47)
    else:
        nipple_y, above, below = h * rng.uniform(0.56, 0.64), h * body.uniform(0.62, 0.85), h * body.uniform(0.32, 0.37)
    power = body.uniform(1.9, 2.4)
    wobble = rng.normal(0, 0.012, 4).tolist()  # an array's own floats would make all others float64
    half = np.where(y < nipple_y, np.float32(above), np.float32(below))
    down = np.abs(y - nipple_y) / half
    angle = np.arctan2(y - nipple_y, x + 1)
    across = depth * (1 + sum(wobble[k] * np.sin((k + 1.5) * angle + k) for k in range(4)))
    radius = ((x / across) ** power + down**power) ** (1 / power)
    inward = (1 - radius) * depth  # px below the skin, roughly
    nipple = (nipple_y, float(depth + inward[int(nipple_y), int(min(depth, w - 1))]))  # on the contour
    bump = 9 - np.hypot(x - nipple[1] + 2, (y - nipple[0]) * 0.7)
    inward = np.maximum(inward, np.minimum(bump, 5))
    muscle = None
    if view == "MLO":
        wide, high = depth * body.uniform(0.38, 0.58), h * body.uniform(0.42, 0.62)
        muscle = 1 - x / wide - y / high + 0.10 * np.sin(np.pi * np.clip(y / high, 0, 1))
    return Geometry(y, x, depth, nipple, inward, muscle)


def draw_tissue(rng: Generator, geometry: Geometry, density: int) -> np.ndarray:
    """Return the brightness of the breast without lesions, float32, about 0 ... 1."""
    h, w = geometry.x.shape
    small = (h // 2, w // 2)
    inward, depth, (nipple_y, nipple_x) = geometry.inward, geometry.depth, geometry.nipple
    fields = random_fields(rng, small, beta=3.0)
    gland, cloud = (cv2.resize(field, (w, h), interpolation=cv2.INTER_CUBIC) for field in fields)
    thickness = np.clip(inward / (0.22 * depth), 0, 1)
    thickness = np.where(inward > 0, 0.22 + 0.78 * np.sqrt(thickness), 0).astype(np.float32)
    # glandular tissue lies behind the nipple and spares the fat below the skin
    reach = np.hypot((geometry.x - 0.55 * nipple_x) / depth, (geometry.y - nipple_y) / (0.8 * h))
    below_skin = np.exp(-np.maximum(inward, 0) / (0.05 * depth))
    bias = {1: -1.5, 2: -0.7, 3: 0.25, 4: 1.2}[density] + 1.1 - 3.2 * reach - 1.2 * below_skin
    glandular = sigmoid(2.2 * (0.9 * gland + bias)).astype(np.float32)
    strands = draw_strands(rng, geometry)
    fat = rng.uniform(0.30, 0.40)
    signal = fat + rng.uniform(0.20, 0.27) * glandular + 0.040 * cloud + strands * (0.025 + 0.040 * glandular)
    signal *= thickness
    signal += 0.07 * np.exp(-(((inward - 4) / 2.5) ** 2))  # skin
    if geometry.muscle is not None:
        shade = sigmoid(geometry.muscle * depth / 9) * thickness
        signal += shade * (rng.uniform(0.13, 0.20) + 0.02 * gland - 0.5 * (signal - fat))
    return signal.astype(np.float32)


def draw_strands(rng: Generator, geometry: Geometry) -> np.ndarray:
    """Return ligaments, ducts and vessels as thin bright curves, most of them on their way to the nipple.

    A curve is where a smooth random field crosses zero; fields stretched along the way to the nipple give curves
    that run there.
    """
    h, w = geometry.x.shape
    small = (h // 2, w // 2)
    nipple_y, nipple_x = geometry.nipple
    dy, dx = geometry.y - nipple_y, geometry.x - nipple_x - 30
    distance, angle = np.hypot(dy, dx), np.arctan2(dy, -dx)
    along = np.mod(distance * 0.28, small[1] - 1).astype(np.float32)
    across = np.mod((angle + np.pi) * small[0] / (2 * np.pi) * 1.5, small[0] - 1).astype(np.float32)
    total = np.zeros((h, w), np.float32)
    for low, high, sharpness in ((0.02, 0.06, 5.0), (0.04, 0.13, 4.0)):
        fields = random_fields(rng, small, beta=1.0, low=low, high=high)
        radial = cv2.remap(fields[0], along, across, cv2.INTER_CUBIC)
        free = cv2.resize(fields[1], (w, h), interpolation=cv2.INTER_CUBIC)
        total += np.exp(-((radial * sharpness) ** 2)) + 0.7 * np.exp(-((free * sharpness) ** 2))
    patchy = cv2.resize(random_fields(rng, (h // 8, w // 8), beta=2.0)[0], (w, h), interpolation=cv2.INTER_CUBIC)
    return total * sigmoid(1.5 * patchy + 0.2).astype(np.float32) - 0.3


def find_place(rng: Generator, geometry: Geometry, lesion: Lesion, taken: list[tuple]) -> tuple[float, float]:
    """Return (y, x) inside the breast, off the film's edge and off the other lesions' `taken` (y, x, diameter)."""
    h, w = geometry.x.shape
    nipple_y, nipple_x = geometry.nipple
    away, direction = lesion.place
    room = 0.55 * lesion.diameter
    for attempt in range(60):
        loose = 0.15 + 0.02 * attempt
        turn = np.clip(direction + rng.normal(0, loose), -1, 1) * 1.1
        reach = np.clip(away + rng.normal(0, loose * 0.5), 0.15, 0.92) * nipple_x
        y, x = nipple_y + reach * np.sin(turn), nipple_x - reach * np.cos(turn)
        inside = room + 4 < y < h - room - 4 and room + 4 < x < w - room - 4
        if not inside or geometry.inward[int(y), int(x)] < room * 0.8:
            continue
        if all(np.hypot(y - other[0], x - other[1]) > 0.8 * (lesion.diameter + other[2]) for other in taken):
            return float(y), float(x)
    return float(nipple_y), float(np.clip(0.5 * nipple_x, room + 5, w - room - 5))


LOBES = {  # how many waves the outline has, and how high they are
    "ROUND": {2: 0.04, 3: 0.02}, "OVAL": {3: 0.03, 4: 0.02}, "LOBULATED": {2: 0.06, 3: 0.09, 4: 0.06},
    "IRREGULAR": {2: 0.10, 3: 0.12, 4: 0.11, 5: 0.10, 6: 0.09, 7: 0.07, 9: 0.05},
}  # fmt: skip
MARGIN_WIDTHS = {  # share of the radius, sharpest and softest
    "CIRCUMSCRIBED": (0.025, 0.06), "OBSCURED": (0.04, 0.09), "ILL_DEFINED": (0.20, 0.34),
    "MICROLOBULATED": (0.03, 0.07), "SPICULATED": (0.08, 0.18),
}  # fmt: skip
SCALE = 6  # grains are drawn this much larger and averaged down
GRAINS = {  # fewest and most in a group; 16 to 34 else
    "COARSE": (3, 8), "LUCENT_CENTER": (4, 10), "ROUND_AND_REGULAR": (5, 12), "PUNCTATE": (7, 15),
    "VASCULAR": (16, 28), "FINE_LINEAR_BRANCHING": (8, 15), "AMORPHOUS": (26, 46),
}  # fmt: skip


def add_lesion(rng: Generator, signal: np.ndarray, lesion: Lesion, centre: tuple[float, float]) -> np.ndarray:
    """Add a lesion to `signal` in place and return its mask, bool (h, w)."""
    own = np.random.default_rng((*lesion.seed, 1))  # what the views share
    half = int(1.15 * lesion.diameter) + 6
    offset = np.array([place - round(place) for place in centre], np.float32)
    grid = np.indices((2 * half + 1,) * 2, np.float32) - half - offset[:, None, None]
    draw = draw_mass if lesion.kind == MASS else draw_calcifications
    patch, region = draw(rng, own, lesion, grid)
    mask = np.zeros_like(signal, bool)
    top, left = round(centre[0]) - half, round(centre[1]) - half
    bottom, right = min(top + 2 * half + 1, mask.shape[0]), min(left + 2 * half + 1, mask.shape[1])
    on_film = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    on_patch = (slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left))
    signal[on_film] += patch[on_patch] * np.clip(signal[on_film] / 0.25, 0, 1)  # nothing outside the breast
    mask[on_film] = region[on_patch]
    return mask


def draw_outline(own: Generator, rng: Generator, lesion: Lesion, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the radius (share of the mean radius) in each direction, and the directions as the outline turns them."""
    turned = angle + rng.uniform(0, 2 * np.pi)
    radius = np.ones_like(angle)
    if lesion.shape == "OVAL":
        ratio = own.uniform(0.55, 0.75) * rng.uniform(0.95, 1.05)
        radius = 1 / np.sqrt((np.cos(turned) ** 2) * ratio + np.sin(turned) ** 2 / ratio)
    for order, amplitude in LOBES[lesion.shape].items():
        size, phase = amplitude * own.uniform(0.7, 1.3), own.uniform(0, 2 * np.pi)
        radius = radius + size * np.cos(order * turned + phase + rng.normal(0, 0.25))
    if lesion.margins == "MICROLOBULATED":
        for order in own.integers(9, 18, 4):
            radius = radius + 0.042 * np.cos(order * turned + own.uniform(0, 2 * np.pi))
    return radius, turned


def draw_mass(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the brightness that a mass adds, float32 (n, n), and the region that a reader would outline, bool (n, n).

    Args:
        rng, own: streams of the film and of the lesion; what comes from `own` is the same in all films.
        lesion: what to draw.
        grid: float32 (2, n, n), how far each pixel lies below and right of the lesion's middle, px.
    """
    y, x = grid
    mean_radius = lesion.diameter / 2
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    outline, turned = draw_outline(own, rng, lesion, angle)
    relative = distance / (mean_radius * np.maximum(outline, 0.3))
    sharp, soft = MARGIN_WIDTHS[lesion.margins]
    width: float | np.ndarray = sharp + lesion.edge * (soft - sharp)
    if lesion.margins == "OBSCURED":  # part of the margin is hidden
        hidden = sigmoid(4 * (np.cos(turned - own.uniform(0, 2 * np.pi)) - own.uniform(-0.2, 0.4)))
        width = width + 0.22 * hidden
    rim = sigmoid((1 - relative) / width)
    dome = 0.62 + 0.38 * np.sqrt(np.clip(1 - np.minimum(relative, 1) ** 2, 0, 1))
    texture = 1 + 0.14 * random_fields(rng, x.shape, beta=2.6)[0]
    patch = lesion.contrast * rim * dome * texture
    patch += lesion.contrast * draw_rays(rng, own, lesion, grid)
    return patch.astype(np.float32), (relative < 1.06)


def draw_rays(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> np.ndarray:
    """Draw fine lines: many that leave a spiculated mass, a few that merely pass by any other."""
    (y, x), mean_radius = grid, lesion.diameter / 2
    spiculated = lesion.margins == "SPICULATED"
    count = int(own.integers(18, 34)) if spiculated else int(rng.integers(0, 3))
    rays = np.zeros_like(x)
    for _ in range(count):
        turn, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.10) / mean_radius
        width, bright = rng.uniform(0.7, 1.3), rng.uniform(0.25, 0.60)
        if spiculated:
            offset, start, end = rng.normal(0, 0.10), 0.55, 1.10 + rng.gamma(2.5, 0.20)
        else:  # no common centre
            offset, start = rng.uniform(0.3, 1.3) * rng.choice([-1, 1]), rng.uniform(-1.6, 0.3)
            end = start + rng.uniform(0.6, 1.8)
        along = x * np.cos(turn) + y * np.sin(turn)
        across = y * np.cos(turn) - x * np.sin(turn) - offset * mean_radius - bend * along**2
        taper = sigmoid((along / mean_radius - start) * 12) * sigmoid((end - along / mean_radius) * 7)
        rays += bright * taper * np.exp(-((across / width) ** 2))
    return np.minimum(rays, 0.9)


def draw_calcifications(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the same as `draw_mass` for a group of calcifications."""
    (y, x), side = grid, grid.shape[1]
    canvas = np.zeros((side * SCALE, side * SCALE), np.uint8)
    places, region = scatter_grains(rng, own, lesion, grid)
    middle = (side - 1) / 2 + np.array([-y[side // 2, side // 2], -x[side // 2, side // 2]])
    for place in places:
        draw_grain(rng, canvas, lesion, (place + middle + 0.5) * SCALE)
    canvas = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    grains = cv2.GaussianBlur(canvas, (0, 0), 1.1) if lesion.shape == "AMORPHOUS" else canvas
    # the same mean brightness of the brightest grains whatever their type: brightness must not tell the class
    bright = np.sort(grains.ravel())[-25:].mean()
    patch = lesion.contrast * grains / max(float(bright), 0.05)
    haze = np.exp(-(((y**2 + x**2) / (lesion.diameter / 2) ** 2) ** 1.5)) * own.uniform(0.0, 0.05)
    return (np.minimum(patch, 0.55) + haze).astype(np.float32), region


def scatter_grains(rng: Generator, own: Generator, lesion: Lesion, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the grains (n, 2) in px about the middle, and the region that a reader would outline."""
    (y, x), radius = grid, lesion.diameter / 2
    count = int(own.integers(*GRAINS.get(lesion.shape, (16, 34))))
    turn = rng.uniform(0, 2 * np.pi)
    long, short = {"CLUSTERED": (1.0, 0.8), "REGIONAL": (1.1, 1.0), "DIFFUSELY_SCATTERED": (1.25, 1.2),
                   "SEGMENTAL": (1.25, 0.55), "LINEAR": (1.35, 0.28)}[lesion.margins]  # fmt: skip
    u = rng.uniform(-1, 1, (count * 6, 2))
    u = u[(u**2).sum(1) < 1][:count]
    if lesion.margins == "CLUSTERED":
        u *= np.sqrt((u**2).sum(1, keepdims=True)) ** 0.5
    if lesion.margins == "SEGMENTAL":  # a wedge whose tip points to the nipple
        u[:, 1] *= 0.35 + 0.65 * (u[:, 0] + 1) / 2
    if lesion.shape == "VASCULAR":  # two walls of a winding vessel
        t = np.linspace(-1, 1, len(u))
        u = np.stack([t, 0.35 * np.sin(2.5 * t + own.uniform(0, 6)) + 0.09 * np.where(np.arange(len(u)) % 2, 1, -1)], 1)
        u += rng.normal(0, 0.012, u.shape)
        long, short = 1.2, 1.0
    u = u * radius * np.array([long, short])
    cos, sin = np.cos(turn), np.sin(turn)
    places = np.stack([u[:, 0] * sin + u[:, 1] * cos, u[:, 0] * cos - u[:, 1] * sin], 1)
    along, across = x * cos + y * sin, y * cos - x * sin
    region = (along / (radius * long * 1.1 + 2)) ** 2 + (across / (radius * max(short, 0.4) * 1.1 + 2)) ** 2 < 1
    return places, region


def draw_grain(rng: Generator, canvas: np.ndarray, lesion: Lesion, place: np.ndarray) -> None:
    """Draw one grain at `place` (y, x) of the enlarged canvas, uint8, in place."""
    centre = (int(place[1]), int(place[0]))
    kind, unit = lesion.shape, SCALE
    if kind in ("PUNCTATE", "VASCULAR"):
        cv2.circle(canvas, centre, int(unit * rng.uniform(1.0, 1.25)), 210, -1, cv2.LINE_AA)
    elif kind == "ROUND_AND_REGULAR":
        cv2.circle(canvas, centre, int(unit * rng.uniform(1.9, 2.6)), 210, -1, cv2.LINE_AA)
    elif kind == "LUCENT_CENTER":
        cv2.circle(canvas, centre, int(unit * rng.uniform(2.8, 4.0)), 210, int(unit * 1.2), cv2.LINE_AA)
    elif kind == "AMORPHOUS":
        cv2.circle(canvas, centre, int(unit * rng.uniform(0.7, 1.4)), int(rng.uniform(90, 200)), -1, cv2.LINE_AA)
    elif kind == "FINE_LINEAR_BRANCHING":
        turn = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(1, 4))):
            turn += rng.normal(0, 0.7)
            reach = unit * rng.uniform(4.0, 8.0)
            end = (int(centre[0] + reach * np.cos(turn)), int(centre[1] + reach * np.sin(turn)))
            cv2.line(canvas, centre, end, int(rng.uniform(150, 240)), int(unit * 1.1), cv2.LINE_AA)
    else:  # a polygon: COARSE is large and lumpy, PLEOMORPHIC angular, of many sizes and shades
        coarse = kind == "COARSE"
        corners = 9 if coarse else int(rng.integers(3, 6))
        size = unit * (rng.uniform(3.0, 4.6) if coarse else rng.uniform(0.9, 3.2))
        bright = rng.uniform(190, 225) if coarse else rng.uniform(110, 255)
        turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
        away = size * rng.uniform(0.75 if coarse else 0.3, 1.2, corners)
        points = np.stack([centre[0] + away * np.cos(turns), centre[1] + away * np.sin(turns)], 1)
        cv2.fillPoly(canvas, [points.round().astype(np.int32)], int(bright), cv2.LINE_AA)


def expose(rng: Generator, body: Generator, signal: np.ndarray, inside: np.ndarray, how: Acquisition) -> np.ndarray:
    """Turn the signal into brightness on film: blur, film curve, grain, dust."""
    signal = cv2.GaussianBlur(signal, (0, 0), how.blur)
    gain, gamma = rng.uniform(0.90, 1.10), body.uniform(*how.gamma)
    image = how.base + 0.95 * np.clip(signal * gain, 0, 1.3) ** gamma
    grain = rng.uniform(*how.grain)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise = 0.8 * noise + 1.4 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    image = image + grain * noise * np.where(inside, np.float32(1), np.float32(0.5))
    for _ in range(int(rng.poisson(3))):  # dust and scratches
        place = (int(rng.integers(0, signal.shape[1])), int(rng.integers(0, signal.shape[0])))
        image[place[1] : place[1] + 1 + int(rng.integers(0, 2)), place[0] : place[0] + 1] += rng.choice([-0.3, 0.3])
    return np.clip(image, 0, 1).astype(np.float32)


def burn_in(rng: Generator, image: np.ndarray, hospital: Acquisition, side: str, view: str) -> None:
    """Add a label in the corner away from the chest wall, and a bright edge, to some films, in place."""
    h, w = image.shape
    has_label, has_edge, low = rng.random() < hospital.burn_in, rng.random() < hospital.film_edge, rng.random() < 0.5
    if has_label:
        text = hospital.label.format(side=side[0], view=view)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 2)
        place = (w - width - 14 if side == "LEFT" else 14, h - 16 if low else height + 16)
        label = np.zeros((h, w), np.uint8)
        cv2.putText(label, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, int(rng.uniform(190, 250)), 2, cv2.LINE_AA)
        np.maximum(image, label.astype(np.float32) / 255, out=image)
    if has_edge:
        wide, edge = int(rng.integers(2, 8)), int(rng.integers(0, 3))
        away = np.s_[:, -wide:] if side == "LEFT" else np.s_[:, :wide]  # from the chest wall
        image[(np.s_[:wide], np.s_[-wide:], away)[edge]] = rng.uniform(0.8, 1.0)


def crop_box(rng: Generator, mask: np.ndarray, lesion: Lesion) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right): the lesion takes 40 to 60 % of the side, its centre is off the middle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    share, aspect = rng.uniform(0.40, 0.60), rng.uniform(0.88, 1.14)
    side = 1.1 * lesion.diameter / share
    h = max(side * aspect, np.ptp(rows) * 1.06)
    w = max(side / aspect, np.ptp(columns) * 1.06)
    middle = (rows.mean() + rng.normal(0, 0.06) * h, columns.mean() + rng.normal(0, 0.06) * w)
    top = int(np.clip(middle[0] - h / 2, 0, max(mask.shape[0] - h, 0)))
    left = int(np.clip(middle[1] - w / 2, 0, max(mask.shape[1] - w, 0)))
    return top, min(top + int(h), mask.shape[0]), left, min(left + int(w), mask.shape[1])
