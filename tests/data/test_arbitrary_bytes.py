"""Arbitrary bytes in the place of a table or an image: read, or refused in one clear line."""

import os
import re

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from phantoms import write_demo_data
from shared import data
from shared.data import save_manifest
from shared.run import DataError, list_tree

MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
CASES = "csv/mass_case_description_train_set.csv"
ROW = b"x,P_1,3,LEFT,CC,1,mass,OVAL,OBSCURED,4,BENIGN,3,a/b/c/d,a/b/c/d,a/b/c/d\r\n"


@pytest.fixture(scope="module", params=[("cbis-ddsm", CASES), ("mini-mias", "Info.txt")])
def table(request, tmp_path_factory):
    """(layout, folder, the table that lists its images, how that begins)."""
    layout, name = request.param
    folder = tmp_path_factory.mktemp(layout)
    write_demo_data(folder, layout=layout, patients=2, n_jobs=1, progress=False)
    return layout, folder, folder / name, (folder / name).read_bytes().split(b"\n")[0] + b"\n"


@QUICK
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(ROW)
@example(ROW[2:])
@example(b'"')
@example(b"mdb001 G CIRC B 60 65 \xb2\n")
@pytest.mark.parametrize("has_header", [True, False])
def test_any_bytes_as_a_table(table, has_header, body):
    layout, folder, path, header = table
    path.write_bytes(header * has_header + body)
    try:
        manifest, lines = data.load_layout(layout, folder).manifest, []
    except DataError as error:
        manifest, lines = None, str(error).splitlines()
    assert len(lines) == (manifest is None)
    assert manifest is None or (manifest.image_id.is_unique and not manifest.isna().any(axis=None))


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


@MANY
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


def test_a_folder_of_any_depth_and_odd_names(tmp_path):
    deep = tmp_path / "cancer"
    deep.mkdir()
    names = [b"P_1#2.npz", b"P_3\\4.npz", b"P_5%d.npz", b"P_6\n7.npz", b"P_8\xff.npz", b"=P_9.npz", b"P_1\r0.npz"]
    for folder in (deep, tmp_path / "benign"):
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                np.savez(file, np.full((9, 9), number, np.uint8) + np.eye(9, dtype=np.uint8))
    os.mkfifo(deep / "P_0.npz")
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    dataset = data.load_layout("npz", tmp_path)
    rows = dataset.manifest[dataset.manifest.split != "excluded"]
    assert (len(dataset.manifest), len(rows)) == (14, 12)  # not UTF-8: excluded by name
    assert [dataset.read_image(path).shape for path in rows.image_path] == [(9, 9)] * 12
    save_manifest(tmp_path / "run", dataset.manifest)
    assert sum(1 for _ in list_tree(tmp_path)) == 15
    while deep.name == "d":  # else pytest stumbles over it
        deep = [deep.parent, deep.rmdir()][0]
    assert list(data.load_manifest(tmp_path / "run").image_path) == list(dataset.manifest.image_path)
