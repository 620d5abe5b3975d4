"""The examples of the documentation run, and its links lead somewhere."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from pipeline.__main__ import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def examples():
    """Return (page, number of the example in it, code) of each Python block of the pages for those who add code."""
    found = []
    for page in ("technical_documentation", "several_machines"):
        text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        found += [(page, number, block) for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("page", "number", "code"), examples(), ids=lambda value: str(value)[:30])
def test_examples_of_the_pages_run(page, number, code):
    if "dask" in code:
        pytest.importorskip("dask.distributed")
    exec(compile(code, f"{page}, example {number}", "exec"), {"__name__": "__main__"})


WITH_EXAMPLES = [path for path in sorted((ROOT / "shared").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_docstrings_run(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_documented_commands_parse():
    """Every `python -m pipeline …` of the pages names a command and options that exist."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = re.findall(r"python -m pipeline ([^`\n#…]*)[`\n#]", text)
    assert len(commands) > 8
    for command in commands:
        build_parser().parse_args(shlex.split(command))
