"""The ladder of synthetic against real: each rung removes its cue, controls stay at chance, distances are unbiased."""

import os

import cv2
import numpy as np
import pandas as pd
import pytest

import phantoms as demo_data
from shared import synthetic
from shared.data import readers as datasets
from shared.evaluation import metrics
from shared.run import DataError, Settings, UsageError

SIZE = 32
REAL = os.environ.get("MAMMO_PNG_NPZ_DIR", "")


def _texture(generator, shape, blur):
    plane = cv2.GaussianBlur(generator.normal(size=shape).astype(np.float32), (0, 0), blur)
    return np.clip(128 + 40 * plane / plane.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sources():
    """Originals: fine texture, sizes vary, dark border. Synthetic: coarse texture, one size, brighter."""
    generator = np.random.default_rng(0)
    planes, labels, groups = [], [], []
    for number in range(80):
        original = number % 2 == 0
        shape = tuple(generator.integers(48, 80, 2)) if original else (64, 64)
        plane = _texture(generator, shape, 1.0 if original else 2.0)
        if original:
            plane[:, :6] = 0
        else:
            plane = np.clip(plane.astype(int) + 30, 0, 255).astype(np.uint8)
        planes.append(plane)
        labels.append(int(original))
        groups.append(f"P_{number // 4:05d}" if original else f"batch_{number // 4}")
    lesions = np.array(["MALIGNANT", "MALIGNANT", "BENIGN", "BENIGN"] * 20, dtype=object)
    suffixes = np.where(np.array(labels) == 1, ".png", ".npz").astype(object)
    names = np.array([f"image_{number}" for number in range(80)], dtype=object)
    return synthetic.Sources(planes, np.array(labels), np.array(groups, dtype=object), names, suffixes, lesions)


@pytest.fixture(scope="module")
def split(sources):
    return synthetic.split_groups(sources.labels, sources.groups, seed=0)


@pytest.fixture(scope="module")
def rungs(sources, split):
    return dict(synthetic.iter_rungs(sources, size=SIZE, train=split[0], seed=0))


def test_split_keeps_groups_together_and_both_classes(sources, split):
    train, test = split
    assert sorted([*train, *test]) == list(range(80))
    assert not set(sources.groups[train]) & set(sources.groups[test])
    assert set(sources.labels[test]) == {0, 1}


def test_pairs_stay_on_one_side():
    groups = np.array([f"scan{number}" for number in range(20)] * 2, dtype=object)
    labels = np.repeat([0, 1], 20)
    train, test = synthetic.split_groups(labels, groups)
    assert not set(groups[train]) & set(groups[test])
    row = synthetic.ladder_row("R1", "cnn", labels, np.arange(40.0), groups, draws=100)
    assert row["auc"] == 1.0
    assert row["p_value"] < 0.05


def test_rungs_have_one_shape_and_whole_grey_levels(rungs):
    assert list(rungs) == list(synthetic.RUNGS)
    for rung, planes in rungs.items():
        assert planes.shape == (80, SIZE, SIZE)
        assert planes.dtype == np.float32
        if rung != "R0":
            assert np.array_equal(planes, np.rint(planes))
            assert planes.min() >= 0
            assert planes.max() <= 255


def test_naive_scale_divides_png_only():
    plane = np.full((4, 4), 255, np.uint8)
    assert synthetic.naive_scale(plane, ".png").max() == 1
    assert synthetic.naive_scale(plane, ".npz").max() == 255


def test_matched_rungs_have_equal_histograms(rungs):
    for rung in ("R3", "R4", "R5"):
        ordered = np.sort(rungs[rung].reshape(80, -1), axis=1)
        assert (ordered == ordered[0]).all()


def test_matching_moves_both_classes_halfway(rungs, sources, split):
    before = [rungs["R2"][split[0]][sources.labels[split[0]] == label].mean() for label in (0, 1)]
    assert rungs["R3"].mean() == pytest.approx(np.mean(before), abs=1)


def test_spectra_are_matched_on_the_last_rung(rungs, sources):
    def gap(planes):
        power = synthetic.radial_power_spectrum(planes)[1][:, :4]  # finer bands were blurred away
        return np.abs(power[sources.labels == 1].mean(axis=0) - power[sources.labels == 0].mean(axis=0)).max()

    assert gap(rungs["R5"]) < 0.1 < gap(rungs["R4"])


def test_a_removed_cue_is_at_chance_and_a_present_one_is_not(rungs, sources, split):
    train, test = split

    def areas(rung):
        scores = synthetic.score_probes(rungs[rung], sources, rung, train, test)
        return {name: metrics.auc(sources.labels[test], values) for name, values in scores.items()}

    as_they_are, converted, resized, matched = (areas(rung) for rung in ("R0", "R1", "R2", "R3"))
    assert as_they_are["container"] == as_they_are["mean"] == 1.0
    assert converted["container"] == 0.5
    assert converted["laplacian"] > 0.9
    assert resized["size"] == 0.5
    for cue in ("mean", "std", "min", "max", "zeros"):
        assert matched[cue] == 0.5
    assert resized["mean"] > 0.9


def test_targets_come_from_training_rows_alone(sources, split):
    train, test = split
    changed = list(sources.images)
    changed[test[0]] = np.full((64, 64), 255, np.uint8)
    other = synthetic.Sources(
        changed, *(getattr(sources, f) for f in ("labels", "groups", "names", "suffixes", "lesions"))
    )
    for rung in ("R3", "R5"):
        first, second = (synthetic.make_rung(s, rung, size=SIZE, train=train, seed=0) for s in (sources, other))
        assert np.array_equal(first[train], second[train])


def test_rungs_depend_on_the_seed_alone(sources, split, rungs):
    again = synthetic.make_rung(sources, "R5", size=SIZE, train=split[0], seed=0)
    assert np.array_equal(again, rungs["R5"])
    with pytest.raises(UsageError, match="R9"):
        synthetic.make_rung(sources, "R9", size=SIZE, train=split[0])


def test_radial_spectrum_finds_a_wave():
    size = 64
    wave = 100 + 50 * np.sin(2 * np.pi * np.arange(size) * 16 / size)
    frequencies, power = synthetic.radial_power_spectrum(np.tile(wave, (1, size, 1)).astype(np.float32))
    assert frequencies[power[0].argmax()] == pytest.approx(16 / size, abs=0.02)


def test_laplacian_variance_of_flat_and_checkered():
    checkered = np.indices((16, 16)).sum(axis=0) % 2 * 255.0
    flat, busy = synthetic.laplacian_variance(np.stack([np.full((16, 16), 7.0), checkered]))
    assert flat == 0
    assert busy > 1e5


def test_fourier_alignment_keeps_shape_and_swaps_brightness():
    generator = np.random.default_rng(0)
    dark = generator.normal(60, 10, (10, 32, 32)).astype(np.float32)
    bright = generator.normal(180, 10, (10, 32, 32)).astype(np.float32)
    labels = np.repeat([0, 1], 10)
    aligned = synthetic.align_amplitudes(np.concatenate([dark, bright]), labels)
    assert aligned[:10].mean() == pytest.approx(180, abs=5)
    assert aligned[10:].mean() == pytest.approx(60, abs=5)
    assert np.corrcoef(aligned[0].ravel(), dark[0].ravel())[0, 1] > 0.9


def test_kernel_distance_is_unbiased_and_grows():
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], 200)
    same = [synthetic.kernel_distance(generator.normal(size=(400, 8)), labels, seed=s)[0] for s in range(10)]
    assert abs(np.mean(same)) < 0.05
    assert min(same) < 0
    shifted = generator.normal(size=(400, 8)) + labels[:, None]
    assert synthetic.kernel_distance(shifted, labels)[0] > 0.5


