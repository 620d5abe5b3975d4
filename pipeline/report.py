"""The page that a run leaves for people, `index.html`, filled from the files of the run directory alone."""

import base64
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from shared.evaluation import load_predictions
from shared.evaluation.cards import collect_facts, render
from shared.run import write_csv

TEMPLATE = Path(__file__).parent / "templates/index.html"
FIGURES = (
    # beginning of the file's name, what it shows
    ("roc", "ROC curves on test: sensitivity against 1 − specificity over all thresholds; the diagonal is chance."),
    ("reliability", "Reliability on test: observed share of the positive class against the predicted probability; on "
     "the diagonal a probability means what it says."),
    ("forest", "Test AUC of each row with its 95 % interval, bootstrap over patients."),
    ("precision_recall", "Precision against recall on test; the level of chance is the prevalence."),
    ("decision", "Decision curve: net benefit against the risk at which one would act."),
    ("confusion", "Confusion matrix on test, at the threshold chosen on validation."),
    ("split", "Images in each split, by class."),
    ("errors", "Errors with the highest confidence, as the network sees them."),
    ("gallery", "Errors with the highest confidence, as the network sees them."),
)  # fmt: skip
PUBLISHED = {
    "forest": "Test AUC of each row with its 95 % interval by patient.",
    "paired_differences": "Differences in test AUC between pairs of models.",
    "thresholds": "Sensitivity and specificity over the thresholds.",
    "reliability": "Reliability: observed share against predicted probability.",
    "leakage_ladder": "What leaking splits would have added.",
}
SHOWN_FIGURES, MAX_FIGURE_BYTES = 6, 2_000_000
OTHER_TABLES = (
    ("paired_differences", "Paired differences in test AUC",
     "Both models on the same images; interval by bootstrap over patients, p by DeLong. "
     "Holm corrects the primary comparisons; the others are descriptive."),
    ("leakage_ladder", "What leaking splits would have reported",
     "The same models under split protocols that let patients cross. Only the patient-level row is a result."),
    ("synthetic_ladder", "Real against generated images, cue by cue",
     "How well classes are told apart while one format cue after the other is removed; 0.5 is chance."),
    ("external_validation", "External validation", "Models and thresholds unchanged on another data set."),
    ("gradcam_visualizations/localisation", "Where the maps point",
     "Localisation of class activation maps against lesion masks, beside trivial maps."),
)  # fmt: skip


def write_index(run_dir: Path | str) -> Path:
    """Write `index.html`, which loads nothing from elsewhere, and return its path."""
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["figures"] = collect_figures(run_dir)
    facts["other_tables"] = list(collect_tables(run_dir, facts["run"].get("stale", {})))
    facts["notebooks"] = [
        {"name": page.stem, "href": f"notebooks/{page.name}", **facts["stages"].get(page.stem, {})}
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
    figures = [{"file": f"{name}.png", "title": title} for name, title in PUBLISHED.items()]
    figures = [figure for figure in figures if (results / "figures" / figure["file"]).exists()]
    for figure in figures:
        shutil.copyfile(results / "figures" / figure["file"], folder / figure["file"])
    for row in table:
        scores = load_predictions(run_dir, row["model"])
        write_csv(folder / f"predictions/{row['model']}.csv", scores[scores.split == "test"])
    facts |= {"table": table, "differences": differences, "figures": figures, "coverage": coverage}
    return render(TEMPLATE.with_name("results.md"), facts | {"folder": folder.name}, page)


def collect_figures(run_dir: Path) -> list[dict[str, Any]]:
    """Read `results/figures/*.png` as data URIs; the first of each kind in `FIGURES` are `main`."""
    paths = [path for path in (run_dir / "results/figures").glob("*.png") if path.stat().st_size <= MAX_FIGURE_BYTES]
    paths = sorted(paths, key=lambda path: (len(path.stem), path.stem))
    captions, main = {}, []
    for beginning, caption in FIGURES:
        found = [path for path in paths if path.stem.startswith(beginning)]
        captions.update(dict.fromkeys(found, caption))
        main += found[:1]  # roc, not roc_simple_cnn too
    main = main[:SHOWN_FIGURES]
    return [
        {
            "title": path.stem.replace("_", " "),
            "caption": captions.get(path, ""),
            "source": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
            "main": path in main,
        }
        for path in [*main, *sorted(set(paths) - set(main))]
    ]


def collect_tables(run_dir: Path, stale: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield title, note, columns, rows and file of each further result table that is there; `stale`: {file: reason}."""
    for file, title, note in OTHER_TABLES:
        path = run_dir / f"results/{file}.csv"
        table = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if len(table):
            rows, note = table.map(format_value).values.tolist(), f"{note} {stale.get(f'results/{file}.csv', '')}"
            yield {"title": title, "note": note, "columns": [*table], "rows": rows, "file": f"{file}.csv"}


def format_value(value: object) -> str:
    """Write a table's value: three decimals, or three digits where it is smaller; empty for NaN."""
    if not isinstance(value, float):
        return str(value)
    return "" if pd.isna(value) else f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
