"""No patient and no picture on two sides."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import data
from shared.data import splits
from shared.run import MANIFEST_COLUMNS, DataError


def make_manifest(patients, labels, official=None):
    names, images = [f"P{p}" for p in patients], [f"I{i}" for i in range(len(labels))]
    frame = pd.DataFrame("", index=range(len(labels)), columns=list(MANIFEST_COLUMNS))
    official = "" if official is None else official
    return frame.assign(patient_id=names, image_id=images, official_split=official, label=labels, fold=-1)


def statistics_of(manifest, content=None, problem=""):
    content = content or [f"c{i}" for i in range(len(manifest))]
    return manifest[["image_id"]].assign(content=content, problem=problem, mask_problem="")


def two_views(count, *, test=0):
    """`count` patients with two images each, every other malignant; the last `test` of them official test."""
    patients = np.repeat(np.arange(count), 2)
    official = np.where(patients >= count - test, "test", "train") if test else None
    return make_manifest(patients, (patients % 2).astype(int), official)


def sides(manifest):
    return manifest[manifest.split != "excluded"].groupby("patient_id").split.nunique()


def test_official_test_is_kept_and_nothing_else_enters_it():
    manifest = splits.assign_splits(two_views(60, test=20), statistics_of(two_views(60)))
    assert ((manifest.split == "test") == (manifest.official_split == "test")).all()
    assert (sides(manifest) == 1).all()
    assert (manifest.fold[manifest.split == "test"] == -1).all()
    folds = manifest[manifest.split != "test"].groupby("patient_id").fold.nunique()
    assert (folds == 1).all()
    assert set(manifest.fold[manifest.split != "test"]) == set(range(5))


def test_without_official_test_a_fifth_of_the_patients_is_set_aside_stratified_by_label():
    manifest = splits.assign_splits(two_views(100), statistics_of(two_views(100)))
    assert (manifest.split == "test").mean() == pytest.approx(0.2, abs=0.04)
    assert (manifest.split == "validation").mean() == pytest.approx(0.16, abs=0.04)
    assert (sides(manifest) == 1).all()
    assert manifest.groupby("split").label.mean().to_numpy() == pytest.approx([0.5] * 3, abs=0.11)


def test_patients_of_both_official_splits_leave_train():
    manifest = two_views(60, test=20)
    manifest.loc[0, "official_split"] = "test"  # patient P0 has one image on each side
    result = splits.assign_splits(manifest, statistics_of(manifest), shared_patients=["P4"])
    assert (result.split[0], result.split[1]) == ("test", "excluded")
    assert "official test" in result.exclusion_reason[1]
    assert (result.split[result.patient_id == "P4"] == "excluded").all()


def test_pictures_that_stand_twice():
    manifest = two_views(60, test=20)
    content = [f"c{i}" for i in range(120)]
    content[0] = content[119]  # train repeats a test picture of another class
    content[2] = content[3]  # the same patient twice: harmless
    content[4] = content[8]  # two patients, one label
    content[10] = content[12]  # two labels
    result = splits.assign_splits(manifest, statistics_of(manifest, content))
    assert (result.split[0], result.split[119]) == ("excluded", "test")
    assert "excluded" not in set(result.split[[2, 3]])
    assert (result.split[[4, 8]] == "excluded").sum() == 1
    assert (result.split[[10, 12]] == "excluded").all()
    assert "another label" in result.exclusion_reason[10]
    dataset = data.Dataset("x", None, manifest, ("a", "b"), None)
    report = splits.audit(dataset, result, statistics_of(manifest, content))
    assert (report["copies_by_content"], report["copies_across_official_splits"]) == (4, 1)
    assert len(report["label_conflicts"]) == 2


def test_a_split_without_a_class_patients_or_images_is_refused():
    manifest = two_views(60, test=20)
    manifest.loc[manifest.official_split == "test", "label"] = 0
    with pytest.raises(DataError, match=r"test split .* none of class 1"):
        splits.assign_splits(manifest, statistics_of(manifest))
    one = make_manifest([0, 0, 0, 0], [0, 1, 0, 1])
    with pytest.raises(DataError, match="patients are too few"):
        splits.assign_splits(one, statistics_of(one))
    with pytest.raises(DataError, match=r"none of the 120 images can be used, e\.g\. because of: broken"):
        splits.assign_splits(two_views(60), statistics_of(manifest, problem="broken"))


def test_the_same_seed_gives_the_same_split():
    rows = two_views(80)
    first, second, third = (splits.assign_splits(rows, statistics_of(rows), seed=seed) for seed in (3, 3, 4))
    assert first.equals(second)
    assert not first.split.equals(third.split)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1), st.booleans()), min_size=1, max_size=150))
def test_no_patient_ever_crosses(rows):
    patients, labels, official = zip(*rows, strict=True)
    manifest = make_manifest(patients, list(labels), ["test" if test else "train" for test in official])
    try:
        result = splits.assign_splits(manifest, statistics_of(manifest), n_folds=3)
    except DataError:
        return  # too few patients, or a class missing: said, not split
    assert (sides(result) == 1).all()
    assert set(result.split) <= {"train", "validation", "test", "excluded"}
    assert (result.exclusion_reason[result.split == "excluded"] != "").all()


def test_group_folds_share_out_the_rows_once():
    groups = np.repeat(np.arange(30), 3)
    labels = (np.repeat(np.arange(30), 3) % 2).astype(int)
    rows = np.arange(12, 90)
    parts = splits.group_folds(labels, groups, rows, count=4, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), rows)
    for part in parts:
        assert not set(groups[part]) & set(groups[np.setdiff1d(rows, part)])
        assert labels[part].mean() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(DataError, match="2 patients are too few"):
        splits.group_folds(labels, groups, np.arange(6), count=3, seed=1)


@pytest.mark.parametrize("positive", range(1, 13))
def test_a_rare_class_is_in_every_split_and_fold_or_it_is_said_that_it_cannot_be(positive, recwarn):
    """A screening population: 200 patients of four images; half of a positive one's images are positive."""
    patients = np.repeat(np.arange(200), 4)
    labels = ((patients % 16 == 0) & (patients < 16 * positive) & (np.arange(800) % 4 < 2)).astype(int)
    manifest = make_manifest(patients, labels)
    if positive < 6:  # one in test and one in each of five folds
        with pytest.raises(DataError, match=r"none of class 1|has no image of class 1, .* fewer folds: N_FOLDS"):
            splits.assign_splits(manifest, statistics_of(manifest))
    for seed in range(3) if positive > 6 else ():  # a fifth of six can be two
        result = splits.assign_splits(manifest, statistics_of(manifest), seed=seed)
        ones = result[result.label == 1]
        assert set(ones.split) == {"train", "validation", "test"}
        assert set(ones.fold) == {-1, *range(5)}
    assert not recwarn.list


