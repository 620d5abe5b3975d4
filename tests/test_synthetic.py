"""What notebook 02 measures on its ladder: the pair of sources, the cues, and the rows of the table."""

from dataclasses import replace
from functools import partial

import cv2
import nbformat
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import phantoms
from shared import data, synthetic
from shared.run import DataError, Settings, project_root

SIZE = 32


def texture(generator, shape, blur):
    plane = cv2.GaussianBlur(generator.normal(size=shape).astype(np.float32), (0, 0), blur)
    return np.clip(128 + 40 * plane / plane.std(), 1, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sources():
    """Originals: fine texture, sizes vary, a dark border. Synthetic: coarse texture, one size."""
    generator, planes, labels = np.random.default_rng(0), [], np.arange(80) % 2
    for original in labels:
        shape = tuple(generator.integers(48, 80, 2)) if original else (64, 64)
        planes.append(texture(generator, shape, 1.0 if original else 2.0))
        planes[-1][:, : 6 * original] = 0
    groups = np.array([f"{'patient' if label else 'batch'}_{number // 8}" for number, label in enumerate(labels)])
    names = np.array([f"image_{number}" for number in range(80)])
    suffixes = np.where(labels == 1, ".png", ".npz")
    return synthetic.Sources(planes, labels, groups, names, suffixes, np.full(80, "BENIGN"))


@pytest.fixture(scope="module")
def planes(sources):
    return np.stack([cv2.resize(plane, (SIZE, SIZE)) for plane in sources.images]).astype(np.float32)


FOLDS = np.arange(80) // 8 % 2  # of groups of eight


def test_a_cue_that_is_there_separates_and_one_that_is_gone_does_not(sources, planes):
    def areas(rung):
        scores = synthetic.score_probes(planes, sources, rung, FOLDS)
        compare = partial(synthetic.compare_in_folds, sources.labels, groups=sources.groups, folds=FOLDS)
        return {name: compare(values)[0].value for name, values in scores.items()}

    as_they_are, converted, resized = (areas(rung) for rung in ("R0", "R1", "R2"))
    assert as_they_are["container"] == as_they_are["size"] == as_they_are["zeros"] == as_they_are["all_cues"] == 1.0
    assert min(as_they_are["laplacian"], as_they_are["spectrum"]) > 0.9
    assert converted["container"] == resized["container"] == resized["size"] == 0.5
    # one commonest size, which a larger-or-smaller question would miss
    assert converted["size"] == converted["zeros"] == resized["zeros"] == 1.0


def test_cues_have_the_values_of_their_names(sources):
    flat = np.full((80, SIZE, SIZE), 7, np.float32)
    flat[1] = np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 255
    cues = synthetic.measure_cues(flat, sources, "R1")
    assert cues["mean"][0, 0] == cues["min"][0, 0] == cues["max"][0, 0] == 7
    assert (cues["std"][:2, 0].tolist(), cues["zeros"][:2, 0].tolist()) == ([0, 127.5], [0, 0.5])
    assert cues["laplacian"][0, 0] == -6  # no detail at all
    assert cues["laplacian"][1, 0] > 5
    assert cues["compressed_bytes"][1, 0] == len(cv2.imencode(".png", flat[1].astype(np.uint8))[1])
    assert cues["size"][:, 2].tolist() == [float(plane.shape == (64, 64)) for plane in sources.images]
    assert cues["all_cues"].shape == (80, sum(cue.shape[1] for cue in cues.values()) - cues["all_cues"].shape[1])


def test_radial_spectrum_finds_a_wave():
    wave = 100 + 50 * np.sin(2 * np.pi * np.arange(64) * 16 / 64)
    power = synthetic.radial_power_spectrum(np.tile(wave, (1, 64, 1)).astype(np.float32))
    assert power.shape == (1, synthetic.BANDS)
    assert power[0].argmax() == 7  # two rings a band, from ring 1: ring 16 is in the eighth


def test_rows_of_the_ladder():
    groups = np.array([f"scan{number}" for number in range(20)] * 2)  # each patient has a synthetic pair
    labels, folds = np.repeat([0, 1], 20), np.tile(np.arange(20) % 2, 2)
    row = synthetic.ladder_row("R1", "cnn", labels, np.arange(40.0), groups, folds)
    assert list(row) == ["rung", "description", "classifier", "auc", "auc_low", "auc_high", "p_value"]
    assert (row["description"], row["auc"], row["auc_low"]) == (synthetic.RUNGS["R1"], 1.0, 1.0)
    assert 0 < row["p_value"] < 1e-4
    assert synthetic.ladder_row("real_vs_real", "cnn", labels, np.zeros(40), groups, folds)["auc"] == 0.5


def clustered(random, *, difference, batches=11, patients=80):
    """Images of a few large batches and many patients, alike within a group; the folds keep groups whole."""
    sizes = np.r_[np.full(batches, 18), random.integers(1, 5, patients)]
    groups = np.repeat(np.arange(batches + patients), sizes)
    labels = (groups >= batches).astype(int)
    noise = random.normal(size=len(sizes))[groups] * 0.3**0.5 + random.normal(size=len(groups)) * 0.7**0.5
    return labels, noise + difference * labels, groups, random.permutation(len(sizes))[groups] % 2


def test_intervals_hold_the_truth_although_there_are_few_batches():
    random, truth = np.random.default_rng(0), norm.cdf(0.8 / 2**0.5)
    found = [synthetic.compare_in_folds(*clustered(random, difference=0.8))[0] for _ in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 90
    chance = [synthetic.compare_in_folds(*clustered(random, difference=0))[1] for _ in range(100)]
    assert sum(p_value < 0.05 for p_value in chance) <= 11


def test_models_that_train_on_each_others_fold_miss_chance_rarely():
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(80), random.integers(1, 5, 80))
        labels, features = random.permutation(np.arange(80) % 2)[groups], random.normal(size=(80, 5))[groups]
        folds, scores = random.permutation(np.arange(80) % 2)[groups], np.zeros(len(groups))
        for fold in (0, 1):
            model = LogisticRegression().fit(features[folds != fold], labels[folds != fold])
            scores[folds == fold] = model.decision_function(features[folds == fold])
        found = synthetic.compare_in_folds(labels, scores, groups, folds)[0]
        missed += not found.low <= 0.5 <= found.high
    assert missed <= 9


def test_images_are_compared_in_their_fold_and_classifiers_in_pairs():
    labels, scores, groups, folds = clustered(np.random.default_rng(1), difference=1)
    found = synthetic.compare_in_folds(labels, scores, groups, folds)[0]
    shifted = synthetic.compare_in_folds(labels, scores + 100 * folds, groups, folds)[0]
    assert (found.value, found.low) == pytest.approx((shifted.value, shifted.low))
    worse = scores + np.sin(np.arange(len(scores)))
    other = synthetic.compare_in_folds(labels, worse, groups, folds)[0]
    paired = synthetic.compare_in_folds(labels, scores, groups, folds, minus=worse)[0]
    assert paired.value == pytest.approx(found.value - other.value)
    assert paired.high - paired.low < found.high - found.low + other.high - other.low
    whole = synthetic.compare_in_folds(labels, scores, groups, 0 * folds)[0].value
    assert whole == pytest.approx(roc_auc_score(labels, scores))


def test_pair_of_the_settings_or_the_embedded_one(tmp_path, monkeypatch):
    folder = tmp_path / "pair"
    phantoms.write_demo_data(folder, layout="png-npz", patients=32, n_jobs=1, progress=False)
    shouted = next(folder.glob("*/*.png"))
    shouted.rename(shouted.with_suffix(".PNG"))  # no cue of a source
    pair = data.load_layout("png-npz", folder, task="original")
    assert pair.class_names == ("synthetic", "original")
    broken = folder / pair.manifest.image_path[0]
    broken.write_bytes(broken.read_bytes()[:100])
    sources, problems = synthetic.read_sources(pair)
    assert len(sources.images) == len(sources.labels) == len(pair.manifest) - 1
    assert set(sources.suffixes[sources.labels == 1]) == {".png"}
    asked = []
    monkeypatch.setattr(data, "provide_demo", lambda *where, **options: asked.append((*where, options)) or folder)
    for settings in (Settings("png-npz", folder, tmp_path / "run"), Settings("cbis-ddsm", run_dir=tmp_path / "run")):
        assert synthetic.read_pair(settings)[0].names.tolist() == sources.names.tolist()
    assert asked == [(tmp_path / "run/data/demo-png-npz", {"layout": "png-npz", "patients": 80})]
    assert set(sources.lesions) == {"BENIGN", "MALIGNANT"}
    assert [broken.name in problem for problem in problems] == [True]
    with pytest.raises(DataError, match="batches of synthetic"):
        synthetic.read_sources(replace(pair, manifest=pair.manifest[pair.manifest.label == 1]))


def test_the_rungs_are_those_of_notebook_02():
    """The notebook shows each step in its cells; `make_rungs` takes the same steps on images of one size."""
    random, labels = np.random.default_rng(0), np.arange(12) % 2
    grey = np.stack([texture(random, (SIZE, SIZE), 1 + label) for label in labels])
    cells = nbformat.read(project_root() / "notebooks/02_synthetic_vs_real.ipynb", as_version=4).cells
    shown = {"c02-23", "02-ring-power", "02-r2", "02-r3", "02-match", "02-r3-r4", "02-r5"}
    scope = {"np": np, "cv2": cv2, "data": data, "size": SIZE, "settings": Settings(), "labels": labels, "grey": grey}
    scope["rungs"] = {"R1": grey.astype(np.float32)}
    for cell in cells:
        if cell.id in shown:
            exec(cell.source, scope)
    made = synthetic.make_rungs(grey, labels, Settings().seed)
    assert list(made) == list(scope["rungs"]) == ["R1", "R2", "R3", "R4", "R5"]
    for rung, planes in made.items():
        assert np.array_equal(planes, scope["rungs"][rung]), rung


def test_the_ladder_of_arrays_sees_a_smooth_source_until_it_is_matched():
    random, labels = np.random.default_rng(0), np.arange(120) % 2
    planes = np.stack([texture(random, (SIZE, SIZE), 2 - label) for label in labels])
    groups = np.array([f"group {number // 4 * 2 + label}" for number, label in enumerate(labels)])
    rows = synthetic.climb_ladder(planes, labels, groups).set_index(["rung", "classifier"])
    assert rows.auc["R1", "laplacian"] > 0.95
    assert rows.auc["R3", "mean"] == rows.auc["R1", "size"] == rows.auc["R1", "container"] == 0.5
    assert rows.auc["R5", "spectrum"] < rows.auc["R2", "spectrum"] == 1


def test_kernel_distance_is_unbiased_and_grows_with_a_shift():
    random = np.random.default_rng(0)
    alike = [synthetic.kernel_distance(*random.normal(size=(2, 40, 8))) for _ in range(200)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / 200**0.5  # a biased one is above 0 at any sample size
    assert synthetic.kernel_distance(random.normal(size=(40, 8)), random.normal(size=(50, 8)) + 1) > 1
    a, b = random.normal(size=(2, 3, 2))

    def cubic(x, y):
        return (x @ y / 2 + 1) ** 3

    within = sum(cubic(s[i], s[j]) for s in (a, b) for i in range(3) for j in range(3) if i != j) / 6
    across = sum(cubic(x, y) for x in a for y in b) / 9
    assert synthetic.kernel_distance(a, b) == pytest.approx(within - 2 * across)
