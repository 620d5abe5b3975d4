"""The site builds without a warning, and each of its pages leads only to what is there. Needs the group docs."""

import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

from pipeline.parameters import select_notebooks

pytest.importorskip("myst_nb", reason='the group docs is not installed: pip install -e ".[docs]"')
pytest.importorskip("furo")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs/site", "-d", folder / "doctrees", ".", folder / "html"]
    done = subprocess.run([*command, "--fail-on-warning", "--quiet"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


def test_site(site, root):
    for notebook in select_notebooks(root / "notebooks"):
        assert (site / f"notebooks/{notebook.stem}.html").is_file()
    pages = [page for page in site.rglob("*.html") if page.stem not in ("search", "genindex", "py-modindex")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text), (
            f"{page.name} loads from afar"
        )
        assert not re.search(r"<img(?![^>]*alt=\"[^\"]{12})[^>]*>", text), f"{page.name}: a figure without words"
        for target in re.findall(r'(?:href|src)="([^"#?:]+)[#?"]', text):
            assert (page.parent / unquote(target)).exists(), f"{page.name}: {target}"


def test_glossary_terms_show_their_meaning(site):
    text = (site / "docs/teaching.html").read_text(encoding="utf-8")
    assert re.search(r'<a class="term reference internal" href="glossary\.html" title="[A-Z]?[^"]{40,}">', text)
    assert 'class="term' not in (site / "docs/glossary.html").read_text(encoding="utf-8")
