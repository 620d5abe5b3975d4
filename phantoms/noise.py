"""Random fields with a power-law spectrum."""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy import fft


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

    Both are float32 of `shape` (h, w) in px, and go on at the opposite edge. The spectrum falls off below the frequency
    `low` and above `high` (cycles a pixel).
    """
    white = rng.standard_normal((2, *shape), dtype=np.float32)
    field = fft.ifft2((white[0] + 1j * white[1]) * make_spectrum(tuple(shape), beta, low, high))
    field *= field.size
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)); never overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))
