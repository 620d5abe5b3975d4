"""Layouts of .npz arrays: pairs of real .png and synthetic .npz images, and class folders of .npz."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from phantoms.patients import Patient, plan_patients
from phantoms.writing import draw_crops, resize_square, stream, to_uint8, write_image

SIDE = 128
TWIN_SEED = 1_000_003


def write_pairs(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write crops as original/*.png, and, of other women, crops out of a simulated generator as synthetic/*.npz.

    Both kinds come from the same anatomy; what differs is what a generator and its file format leave behind.
    """
    run(partial(write_originals, out / "original"), plans)
    # other women of the same population, whose crops the simulated generator draws
    twins = plan_patients(len(plans), seed=plans[0].seed[0] + TWIN_SEED, acquisition=plans[0].acquisition)
    run(partial(write_twins, out / "synthetic"), twins, title="synthetic twins")


def write_originals(folder: Path, patient: Patient) -> None:
    """Write all crops of a patient: P_00001_LEFT_CC_1_M.png."""
    for film, number, lesion, crop in draw_crops(patient):
        name = f"{patient.patient_id}_{film}_{number}_{'M' if lesion.malignant else 'B'}.png"
        write_image(folder / name, to_uint8(crop))


def write_twins(folder: Path, patient: Patient) -> None:
    """Write up to four generated crops of a patient: batch_0_1_malignant.npz."""
    rng = stream(patient, 7)
    for made, (_, _, lesion, crop) in zip(range(4), draw_crops(patient), strict=False):
        word = "malignant" if lesion.malignant else "benign"
        name = f"batch_{patient.number // 8}_{4 * (patient.number % 8) + made}_{word}.npz"
        write_array(folder / name, generate_twin(rng, crop))


def generate_twin(rng: Generator, crop: np.ndarray) -> np.ndarray:
    """Return a crop, float (h, w), 0 ... 1, as a convolutional image generator would draw it, uint8 (128, 128).

    What such generators are known for: one fixed size, high frequencies too weak, a checkerboard from stride-2
    transposed convolutions (Odena, Dumoulin and Olah, Distill 2016, doi 10.23915/distill.00003), their own grey scale.
    """
    image = cv2.GaussianBlur(resize_square(crop, SIDE), (0, 0), rng.uniform(0.9, 1.2))
    pattern = np.kron(np.ones((SIDE // 2, SIDE // 2)), [[1.0, -1.0], [-1.0, 1.0]])
    coarse = np.kron(np.ones((SIDE // 4, SIDE // 4)), np.outer([1, 0.3, -0.3, -1], [1, 0.3, -0.3, -1]))
    strength = 0.5 + np.abs(cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), 6)) * 6
    image = image + strength * (0.012 * pattern + 0.006 * coarse)
    return to_uint8(np.clip(0.16 + 0.78 * image, 0, 1))


def write_class_folders(out: Path, plans: list[Patient], run: Callable[..., list]) -> None:
    """Write class folders cancer/ and non_cancer/ of z-score normalised crops, float32 (128, 128)."""
    (out / "cancer").mkdir()
    (out / "non_cancer").mkdir()
    run(partial(write_normalised, out), plans)


def write_normalised(out: Path, patient: Patient) -> None:
    """Write all crops of a patient, each with mean 0 and standard deviation 1."""
    for film, number, lesion, crop in draw_crops(patient):
        image = resize_square(crop, SIDE)
        image = (image - image.mean()) / (image.std() + 1e-6)
        folder = out / ("cancer" if lesion.malignant else "non_cancer")
        write_array(folder / f"{patient.patient_id}_{film}_{number}.npz", image.astype(np.float32))


def write_array(path: Path, array: np.ndarray) -> None:
    """Save one array under the key arr_0; the archive carries no time, so the same array gives the same bytes."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        np.savez_compressed(file, array)
