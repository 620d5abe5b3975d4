"""From settings to Prepared; the face of the room; what happens where nothing can be used."""

import numpy as np
import pytest

from shared import data
from shared.run import Settings, read_json


def test_prepare_makes_what_the_rest_needs(drawn, tmp_path):
    settings = Settings("cbis-ddsm", drawn("cbis-ddsm", 40), tmp_path, image_size=32, task="subtype")
    data.check_can_run(settings)
    prepared = data.prepare(settings)
    count = len(prepared.manifest)
    assert prepared.images.shape == prepared.masks.shape == (count, 32, 32)
    assert (prepared.n_classes, set(prepared.targets)) == (4, {0, 1, 2, 3})
    np.testing.assert_array_equal(prepared.targets >= 2, prepared.labels == 1)
    np.testing.assert_array_equal(prepared.patients, prepared.manifest.patient_id)
    everywhere = [prepared.rows(split) for split in ("train", "validation", "test", "excluded")]
    np.testing.assert_array_equal(np.sort(np.concatenate(everywhere)), np.arange(count))
    assert data.load_manifest(tmp_path).equals(prepared.manifest)
    assert data.split_key(prepared.manifest) == data.split_key(data.load_manifest(tmp_path))
    report = read_json(tmp_path / "data/audit.json")
    assert (report["patients_on_two_sides"], len(data.audit_table(report))) == (0, 10)
    assert f"{len(prepared.rows('test'))} test images of 32 px" in data.describe(prepared)
    assert prepared.masks.any(axis=(1, 2)).mean() > 0.95
    held = prepared.hold_out(1)
    np.testing.assert_array_equal(held.rows("validation"), np.flatnonzero(prepared.manifest.fold == 1))
    np.testing.assert_array_equal(held.rows("train", "validation"), prepared.rows("train", "validation"))
    np.testing.assert_array_equal(held.rows("test"), prepared.rows("test"))
    assert not set(held.patients[held.rows("train")]) & set(held.patients[held.rows("validation")])


def test_the_demo_is_drawn_below_the_run_directory(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(data.readers, "provide_demo", lambda folder: seen.append(folder) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.load_dataset(Settings(run_dir=tmp_path))
    assert seen == [tmp_path / "data/demo"]


def test_make_logistic_learns_its_scale_from_the_rows_it_is_fitted_on():
    rng = np.random.default_rng(0)
    features = rng.normal(5, 1000, (200, 2))
    labels = (features[:, 0] > 500).astype(int)
    model = data.make_logistic(balanced=True, seed=0).fit(features, labels)
    assert (model.predict(features) == labels).mean() > 0.95
    np.testing.assert_allclose(model[0].mean_, features.mean(axis=0))
    assert [one[-1].class_weight for one in (model, data.make_logistic())] == ["balanced", None]