def test_control_labels_are_by_patient(sources):
    rows, made_up = synthetic.halve_originals(sources, seed=3)
    assert (sources.labels[rows] == 1).all()
    assert pd.Series(made_up).groupby(sources.groups[rows].astype(str)).nunique().eq(1).all()
    assert set(made_up) == {0, 1}


def test_control_keeps_patients_apart_and_stands_at_chance(sources, rungs):
    def score(planes, labels, train, test, *, seed):
        assert len(planes) == len(labels) == len(train) + len(test)
        return synthetic.score_probe(planes.reshape(len(planes), -1)[:, ::37], labels, train, test)

    labels, scores, groups = synthetic.score_control(score, rungs["R2"], sources, repeats=40)
    assert len(labels) == len(scores) == len(groups)
    assert ((scores > 0) & (scores <= 1)).all()
    assert metrics.auc(labels, scores) == pytest.approx(0.5, abs=0.06)


def test_best_probe_is_a_single_cue():
    rows = [("R1", "cnn", 0.99), ("R1", "all_cues", 0.98), ("R1", "mean", 0.7), ("R1", "std", 0.8), ("R2", "mean", 0.5)]
    best = synthetic.best_probes(pd.DataFrame(rows, columns=["rung", "classifier", "auc"]))
    assert best.classifier.tolist() == ["std", "mean"]


