"""What notebook 02 measures on its ladder: the pair of sources, the cues, and the rows of the table."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import phantoms
from shared import data, synthetic
from shared.run import DataError, Settings

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


TRAIN, TEST = np.arange(48), np.arange(48, 80)


def test_a_cue_that_is_there_separates_and_one_that_is_gone_does_not(sources, planes):
    def areas(rung):
        scores = synthetic.score_probes(planes, sources, rung, TRAIN, TEST)
        return {name: roc_auc_score(sources.labels[TEST], values) for name, values in scores.items()}

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
    assert cues["std"][:2, 0].tolist() == [0, 127.5]
    assert cues["zeros"][:2, 0].tolist() == [0, 0.5]
    assert cues["laplacian"][0, 0] == -6  # no detail at all
    assert cues["laplacian"][1, 0] > 5
    assert cues["compressed_bytes"][1, 0] == len(cv2.imencode(".png", flat[1].astype(np.uint8))[1])
    assert cues["size"][:, 2].tolist() == [float(plane.shape == (64, 64)) for plane in sources.images]
    assert cues["all_cues"].shape == (80, sum(cue.shape[1] for cue in cues.values()) - cues["all_cues"].shape[1])


def test_radial_spectrum_finds_a_wave():
    size = 64
    wave = 100 + 50 * np.sin(2 * np.pi * np.arange(size) * 16 / size)
    power = synthetic.radial_power_spectrum(np.tile(wave, (1, size, 1)).astype(np.float32))
    assert power.shape == (1, synthetic.BANDS)
    assert power[0].argmax() == 7  # two rings a band, from ring 1: ring 16 is in the eighth


def test_a_probe_of_a_constant_knows_nothing():
    labels = np.arange(80) % 2
    assert (synthetic.score_probe(np.ones((80, 3)), labels, TRAIN, TEST) == 0).all()
    scores = synthetic.score_probe(labels[:, None] + 0.5, labels, TRAIN, TEST)
    assert ((scores > 0) == labels[TEST]).all()


def test_rows_of_the_ladder():
    groups = np.array([f"scan{number}" for number in range(20)] * 2)  # each patient has a synthetic pair
    labels = np.repeat([0, 1], 20)
    row = synthetic.ladder_row("R1", "cnn", labels, np.arange(40.0), groups)
    assert list(row) == ["rung", "description", "classifier", "auc", "auc_low", "auc_high", "p_value"]
    assert (row["description"], row["auc"], row["auc_low"]) == (synthetic.RUNGS["R1"], 1.0, 1.0)
    assert row["p_value"] == pytest.approx(1 / 1001)
    noise = np.random.default_rng(0).normal(size=40)
    control = synthetic.ladder_row("real_vs_real", "cnn", labels, noise, groups, description="a control")
    assert control["description"] == "a control"
    assert (control["auc_low"] < 0.5 < control["auc_high"]) & (control["p_value"] > 0.05)


def test_pair_of_the_settings_or_the_embedded_one(tmp_path, monkeypatch):
    folder = tmp_path / "pair"
    phantoms.write_demo_data(folder, layout="png-npz", patients=20, n_jobs=1, progress=False)
    own = synthetic.load_pair(Settings(dataset="png-npz", data_dir=folder, run_dir=tmp_path / "run"))
    asked = []
    monkeypatch.setattr(data, "provide_demo", lambda *where, **options: asked.append((*where, options)) or folder)
    pair = synthetic.load_pair(Settings(dataset="cbis-ddsm", run_dir=tmp_path / "run"))
    assert asked == [(tmp_path / "run/data/demo-png-npz", {"layout": "png-npz", "patients": 80})]
    assert pair.class_names == own.class_names == ("synthetic", "original")
    broken = folder / pair.manifest.image_path[0]
    broken.write_bytes(broken.read_bytes()[:100])
    sources, problems = synthetic.read_sources(pair)
    assert len(sources.images) == len(sources.labels) == len(pair.manifest) - 1
    assert set(sources.suffixes[sources.labels == 1]) == {".png"}
    assert set(sources.lesions) == {"BENIGN", "MALIGNANT"}
    assert [broken.name in problem for problem in problems] == [True]


def test_too_few_groups_are_refused(tmp_path):
    phantoms.write_demo_data(tmp_path / "pair", layout="png-npz", patients=4, n_jobs=1, progress=False)
    with pytest.raises(DataError, match="batches of synthetic"):
        synthetic.read_sources(data.load_layout("png-npz", tmp_path / "pair", task="original"))
