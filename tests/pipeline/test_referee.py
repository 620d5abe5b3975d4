"""The referee: other column names, what it warns of, and one clear line for each kind of bad file."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from shared import evaluation


@pytest.fixture
def table():
    generator, patients = np.random.default_rng(0), np.repeat(np.arange(80), 2)
    labels = np.repeat(np.arange(80) % 2, 2)
    scores = 1 / (1 + np.exp(-(2 * labels - 1 + generator.normal(size=160))))
    columns = {"Group": patients, "y_true": labels, "prob": scores, "file": np.arange(160)}
    return pd.DataFrame(columns | {"set": np.where(patients < 20, "val", "test")})


def judge(tmp_path, capsys, **files):
    for name, content in files.items():
        content.to_csv(tmp_path / f"{name}.csv", index=False)
    paths = [str(tmp_path / f"{name}.csv") for name in files]
    status = main(["referee", *paths, "--out", str(tmp_path / "out")])
    return status, capsys.readouterr()


def test_other_names_pairs_and_seeds(table, tmp_path, capsys):
    noisy = table.assign(prob=np.random.default_rng(1).random(160))
    twice = pd.concat([table.assign(seed=1), noisy.assign(seed=2)])
    status, printed = judge(tmp_path, capsys, good=table, noisy=noisy, seeds=twice)
    assert status == 0
    assert "patient_id = Group" in printed.out
    written = json.loads((tmp_path / "out/referee.json").read_text())
    figures = pd.DataFrame(written["figures"]).set_index(["model", "figure"]).value
    test = table[table.set == "test"]
    assert figures["good", "AUC by image"] == pytest.approx(evaluation.auc(test.y_true, test.prob))
    averaged = (table.prob + noisy.prob) / 2
    assert figures["seeds", "AUC by image"] == pytest.approx(evaluation.auc(test.y_true, averaged[test.index]))
    assert figures["seeds", "AUC, patients and seeds drawn"] < figures["good", "AUC by image"]
    assert {row["verdict"].split(";")[0] for row in written["differences"]} >= {"better"}
    assert (tmp_path / "out/referee.html").read_text().count("<tr>") > 40
    assert len(pd.read_csv(tmp_path / "out/referee.csv")) == len(figures)


def test_files_of_one_name_are_told_apart(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, rows in {"A": table, "B": table.assign(prob=1 - table.prob)}.items():
        (tmp_path / folder).mkdir()
        rows.to_csv(tmp_path / folder / "x.csv", index=False)
    assert main(["referee", "A/x.csv", "B/x.csv"]) == 0
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "referee/referee.json").read_text())
    page = (tmp_path / "referee/referee.html").read_text()
    assert all(f"{name}: 160 rows" in text for name in ("A/x", "B/x") for text in (printed, page))
    figures = pd.DataFrame(written["figures"]).query("figure == 'AUC by image'").set_index("model").value
    assert figures["A/x"] + figures["B/x"] == pytest.approx(1)
    assert set(pd.read_csv(tmp_path / "referee/referee.csv").model) == {"A/x", "B/x"}
    assert len(written["differences"]) == 1
    assert main(["referee", "A/x.csv", "./A/x.csv"]) == 2
    assert "another file holds a model 'A/x' as well" in capsys.readouterr().err


def test_image_ids_are_names_within_a_patient(table, tmp_path, capsys):
    views = table.assign(file=np.tile(["LCC", "RCC"], 80))
    noisy = views.assign(prob=np.random.default_rng(1).random(160))
    seeds = pd.concat([views.assign(seed=1), noisy.assign(seed=2)])
    status, printed = judge(tmp_path, capsys, views=views, noisy=noisy, seeds=seeds)
    assert status == 0
    assert "repeat an image" not in printed.out
    assert f"compared on the {(table.set == 'test').sum()} test images" in printed.out
    figures = pd.read_csv(tmp_path / "out/referee.csv").set_index(["model", "figure"]).value
    test = table[table.set == "test"]
    assert figures["views", "AUC by image"] == pytest.approx(evaluation.auc(test.y_true, test.prob))
    averaged = (views.prob + noisy.prob)[test.index] / 2
    assert figures["seeds", "AUC by image"] == pytest.approx(evaluation.auc(test.y_true, averaged))
    status, printed = judge(tmp_path, capsys, views=views, others=noisy.assign(Group=noisy.Group + 1000))
    assert (status, "not compared on the 0 test images" in printed.out) == (0, True)


def test_warnings(table, tmp_path, capsys):
    crossing = table.assign(set=np.where(np.arange(160) % 2, "val", "test"))
    classes = table.assign(prob=(table.prob > 0.5).astype(int))
    perfect = table.assign(prob=table.y_true * 3.0 - table.prob / 10)
    few = pd.concat([table[:60]] * 2)
    output = judge(tmp_path, capsys, crossing=crossing, classes=classes, perfect=perfect, few=few)[1].out
    for model, words in {
        "crossing": "stand in more than one split", "classes": "look like classes", "perfect": "above what honest",
        "few": "all of it is descriptive",
    }.items():  # fmt: skip
        assert any(line.startswith(f"WARNING {model}") and words in line for line in output.splitlines()), words
    assert "WARNING few: 60 rows repeat an image" in output
    assert "WARNING perfect: scores outside [0, 1]" in output


@pytest.mark.parametrize(("change", "words"), [
    ({"prob": None}, "no column score or prob"), ({"Group": None}, "no column patient_id or patient"),
    ({"y_true": None}, "no column label or y_true"), ({"y_true": 2}, "label is '2'"), ({"rows": 0}, "both classes"),
    ({"Group": ""}, "row 2: patient_id is ''"), ({"y_true": 0}, "without both classes"),
    ({"model": ["a"] * 40 + ["b"] * 120, "set": ["val"] * 40 + ["test"] * 120}, "0 test rows of bad: a, without both"),
    ({"prob": np.nan}, "row 2: score is ''"), ({"set": "val"}, "0 test rows"),
])  # fmt: skip
def test_bad_files_get_one_line_and_status_2(change, words, table, tmp_path, capsys):
    gone = [name for name, value in change.items() if value is None]
    bad = table[: change.get("rows")].assign(**change).drop(columns=gone)
    status, printed = judge(tmp_path, capsys, bad=bad)
    assert (status, len(printed.err.splitlines())) == (2, 1)
    assert words in printed.err
    assert "bad.csv" in printed.err


def test_a_missing_file_an_image_and_an_impossible_prevalence(table, tmp_path, capsys):
    (tmp_path / "picture.csv").write_bytes(bytes(range(256)))
    table.to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "wide.csv").write_text("patient_id,label,score\n1,0,1,5\n2,1,0,7\n")  # decimal commas
    for name, *more in (["absent"], ["empty"], ["wide"], ["picture"], ["good", "--prevalence", "2"]):
        assert main(["referee", str(tmp_path / f"{name}.csv"), *more, "--out", str(tmp_path / "out")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
