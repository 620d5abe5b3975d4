"""mini-MIAS: mdbNNN.pgm, 1024 x 1024, MLO films of both breasts (odd numbers left, even right), and Info.txt."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from phantoms.films import draw_film
from phantoms.patients import ACQUISITIONS, CALC, Patient
from phantoms.writing import stream, to_uint8, write_image

SIDE = 1024
TISSUE = {1: "F", 2: "G", 3: "G", 4: "D"}
CLASSES = {"CIRCUMSCRIBED": "CIRC", "SPICULATED": "SPIC", "OBSCURED": "ASYM"}  # MISC else


def write(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write films and Info.txt."""
    lines = [line for lines in run(partial(write_patient, out), plans) for line in lines]
    (out / "Info.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


def write_patient(out: Path, patient: Patient) -> list[str]:
    """Draw and write both films of a patient and return her lines of Info.txt."""
    rng = stream(patient, 11)
    first = 1 + 2 * (patient.number - ACQUISITIONS[patient.acquisition].first_patient)
    lines = []
    for number, side in enumerate(("LEFT", "RIGHT"), first):
        drawn = draw_film(patient, side, "MLO")
        scale = SIDE / drawn.image.shape[0]
        wide = round(drawn.image.shape[1] * scale)
        left = (SIDE - wide) // 2
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        canvas[:, left : left + wide] = cv2.resize(to_uint8(drawn.image), (wide, SIDE), interpolation=cv2.INTER_CUBIC)
        write_image(out / f"mdb{number:03d}.pgm", canvas)
        start = f"mdb{number:03d} {TISSUE[patient.density]}"
        if not drawn.lesions:
            lines.append(f"{start} NORM")
        for lesion, mask in zip(drawn.lesions, drawn.masks, strict=True):
            word = "CALC" if lesion.kind == CALC else CLASSES.get(lesion.margins, "MISC")
            spread = lesion.margins == "DIFFUSELY_SCATTERED" or rng.random() < 0.02  # no place is given
            rows, columns = np.nonzero(mask)  # the place: x, y from the bottom left corner, and radius, px of the film
            x, y = left + scale * columns.mean(), SIDE - 1 - scale * rows.mean()
            radius = scale * np.sqrt(mask.sum() / np.pi) * 1.15
            place = "*NOTE 3*" if spread else f"{x:.0f} {y:.0f} {radius:.0f}"
            lines.append(f"{start} {word} {'M' if lesion.malignant else 'B'} {place}")
    return lines