def test_fewer_positive_patients_than_folds_is_said_with_the_way_out():
    patients = np.repeat(np.arange(100), 2)
    manifest = make_manifest(patients, (patients < 5).astype(int))
    with pytest.raises(
        DataError, match=r"fold \d has no image of class 1, of 4 patients outside test; fewer folds: N_F"
    ):
        splits.assign_splits(manifest, statistics_of(manifest))
    result = splits.assign_splits(manifest, statistics_of(manifest), n_folds=4)
    assert (result.groupby("fold").label.sum() > 0).all()


def test_many_copies_cost_no_more_than_a_pass_over_the_rows(monkeypatch):
    """A thousand pairs: what is ruled out is what stands in each pair, looked at one by one."""
    manifest = two_views(1000, test=200)
    content = np.array([f"c{i}" for i in range(2000)])
    one, other = np.random.default_rng(0).permutation(2000).reshape(2, 1000)
    content[one] = content[other]
    expected = set()
    for first, second in np.sort(np.stack([one, other], axis=1)):  # test rows come last
        outside = {row for row in (first, second) if manifest.official_split[row] != "test"}
        if manifest.label[first] != manifest.label[second]:
            expected |= outside
        elif manifest.patient_id[first] != manifest.patient_id[second]:
            expected |= {first} if len(outside) == 1 else {second} & outside
    calls, exclude = [], splits.exclude
    monkeypatch.setattr(splits, "exclude", lambda *given: calls.append(given) or exclude(*given))
    result = splits.assign_splits(manifest, statistics_of(manifest, list(content)))
    assert set(np.flatnonzero(result.split == "excluded")) == expected
    assert len(calls) < 10
