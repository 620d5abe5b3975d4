"""The benchmark runs and writes what it measured; nothing here judges how fast anything was."""

import json

import numpy as np
import pytest

from benchmarks import bench, inputs, measure, scale
from pipeline import __main__
from shared.data import readers as datasets


def test_a_childs_memory_is_seen():
    child = measure.in_child(np.ones, shape=10_000_000)
    assert child.result.nbytes == 80_000_000
    assert child.growth_mb > 70
    assert child.own_mb <= child.peak_mb


def test_a_childs_error_is_told():
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        measure.in_child(json.loads, s="{")


def test_sides_take_turns():
    calls = []
    times = measure.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3  # the first pair is not counted
    assert [len(values) for values in times.values()] == [2, 2]


@pytest.mark.parametrize(
    ("options", "ratio", "met"),
    [
        ({"least": 6}, 5.0, False),
        ({"least": 4}, 5.0, True),
        ({"most": 2}, 5.0, True),
        ({"most": 1}, 5.0, False),
        ({"more_is_better": True, "least": 6}, 0.2, False),
        ({}, 5.0, None),
    ],
)
def test_a_goal_is_judged_by_the_medians(options, ratio, met):
    found = measure.compare("row", "what", "peer", "s", [2, 2, 90], [10, 0, 10], **options)
    assert (found.ours, found.theirs, found.ratio, found.met) == (2, 10, ratio, met)


def test_generated_records_are_read_and_differ(tmp_path):
    inputs.write_tfrecords(tmp_path, 9)
    dataset = datasets.load("ddsm-tfrecord", tmp_path)
    assert len(dataset.manifest) == 9
    assert len({dataset.read_image(path).tobytes() for path in dataset.manifest.image_path}) == 9


def test_the_curve_becomes_a_comparison_of_its_ends():
    rows = [
        {"images": count, "stage": stage, "ms_per_image": value, "images_per_second": 1.0, "peak_mb": 1e6, "own_mb": 10}
        for count, value in ((10, 90.0), (100, 2.0), (1000, 4.0))
        for stage in scale.STAGES
    ]
    *ends, peak, own = scale.flatness(rows)
    assert [end.ratio for end in ends] == [0.5] * len(scale.STAGES)
    assert not peak.met
    assert own.met


def test_command_writes_json_and_prints_a_table(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert __main__.main(["bench", "--quick", "--only", "bootstrap", "memory", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {row["name"] for row in report["comparisons"]} == {"bootstrap", "memory"}
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in report["comparisons"])
    assert "loop over roc_auc_score" in capsys.readouterr().out


def test_unknown_row_is_refused(capsys):
    assert __main__.main(["bench", "--only", "speed"]) == 2
    assert "is not one of mammogram" in capsys.readouterr().err


def test_every_row_has_a_name_that_the_documentation_explains(root):
    text = (root / "docs/benchmark.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in bench.ROWS)
