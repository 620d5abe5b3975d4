"""The committed generators of notebook 02b."""

import json

import h5py
import pytest

from shared.models.pretrained import DEMO_FILE

FOLDER = DEMO_FILE.parent
FILES = sorted(FOLDER.glob("generator_*_demo.weights.h5"))


def test_they_are_small_and_say_how_they_were_made():
    assert [path.name for path in FILES] == ["generator_gan_demo.weights.h5", "generator_vae_demo.weights.h5"]
    assert sum(path.stat().st_size for path in FILES) <= 3_000_000
    facts = json.loads((FOLDER / "generators_demo.json").read_text())
    assert set(facts) == {"learnt_from", "steps", "seconds"}
    assert set(facts["steps"]) == set(facts["seconds"]) == {"vae", "gan"}
    assert min(facts["steps"].values()) >= 100, "a generator of a trial run was committed"
    assert "--only 02b -p TRAIN True" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_they_have_one_architecture(path):
    def shapes(file):
        found = {}
        with h5py.File(file) as content:
            content.visititems(lambda name, item: found.update({name: getattr(item, "shape", None)}))
        return found

    assert shapes(path) == shapes(FILES[0])
