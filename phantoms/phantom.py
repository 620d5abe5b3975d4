"""Phantom patients: what they have, and what their mammograms look like. Nothing here is made from real images.

A patient is planned first (breast density, lesions, descriptors, the reader's opinion) and drawn afterwards, each from
its own random stream, so that the order and the number of processes change nothing. The drawing adds layers in film
density, as a screen-film mammogram is a projection: compressed thickness, glandular tissue with a power-law spectrum
1/f^beta (beta near 3; Burgess, Jacobson and Judy, Med Phys 2001;28:419), strands that run to the nipple, pectoral
muscle, skin, lesions, then film curve, blur and grain. Descriptors follow the BI-RADS words of CBIS-DDSM, and how
often a word is seen in benign and in malignant lesions is near what the case files of CBIS-DDSM show (Lee et al., Sci
Data 2017;4:170177): round and circumscribed mostly benign, irregular and spiculated mostly malignant, with overlap.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy import fft

MASS, CALC = "mass", "calcification"
TRAIN, TEST = "train", "test"
VIEWS = ("CC", "MLO")

# P(word | benign), P(word | malignant)
MASS_SHAPES = {"ROUND": (0.19, 0.12), "OVAL": (0.37, 0.19), "LOBULATED": (0.28, 0.23), "IRREGULAR": (0.16, 0.46)}
MASS_MARGINS = {
    "CIRCUMSCRIBED": (0.49, 0.05),
    "OBSCURED": (0.24, 0.08),
    "ILL_DEFINED": (0.16, 0.22),
    "MICROLOBULATED": (0.07, 0.14),
    "SPICULATED": (0.04, 0.51),
}
CALC_TYPES = {
    "PUNCTATE": (0.20, 0.06),
    "ROUND_AND_REGULAR": (0.22, 0.03),
    "LUCENT_CENTER": (0.22, 0.01),
    "COARSE": (0.07, 0.01),
    "VASCULAR": (0.08, 0.01),
    "AMORPHOUS": (0.08, 0.14),
    "PLEOMORPHIC": (0.11, 0.42),
    "FINE_LINEAR_BRANCHING": (0.02, 0.32),
}
CALC_DISTRIBUTIONS = {
    "CLUSTERED": (0.61, 0.50),
    "REGIONAL": (0.16, 0.06),
    "DIFFUSELY_SCATTERED": (0.12, 0.03),
    "SEGMENTAL": (0.07, 0.20),
    "LINEAR": (0.04, 0.21),
}


@dataclass(frozen=True)
class Acquisition:
    """How one hospital takes and digitises its films, and whom it sees."""

    first_patient: int  # the first patient's number
    prevalence: dict  # (kind, official split) -> share of malignant lesions
    gamma: tuple[float, float]  # film curve, lowest and highest
    grain: tuple[float, float]  # standard deviation of the grain, share of full scale
    blur: float  # standard deviation of the screen's blur, px
    base: float  # brightness of the bare film
    burn_in: float  # share of films with a label burnt in
    film_edge: float  # share of films with a bright edge
    label: str  # how a label reads


ACQUISITIONS = {
    "A": Acquisition(
        first_patient=1,
        prevalence={(MASS, TRAIN): 0.50, (MASS, TEST): 0.40, (CALC, TRAIN): 0.40, (CALC, TEST): 0.40},
        gamma=(0.85, 1.15), grain=(0.004, 0.010), blur=0.45, base=0.03, burn_in=0.6, film_edge=0.2,
        label="{side} {view}",
    ),
    "B": Acquisition(
        first_patient=10001,
        prevalence={(MASS, TRAIN): 0.30, (MASS, TEST): 0.30, (CALC, TRAIN): 0.25, (CALC, TEST): 0.25},
        gamma=(1.25, 1.60), grain=(0.012, 0.022), blur=0.80, base=0.08, burn_in=0.95, film_edge=0.5,
        label="{view} {side}   H-B",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Lesion:
    """One finding; its views share all of this."""

    kind: str  # mass or calcification
    side: str
    number: int  # abnormality id within patient, kind and side
    malignant: bool
    pathology: str
    shape: str  # mass shape or calc type, as drawn
    margins: str  # mass margins or calc distribution, as drawn
    shape_words: str  # the same as the reader wrote them down
    margins_words: str
    diameter: float  # px in the full mammogram, of the disc of the same area
    contrast: float  # brightness added at its middle, share of full scale
    edge: float  # 0 sharpest ... 1 softest margin of its kind
    assessment: int  # BI-RADS
    subtlety: int
    log_odds: float  # log P(words | malignant) / P(words | benign)
    oracle_score: float  # P(malignant | shape, margins) at the prevalence of its kind and official split
    place: tuple[float, float]  # distance from the nipple (share of the breast's depth) and direction (-1 ... 1)
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Patient:
    """One woman: what is drawn, and in which official split each kind of finding lies."""

    number: int
    patient_id: str
    density: int  # BI-RADS density 1 ... 4
    split: dict  # kind -> train or test
    lesions: tuple[Lesion, ...]
    seed: tuple[int, ...]
    acquisition: str

    def sides(self):
        """Return the sides with a finding."""
        return tuple(side for side in ("LEFT", "RIGHT") if any(lesion.side == side for lesion in self.lesions))


@dataclass(frozen=True)
class View:
    """One drawn film."""

    image: np.ndarray  # float32 (h, w), 0 black ... 1 white
    lesions: tuple[Lesion, ...]
    masks: tuple[np.ndarray, ...]  # bool (h, w), one a lesion
    boxes: tuple[tuple[int, int, int, int], ...]  # crop of each lesion: top, bottom, left, right


# ---------------------------------------------------------------------- plan
TEST_SHARE = 0.30  # more than in CBIS-DDSM (0.20), for narrower intervals on few patients
BLOCK = 20  # lesions of one kind and split in which the share of malignant ones is exact


def plan_patients(count, *, seed=0, acquisition="A"):
    """Decide what each of `count` patients has; the first ones are the same whatever the count.

    Args:
        count: int, how many.
        seed: int, the data set's seed.
        acquisition: a key of ACQUISITIONS.
    Returns:
        list of Patient.
    """
    planned = {(kind, split): 0 for kind in (MASS, CALC) for split in (TRAIN, TEST)}
    return [_plan_patient(index, int(seed), acquisition, planned) for index in range(count)]


def _plan_patient(index, seed, acquisition, planned):
    hospital = ACQUISITIONS[acquisition]
    number = hospital.first_patient + index
    key = (seed, sorted(ACQUISITIONS).index(acquisition), number)
    rng = np.random.default_rng(key)
    density = int(rng.choice([1, 2, 3, 4], p=[0.16, 0.37, 0.31, 0.16]))
    in_both_splits = index % 50 == 7  # such patients exist in CBIS-DDSM once mass and calc are pooled
    split = _draw_split(rng, in_both_splits)
    lesions = []
    for kind, side, number_on_side in _draw_findings(rng, in_both_splits, same_breast=index % 100 == 7):
        group = (kind, split[kind])
        malignant = _is_malignant(seed, acquisition, group, planned[group])
        planned[group] += 1
        prevalence = hospital.prevalence[group]
        lesions.append(_plan_lesion(kind, side, number_on_side, malignant, prevalence, (*key, len(lesions) + 1)))
    return Patient(number, f"P_{number:05d}", density, split, tuple(lesions), key, acquisition)


def _is_malignant(seed, acquisition, group, position):
    """Return the class of a group's lesion number `position`: random, with the exact share in each block."""
    prevalence = ACQUISITIONS[acquisition].prevalence
    block = np.arange(BLOCK) < round(BLOCK * prevalence[group])
    rng = np.random.default_rng(
        (seed, sorted(ACQUISITIONS).index(acquisition), 0, sorted(prevalence).index(group), position // BLOCK)
    )
    return bool(rng.permutation(block)[position % BLOCK])


def _draw_split(rng, in_both_splits):
    first = TEST if rng.random() < TEST_SHARE else TRAIN
    second = {TRAIN: TEST, TEST: TRAIN}[first] if in_both_splits else first
    return {MASS: first, CALC: second}


def _draw_findings(rng, in_both_splits, same_breast):
    """Return [(kind, side, abnormality id)]; most patients have one finding."""
    side = str(rng.choice(["LEFT", "RIGHT"]))
    other = "RIGHT" if side == "LEFT" else "LEFT"
    both_kinds = rng.random() < 0.08
    kind = MASS if rng.random() < 0.54 else CALC
    extra = rng.random()
    if in_both_splits:
        return [(MASS, side, 1), (CALC, side if same_breast else other, 1)]
    if both_kinds:
        return [(MASS, side, 1), (CALC, side, 1)]
    if extra < 0.09:
        return [(kind, side, 1), (kind, side, 2)]
    if extra < 0.16:
        return [(kind, side, 1), (kind, other, 1)]
    return [(kind, side, 1)]


def _plan_lesion(kind, side, number, malignant, prevalence, seed):
    rng = np.random.default_rng(seed)
    shapes, margins = (MASS_SHAPES, MASS_MARGINS) if kind == MASS else (CALC_TYPES, CALC_DISTRIBUTIONS)
    shape, margin = _draw_word(rng, shapes, malignant), _draw_word(rng, margins, malignant)
    chances = np.array([shapes[shape], margins[margin]])  # rows: words; columns: benign, malignant
    log_odds = float(np.log(chances[:, 1] / chances[:, 0]).sum())
    prior = np.log(prevalence / (1 - prevalence))
    contrast = float(rng.uniform(0.15, 0.28) if kind == MASS else rng.uniform(0.32, 0.54))
    without_callback = not malignant and rng.random() < (0.22 if log_odds > -1 else 0.40)
    benign = "BENIGN_WITHOUT_CALLBACK" if without_callback else "BENIGN"
    return Lesion(
        kind=kind,
        side=side,
        number=number,
        malignant=malignant,
        pathology="MALIGNANT" if malignant else benign,
        shape=shape,
        margins=margin,
        shape_words=_write_down(rng, shapes, shape),
        margins_words=_write_down(rng, margins, margin),
        diameter=float(np.clip(rng.lognormal(np.log(46), 0.26), 32, 76)),
        contrast=contrast,
        edge=float(rng.random()),
        assessment=_assess(rng, log_odds, without_callback),
        subtlety=int(np.clip(round(3 + 2 * rng.normal(0.3, 0.6)), 1, 5)),
        log_odds=log_odds,
        oracle_score=float(1 / (1 + np.exp(-(log_odds + prior)))),
        place=(float(rng.uniform(0.25, 0.80)), float(rng.uniform(-0.75, 0.75))),
        seed=seed,
    )


def _draw_word(rng, table, malignant):
    weights = np.array([pair[int(malignant)] for pair in table.values()])
    return str(rng.choice(list(table), p=weights / weights.sum()))


def _write_down(rng, table, word):
    """Return what a reader wrote: mostly the word, sometimes another, two joined by '-', or nothing."""
    other = str(rng.choice([item for item in table if item != word]))
    return str(rng.choice([word, other, f"{word}-{other}", ""], p=[0.78, 0.12, 0.07, 0.03]))


def _assess(rng, log_odds, without_callback):
    """Return BI-RADS 0 ... 5 of a reader who sees the evidence through noise."""
    draw, rare = log_odds + rng.normal(0, 1.6), rng.random()
    if rare < 0.03:
        return 0
    if without_callback:
        return 2 if rare < 0.9 else 3
    return int(np.searchsorted([-3.0, -1.2, 2.2], draw)) + 2


# ------------------------------------------------------------- random fields
@lru_cache(maxsize=32)
def _spectrum(shape, beta, low, high):
    """Return the amplitude filter of a 1/f^beta field between two frequencies (cycles a pixel)."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])[None, :])
    filter_ = np.maximum(frequency, 1 / max(shape)) ** (-beta / 2)
    filter_ *= np.exp(-((frequency / high) ** 2)) * (1 - np.exp(-((frequency / low) ** 2)))
    filter_ /= np.sqrt((filter_**2).sum())
    return filter_.astype(np.float32)


def random_fields(rng, shape, *, beta=3.0, low=1e-9, high=10.0):
    """Return two independent Gaussian fields of mean 0 and variance 1 with the power spectrum 1/f^beta.

    Args:
        rng: numpy Generator.
        shape: (h, w) in px.
        beta: exponent of the power spectrum.
        low, high: frequencies (cycles a pixel) below and above which the spectrum falls off.
    Returns:
        two float32 (h, w).
    """
    white = rng.standard_normal((2, *shape), dtype=np.float32)
    field = fft.ifft2((white[0] + 1j * white[1]) * _spectrum(tuple(shape), beta, low, high))
    field *= field.size
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


# -------------------------------------------------------------------- breast
def render_view(patient, side, view):
    """Draw one film.

    Args:
        patient: Patient.
        side: LEFT or RIGHT; a side without findings is drawn as a normal one.
        view: CC or MLO.
    Returns:
        View: brightness 0 ... 1, float32; about 640 x 480 px, the chest wall at the left edge of a left breast.
    """
    hospital = ACQUISITIONS[patient.acquisition]
    rng = np.random.default_rng((*patient.seed, 90 + 2 * VIEWS.index(view) + (side == "RIGHT")))
    body = np.random.default_rng((*patient.seed, 89))  # shared by all films of the woman
    shape = (int(rng.choice([600, 640, 672])), int(rng.choice([432, 480])))
    geometry = _draw_geometry(rng, body, shape, view)
    signal = _draw_tissue(rng, geometry, patient.density)
    lesions, masks = [lesion for lesion in patient.lesions if lesion.side == side], []
    taken = []
    for lesion in lesions:
        centre = _find_place(rng, geometry, lesion, taken)
        taken.append((*centre, lesion.diameter))
        masks.append(_add_lesion(rng, signal, lesion, centre, view))
    image = _expose(rng, body, signal, geometry["inside"], hospital)
    if side == "RIGHT":
        image, masks = image[:, ::-1].copy(), [mask[:, ::-1].copy() for mask in masks]
    _burn_in(rng, image, hospital, side, view)
    boxes = tuple(_crop_box(rng, mask, lesion) for mask, lesion in zip(masks, lesions, strict=True))
    return View(image, tuple(lesions), tuple(masks), boxes)


def _draw_geometry(rng, body, shape, view):
    """Place breast, nipple and pectoral muscle; the chest wall is the left edge."""
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
    return {"shape": shape, "x": x, "y": y, "depth": depth, "nipple": nipple, "inward": inward, "muscle": muscle,
            "inside": inward > 0, "half": (above, below)}  # fmt: skip


def _draw_tissue(rng, geometry, density):
    """Return the brightness of the breast without lesions, float32, about 0 ... 1."""
    h, w = geometry["shape"]
    small = (h // 2, w // 2)
    inward, depth, (nipple_y, nipple_x) = geometry["inward"], geometry["depth"], geometry["nipple"]
    fields = random_fields(rng, small, beta=3.0)
    gland, cloud = (cv2.resize(field, (w, h), interpolation=cv2.INTER_CUBIC) for field in fields)
    thickness = np.clip(inward / (0.22 * depth), 0, 1)
    thickness = np.where(inward > 0, 0.22 + 0.78 * np.sqrt(thickness), 0).astype(np.float32)
    # glandular tissue lies behind the nipple and spares the fat below the skin
    reach = np.hypot((geometry["x"] - 0.55 * nipple_x) / depth, (geometry["y"] - nipple_y) / (0.8 * h))
    below_skin = np.exp(-np.maximum(inward, 0) / (0.05 * depth))
    bias = {1: -1.5, 2: -0.7, 3: 0.25, 4: 1.2}[density] + 1.1 - 3.2 * reach - 1.2 * below_skin
    glandular = _sigmoid(2.2 * (0.9 * gland + bias)).astype(np.float32)
    strands = _draw_strands(rng, geometry)
    fat = rng.uniform(0.30, 0.40)
    signal = fat + rng.uniform(0.20, 0.27) * glandular + 0.040 * cloud + strands * (0.025 + 0.040 * glandular)
    signal *= thickness
    signal += 0.07 * np.exp(-(((inward - 4) / 2.5) ** 2))  # skin
    if geometry["muscle"] is not None:
        shade = _sigmoid(geometry["muscle"] * depth / 9) * thickness
        signal += shade * (rng.uniform(0.13, 0.20) + 0.02 * gland - 0.5 * (signal - fat))
    return signal.astype(np.float32)


def _draw_strands(rng, geometry):
    """Return ligaments, ducts and vessels as thin bright curves, most of them on their way to the nipple.

    A curve is where a smooth random field crosses zero; fields stretched along the way to the nipple give curves
    that run there.
    """
    h, w = geometry["shape"]
    small = (h // 2, w // 2)
    nipple_y, nipple_x = geometry["nipple"]
    dy, dx = geometry["y"] - nipple_y, geometry["x"] - nipple_x - 30
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
    return total * _sigmoid(1.5 * patchy + 0.2).astype(np.float32) - 0.3


def _find_place(rng, geometry, lesion, taken):
    """Return (y, x) in px: at the lesion's distance from the nipple, inside the breast, off the film's edge."""
    h, w = geometry["shape"]
    nipple_y, nipple_x = geometry["nipple"]
    away, direction = lesion.place
    room = 0.55 * lesion.diameter
    for attempt in range(60):
        loose = 0.15 + 0.02 * attempt
        turn = np.clip(direction + rng.normal(0, loose), -1, 1) * 1.1
        reach = np.clip(away + rng.normal(0, loose * 0.5), 0.15, 0.92) * nipple_x
        y, x = nipple_y + reach * np.sin(turn), nipple_x - reach * np.cos(turn)
        inside = room + 4 < y < h - room - 4 and room + 4 < x < w - room - 4
        if not inside or geometry["inward"][int(y), int(x)] < room * 0.8:
            continue
        if all(np.hypot(y - other[0], x - other[1]) > 0.8 * (lesion.diameter + other[2]) for other in taken):
            return float(y), float(x)
    return float(nipple_y), float(np.clip(0.5 * nipple_x, room + 5, w - room - 5))


# ------------------------------------------------------------------- lesions
def _add_lesion(rng, signal, lesion, centre, view):
    """Add a lesion to `signal` in place and return its mask."""
    own = np.random.default_rng((*lesion.seed, 1))  # what the views share
    half = int(1.15 * lesion.diameter) + 6
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    y, x = y - (centre[0] - round(centre[0])), x - (centre[1] - round(centre[1]))
    draw = _draw_mass if lesion.kind == MASS else _draw_calcifications
    patch, region = draw(rng, own, lesion, y, x)
    mask = np.zeros(signal.shape, bool)
    top, left = round(centre[0]) - half, round(centre[1]) - half
    bottom, right = min(top + 2 * half + 1, mask.shape[0]), min(left + 2 * half + 1, mask.shape[1])
    on_film = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    on_patch = (slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left))
    signal[on_film] += patch[on_patch] * np.clip(signal[on_film] / 0.25, 0, 1)  # nothing outside the breast
    mask[on_film] = region[on_patch]
    return mask


def _outline(own, rng, lesion, angle):
    """Return the radius (share of the mean radius) in each direction."""
    turned = angle + rng.uniform(0, 2 * np.pi)
    radius = np.ones_like(angle)
    if lesion.shape == "OVAL":
        ratio = own.uniform(0.55, 0.75) * rng.uniform(0.95, 1.05)
        radius = 1 / np.sqrt((np.cos(turned) ** 2) * ratio + np.sin(turned) ** 2 / ratio)
    amplitudes = {
        "ROUND": {2: 0.04, 3: 0.02},
        "OVAL": {3: 0.03, 4: 0.02},
        "LOBULATED": {2: 0.06, 3: 0.09, 4: 0.06},
        "IRREGULAR": {2: 0.10, 3: 0.12, 4: 0.11, 5: 0.10, 6: 0.09, 7: 0.07, 9: 0.05},
    }[lesion.shape]
    for order, amplitude in amplitudes.items():
        size, phase = amplitude * own.uniform(0.7, 1.3), own.uniform(0, 2 * np.pi)
        radius = radius + size * np.cos(order * turned + phase + rng.normal(0, 0.25))
    if lesion.margins == "MICROLOBULATED":
        for order in own.integers(9, 18, 4):
            radius = radius + 0.042 * np.cos(order * turned + own.uniform(0, 2 * np.pi))
    return radius, turned


def _draw_mass(rng, own, lesion, y, x):
    mean_radius = lesion.diameter / 2
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    outline, turned = _outline(own, rng, lesion, angle)
    relative = distance / (mean_radius * np.maximum(outline, 0.3))
    softest = {"CIRCUMSCRIBED": (0.025, 0.06), "OBSCURED": (0.04, 0.09), "ILL_DEFINED": (0.20, 0.34),
               "MICROLOBULATED": (0.03, 0.07), "SPICULATED": (0.08, 0.18)}[lesion.margins]  # fmt: skip
    width = softest[0] + lesion.edge * (softest[1] - softest[0])
    if lesion.margins == "OBSCURED":  # part of the margin is hidden
        hidden = _sigmoid(4 * (np.cos(turned - own.uniform(0, 2 * np.pi)) - own.uniform(-0.2, 0.4)))
        width = width + 0.22 * hidden
    rim = _sigmoid((1 - relative) / width)
    dome = 0.62 + 0.38 * np.sqrt(np.clip(1 - np.minimum(relative, 1) ** 2, 0, 1))
    texture = 1 + 0.14 * random_fields(rng, x.shape, beta=2.6)[0]
    patch = lesion.contrast * rim * dome * texture
    patch += lesion.contrast * _draw_rays(rng, own, lesion, y, x, mean_radius)
    return patch.astype(np.float32), (relative < 1.06)


def _draw_rays(rng, own, lesion, y, x, mean_radius):
    """Draw fine lines: many that leave a spiculated mass, a few that merely pass by any other."""
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
        taper = _sigmoid((along / mean_radius - start) * 12) * _sigmoid((end - along / mean_radius) * 7)
        rays += bright * taper * np.exp(-((across / width) ** 2))
    return np.minimum(rays, 0.9)


SCALE = 6  # grains are drawn this much larger and averaged down


def _draw_calcifications(rng, own, lesion, y, x):
    side = x.shape[0]
    canvas = np.zeros((side * SCALE, side * SCALE), np.uint8)
    radius = lesion.diameter / 2
    places, region = _scatter(rng, own, lesion, radius, y, x)
    middle = (side - 1) / 2 + np.array([-y[side // 2, side // 2], -x[side // 2, side // 2]])
    for place in places:
        _draw_grain(rng, canvas, lesion, (place + middle + 0.5) * SCALE)
    grains = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    if lesion.shape == "AMORPHOUS":
        grains = cv2.GaussianBlur(grains, (0, 0), 1.1)
    # the same mean brightness of the brightest grains whatever their type: brightness must not tell the class
    bright = np.sort(grains.ravel())[-25:].mean()
    patch = lesion.contrast * grains / max(float(bright), 0.05)
    haze = np.exp(-(((y**2 + x**2) / (radius**2)) ** 1.5)) * own.uniform(0.0, 0.05)
    return (np.minimum(patch, 0.55) + haze).astype(np.float32), region


GRAINS = {
    "COARSE": (3, 8), "LUCENT_CENTER": (4, 10), "ROUND_AND_REGULAR": (5, 12), "PUNCTATE": (7, 15),
    "VASCULAR": (16, 28), "FINE_LINEAR_BRANCHING": (8, 15), "AMORPHOUS": (26, 46),
}  # fmt: skip


def _scatter(rng, own, lesion, radius, y, x):
    """Return the places of the grains (n, 2) in px about the middle, and the region that a reader would outline."""
    fewest, most = GRAINS.get(lesion.shape, (16, 34))
    count = int(own.integers(fewest, most))
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


def _draw_grain(rng, canvas, lesion, place):
    """Draw one grain on the enlarged canvas."""
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
    elif kind == "COARSE":  # large and lumpy
        _draw_lump(rng, canvas, centre, unit * rng.uniform(3.0, 4.6), 9, 0.75, rng.uniform(190, 225))
    else:  # PLEOMORPHIC: angular, of many sizes and shades
        corners = int(rng.integers(3, 6))
        _draw_lump(rng, canvas, centre, unit * rng.uniform(0.9, 3.2), corners, 0.3, rng.uniform(110, 255))


def _draw_lump(rng, canvas, centre, size, corners, shortest, bright):
    turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = size * rng.uniform(shortest, 1.2, corners)
    points = np.stack([centre[0] + reach * np.cos(turns), centre[1] + reach * np.sin(turns)], 1)
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], int(bright), cv2.LINE_AA)


# ---------------------------------------------------------------------- film
def _expose(rng, body, signal, inside, hospital):
    """Turn the signal into brightness on film: blur, film curve, grain, dust."""
    signal = cv2.GaussianBlur(signal, (0, 0), hospital.blur)
    gain, gamma = rng.uniform(0.90, 1.10), body.uniform(*hospital.gamma)
    image = hospital.base + 0.95 * np.clip(signal * gain, 0, 1.3) ** gamma
    grain = rng.uniform(*hospital.grain)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise = 0.8 * noise + 1.4 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    image = image + grain * noise * np.where(inside, np.float32(1), np.float32(0.5))
    for _ in range(int(rng.poisson(3))):  # dust and scratches
        place = (int(rng.integers(0, signal.shape[1])), int(rng.integers(0, signal.shape[0])))
        image[place[1] : place[1] + 1 + int(rng.integers(0, 2)), place[0] : place[0] + 1] += rng.choice([-0.3, 0.3])
    return np.clip(image, 0, 1).astype(np.float32)


def _burn_in(rng, image, hospital, side, view):
    """Add a label in the corner away from the chest wall, and a bright edge, to some films."""
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
        bright = float(rng.uniform(0.8, 1.0))
        if edge == 0:
            image[:wide] = bright
        elif edge == 1:
            image[-wide:] = bright
        elif side == "LEFT":  # away from the chest wall
            image[:, -wide:] = bright
        else:
            image[:, :wide] = bright


def _crop_box(rng, mask, lesion):
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
