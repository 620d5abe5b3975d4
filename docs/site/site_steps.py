"""What Sphinx does not do by itself: contents, glossary terms as hovers, docstrings in this project's form."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")  # OWNER/NAME of a public copy: gives the notebooks launch links
LAUNCH = {
    "Binder": "https://mybinder.org/v2/gh/{}/HEAD?urlpath=lab/tree/{}.ipynb",
    "Codespaces": "https://codespaces.new/{}",
}
SCROLLS = r'(<pre|<div class="(?:output text_html|table-wrapper[^"]*)")(?! tabindex)'
CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: Notebooks

notebooks/*
```
```{toctree}
:hidden:
:glob:
:caption: Pages

docs/*
shared/models/weights/README
CONTRIBUTING
```
"""


def read_glossary(page: Path) -> dict[str, str]:
    """Return {term: meaning} from lines `**Term (other), term** – meaning`; terms in lower case, no markup."""
    entries = re.findall(r"^\*\*(.+?)\*\* – (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    terms = {}
    for names, meaning in entries:
        for name in re.sub(r" \(.+?\)", "", names).split(", "):
            terms[name.lower()] = re.sub("[*`]", "", meaning)
    return terms


TERMS = read_glossary(Path(__file__).parents[1] / "glossary.md")
LONGEST_FIRST = sorted(map(re.escape, TERMS), key=len, reverse=True)
PATTERN = re.compile(rf"\b({'|'.join(LONGEST_FIRST)})\b", flags=re.IGNORECASE)


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link a page's first use of each glossary term to the glossary, with its meaning on hover."""
    seen = set(TERMS) if docname == "docs/glossary" else set()
    uri = app.builder.get_relative_uri(docname, "docs/glossary")
    for text in list(doctree.findall(nodes.Text)):
        found = [match for match in PATTERN.finditer(text) if match[0].lower() not in seen]
        if not found or not isinstance(text.parent, nodes.paragraph):
            continue
        first = found[0]
        word = first[0]
        link = nodes.reference("", word, refuri=uri, reftitle=TERMS[word.lower()], classes=["term"], internal=True)
        text.parent.replace(text, [nodes.Text(text[: first.start()]), link, nodes.Text(text[first.end() :])])
        seen.add(word.lower())


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the first page the table of contents, which readers of the README elsewhere need not see."""
    if docname == app.config.root_doc:
        source[0] += CONTENTS


def add_launch_links(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Put launch links before a notebook, once the project has a public place."""
    if REPOSITORY and page.startswith("notebooks/"):
        links = [f'<a href="{url.format(REPOSITORY, page)}">{name}</a>' for name, url in LAUNCH.items()]
        context["body"] = f"<p>Open in {' or '.join(links)}</p>{context['body']}"


def mark_arguments(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Make a list of what stands under `Args:` in a docstring, and paragraphs of `Returns …` and `Raises …`."""
    text = "\n".join(lines).replace("\nArgs:\n", "\nArgs:\n\n")
    text = re.sub(r"^(Args:|Returns|Raises)", r"\n\1", text, flags=re.MULTILINE)
    text = re.sub(r"^ {4}([\w, ]+): ", r"* `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(r"^ {8}", "  ", text, flags=re.MULTILINE)  # goes on within its item
    text = re.sub(r"^ {4}(?=[^ ])", "", text, flags=re.MULTILINE)  # goes on within its paragraph
    lines[:] = text.split("\n")


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    """Let the keyboard reach what scrolls, give the menu's headings a level, and open the folder with the README."""
    if error:
        return
    for page in app.outdir.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(SCROLLS, r'\1 tabindex="0"', text)
        page.write_text(
            re.sub(r'role="heading"(?! aria-level)', 'role="heading" aria-level="2"', text), encoding="utf-8"
        )
    shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the steps to Sphinx's events."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", mark_arguments)
    app.connect("doctree-resolved", link_terms)
    app.connect("html-page-context", add_launch_links)
    app.connect("build-finished", finish_pages)
    return {"parallel_read_safe": True}
