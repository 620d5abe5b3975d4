"""What a run leaves for people: `index.html`, `model_card.md`, `reporting_checklist.md`. No TensorFlow here.

All three are filled from the files of the run directory alone; what is not there is said not to be there.
"""

import base64
import math
from pathlib import Path

import pandas as pd

from shared.data import manifests
from shared.evaluation import metrics, result_files
from shared.evaluation import scoring as evaluation
from shared.run import BASELINES, EXCLUDED, TEST, files

TEMPLATES = Path(__file__).parent / "templates"
UNANSWERED = "not answered by this run"
QUESTIONS = {
    "malignant": "On mammograms of patients it has never seen, how well does an image model tell malignant lesions "
    "from benign ones, and what of that would a trivial rule reach as well?",
    "abnormal": "On mammograms of patients it has never seen, how well does an image model tell images with a lesion "
    "from normal ones, and what of that would a trivial rule reach as well?",
    "original": "Can an image model tell real patches from generated ones, and by which cue?",
    "subtype": "On mammograms of patients it has never seen, how well does an image model that learned four lesion "
    "types tell malignant lesions from benign ones?",
}
BASELINE_WORDS = {
    "majority": "the same score for every image",
    "mean_intensity": "mean grey value of the file",
    "birads": "the radiologist's BI-RADS assessment of the same images",
    "descriptors": "the radiologist's words for shape, margins, type and distribution",
}
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
SHOWN_FIGURES = 6
MAX_FIGURE_BYTES = 2_000_000
OTHER_TABLES = (
    ("paired_differences", "Paired differences in test AUC",
     "Both models on the same images; interval by bootstrap over patients, p by DeLong, corrected after Holm."),
    ("leakage_ladder", "What leaking splits would have reported",
     "The same models under split protocols that let patients cross. Only the patient-level row is a result."),
    ("synthetic_ladder", "Real against generated images, cue by cue",
     "How well classes are told apart while one format cue after the other is removed; 0.5 is chance."),
    ("external_validation", "External validation", "Models and thresholds unchanged on another data set."),
    ("gradcam_visualizations/localisation", "Where the maps point",
     "Localisation of class activation maps against lesion masks, beside trivial maps."),
)  # fmt: skip


# ------------------------------------------------------------ the three files
def write_index(run_dir):
    """Write `index.html`: question, data, comparison table, figures, limits, links; nothing is loaded from elsewhere.

    Returns:
        pathlib.Path: the page.
    """
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["figures"] = collect_figures(run_dir)
    facts["other_tables"] = list(_other_tables(run_dir))
    facts["notebooks"] = [
        {"name": page.stem, "href": f"notebooks/{page.name}", **facts["stages"].get(page.stem, {})}
        for page in sorted((run_dir / "notebooks").glob("*.html"))
    ]
    return _render("index.html", facts, run_dir / "index.html")


def write_model_card(run_dir):
    """Write `model_card.md` for the model that validation chose (after Mitchell et al., FAccT 2019).

    Returns:
        pathlib.Path: the file.
    """
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["subgroups"] = subgroups(run_dir, facts["chosen"])
    return _render("model_card.md", facts, run_dir / "model_card.md")


def write_reporting_checklist(run_dir):
    """Write `reporting_checklist.md`: topics of CLAIM 2024 and TRIPOD+AI, answered from the run where it can.

    Returns:
        pathlib.Path: the file.
    """
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["done"] = {
        name: (run_dir / f"results/{file}").exists()
        for name, file in (
            ("external", "external_validation.csv"),
            ("paired", "paired_differences.csv"),
            ("maps", "gradcam_visualizations/localisation.csv"),
            ("leakage", "leakage_ladder.csv"),
        )
    }
    return _render("reporting_checklist.md", facts, run_dir / "reporting_checklist.md")


def _render(template, facts, target):
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(short=short, number=number, percent=percent, cell=markdown_cell)
    environment.globals.update(unanswered=UNANSWERED)
    files.write_text(target, environment.get_template(template).render(facts))
    return target


