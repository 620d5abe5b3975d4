"""Fields cut from whole mammograms: the lesion inside, anywhere; normal tissue without one; nobody mixed up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from shared.data import Prepared
from shared.explain import wide_fields
from shared.run import DataError, Settings

HEIGHT, WIDTH, RADIUS = 300, 220, 12
CENTRES = {"a": (150, 60), "b": (60, 120), "c": (240, 40)}  # patient -> (y, x) of the lesion


def disc(centre, radius):
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def plane(path):
    kind, patient = path.split("/")
    lesion = disc(CENTRES[patient], RADIUS)
    if kind == "mask":
        return lesion * np.uint8(255)
    breast = disc((HEIGHT // 2, 0), 180) * np.random.default_rng(ord(patient)).uniform(80, 120, (HEIGHT, WIDTH))
    return np.where(lesion, 220, breast).astype(np.uint8)


DATASET = SimpleNamespace(read_image=lambda path, min_side=None: plane(path))


@pytest.fixture
def crops():
    rows = [
        {"image_id": f"{name}_1", "patient_id": name, "side": "LEFT", "split": split, "fold": -1, "label": label,
         "full_image_path": f"full/{name}", "mask_path": f"mask/{name}"}
        for name, split, label in (("a", "train", 0), ("b", "validation", 1), ("c", "test", 1))
    ]  # fmt: skip
    rows.append({**rows[0], "image_id": "a_2", "mask_path": ""})
    rows.append({**rows[1], "image_id": "b_2", "split": "excluded"})
    settings = Settings(image_size=48, window="none")
    return Prepared(settings, pd.DataFrame(rows), None, None, None, ("benign", "malignant"))


def test_each_lesion_gives_one_field_with_it_and_one_without(crops):
    fields = wide_fields.cut_wide_fields(DATASET, crops, seed=0)
    assert fields.images.shape == fields.masks.shape == (6, 48, 48)
    assert list(fields.manifest.image_id) == ["a_1", "a_1_normal", "b_1", "b_1_normal", "c_1", "c_1_normal"]
    assert (list(fields.labels), list(fields.manifest.malignant)) == ([1, 0] * 3, [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(fields.rows("test"), [4, 5])
    again, other = (wide_fields.cut_wide_fields(DATASET, crops, seed=seed) for seed in (0, 2))
    np.testing.assert_array_equal(fields.images, again.images)
    assert (fields.images != other.images).any()
    inside = fields.masks[fields.labels == 1].mean((1, 2))
    np.testing.assert_allclose(inside, np.pi * RADIUS**2 / (0.3 * HEIGHT) ** 2, rtol=0.05)
    assert not fields.masks[fields.labels == 0].any()
    for image, mask in zip(fields.images[::2], fields.masks[::2], strict=True):
        assert image[mask == 1].mean() > image[mask == 0].mean() + 50


def test_a_copy_without_mammograms_or_masks_has_nothing_to_cut(crops):
    rows = crops.manifest
    for manifest in (rows.assign(full_image_path=""), rows.assign(mask_path=""), rows.drop(columns="full_image_path")):
        with pytest.raises(DataError, match="no whole mammogram"):
            wide_fields.cut_wide_fields(DATASET, replace(crops, manifest=manifest))


@pytest.mark.parametrize("damaged", ["full/a", "mask/a"])
def test_a_mammogram_that_cannot_be_read_is_passed_over(crops, damaged):
    def read(path, min_side=None):
        if path in (damaged, "full/none"):
            raise DataError(f"{path}: broken")
        return plane(path)

    dataset = SimpleNamespace(read_image=read)
    rows = wide_fields.cut_wide_fields(DATASET, crops).manifest
    left = wide_fields.cut_wide_fields(dataset, crops).manifest
    assert left.equals(rows[rows.patient_id != "a"].reset_index(drop=True))
    manifest = crops.manifest.assign(full_image_path="full/none")
    with pytest.raises(DataError, match="wide fields cannot be cut"):
        wide_fields.cut_wide_fields(dataset, replace(crops, manifest=manifest))


@pytest.mark.parametrize(("centre", "spread"), [((150, 110), (60, 60)), ((15, 15), (3, 3)), ((285, 205), (2, 2))])
def test_the_lesion_lies_inside_and_off_centre_wherever_it_is(centre, spread):
    mask, random = disc(centre, RADIUS), np.random.default_rng(0)
    places = np.array([wide_fields.place_around(mask, side=90, random=random) for _ in range(200)])
    for top, left, side in places:
        assert 0 <= top <= HEIGHT - side
        assert 0 <= left <= WIDTH - side == WIDTH - 90
        assert mask[top : top + side, left : left + side].sum() == mask.sum()
    # all the room there is: 90 pixels less the lesion's 25, and in a corner the pixels between lesion and border
    assert (np.ptp(places[:, :2], axis=0) >= spread).all()


@pytest.mark.parametrize(("radius", "side"), [(60, int(1.25 * 121)), (108, WIDTH)])
def test_a_field_grows_with_a_lesion_that_does_not_fit_and_stops_at_the_image(radius, side):
    assert wide_fields.place_around(disc((150, 110), radius), side=90, random=np.random.default_rng(0))[2] == side


def test_normal_tissue_resembles_the_field_of_the_lesion_in_its_share_of_breast(crops):
    fields = wide_fields.cut_wide_fields(DATASET, crops, seed=3)
    dark = (fields.images < 20).mean((1, 2))
    assert np.abs(dark[::2] - dark[1::2]).max() < 0.15


def test_no_place_is_found_where_lesions_are_everywhere():
    everywhere, random = np.ones((60, 60), bool), np.random.default_rng(0)
    assert wide_fields.place_beside(everywhere, everywhere, (0, 0, 20), random=random) is None
    corner = disc((0, 0), 5)
    top, left, side = wide_fields.place_beside(corner, ~corner, (100, 100, 90), random=random)
    assert side == 90
    assert not corner[top : top + 90, left : left + 90].any()
