"""Arbitrary bytes in the place of a table or an image: read, or refused in one clear line."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from phantoms import write_demo_data
from shared import data
from shared.run import DataError

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
        manifest = data.load_layout(layout, folder).manifest
    except DataError as error:
        manifest, lines = None, str(error).splitlines()
    if manifest is None:
        assert len(lines) == 1
    else:
        assert not manifest.isna().any().any()
        assert manifest.image_id.is_unique


@QUICK
@given(st.binary(max_size=120), st.sampled_from([".png", ".jpg", ".pgm", ".npz", ".npy", ".dcm", ".tif"]))
@example(b"P5 8 8 255\n", ".pgm")
@example(b"\x93NUMPY\x01\x00\x05\x00{'a':", ".npy")
def test_any_bytes_as_an_image(tmp_path, body, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(body)
    try:
        image, lines = data.read_grey(path), []
    except DataError as error:
        image, lines = np.zeros((0, 0)), str(error).splitlines()
    assert image.ndim == 2
    assert [path.name in line for line in lines] == ([] if image.size else [True])