# ------------------------------------------------------------------ the facts
def collect_facts(run_dir):
    """Gather what the pages say from the files of a run directory; what is missing stays empty.

    Returns:
        dict: run, stages, audit, splits, exclusions, baselines and models (rows of the table, best first), chosen
        (the model that validation prefers) or None, left_out, limits, is_demo, and more.
    """
    run_dir = Path(run_dir)
    run = _read(run_dir / "run.json")
    audit = _read(run_dir / "data/audit.json")
    table = result_files.load_table(run_dir)
    rows = (
        table.astype(object)
        .where(table.notna(), None)
        .sort_values("auc", ascending=False, na_position="last")
        .to_dict("records")
    )
    models = [row for row in rows if row["model"] not in BASELINES]
    chosen = evaluation.choose_image_model(_metrics(run_dir))
    dataset = audit.get("dataset") or run.get("dataset", {}).get("name") or "unknown"
    name = run.get("dataset", {}).get("name") or (rows[0]["dataset"] if rows else dataset)
    facts = {
        "run": run,
        "stages": run.get("stages", {}),
        "audit": audit,
        "name": name,
        "is_demo": name == "demo",
        "question": QUESTIONS.get(run.get("settings", {}).get("task", "malignant"), QUESTIONS["malignant"]),
        "splits": [_split_row(row) for row in audit.get("splits", [])],
        "exclusions": _exclusions(run_dir, audit),
        "baselines": [
            {**row, "words": BASELINE_WORDS.get(row["model"], "")} for row in rows if row["model"] in BASELINES
        ],
        "models": models,
        "chosen": next((row for row in models if row["model"] == chosen), None),
        "left_out": left_out(run_dir, run, models),
        "has_external": (run_dir / "results/external_validation.csv").exists(),
    }
    facts["answer"] = answer(facts)
    facts["limits"] = limits(facts)
    return facts


def _read(path):
    return files.read_json(path) if path.exists() else {}


def _metrics(run_dir):
    return result_files.load_metrics(run_dir) if (run_dir / "data/manifest.csv").exists() else {}


def _split_row(row):
    """Tell the two class counts, whose column names are the data set's, from the rest."""
    fixed = ("split", "images", "patients", "prevalence")
    return {**{key: row.get(key) for key in fixed}, "classes": {k: v for k, v in row.items() if k not in fixed}}


def _exclusions(run_dir, audit):
    if "exclusions" in audit:
        return audit["exclusions"]
    if not (run_dir / "data/manifest.csv").exists():
        return {}
    manifest = manifests.load_manifest(run_dir)
    return manifest.exclusion_reason[manifest.split == EXCLUDED].value_counts().to_dict()


def left_out(run_dir, run, models):
    """Say which models are not in the table, and why.

    From `results/left_out.json` ({model: reason}) where a notebook has written one, and else from the weights that
    were given.
    """
    told = _read(run_dir / "results/left_out.json")
    weights = run.get("settings", {}).get("weights")
    if told or weights is None or not any(name.startswith("04") for name in run.get("stages", {})):
        return dict(told)
    from shared.models import pretrained
    from shared.run import UsageError

    try:
        available = pretrained.available_backbones(weights)
    except UsageError:
        return {}
    present = " ".join(row["model"] for row in models)
    wanted = ("mobilenetv2", "efficientnetb0", "vgg16")
    return {
        name: f"WEIGHTS {weights!r} gives none for it, and random weights are not transfer learning"
        for name in wanted
        if name not in available and name not in present
    }


def answer(facts):
    """Put the outcome into a few sentences; empty where there is no model yet."""
    chosen = facts["chosen"]
    if chosen is None:
        return []
    sentences = [
        f"The image model that validation prefers, {chosen['model']} (weights: {chosen['weights'] or 'none'}), reaches "
        f"a test AUC of {interval(chosen)} on {chosen['n_test']} images of {chosen['n_patients']} patients, "
        f"{percent(chosen['prevalence'])} of them positive."
    ]
    by_name = {row["model"]: row for row in facts["baselines"]}
    if "mean_intensity" in by_name:
        sentences.append(f"The mean grey value alone reaches {interval(by_name['mean_intensity'])}.")
    if "birads" in by_name:
        sentences.append(
            f"The radiologist's assessment of the same images reaches {interval(by_name['birads'])}; "
            "it is what an image model should be shown beside."
        )
    best = facts["models"][0]
    if best["model"] != chosen["model"]:
        sentences.append(
            f"{best['model']} has the highest test AUC, {interval(best)}; to pick it for that is to choose on test."
        )
    return sentences