def test_transfer_leaves_pairs_out_and_says_when_it_cannot(sources, rungs):
    labels, scores, groups = synthetic.score_transfer(rungs["R2"], sources)
    assert len(labels) == len(scores) == len(groups) == 40
    assert np.isfinite(scores).all()
    unnamed = synthetic.Sources(
        sources.images, sources.labels, sources.groups, sources.names, sources.suffixes,
        np.where(sources.labels == 1, sources.lesions, ""),
    )  # fmt: skip
    assert np.isnan(synthetic.score_transfer(rungs["R2"], unnamed)[1]).all()


def test_class_folders_are_read_back(sources, tmp_path):
    assert synthetic.write_class_folders(sources, tmp_path) == 40
    dataset = datasets.load("npz", tmp_path)
    plane = dataset.read_image(dataset.manifest.image_path[0])
    assert abs(plane.mean()) < 1e-3
    assert plane.std() == pytest.approx(1, abs=1e-3)


def test_pair_of_the_settings_or_the_embedded_one(tmp_path):
    settings = Settings(dataset="cbis-ddsm", run_dir=tmp_path)
    pair = synthetic.load_pair(settings, patients=20)
    assert (pair.name, pair.class_names) == ("png-npz", ("synthetic", "original"))
    broken = tmp_path / "data/demo-png-npz" / pair.manifest.image_path[0]
    broken.write_bytes(broken.read_bytes()[:100])
    sources, problems = synthetic.read_sources(synthetic.load_pair(settings, patients=20))
    assert len(sources.images) == len(pair.manifest) - 1
    assert len(problems) == 1
    assert broken.name in problems[0]


def test_too_few_groups_are_refused(tmp_path):
    demo_data.write_demo_data(tmp_path / "pair", layout="png-npz", patients=4, n_jobs=1, progress=False)
    with pytest.raises(DataError, match="batches of synthetic"):
        synthetic.read_sources(datasets.load("png-npz", tmp_path / "pair", task="original"))


def test_cnn_trainer_starts_anew_each_time(sources, rungs, split):
    train, test = split
    score = synthetic.make_cnn_trainer(size=SIZE, epochs=1, batch_size=16)
    first = score(rungs["R0"], sources.labels, train, test, seed=1)
    score(rungs["R3"], sources.labels, train, test, seed=2)
    again = score(rungs["R0"], sources.labels, train, test, seed=1)
    assert first.shape == test.shape
    np.testing.assert_allclose(first, again, atol=1e-4)
    with pytest.raises(UsageError, match="adagrad"):
        synthetic.make_cnn_trainer(size=SIZE, epochs=1, optimizer="adagrad")


@pytest.mark.skipif(not REAL, reason="MAMMO_PNG_NPZ_DIR names no real png-npz data")
def test_no_cue_is_left_on_the_last_rung_of_real_data():
    sources, problems = synthetic.read_sources(datasets.load("png-npz", REAL, task="original"))
    assert not problems
    train, test = synthetic.split_groups(sources.labels, sources.groups)
    planes = synthetic.make_rung(sources, "R5", size=64, train=train)
    scores = synthetic.score_probes(planes, sources, "R5", train, test)
    assert max(metrics.auc(sources.labels[test], values) for values in scores.values()) <= 0.65
