"""Parameters become settings, or one clear line."""

import contextlib
import csv
import os
import sys
import types

import numpy as np
import pandas as pd
import pytest

from shared import run
from shared.run import UsageError
from shared.run.progress import is_watched


def test_zero_means_as_the_profile_says_other_names_are_passed_over_and_lists_become_tuples():
    settings = run.resolve_settings({"IMAGE_SIZE": 0, "EPOCHS": 0, "PROFILE": "demo"})
    assert settings.image_size == run.PROFILES["demo"]["image_size"]
    assert settings.seeds == run.PROFILES["demo"]["seeds"]
    assert run.resolve_settings({"IMAGE_SIZE": 40}).image_size == 40
    assert run.resolve_settings({"DATASET": "npz", "DATA_DIR": "x", "PROFILE": ""}).profile == "full"
    settings = run.resolve_settings({"SEEDS": [3, 4], "np": object(), "NOTHING": 1})
    assert settings.seeds == (3, 4)


WRONG = {
    "PROFILE": ["big"], "TASK": ["cancer"], "INPUT": ["half"], "WINDOW": ["log"], "STRATEGY": ["tpu"], "N_FOLDS": [1],
    "DATA_DIR": [""], "EPOCHS": [-1, "ten"], "SEED": [-1, 2**32], "SEEDS": [[0, "a"], 5, [0, 0]], "BATCH_SIZE": [True],
    "LEARNING_RATE": ["fast", float("inf"), float("nan")], "IMAGE_SIZE": [8, 100_000],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_that_is_not_allowed_is_named(name, value):
    with pytest.raises(UsageError, match=name):
        run.resolve_settings({"DATASET": "cbis-ddsm" if name == "DATA_DIR" else "demo", name: value})


def test_the_environment_decides_the_run_directory(monkeypatch, tmp_path):
    assert run.resolve_run_dir("runs/x") == (run.project_root() / "runs/x").resolve()
    monkeypatch.setenv("MAMMO_RUN_DIR", str(tmp_path))
    assert run.resolve_run_dir("runs/x") == tmp_path.resolve()


def test_files_are_written_whole_or_not_at_all(tmp_path):
    run.write_text(tmp_path / "a/b.txt", "before")
    with contextlib.suppress(RuntimeError), run.atomic_write(tmp_path / "a/b.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a/b.txt").read_text() == "before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_file_keeps_the_umask_and_a_link_stays_a_link(tmp_path):
    before = os.umask(0o077)
    try:
        run.write_text(tmp_path / "real.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    run.write_text(tmp_path / "link.txt", "through the link")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "through the link"


def test_json_holds_plain_values(tmp_path):
    content = {"a": np.float32(0.5), 1: np.array([1, 2]), "nan": np.nan, "path": tmp_path, "set": {3}}
    run.write_json(tmp_path / "x.json", content)
    expected = {"a": 0.5, "1": [1, 2], "nan": None, "path": tmp_path.as_posix(), "set": [3]}
    assert run.read_json(tmp_path / "x.json") == expected
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(run.DataError, match="not valid JSON"):
        run.read_json(tmp_path / "x.json")


def test_what_a_spreadsheet_takes_for_a_formula_gets_an_apostrophe(tmp_path):
    words = ["=1+1", "+x", "-x", "@x", "'=x", "-1.5", "+2e-3", "x=1", ""]
    run.write_csv(tmp_path / "x.csv", pd.DataFrame({"a": words, "n": range(9)}))
    read = pd.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
    assert list(read.a) == ["'=1+1", "'+x", "'-x", "'@x", "''=x", *words[5:]]
    assert list(run.plain_words(read).a) == words


@pytest.mark.parametrize(
    "word", ["\r", "a\rb", "\r\n", "\n", '"', 'a"\r"', ",", "a,b\r", "\r=1", "=1\r", "-1\r", "'\r"]
)
def test_a_written_table_reads_as_it_was(tmp_path, word):
    frame = pd.DataFrame({"a": [word, "x", ""], "n": [0.5, 1.0, -2.0], "b": ["", word, "-1"]})
    run.write_csv(tmp_path / "x.csv", frame)
    read = pd.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
    assert run.plain_words(read).equals(frame.assign(n=["0.5", "1", "-2"]))
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "n", "b"], *read.to_numpy().tolist()]


def test_an_error_is_one_line():
    assert str(run.DataError("a\nb\udcff")) == "a b?"


def test_progress_is_for_those_who_watch(monkeypatch):
    shell = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_watched(), "a terminal, also one with IPython"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not is_watched(), "a log"
    shell.kernel = "a notebook"
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert is_watched()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not is_watched(), "a notebook that the runner executes"
