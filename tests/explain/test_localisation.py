"""Measures of localisation: on maps and MASKS whose scores can be counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from shared import explain
from shared.run import UsageError

SIDE = 12
NOISE = np.random.default_rng(0).random((3, SIDE, SIDE)).astype("float32")
MASKS = np.zeros((3, SIDE, SIDE), bool)
MASKS[0, 2:6, 2:6] = MASKS[1, 0:3, 9:12] = MASKS[2, 4:8, 4:8] = True


def test_the_mask_itself_scores_best():
    scores = explain.measure(MASKS, MASKS)
    assert list(scores.columns) == list(explain.MEASURES)
    assert (scores.drop(columns="energy_ratio") == 1).all(axis=None)
    np.testing.assert_allclose(scores.energy_ratio, 1 / MASKS.mean((1, 2)))


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_a_constant_map_scores_what_chance_would(level):
    scores = explain.measure(np.full(MASKS.shape, level), MASKS)
    area = MASKS.mean((1, 2))
    expected = {"pointing": area, "energy": area, "energy_ratio": 1, "pixel_auc": 0.5, "iou": area / (2 - area)}
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value)


def test_a_map_of_two_values_is_scored_as_counted_by_hand():
    maps = np.zeros(MASKS.shape)
    maps[0, 2:6, 4:8] = 2.0  # half on the lesion of 16 pixels, half beside it
    maps[1, 0, 8] = 1.0  # beside the lesion of 9 pixels
    maps[2, 0, 0] = 1.0  # far from it
    scores = explain.measure(maps, MASKS, cell=1)
    np.testing.assert_allclose(scores.pointing, [0.5, 0, 0])
    np.testing.assert_allclose(scores.pointing_one_cell, [12 / 16, 1, 0])
    np.testing.assert_allclose(scores.energy, [0.5, 0, 0])
    np.testing.assert_allclose(scores.iou[0], 8 / 24)
    shared = 8 * 9 / 143  # eight of the nine highest pixels are drawn from the 143 that are 0
    np.testing.assert_allclose(scores.iou[1], shared / (18 - shared))


def test_pixel_auc_and_overlap_agree_with_libraries():
    scores = explain.measure(NOISE, MASKS)
    expected = [roc_auc_score(mask.ravel(), values.ravel()) for mask, values in zip(MASKS, NOISE, strict=True)]
    np.testing.assert_allclose(scores.pixel_auc, expected)
    negative = explain.measure(NOISE - 0.5, MASKS)  # counts as nothing, and a scale changes nothing
    np.testing.assert_allclose(explain.measure(4 * np.maximum(NOISE - 0.5, 0), MASKS), negative, rtol=1e-5)
    for mask, values, found in zip(MASKS, NOISE, scores.iou, strict=True):
        chosen = values >= np.sort(values.ravel())[-mask.sum()]
        assert found == pytest.approx((chosen & mask).sum() / (chosen | mask).sum())


def test_a_mask_without_a_lesion_and_shapes_that_differ_are_refused():
    with pytest.raises(UsageError, match="mask 1 is empty"):
        explain.measure(MASKS * 1.0, MASKS * np.array([1, 0, 1])[:, None, None])
    with pytest.raises(UsageError, match="both must be"):
        explain.measure(np.ones((3, 4, 4)), MASKS)


def test_baselines_are_where_they_should_be():
    images = np.zeros(MASKS.shape, "uint8")
    images[:, 9:12, 0:3] = 200
    maps = explain.baseline_maps(images, MASKS, grid=(4, 4), seed=1)
    assert (tuple(maps), {array.shape for array in maps.values()}) == (explain.BASELINES, {MASKS.shape})
    peaks = {name: np.unravel_index(array[0].argmax(), (SIDE, SIDE)) for name, array in maps.items()}
    assert peaks["centre"] in [(5, 5), (5, 6), (6, 5), (6, 6)]
    assert peaks["brightest"] == (11, 0)
    assert explain.measure(maps["ceiling"], MASKS).pointing.mean() == 1
    assert explain.measure(maps["ceiling"], MASKS).energy.max() < 1  # three pixels a cell blur the outline
    exact = explain.baseline_maps(images, MASKS, grid=(SIDE, SIDE))["ceiling"]
    np.testing.assert_array_equal(exact, MASKS)


def test_intervals_are_by_patient():
    masks = np.repeat(MASKS[:1], 40, axis=0)
    maps = np.where(np.arange(40)[:, None, None] % 2, masks, ~masks).astype(float)
    measured = explain.measure(maps, masks)
    people = (np.arange(40), np.arange(40) // 2, np.arange(40) % 4)
    tables = [explain.summarise(measured, patients, model="m", method="gradcam") for patients in people]
    assert (tuple(tables[0].columns), tables[0].value[0]) == (explain.COLUMNS, 0.5)
    alone, pairs, groups = ((table.high - table.low)[0] for table in tables)
    assert pairs == 0  # each patient has one hit and one miss
    assert groups > 2 * alone > 0.4  # each patient has hits only or misses only


def test_paired_differences_are_sharper_than_two_intervals():
    masks, noise = np.tile(MASKS, (20, 1, 1)), np.random.default_rng(3).random((60, SIDE, SIDE))
    better = explain.measure(noise + 0.3 * masks, masks)
    table = explain.compare(better, {"random": explain.measure(noise, masks)}, np.arange(60))
    assert table.set_index("measure").loc[["energy", "pixel_auc"], "better"].all()
    same = explain.compare(better, {"itself": better}, np.arange(60))
    assert not same.better.any() | (same.difference != 0).any()


def test_deletion_of_what_counts_lowers_the_score_at_once():
    images = 10 * NOISE + 200 * MASKS
    score = lambda batch: (batch * MASKS).sum((1, 2)) / MASKS.sum((1, 2))  # noqa: E731
    right = explain.deletion_insertion_curves(score, images, MASKS)
    wrong = explain.deletion_insertion_curves(score, images, ~MASKS)
    np.testing.assert_allclose(right[:, 0], wrong[:, 0])
    np.testing.assert_allclose(right[:, -1], wrong[:, -1])
    assert (right.mean(1) < wrong.mean(1) - 50).all()
    back = explain.deletion_insertion_curves(score, images, MASKS, mode="insertion")
    np.testing.assert_allclose(back[:, -1], right[:, 0], rtol=1e-6)
    assert (back.mean(1) > right.mean(1)).all()
    with pytest.raises(UsageError, match="mode"):
        explain.deletion_insertion_curves(score, images, MASKS, mode="erasure")
