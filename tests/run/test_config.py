"""Parameters become settings, or one clear line."""

import pytest

from shared.run import UsageError
from shared.run import settings as config


def test_zero_means_as_the_profile_says():
    settings = config.resolve_settings({"IMAGE_SIZE": 0, "EPOCHS": 0, "PROFILE": "demo"})
    assert settings.image_size == config.PROFILES["demo"]["image_size"]
    assert settings.seeds == config.PROFILES["demo"]["seeds"]
    assert config.resolve_settings({"IMAGE_SIZE": 40}).image_size == 40
    assert config.resolve_settings({"DATASET": "npz", "DATA_DIR": "x", "PROFILE": ""}).profile == "full"


def test_other_names_are_passed_over_and_lists_become_tuples():
    settings = config.resolve_settings({"SEEDS": [3, 4], "np": object(), "NOTHING": 1})
    assert settings.seeds == (3, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "big"),
        ("TASK", "cancer"),
        ("INPUT", "half"),
        ("WINDOW", "log"),
        ("STRATEGY", "tpu"),
        ("EPOCHS", -1),
        ("SEEDS", [0, "a"]),
        ("SEEDS", 5),
        ("EPOCHS", "ten"),
        ("LEARNING_RATE", "fast"),
        ("N_FOLDS", 1),
        ("IMAGE_SIZE", 8),
        ("SEED", -1),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name, value):
    with pytest.raises(UsageError, match=name):
        config.resolve_settings({name: value})


def test_a_data_set_needs_its_folder():
    with pytest.raises(UsageError, match="DATA_DIR"):
        config.resolve_settings({"DATASET": "cbis-ddsm"})


def test_the_environment_decides_the_run_directory(monkeypatch, tmp_path):
    assert config.resolve_run_dir("runs/x") == (config.project_root() / "runs/x").resolve()
    monkeypatch.setenv("MAMMO_RUN_DIR", str(tmp_path))
    assert config.resolve_run_dir("runs/x") == tmp_path.resolve()