def limits(facts):
    """List what the run does not show, from what is and is not in it."""
    lines = []
    if facts["is_demo"]:
        lines.append(
            "The images are generated. The run shows that the methods work; its figures say nothing about patients."
        )
    chosen = facts["chosen"]
    if chosen and chosen["auc_high"] is not None and chosen["auc_low"] is not None:
        width = chosen["auc_high"] - chosen["auc_low"]
        lines.append(
            f"{chosen['n_patients']} test patients: the interval of {chosen['model']} is {width:.2f} wide. Differences "
            "smaller than that need the paired comparison, not a look at the table."
        )
        if chosen["val_auc"] is not None and chosen["val_auc"] - chosen["auc"] > 0.05:
            lines.append(
                f"Validation promised {short(chosen['val_auc'])} and test gave {short(chosen['auc'])}: choosing models "
                "and stopping training on validation makes it optimistic."
            )
    if not facts["has_external"]:
        lines.append("No external validation: how the models do on another scanner or population is not known.")
    if not facts["is_demo"]:
        lines.append(
            "Retrospective, one collection, old film in most public ones. The share of positive cases is that of the "
            "collection, not of screening; predictive values do not carry over."
        )
    lines += [
        "Lesions were found and marked by people beforehand. Telling two kinds of lesion apart is not finding them.",
        "The operating threshold is the one that did best on this validation set by Youden's index; another purpose "
        "needs another one.",
    ]
    return lines + list(facts["audit"].get("notes", []))


def subgroups(run_dir, chosen):
    """Score the chosen model in parts of the test images; empty where something is missing."""
    if chosen is None or not result_files.predictions_path(run_dir, chosen["model"]).exists():
        return []
    predictions = result_files.load_predictions(run_dir, chosen["model"])
    test = predictions[predictions.split == TEST]
    table = metrics.subgroup_table(
        test, manifests.load_manifest(run_dir), threshold=chosen["threshold"], by=("abnormality_type", "breast_density")
    )
    return table.astype(object).where(table.notna(), None).to_dict("records")


# -------------------------------------------------------------------- figures
def collect_figures(run_dir):
    """Read `results/figures/*.png` for embedding, the main ones first.

    Returns:
        list of dict with title, caption, source (a data URI), main (bool).
    """
    paths = sorted((Path(run_dir) / "results/figures").glob("*.png"))
    paths = [path for path in paths if path.stat().st_size <= MAX_FIGURE_BYTES]
    ranked = sorted(paths, key=lambda path: (_rank(path), len(path.stem), path.stem))
    first = {_rank(path): path for path in reversed(ranked)}  # one of each kind: roc, not roc_simple_cnn too
    main = [first[rank] for rank in sorted(first) if rank < len(FIGURES)][:SHOWN_FIGURES]
    return [
        {
            "title": path.stem.replace("_", " "),
            "caption": FIGURES[_rank(path)][1] if _rank(path) < len(FIGURES) else "",
            "source": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
            "main": path in main,
        }
        for path in [*main, *sorted(set(paths) - set(main))]
    ]


def _rank(path):
    for place, (beginning, _) in enumerate(FIGURES):
        if path.stem.startswith(beginning):
            return place
    return len(FIGURES)


def _other_tables(run_dir):
    for file, title, note in OTHER_TABLES:
        path = Path(run_dir) / f"results/{file}.csv"
        if path.exists():
            table = pd.read_csv(path)
            if len(table):
                rows = [[_plain(value) for value in row] for row in table.itertuples(index=False)]
                yield {
                    "title": title,
                    "note": note,
                    "columns": list(table.columns),
                    "rows": rows,
                    "file": f"{file}.csv",
                }


# ---------------------------------------------------------------- formatting
def short(value, digits=2):
    """Write a figure between 0 and 1 the way medical journals do: 0.754 -> ".75"; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def interval(row):
    """Write a row's AUC with its interval: ".75 [.70–.80]"."""
    if row["auc_low"] is None:
        return short(row["auc"])
    return f"{short(row['auc'])} [{short(row['auc_low'])}–{short(row['auc_high'])}]"


def percent(value):
    """Write a share as a whole percentage."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.0%}"


def number(value, digits=0):
    """Write a number with thousands separators; "–" where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def markdown_cell(value):
    """Make any value fit into one cell of a Markdown table."""
    text = UNANSWERED if value is None or value == "" else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _plain(value):
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 0.001 and value else f"{value:.3f}"
    return str(value)
