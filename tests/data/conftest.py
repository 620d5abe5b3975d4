"""Drawn data sets that several test files of this room read."""

import pytest

from shared import data


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A function that draws patients in a layout, once: drawn("npz", patients=8) -> the folder."""
    base = tmp_path_factory.mktemp("drawn")
    return lambda layout, patients=8: data.provide_demo(base / f"{layout}-{patients}", layout=layout, patients=patients)
