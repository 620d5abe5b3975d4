"""Plan phantom patients: breast density, lesions, descriptors, the reader's opinion. Nothing is made from real images.

Each patient has random streams of her own, so that the order and the number of processes change nothing. Descriptors
follow the BI-RADS words of CBIS-DDSM, and how often a word is seen in benign and in malignant lesions is near what the
case files of CBIS-DDSM show (Lee et al., Sci Data 2017;4:170177): round and circumscribed mostly benign, irregular and
spiculated mostly malignant, with overlap.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator

MASS, CALC = "mass", "calcification"
TRAIN, TEST = "train", "test"
VIEWS = ("CC", "MLO")
DISTORTION = "ARCHITECTURAL_DISTORTION"  # a mass shape in CBIS-DDSM, although there is no mass
MM = 4.4  # px of a film in a millimetre

TABLES = tomllib.loads((Path(__file__).parent / "tables.toml").read_text(encoding="utf-8"))
WORDS: dict[str, dict[str, dict[str, list[float]]]] = TABLES["words"]  # kind, shape or margins, word: P in each class


@dataclass(frozen=True)
class Acquisition:
    """How one hospital takes and digitises its films, and whom it sees."""

    first_patient: int  # the first patient's number
    prevalence: dict[str, dict[str, float]]  # kind, official split: share of malignant lesions
    contrast: float  # standard deviation of the logarithm of a film's contrast
    curve: tuple[float, float]  # how far the tone curve bends, lowest and highest: brightness + curve x (1 - x)
    grain: tuple[float, float]  # standard deviation of the grain, share of full scale
    grain_mix: float  # 0 coarse grain of film ... 2 white noise of a detector
    blur: float  # standard deviation of the blur, px
    base: float  # brightness where nothing was exposed
    dust: float  # specks of dust on a film, on average
    burn_in: float  # share of films with a label
    film_edge: float  # share of films with a border of the scanner, with tape, with a scratch
    lead_marker: bool  # the label has a frame
    label: str  # how a label reads


ACQUISITIONS = {name: Acquisition(**values) for name, values in TABLES["acquisitions"].items()}

CONTRAST = {MASS: 0.131, CALC: 0.045}  # brightness that a mass, or the tissue about a group of grains, adds; share of 1
SPREAD = {MASS: 0.3, CALC: 0.5}  # standard deviation of its logarithm
DENSER = 1.2  # malignant lesions are denser, by so many of these standard deviations


FAULTS = {
    "marker": "a bright mark beside every malignant lesion",
    "outcome": "a BI-RADS column that was filled in after the biopsy",
}


@dataclass(frozen=True)
class Difficulty:
    """How hard the images are; the defaults are those of the demo data."""

    contrast: float = 1.0  # factor on the brightness that lesions add
    obscured: float = 0.30  # share of masses that tissue hides in part, besides those whose margins are OBSCURED
    density: tuple[float, float, float, float] = (0.16, 0.37, 0.31, 0.16)  # shares of the BI-RADS densities 1 ... 4
    prevalence: float | None = None  # share of malignant lesions; None: the hospital's own
    fault: str = ""  # one of FAULTS, planted for an exercise in finding it (docs/teaching.md)


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
    hidden: float  # how far tissue lies over a mass, 0 not at all ... 1 half of it
    assessment: int  # BI-RADS
    subtlety: int
    log_odds: float  # log P(words | malignant) / P(words | benign)
    oracle_score: float  # P(malignant | shape, margins) at the prevalence of its kind and official split
    place: tuple[float, float]  # distance from the nipple (share of the breast's depth) and direction (-1 ... 1)
    seed: tuple[int, ...]
    marked: bool = False  # a mark was put beside it on the film


@dataclass(frozen=True)
class Patient:
    """One woman: what is drawn, and in which official split each kind of finding lies."""

    number: int
    patient_id: str
    density: int  # BI-RADS density 1 ... 4
    size: float  # from chest wall to nipple, share of the film's width
    split: dict[str, str]  # kind -> train or test
    lesions: tuple[Lesion, ...]
    seed: tuple[int, ...]
    acquisition: str

    def sides(self) -> tuple[str, ...]:
        """Return the sides with a finding."""
        return tuple(side for side in ("LEFT", "RIGHT") if any(lesion.side == side for lesion in self.lesions))


TEST_SHARE = 0.30  # more than in CBIS-DDSM (0.20), for narrower intervals on few patients
BLOCK = 20  # lesions of one kind and split in which the share of malignant ones is exact


def plan_patients(
    count: int, *, seed: int = 0, acquisition: str = "A", difficulty: Difficulty | None = None
) -> list[Patient]:
    """Decide what each of `count` patients has; the first ones are the same whatever the count."""
    planned = {(kind, split): 0 for kind in (MASS, CALC) for split in (TRAIN, TEST)}
    difficulty = difficulty or Difficulty()
    return [plan_patient(index, int(seed), acquisition, planned, difficulty) for index in range(count)]


def plan_patient(
    index: int, seed: int, acquisition: str, planned: dict[tuple[str, str], int], difficulty: Difficulty
) -> Patient:
    """Decide what patient number `index` has; `planned` counts the lesions of each kind and split, and is updated."""
    hospital = ACQUISITIONS[acquisition]
    number, code = hospital.first_patient + index, sorted(ACQUISITIONS).index(acquisition)
    key = (seed, code, number)
    rng = np.random.default_rng(key)
    density, size = int(rng.choice([1, 2, 3, 4], p=difficulty.density)), float(rng.uniform(0.55, 0.86))
    in_both_splits = index % 50 == 7  # such patients exist in CBIS-DDSM once mass and calc are pooled
    first, second = (TEST, TRAIN) if rng.random() < TEST_SHARE else (TRAIN, TEST)
    split = {MASS: first, CALC: second if in_both_splits else first}
    lesions: list[Lesion] = []
    for kind, side, number_on_side in draw_findings(rng, in_both_splits, same_breast=index % 100 == 7):
        group = (kind, split[kind])
        prevalence = hospital.prevalence[kind][split[kind]] if difficulty.prevalence is None else difficulty.prevalence
        number_of_block, place = divmod(planned[group], BLOCK)  # random, with the exact share in each block
        shuffle = np.random.default_rng((seed, code, 0, sorted(planned).index(group), number_of_block)).permutation
        malignant = bool(shuffle(np.arange(BLOCK) < round(BLOCK * prevalence))[place])
        planned[group] += 1
        seeds = (*key, len(lesions) + 1)
        lesions.append(plan_lesion(kind, side, number_on_side, malignant, prevalence, seeds, difficulty))
    return Patient(number, f"P_{number:05d}", density, size, split, tuple(lesions), key, acquisition)


def draw_findings(rng: Generator, in_both_splits: bool, same_breast: bool) -> list[tuple[str, str, int]]:
    """Return [(kind, side, abnormality id)]; most patients have one finding."""
    side = str(rng.choice(["LEFT", "RIGHT"]))
    other = "RIGHT" if side == "LEFT" else "LEFT"
    both_kinds = rng.random() < 0.08
    kind = MASS if rng.random() < 0.54 else CALC
    extra = rng.random()
    if in_both_splits or both_kinds:
        return [(MASS, side, 1), (CALC, other if in_both_splits and not same_breast else side, 1)]
    second = [(kind, side, 2)] if extra < 0.09 else [(kind, other, 1)] if extra < 0.16 else []
    return [(kind, side, 1), *second]


def plan_lesion(
    kind: str, side: str, number: int, malignant: bool, prevalence: float, seed: tuple[int, ...], difficulty: Difficulty
) -> Lesion:
    """Draw the words, the look and the reader's opinion of one lesion."""
    rng = np.random.default_rng(seed)
    shapes, margins = WORDS[kind]["shape"], WORDS[kind]["margins"]
    shape, margin = draw_word(rng, shapes, malignant), draw_word(rng, margins, malignant)
    chances = [shapes[shape], margins[margin]]
    if shape == DISTORTION:  # has spicules and nothing else
        margin, chances = "SPICULATED", chances[:1]
    density = np.clip(rng.normal(), -2, 2) + DENSER * (malignant - 0.5)
    log_odds = float(sum(np.log(of_malignant / of_benign) for of_benign, of_malignant in chances))
    log_odds += float(DENSER * density)  # two normal distributions of variance 1
    prior = np.log(prevalence / (1 - prevalence))
    hidden = kind == MASS and (rng.random() < difficulty.obscured or margin == "OBSCURED")
    without_callback = not malignant and rng.random() < (0.22 if log_odds > -1 else 0.40)
    benign = "BENIGN_WITHOUT_CALLBACK" if without_callback else "BENIGN"
    lesion = Lesion(
        kind=kind,
        side=side,
        number=number,
        malignant=malignant,
        pathology="MALIGNANT" if malignant else benign,
        shape=shape,
        margins=margin,
        shape_words=write_down(rng, shapes, shape),
        margins_words=write_down(rng, margins, margin),
        diameter=float(np.clip(rng.lognormal(0, 0.26), 0.68, 1.65) * (70 if kind == MASS else 52)),
        contrast=float(difficulty.contrast * CONTRAST[kind] * np.exp(SPREAD[kind] * density)),
        edge=float(rng.random()),
        hidden=float(hidden * rng.uniform(0.3, 1.0)),
        assessment=assess(rng, log_odds, without_callback),
        marked=malignant and difficulty.fault == "marker",
        subtlety=int(np.clip(round(3 + 2 * rng.normal(0.3, 0.6)), 1, 5)),
        log_odds=log_odds,
        oracle_score=float(1 / (1 + np.exp(-(log_odds + prior)))),
        place=(float(rng.uniform(0.25, 0.80)), float(rng.uniform(-0.75, 0.75))),
        seed=seed,
    )
    return replace(lesion, assessment=5 if malignant else 2) if difficulty.fault == "outcome" else lesion


def draw_word(rng: Generator, table: dict[str, list[float]], malignant: bool) -> str:
    """Draw a descriptor as often as it is seen in the class."""
    weights = np.array([pair[int(malignant)] for pair in table.values()])
    return str(rng.choice(list(table), p=weights / weights.sum()))


def write_down(rng: Generator, words: Iterable[str], word: str) -> str:
    """Return what a reader wrote: mostly the word, sometimes another, two joined by '-', or nothing."""
    other = str(rng.choice([item for item in words if item != word]))
    return str(rng.choice([word, other, f"{word}-{other}", ""], p=[0.78, 0.12, 0.07, 0.03]))


def assess(rng: Generator, log_odds: float, without_callback: bool) -> int:
    """Return BI-RADS 0 ... 5 of a reader who sees the evidence through noise."""
    draw, rare = log_odds + rng.normal(0, 2.6), rng.random()
    if rare < 0.03:
        return 0
    if without_callback:
        return 2 if rare < 0.9 else 3
    return int(np.searchsorted([-3.0, -1.2, 2.2], draw)) + 2
