"""Fill `model_card.md` and `reporting_checklist.md` from the files of a run directory; the words are in `templates/`.

What the run directory does not hold is said not to be there.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from shared.data import load_manifest
from shared.evaluation import groups, results
from shared.run import BASELINES, EXCLUDED, TEST, read_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
UNANSWERED = "not answered by this run"
WORDS = tomllib.loads((TEMPLATES / "words.toml").read_text(encoding="utf-8"))


def write_cards(run_dir: Path | str) -> list[Path]:
    """Write and return the model card of the model that validation chose, and the reporting checklist.

    The card follows Mitchell et al., FAccT 2019, the checklist CLAIM 2024 and TRIPOD+AI.
    """
    run_dir = Path(run_dir)
    facts = collect_facts(run_dir)
    facts["done"] = {name: (run_dir / file).exists() for name, file in WORDS["done"].items()}
    facts["subgroups"] = []
    if chosen := facts["chosen"]:
        predictions = results.load_predictions(run_dir, chosen["model"])
        manifest = load_manifest(run_dir)[["image_id", *groups.GROUPS]].drop(columns="side")
        test = predictions[predictions.split == TEST].merge(manifest, on="image_id")
        scored = groups.compare_groups(test, groups.GROUPS, threshold=chosen["threshold"], draws=500)
        facts["subgroups"] = scored.to_dict("records")
    names = ("model_card.md", "reporting_checklist.md")
    return [render(TEMPLATES / name, facts, run_dir / name) for name in names]


def render(template: Path, facts: Mapping[str, Any], target: Path) -> Path:
    """Fill a template, write it to `target` and return `target`."""
    write_text(target, fill(template, facts))
    return target


def fill(template: Path, facts: Mapping[str, Any]) -> str:
    """Fill a Jinja template, which has the filters `short`, `p_value`, `number`, `percent` and `cell`, with facts."""
    blocks: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    files = jinja2.FileSystemLoader(template.parent)
    is_html = template.suffix == ".html"
    environment = jinja2.Environment(loader=files, autoescape=is_html, undefined=jinja2.StrictUndefined, **blocks)
    filters = {"number": partial(short, form=",.0f"), "percent": partial(short, form=".0%"), "cell": markdown_cell}
    environment.filters.update(filters, short=short, p_value=p_value)
    environment.globals.update(unanswered=UNANSWERED)
    return environment.get_template(template.name).render(facts)


def collect_facts(run_dir: Path | str) -> dict[str, Any]:
    """Gather what the pages say from the files of a run directory; what is missing stays empty.

    Baselines and models are rows of the table, best first; chosen is the one that validation prefers, or None.
    """
    run_dir = Path(run_dir)
    paths = {"run": "run.json", "audit": "data/audit.json", "left_out": "results/left_out.json"}
    facts: dict[str, Any] = {name: {} for name in paths}
    facts |= {name: read_json(run_dir / file) for name, file in paths.items() if (run_dir / file).exists()}
    if "settings" not in facts["run"]:  # the mark that a notebook leaves
        facts["run"] = {}
    run, audit = facts["run"], facts["audit"]
    rows = ((Path(file), reason) for file, reason in run.get("stale", {}).items())
    facts["left_out"] |= {path.stem: reason for path, reason in rows if path.parent.name == "metrics"}
    table = results.load_table(run_dir)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    exclusions = audit.get("exclusions", {})
    chosen = None
    eligible = []
    if (run_dir / "data/manifest.csv").exists():
        manifest = load_manifest(run_dir)
        exclusions = exclusions or manifest.exclusion_reason[manifest.split == EXCLUDED].value_counts().to_dict()
        found = results.load_results(run_dir)
        chosen, eligible = results.choose_image_model(found), results.image_models(found)
    log = run_dir / f"results/training_logs/{chosen}.csv"
    epochs = pd.read_csv(log) if log.exists() else pd.DataFrame()
    rate = epochs["learning_rate"].max() if "learning_rate" in epochs else UNANSWERED
    fixed = ("split", "images", "patients", "prevalence")  # the two other columns are named after the classes
    name = run.get("dataset", {}).get("name") or (rows[0]["dataset"] if rows else audit.get("dataset", "unknown"))
    facts |= {
        "stages": run.get("stages", {}),
        "name": name,
        "is_demo": name == "demo",
        "exclusions": exclusions,
        "splits": [
            {**{key: row.get(key) for key in fixed}, "classes": {k: v for k, v in row.items() if k not in fixed}}
            for row in audit.get("splits", [])
        ],
        "baselines": [row | {"words": WORDS["baselines"][row["model"]]} for row in rows if row["model"] in BASELINES],
        "models": [row for row in rows if row["model"] not in BASELINES],
        "eligible": len(eligible),
        "training": {"epochs": len(epochs), "learning_rate": rate},
        "chosen": next((row for row in rows if row["model"] == chosen), None),
        "has_external": (run_dir / WORDS["done"]["external"]).exists(),
    }
    question, answer, limits = (fill(TEMPLATES / f"{name}.txt", facts) for name in ("question", "answer", "limits"))
    return facts | {"question": question.strip(), "answer": answer.split("\n")[:-1], "limits": limits.split("\n")[:-1]}


def short(value: float | None, digits: int = 2, *, form: str = "") -> str:
    """Write a figure in the format `form`, or as medical journals write one below 1: 0.754 -> ".75"; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:{form or f'.{digits}f'}}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def p_value(value: float | None) -> str:
    """Write a p-value with three digits, as `short` does; none is 0."""
    return "< .001" if value is not None and value < 0.001 else short(value, 3)


def markdown_cell(value: object) -> str:
    """Make any value fit into one line, or cell of a table, of Markdown, where nothing in it is markup."""
    text = UNANSWERED if value is None or value == "" else str(value)
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*\[\]$])", r"\\\1", text)
