"""The page a run leaves: right figures in it, nothing loaded from elsewhere, well-formed."""

from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipeline import report
from shared.data import save_manifest
from shared.evaluation import evaluate, load_table, renew_table, write_cards
from shared.run import MANIFEST_COLUMNS, write_csv, write_json

STAGE = {"status": "done", "seconds": 12.3, "peak_memory_mb": 800.0, "outputs": [], "key": "k"}
RECORD = {
    "status": "done", "started": "2026-01-01T00:00:00+00:00", "seconds": 24.6, "peak_memory_mb": 800.0,
    "parameters": {"DATASET": "cbis-ddsm"},
    "settings": {
        "task": "malignant", "image_size": 96, "input": "crop", "window": "percentile", "weights": "demo", "epochs": 9,
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
    "exclusions": {"patient stands in the official test split as well": 4}, "unreadable": {"a.jpg": "truncated"},
    "label_conflicts": [], "coverage": [{"split": "train", "type": "mass", "rows": 1318, "found": 1317}],
    "notes": ["A note of the reader.", "A <b>bold</b>\n# note [a](b) `c` $x^{$ | d"],
}  # fmt: skip


def make_run(folder, *, record=RECORD, figures=("roc", "roc_simple_cnn", "reliability", "zebra")):
    """Write a run directory with a table, an audit, figures and notebooks, without training anything."""
    rows, generator = np.arange(240), np.random.default_rng(0)
    manifest = pd.DataFrame("", index=rows, columns=list(MANIFEST_COLUMNS)).assign(
        image_id=[f"image_{i}" for i in rows], patient_id=[f"P_{i // 2}" for i in rows], side="LEFT", fold=-1,
        label=generator.integers(0, 2, 240), split=np.repeat(["train", "validation", "test"], 80),
    )  # fmt: skip
    save_manifest(folder, manifest)
    settings = SimpleNamespace(run_dir=folder, dataset=record["dataset"]["name"], seed=0)
    prepared = SimpleNamespace(settings=settings, manifest=manifest, rows=lambda name: rows[manifest.split == name])
    for name, strength, weights in (
        ("majority", 0, ""), ("mean_intensity", 0.1, ""), ("birads", 0.6, ""), ("simple_cnn", 0.2, "random"),
        ("mobilenetv2 <b>", 0.4, "demo"),
    ):  # fmt: skip
        noise = generator.random(240) if strength else 0.4
        scores = np.clip(manifest.label * strength + noise * (1 - strength), 0, 1)
        evaluate(prepared, name, scores, weights=weights, train_seconds=3, parameters=1234)
    write_json(folder / "data/audit.json", AUDIT)
    write_json(folder / "run.json", record)
    write_json(folder / "results/left_out.json", {"vgg16": "WEIGHTS demo has none for it"})
    differences = pd.DataFrame(
        {"model_a": ["simple_cnn"], "delta_auc": [0.0312], "p_delong": [0.00012], "low": [np.nan]}
    )
    write_csv(folder / "results/paired_differences.csv", differences)
    (folder / "results/figures").mkdir()
    for name in figures:
        matplotlib.image.imsave(folder / f"results/figures/{name}.png", np.zeros((120, 160, 3), np.uint8))
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks/01_preprocessing.html").write_text("<p>executed</p>")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


class Page(HTMLParser):
    """Collect what a browser would load, and check that tags are closed in order."""

    VOID = frozenset(("meta", "link", "br", "img", "line", "circle", "input", "hr"))

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.stack, self.alts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag in ("img", "script", "link", "iframe", "source"):
            self.loaded.append(attrs.get("src") or attrs.get("href") or "")
        if tag == "img":
            self.alts.append(attrs.get("alt"))
        if tag == "a":
            self.links.append(attrs["href"])

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag


def test_index_loads_nothing_and_links_to_what_is_there(run_dir):
    write_cards(run_dir)
    text = report.write_index(run_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert page.stack == []
    assert all(source.startswith("data:") for source in page.loaded)
    assert "@import" not in text
    assert "url(" not in text
    assert all((run_dir / link).exists() for link in page.links), page.links
    assert all(page.alts)
    assert len(page.alts) == 4


def test_index_says_what_matters(run_dir):
    text = report.write_index(run_dir).read_text(encoding="utf-8")
    assert "Not for clinical use" in text.split("<h1>")[0]
    row = load_table(run_dir).set_index("model").loc["birads"]
    assert f"{row.auc:.2f}"[1:] + f" [{row.auc_low:.2f}"[0:2] in text
    assert "mobilenetv2 &lt;b&gt;" in text
    assert "mobilenetv2 <b>" not in text
    body = text.index('<tbody class="models">')
    assert text.index("mobilenetv2", body) < text.index(">simple_cnn", body), "best first"
    assert text.index(">simple_cnn", body) < text.index('<tbody class="baselines">', body) < text.index(">birads", body)
    assert "A note of the reader." in text
    assert "2 patients stand in both official splits" in text
    assert "generated" not in text.split('id="limits"')[1].split("</ul>")[0]
    assert text.index("ROC curves on test") < text.index("Reliability on test") < text.index("2 more figures")
    assert "Left out: <strong>vgg16</strong>" in text
    assert "<td>simple_cnn</td><td>0.031</td><td>0.00012</td><td></td>" in text


def test_text_from_data_is_no_markup_and_stale_results_are_named(tmp_path):
    stale = {"results/metrics/simple_cnn.json": "stale, as 03", "results/paired_differences.csv": "stale, as 07"}
    make_run(tmp_path, record={**RECORD, "stale": stale}, figures=())
    renew_table(tmp_path)
    page, cards = report.write_index(tmp_path).read_text(), [path.read_text() for path in write_cards(tmp_path)]
    assert "<b>bold" not in page
    note = r"A &lt;b>bold&lt;/b> # note \[a\](b) \`c\` \$x^{\$ \| d"
    assert all(note in card for card in cards)
    assert ">simple_cnn</th>" not in page
    assert "Left out: <strong>simple_cnn</strong>: stale, as 03" in page
    assert "stale, as 07" in page


def test_demo_says_that_it_is_generated_and_a_failed_run_that_it_failed(tmp_path):
    stages = {"04_transfer_learning": {"status": "failed", "error": "ValueError: <x>"}}
    demo = {"dataset": {"name": "demo", "fingerprint": "generated"}, "status": "failed", "stages": stages}
    make_run(tmp_path, record={**RECORD, **demo}, figures=())
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "its figures say nothing about patients" in text
    assert "Figures</h2>" not in text
    assert "ValueError: &lt;x&gt;" in text


def test_empty_run_directory(tmp_path):
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "No model has been scored yet" in text
    assert "No audit yet" in text
