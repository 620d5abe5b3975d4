"""The benchmark runs and writes what it measured; nothing here judges how fast anything was."""

import json

import numpy as np
import pytest

from benchmarks import bench, inputs, measure
from pipeline import __main__
from shared import data


def test_a_childs_memory_is_seen_and_its_error_told():
    child = measure.in_child(np.ones, shape=10_000_000)
    assert child.result.nbytes == 80_000_000
    assert child.peak_mb - child.start_mb > 70
    with pytest.raises(json.JSONDecodeError):
        measure.in_child(json.loads, s="{")


def test_sides_take_turns():
    calls = []
    times = measure.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3  # the first pair is not counted
    assert [len(values) for values in times.values()] == [2, 2]


@pytest.mark.parametrize(("unit", "options", "ratio", "met"), [
    ("s", {"least": 6}, 5.0, False), ("s", {"least": 4}, 5.0, True), ("s", {}, 5.0, None),
    ("MB", {"most": 2}, 5.0, True), ("MB", {"most": 1}, 5.0, False), ("images/s", {"least": 6}, 0.2, False),
])  # fmt: skip
def test_a_goal_is_judged_by_the_medians(unit, options, ratio, met):
    found = measure.compare(measure.Row("row", "what", "peer", unit), [2, 2, 90], [10, 0, 10], **options)
    assert (found.ours, found.theirs, found.ratio, found.met) == (2, 10, ratio, met)


def test_generated_records_are_read_and_differ(tmp_path):
    inputs.write_tfrecords(tmp_path, 9)
    dataset = data.load_layout("ddsm-tfrecord", tmp_path)
    assert len(dataset.manifest) == 9
    assert len({dataset.read_image(path).tobytes() for path in dataset.manifest.image_path}) == 9


def test_command_writes_json_and_prints_a_table(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert __main__.main(["bench", "--quick", "--only", "epoch", "memory", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {row["name"] for row in report["comparisons"]} == {"epoch", "memory"}
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in report["comparisons"])
    assert "PyDataset + Pillow" in capsys.readouterr().out


def test_every_row_has_a_name_that_the_documentation_explains(root):
    text = (root / "docs/benchmark.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in bench.ROWS)
