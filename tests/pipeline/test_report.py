"""The pages a run leaves: right figures in them, nothing loaded from elsewhere, readable in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from pipeline import report
from shared.data import manifests
from shared.evaluation import result_files
from shared.evaluation import scoring as evaluation
from shared.run import MANIFEST_COLUMNS, files

matplotlib.use("Agg")
STAGE = {"status": "done", "seconds": 12.3, "peak_memory_mb": 800.0, "outputs": [], "key": "k"}
RECORD = {
    "status": "done",
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 24.6,
    "peak_memory_mb": 800.0,
    "parameters": {"DATASET": "cbis-ddsm"},
    "settings": {
        "task": "malignant", "image_size": 96, "input": "crop", "window": "percentile", "weights": "demo", "epochs": 9,
        "batch_size": 32, "learning_rate": 0.001, "keep_aspect": True, "profile": "full",
    },
    "seeds": {"SEED": 0, "SEEDS": [0, 1]},
    "dataset": {"name": "cbis-ddsm", "fingerprint": "abc123"},
    "python": "3.11.2",
    "platform": "Linux",
    "cpu_count": 2,
    "packages": {"tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.6", "scikit-learn": "1.9.1"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "stages": {"01_preprocessing": STAGE, "04_transfer_learning": STAGE},
}  # fmt: skip


def make_manifest(n=240):
    generator = np.random.default_rng(0)
    manifest = pd.DataFrame("", index=range(n), columns=list(MANIFEST_COLUMNS))
    return manifest.assign(
        image_id=[f"image_{i}" for i in range(n)],
        patient_id=[f"P_{i // 2}" for i in range(n)],
        side="LEFT",
        abnormality_type=np.where(np.arange(n) % 4 < 2, "mass", "calcification"),
        label=generator.integers(0, 2, n),
        split=np.repeat(["train", "validation", "test"], n // 3),
        fold=-1,
        breast_density=[str(1 + i % 4) for i in range(n)],
    )


def make_run(folder, *, record=RECORD, figures=("roc", "roc_simple_cnn", "reliability", "zebra")):
    """Write a run directory with a table, an audit, figures and notebooks, without training anything."""
    import matplotlib.pyplot as plt

    manifest = make_manifest()
    manifests.save_manifest(folder, manifest)
    settings = SimpleNamespace(run_dir=folder, dataset=record["dataset"]["name"], seed=0)
    prepared = SimpleNamespace(
        settings=settings, manifest=manifest, rows=lambda name: np.flatnonzero(manifest.split == name)
    )
    generator = np.random.default_rng(1)
    for name, strength, weights in (
        ("majority", 0, ""), ("mean_intensity", 0.1, ""), ("birads", 0.6, ""), ("simple_cnn", 0.2, "random"),
        ("mobilenetv2 <b>", 0.4, "demo"),
    ):  # fmt: skip
        noise = generator.random(len(manifest)) if strength else 0.4
        scores = np.clip(manifest.label * strength + noise * (1 - strength), 0, 1)
        evaluation.evaluate(prepared, name, scores, weights=weights, train_seconds=3, parameters=1234)
    files.write_json(folder / "data/audit.json", make_audit(record))
    files.write_json(folder / "run.json", record)
    for name in figures:
        figure, axes = plt.subplots()
        axes.plot([0, 1], [0, 1])
        path = folder / f"results/figures/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks/01_preprocessing.html").write_text("<p>executed</p>")
    return folder


def make_audit(record):
    split = {"images": 80, "patients": 40, "benign": 41, "malignant": 39, "prevalence": 0.4875}
    return {
        "dataset": record["dataset"]["name"],
        "seed": 0,
        "test_split": "official",
        "splits": [{"split": name, **split} for name in ("train", "validation", "test")],
        "patients_on_two_sides": 0,
        "official_shared_patients": ["P_1", "P_2"],
        "official_shared_test_rois": 5,
        "exclusions": {"patient stands in the official test split as well": 4},
        "unreadable": {"a.jpg": "truncated"},
        "copies_by_content": 3,
        "copies_across_official_splits": 1,
        "label_conflicts": [],
        "coverage": [{"split": "train", "type": "mass", "rows": 1318, "found": 1317}],
        "notes": ["A note of the reader."],
    }


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
    report.write_model_card(run_dir)
    report.write_reporting_checklist(run_dir)
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
    table = result_files.load_table(run_dir).set_index("model")
    row = table.loc["birads"]
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
    for backbone in ("vgg16", "efficientnetb0"):
        assert f"Left out: <strong>{backbone}</strong>" in text


def test_chosen_by_validation_not_by_test(run_dir):
    facts = report.collect_facts(run_dir)
    table = result_files.load_table(run_dir).set_index("model")
    assert facts["chosen"]["model"] == table.val_auc[["simple_cnn", "mobilenetv2 <b>"]].idxmax()
    assert facts["models"][0]["model"] == table.auc[["simple_cnn", "mobilenetv2 <b>"]].idxmax()


def test_demo_says_that_it_is_generated(tmp_path):
    make_run(tmp_path, record={**RECORD, "dataset": {"name": "demo", "fingerprint": "generated"}}, figures=())
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "its figures say nothing about patients" in text
    assert "Figures</h2>" not in text


def test_empty_run_directory(tmp_path):
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "No model has been scored yet" in text
    assert "No audit yet" in text
    assert "No image model has been trained" in report.write_model_card(tmp_path).read_text(encoding="utf-8")
    checklist = report.write_reporting_checklist(tmp_path).read_text(encoding="utf-8")
    assert checklist.count(report.UNANSWERED) > 20


def test_failed_run_says_so(tmp_path):
    failed = {"04_transfer_learning": {"status": "failed", "error": "ValueError: <x>"}}
    make_run(tmp_path, record={**RECORD, "status": "failed", "stages": failed}, figures=())
    assert "ValueError: &lt;x&gt;" in report.write_index(tmp_path).read_text(encoding="utf-8")


def test_told_reasons_win(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    files.write_json(copy / "results/left_out.json", {"vgg16": "file too old"})
    assert report.collect_facts(copy)["left_out"] == {"vgg16": "file too old"}


def test_model_card(run_dir):
    text = report.write_model_card(run_dir).read_text(encoding="utf-8")
    assert "Not for clinical use" in text
    chosen = report.collect_facts(run_dir)["chosen"]
    assert f"# Model card: {chosen['model']}" in text
    assert "| abnormality_type | calcification | 40 |" in text
    assert "0123456789ab with uncommitted changes" in text
    assert not re.search(r"\bnan\b", text)
    check_tables(text)


def test_reporting_checklist(run_dir):
    text = report.write_reporting_checklist(run_dir).read_text(encoding="utf-8")
    answers = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, flags=re.MULTILINE))
    assert answers["Level at which partitions are disjoint"] == "patient; on two sides: 0"
    assert answers["Funding, conflicts of interest"] == report.UNANSWERED
    assert answers["External test"] == report.UNANSWERED
    assert answers["Size: test"] == "80 images, 40 patients, 49% positive"
    assert answers["Software"].startswith("Python 3.11.2; tensorflow 2.21.0")
    assert "None" not in text
    check_tables(text)


def check_tables(text):
    """Every Markdown table has as many cells in each row as in its head, and no blank line inside."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert blocks
    for block in blocks:
        lines = block.splitlines()
        assert re.fullmatch(r"[|-]+", lines[1]), block
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.754, ".75"), (1.0, "1.00"), (0.0, ".00"), (-0.12, "-.12"), (None, "–"), (float("nan"), "–")],
)
def test_short(value, expected):
    assert report.short(value) == expected


# -------------------------------------------------------------- in a browser
@pytest.fixture
def browser(open_chromium):
    """Chromium with the network cut off, and its own logs."""
    window = open_chromium("--host-resolver-rules=MAP * ~NOTFOUND", logs={"browser": "ALL", "performance": "ALL"})
    yield window
    window.quit()


def test_in_a_browser(run_dir, browser):
    browser.get("about:blank")
    for log in ("browser", "performance"):  # what the browser itself did on starting
        browser.get_log(log)
    browser.get(report.write_index(run_dir).as_uri())
    rows = browser.find_elements("css selector", "#comparison-table tbody tr:not(.group)")
    assert len(rows) == 5
    assert all(row.is_displayed() for row in rows)
    figures = browser.find_elements("css selector", ".figures img")
    visible = [image for image in figures if image.is_displayed()]
    assert len(visible) == 2
    widths = [browser.execute_script("return arguments[0].naturalWidth", image) for image in visible]
    assert all(width > 100 for width in widths)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    assert urls
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
