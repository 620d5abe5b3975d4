"""The page that a run leaves for people, `index.html`, filled from the files of the run directory alone."""

import base64
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.parameters import is_optional
from shared.evaluation import load_predictions
from shared.evaluation.cards import collect_facts, render
from shared.run import write_csv

TEMPLATE = Path(__file__).parent / "templates/index.html"
CAPTIONS = tomllib.loads(TEMPLATE.with_name("captions.toml").read_text(encoding="utf-8"))
PAIRS = "results/paired_differences.csv"
SHOWN_FIGURES, MAX_FIGURE_BYTES = 6, 2_000_000


def write_index(run_dir: Path | str) -> Path:
    """Write `index.html`, which loads nothing from elsewhere, and return its path."""
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["figures"] = collect_figures(run_dir)
    facts["primary"] = read_primary(run_dir) if PAIRS not in facts["run"].get("stale", {}) else []
    facts["other_tables"] = list(collect_tables(run_dir, facts["run"].get("stale", {})))
    facts["notebooks"] = [
        {
            "name": f"{page.stem} (optional)" if is_optional(page.stem) else page.stem,
            "href": f"notebooks/{page.name}",
            **facts["stages"].get(page.stem, {}),
        }
        for page in sorted((run_dir / "notebooks").glob("*.html"))
    ]
    return render(TEMPLATE, facts, run_dir / "index.html")


def publish(run_dir: Path | str, page: Path | str) -> Path:
    """Write a Markdown page about a finished run, and beside it a folder with its figures and its scores on test.

    Figures with images are left out.
    """
    run_dir, page = Path(run_dir), Path(page)
    results, folder = run_dir / "results", page.with_suffix("")
    facts = collect_facts(run_dir)
    table = sorted(facts["models"] + facts["baselines"], key=lambda row: -row["auc"])
    differences = pd.read_csv(results / "paired_differences.csv").to_dict("records")
    coverage = [f"Coverage: {line}" for line in facts["audit"].get("notes", [])]
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    figures = [{"file": f"{name}.png", "title": title} for name, title in CAPTIONS["published"].items()]
    figures = [figure for figure in figures if (results / "figures" / figure["file"]).exists()]
    for figure in figures:
        shutil.copyfile(results / "figures" / figure["file"], folder / figure["file"])
    for row in table:
        scores = load_predictions(run_dir, row["model"])
        write_csv(folder / f"predictions/{row['model']}.csv", scores[scores.split == "test"])
    facts |= {"table": table, "differences": differences, "figures": figures, "coverage": coverage}
    return render(TEMPLATE.with_name("results.md"), facts | {"folder": folder.name}, page)


def collect_figures(run_dir: Path) -> list[dict[str, Any]]:
    """Read `results/figures/*.png` as data URIs; the first of each kind in `CAPTIONS` are `main`."""
    paths = [path for path in (run_dir / "results/figures").glob("*.png") if path.stat().st_size <= MAX_FIGURE_BYTES]
    paths = sorted(paths, key=lambda path: (len(path.stem), path.stem))
    captions, main = {}, []
    for beginning, caption in CAPTIONS["figures"].items():
        found = [path for path in paths if path.stem.startswith(beginning)]
        captions.update(dict.fromkeys(found, caption))
        main += found[:1]  # roc, not roc_simple_cnn too
    main = main[:SHOWN_FIGURES]
    return [
        {
            "title": path.stem.replace("_", " "), "caption": captions.get(path, ""), "main": path in main,
            "source": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
        }
        for path in [*main, *sorted(set(paths) - set(main))]
    ]  # fmt: skip


def read_primary(run_dir: Path) -> list[dict[str, Any]]:
    """Read the primary comparisons, those that Holm's correction covers; none where notebook 07 has not run."""
    pairs = pd.read_csv(run_dir / PAIRS) if (run_dir / PAIRS).exists() else pd.DataFrame()
    return pairs[pairs.p_holm.notna()].to_dict("records") if "p_holm" in pairs else []


def collect_tables(run_dir: Path, stale: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield title, note, columns, rows and file of each further result table that is there; `stale`: {file: reason}."""
    for words in CAPTIONS["tables"]:
        file = f"results/{words['file']}.csv"
        table = pd.read_csv(run_dir / file) if (run_dir / file).exists() else pd.DataFrame()
        if len(table):
            facts = {"note": f"{words['note']} {stale.get(file, '')}", "file": file.removeprefix("results/")}
            yield words | facts | {"columns": [*table], "rows": table.map(format_value).values.tolist()}


def format_value(value: object) -> str:
    """Write a table's value: three decimals, or three digits where it is smaller; empty for NaN."""
    if not isinstance(value, float):
        return str(value)
    return "" if pd.isna(value) else f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
