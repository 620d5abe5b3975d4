"""Images with bytes changed or cut off: read, or refused in one clear line."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantoms import write_demo_data
from shared import data
from shared.run import DataError


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A picture of noise in every kind of file: {suffix: bytes}."""
    folder, image = tmp_path_factory.mktemp("encoded"), np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    np.save(folder / "a.npy", image)
    np.savez(folder / "a.npz", image)
    for suffix in (".png", ".jpg", ".pgm", ".tif", ".bmp"):
        cv2.imwrite(str(folder / f"a{suffix}"), image)
    write_demo_data(folder / "dicom", layout="cbis-ddsm-dicom", patients=1, n_jobs=1, progress=False)
    files = sorted(folder.rglob("*.*"), key=lambda path: -path.stat().st_size)
    return {path.suffix: path.read_bytes() for path in files if path.is_file()}  # of each kind the smallest


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=20), cut=st.integers(0, 2**16))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".pgm", ".tif", ".bmp", ".npz", ".npy", ".dcm"])
def test_a_mutated_image_is_read_or_named(encoded, tmp_path, suffix, changes, cut):
    content, path = bytearray(encoded[suffix]), tmp_path / f"file{suffix}"
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content[: cut % len(content) if cut % 4 == 0 else None])
    try:
        shape, line = data.prepare_image(data.read_grey(path), data.ImageSteps(16)).shape, ""
    except DataError as error:
        shape, line = (), str(error)
    assert shape == (16, 16) or re.fullmatch(f"{path.name}: .+", line)
