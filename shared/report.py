"""The page a reader opens first: `index.html`. No TensorFlow here."""

import html
from pathlib import Path

from shared import artifacts


def write_index(run_dir):
    """Write `index.html` of a run directory and return its path."""
    run_dir = Path(run_dir)
    table = artifacts.load_table(run_dir)
    links = [
        f'<li><a href="notebooks/{page.name}">{html.escape(page.stem)}</a></li>'
        for page in sorted((run_dir / "notebooks").glob("*.html"))
    ]
    body = table.to_html(index=False, float_format="%.3f") if len(table) else "<p>No results yet.</p>"
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Run</title>'
        f"<p>Not for clinical use.</p>{body}<ul>{''.join(links)}</ul></html>\n"
    )
    artifacts.write_text(run_dir / "index.html", page)
    return run_dir / "index.html"
