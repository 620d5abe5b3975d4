"""The model card and the reporting checklist: right figures in them, and what is missing is said to be missing."""

import re

import numpy as np
import pandas as pd
import pytest

from shared import evaluation
from shared.data import Prepared, save_manifest
from shared.evaluation import cards
from shared.run import MANIFEST_COLUMNS, Settings, write_json

STAGE = {"status": "done", "seconds": 12.3, "peak_memory_mb": 800.0, "outputs": [], "key": "k"}
RECORD = {
    "status": "done", "started": "2026-01-01T00:00:00+00:00", "seconds": 24.6, "peak_memory_mb": 800.0,
    "parameters": {"DATASET": "cbis-ddsm"},
    "settings": {
        "task": "abnormal", "image_size": 96, "input": "crop", "window": "percentile", "weights": "demo", "epochs": 9,
        "batch_size": 32, "learning_rate": 0.001, "keep_aspect": True, "profile": "full",
    },
    "seeds": {"SEED": 0, "SEEDS": [0, 1]},
    "dataset": {"name": "cbis-ddsm", "fingerprint": "abc123"},
    "python": "3.11.2", "platform": "Linux", "cpu_count": 2,
    "packages": {"tensorflow": "2.21.0", "keras": "3.15.1"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "stages": {"01_preprocessing": STAGE, "04_transfer_learning": STAGE},
}  # fmt: skip
SPLIT = {"images": 80, "patients": 40, "benign": 41, "malignant": 39, "prevalence": 0.4875}
AUDIT = {
    "dataset": "cbis-ddsm", "seed": 0, "test_split": "official", "patients_on_two_sides": 0,
    "splits": [{"split": name, **SPLIT} for name in ("train", "validation", "test")],
    "official_shared_patients": ["P_1", "P_2"], "official_shared_test_rois": 5, "copies_by_content": 3,
    "unreadable": {"a.jpg": "truncated"}, "label_conflicts": [],
    "coverage": [{"split": "train", "type": "mass", "rows": 1318, "found": 1317}],
    "notes": ["A note of the reader.", "A <b>bold</b>\n# note [a](b) `c` $x^{$ | d"],
}  # fmt: skip


def make_run(folder, *, record=RECORD, best="mobilenetv2"):
    """Write what a run leaves in `folder`: manifest, table of five models, audit and record; nothing is trained."""
    rows, generator = np.arange(240), np.random.default_rng(0)
    manifest = pd.DataFrame("", index=rows, columns=list(MANIFEST_COLUMNS)).assign(
        image_id=[f"image_{i}" for i in rows], patient_id=[f"P_{i // 2}" for i in rows], side="LEFT", fold=-1,
        abnormality_type=np.where(rows % 4 < 2, "mass", "calcification"), label=generator.integers(0, 2, 240),
        split=np.repeat(["train", "validation", "test"], 80), breast_density=[str(1 + i % 4) for i in rows],
    )  # fmt: skip
    manifest.loc[:2, ["split", "exclusion_reason"]] = "excluded", "no image | file"
    save_manifest(folder, manifest)
    settings = Settings(record["dataset"]["name"], run_dir=folder)
    prepared = Prepared(settings, manifest, None, None, None, ("benign", "malignant"))
    for name, strength in {"majority": 0, "mean_intensity": 0.1, "birads": 0.6, "simple_cnn": 0.2, best: 0.4}.items():
        noise = generator.random(240) if strength else 0.4
        scores = np.clip(manifest.label * strength + noise * (1 - strength), 0, 1)
        evaluation.evaluate(prepared, name, scores, weights="demo", train_seconds=3, parameters=1234)
    write_json(folder / "run.json", record)
    write_json(folder / "data/audit.json", AUDIT)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def test_model_card(run_dir):
    card, checklist = evaluation.write_cards(run_dir)
    assert (card.name, checklist.name) == ("model_card.md", "reporting_checklist.md")
    text = card.read_text(encoding="utf-8")
    row = evaluation.load_table(run_dir).set_index("model").loc["mobilenetv2"]
    for part in (
        "# Model card: mobilenetv2", "| abnormality_type | calcification | 40 |", "A note of the reader.",
        f"{cards.short(row.auc)} [{cards.short(row.auc_low)}–{cards.short(row.auc_high)}]", "Not for clinical use",
        "Left out: 3 images: no image \\| file", "0123456789ab with uncommitted changes",
        "tell images with a lesion from normal ones, and",
    ):  # fmt: skip
        assert part in text
    check_tables(text)


def test_reporting_checklist(run_dir):
    text = evaluation.write_cards(run_dir)[1].read_text(encoding="utf-8")
    answers = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, flags=re.MULTILINE))
    assert answers["Level at which partitions are disjoint"] == "patient; on two sides: 0"
    assert answers["Funding, conflicts of interest"] == answers["External test"] == cards.UNANSWERED
    assert answers["Size: test"] == "80 images, 40 patients, 49% positive"
    assert answers["Software"] == "Python 3.11.2; tensorflow 2.21.0, keras 3.15.1"
    assert answers["Baselines"] == "birads, mean_intensity, majority"
    check_tables(text)


def check_tables(text):
    """Every Markdown table has as many cells in each row as in its head, and nothing is left of the template."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert blocks
    for block in blocks:
        lines = block.splitlines()
        assert re.fullmatch(r"[|-]+", lines[1]), block
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block
    assert not re.search(r"\{\{|\{%|\bnan\b|None", text)


def test_short():
    texts = {0.754: ".75", 1.0: "1.00", 0.0: ".00", -0.12: "-.12", None: "–", float("nan"): "–"}
    assert [cards.short(value) for value in texts] == list(texts.values())


def test_chosen_by_validation_and_said_so(run_dir):
    facts = evaluation.collect_facts(run_dir)
    table = evaluation.load_table(run_dir).set_index("model")
    assert facts["chosen"]["model"] == table.val_auc[["simple_cnn", "mobilenetv2"]].idxmax()
    assert [row["model"] for row in facts["models"]] == ["mobilenetv2", "simple_cnn"]
    assert len(facts["answer"]) == 3
    assert facts["answer"][0].startswith("The image model that validation prefers, mobilenetv2 (weights: demo)")
    assert not any("generated" in line for line in facts["limits"])


def test_an_empty_run_directory_answers_nothing(tmp_path):
    card, checklist = evaluation.write_cards(tmp_path)
    assert "No image model has been trained" in card.read_text(encoding="utf-8")
    assert checklist.read_text(encoding="utf-8").count(cards.UNANSWERED) > 20
    assert evaluation.collect_facts(tmp_path)["answer"] == []
    write_json(tmp_path / "run.json", RECORD | {"dataset": {"name": "demo", "fingerprint": "generated"}})
    assert "its figures say nothing about patients" in evaluation.collect_facts(tmp_path)["limits"][0]
