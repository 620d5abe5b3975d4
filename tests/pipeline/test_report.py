"""The page a run leaves: right figures in it, nothing loaded from elsewhere, well-formed."""

from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipeline import report
from shared.evaluation import load_table, renew_table, write_cards
from shared.run import write_csv, write_json
from tests.evaluation.test_cards import RECORD, make_run


def make_page(folder, *, record=RECORD, figures=("roc", "roc_simple_cnn", "reliability", "zebra")):
    """Add figures, a table of pairs and an executed notebook to what `make_run` writes."""
    make_run(folder, record=record, best="mobilenetv2 <b>")
    write_json(folder / "results/left_out.json", {"vgg16": "WEIGHTS demo has none for it"})
    first = {"model_a": "simple_cnn", "model_b": "birads", "delta_auc": 0.0312, "p_delong": 0.00012, "low": np.nan}
    differences = pd.DataFrame([first | {"high": 0.06, "p_holm": 0.0004}, first | {"model_b": "majority"}])
    write_csv(folder / "results/paired_differences.csv", differences)
    (folder / "results/figures").mkdir()
    for name in figures:
        matplotlib.image.imsave(folder / f"results/figures/{name}.png", np.zeros((120, 160, 3), np.uint8))
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks/01_preprocessing.html").write_text("<p>executed</p>")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("run"))


class Page(HTMLParser):
    """Collect the tags with their attributes, and check that they are closed in order."""

    VOID = frozenset(("meta", "link", "br", "img", "line", "circle", "input", "hr"))

    def __init__(self, text):
        super().__init__()
        self.seen, self.stack = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.stack += [tag] * (tag not in self.VOID)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.stack.pop() == tag


def test_index_loads_nothing_and_links_to_what_is_there(run_dir):
    write_cards(run_dir)
    text = report.write_index(run_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert page.stack == []
    for tag, given in page.seen:
        if tag in ("img", "link", "iframe", "source") or "src" in given:
            assert (given.get("src") or given.get("href") or "").startswith("data:"), given
        assert tag != "a" or (run_dir / given["href"]).exists(), given
    assert "@import" not in text
    assert "url(" not in text
    assert [bool(given.get("alt")) for tag, given in page.seen if tag == "img"] == [True] * 4


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
    assert "<td>simple_cnn</td><td>birads</td><td>0.031</td><td>0.00012</td><td></td>" in text


def test_index_opens_with_the_primary_comparison(run_dir):
    text = report.write_index(run_dir).read_text(encoding="utf-8")
    primary = text[text.index('id="primary"') : text.index('class="answer"')]
    assert "simple_cnn against birads" in primary
    assert ".031 [–, .060]" in primary
    assert "majority" not in primary, "a descriptive pair"


def test_every_header_says_what_it_heads_and_every_wide_table_scrolls(run_dir):
    text = report.write_index(run_dir).read_text(encoding="utf-8")
    headers = [given for tag, given in Page(text).seen if tag == "th"]
    assert headers
    assert all("scope" in given for given in headers)
    assert text.count("<table") == text.count('<div class="scroll" tabindex="0"><table') > 3


def test_text_from_data_is_no_markup_and_stale_results_are_named(tmp_path):
    stale = {"results/metrics/simple_cnn.json": "stale, as 03", "results/paired_differences.csv": "stale, as 07"}
    make_page(tmp_path, record={**RECORD, "stale": stale}, figures=())
    renew_table(tmp_path)
    page, cards = report.write_index(tmp_path).read_text(), [path.read_text() for path in write_cards(tmp_path)]
    assert "<b>bold" not in page
    note = r"A &lt;b>bold&lt;/b> # note \[a\](b) \`c\` \$x^{\$ \| d"
    assert all(note in card for card in cards)
    assert ">simple_cnn</th>" not in page
    assert "Left out: <strong>simple_cnn</strong>: stale, as 03" in page
    assert "stale, as 07" in page
    assert 'id="primary"' not in page


def test_demo_says_that_it_is_generated_and_a_failed_run_that_it_failed(tmp_path):
    stages = {"04_transfer_learning": {"status": "failed", "error": "ValueError: <x>"}}
    demo = {"dataset": {"name": "demo", "fingerprint": "generated"}, "status": "failed", "stages": stages}
    make_page(tmp_path, record={**RECORD, **demo}, figures=())
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "its figures say nothing about patients" in text
    assert "Figures</h2>" not in text
    assert "ValueError: &lt;x&gt;" in text


def test_empty_run_directory(tmp_path):
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert "No model has been scored yet" in text
    assert "No audit yet" in text
