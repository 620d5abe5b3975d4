"""Figures that several notebooks draw. Each function returns a closed matplotlib Figure, shown once by its cell.

Mammograms are grey with a fixed range; train, validation and test keep one colour each; colours are those of
Okabe & Ito, which colour-blind readers tell apart.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from shared import evaluation
from shared.run import BASELINES, atomic_write

TRAIN_COLOUR, VALIDATION_COLOUR = "#0072B2", "#E69F00"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MODEL_COLOURS = {  # the same in every figure; any other model takes what is left of COLOURS
    "small_cnn": "#009E73", "simple_cnn": "#56B4E9", "mobilenetv2": "#0072B2", "mobilenetv2_frozen": "#CC79A7",
    "mean_intensity": "#E69F00", "birads": "#000000", "descriptors": "#999999",
}  # fmt: skip
GREY, ORANGE = "#888888", "#D55E00"
STYLE: Any = {
    "figure.dpi": 120, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11, "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS), "grid.alpha": 0.25, "legend.frameon": False,
}  # fmt: skip
plt.rcParams["text.parse_math"] = False  # a name from the data is no formula, also where a notebook writes it


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (6, 4), models: Sequence[str] = (), **options: Any
) -> tuple[Figure, Any]:
    """Make a figure in the series' style; it is closed, so that a notebook shows it once only.

    `size` is width and height in inches. Lines take the colours of `models` in turn, or `COLOURS`. Further options
    are those of `matplotlib.pyplot.subplots`.
    Returns (Figure, axes): one Axes, or an array of them.
    """
    with plt.rc_context(STYLE | ({"axes.prop_cycle": cycler(color=model_colours(models))} if models else {})):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
        plt.close(figure)
    return figure, axes


def save_figure(figure: Figure, run_dir: Path | str, name: str, *, folder: str = "figures") -> Figure:
    """Save a figure as `results/<folder>/<name>.png`, 120 dpi, and return it, to be shown in the same line."""
    with atomic_write(Path(run_dir) / f"results/{folder}/{name}.png") as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    return figure


def model_colours(names: Iterable[str]) -> list[str]:
    """Return a colour for each model: its own of `MODEL_COLOURS`, or one that no other of them has."""
    names = list(names)
    taken = {MODEL_COLOURS[name] for name in names if name in MODEL_COLOURS}
    free = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
    others = [name for name in names if name not in MODEL_COLOURS]
    return [MODEL_COLOURS.get(name) or free[others.index(name) % len(free)] for name in names]


def show_images(
    images: Sequence[np.ndarray], *, titles: Sequence[str] | None = None, columns: int = 6, width: float = 1.7
) -> Figure:
    """Show grey images (H, W), 0–255, side by side, `columns` in a row, each `width` inches wide, a title above it."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = width * images[0].shape[0] / images[0].shape[1] + (0.3 if titles is not None else 0.05)
    figure, axes = new_figure(rows, columns, size=(columns * width, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        axes.flat[i].imshow(image, cmap="gray", vmin=0, vmax=255)
        if titles is not None:
            axes.flat[i].set_title(titles[i], fontsize=9)
    return figure


def show_heatmaps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    masks: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    width: float = 1.45,
) -> Figure:
    """Lay heatmaps over grey images: one row an image, first the image alone, then one column a map.

    The stronger the map, the less transparent its colour, so that the mammogram stays visible where the map is silent.

    `images` are (N, H, W), 0–255, `maps` {name: float (N, H, W) in [0, 1]}. The outline of `masks` (N, H, W) is drawn
    in white and black. The N titles stand beside the rows; a picture is `width` inches wide.
    """
    count, columns = len(images), ["image", *maps]
    size = (width * len(columns) + 0.3, width * count + 0.3)
    figure, axes = new_figure(count, len(columns), size=size, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        axis.imshow(images[row], cmap="gray", vmin=0, vmax=255)
        if column:
            heat = np.asarray(maps[columns[column]][row])
            axis.imshow(heat, cmap="plasma", vmin=0, vmax=1, alpha=0.65 * np.sqrt(np.clip(heat, 0, 1)))
        if masks is not None and masks[row].any():
            axis.contour(masks[row], [0.5], colors="black", linewidths=1.6)
            axis.contour(masks[row], [0.5], colors="white", linewidths=0.8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if row == 0:
            axis.set_title(columns[column], fontsize=9)
        if column == 0 and titles is not None:
            axis.set_ylabel(titles[row], fontsize=9)
    return figure


def plot_learning_curves(history: pd.DataFrame, *, best_epoch: int | None = None, title: str = "") -> Figure:
    """Draw loss and AUC of train and validation over the epochs.

    `history` has the columns epoch, loss, val_loss, auc, val_auc. Marked is the `best_epoch`, where the kept weights
    come from. The title stands above both.
    """
    figure, axes = new_figure(1, 2, size=(9, 3.2))
    for axis, (quantity, label) in zip(axes, {"loss": "loss", "auc": "AUC"}.items(), strict=True):
        parts = (quantity, "train", TRAIN_COLOUR), (f"val_{quantity}", "validation", VALIDATION_COLOUR)
        for column, name, colour in parts:
            if column in history:
                axis.plot(history["epoch"], history[column], color=colour, marker=".", label=name)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="#666666", linestyle=":", label="kept")
        axis.set(xlabel="epoch", ylabel=label)
        axis.locator_params(axis="x", integer=True)
    axes[1].axhline(0.5, color="#999999", linestyle="--", linewidth=1)
    axes[1].set_ylim(min(0.4, axes[1].get_ylim()[0]), 1.0)
    axes[0].legend()
    figure.suptitle(title, fontsize=11)
    return figure


def plot_roc_curves(predictions: Mapping[str, pd.DataFrame], *, bands: bool | Collection[str] = True) -> Figure:
    """Draw ROC curves of {model: columns patient_id, label, score}, rows of one split.

    Bands are by bootstrap over patients; `bands` says for which models, True for all, False for none.
    """
    figure, axis = new_figure(size=(5.2, 5))
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="chance")
    for colour, (name, rows) in zip(model_colours(predictions), predictions.items(), strict=True):
        rates, hits, _ = roc_curve(rows.label, rows.score)
        axis.plot(rates, hits, color=colour, label=f"{name} ({roc_auc_score(rows.label, rows.score):.2f})")
        if bands is True or (bands and name in bands):
            band = evaluation.roc_band(rows.label, rows.score, rows.patient_id, draws=500)
            axis.fill_between(band.false_positive_rate, band.low, band.high, color=colour, alpha=0.12, linewidth=0)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axis.legend(fontsize=8, loc="lower right")
    return figure


def plot_forest(
    table: pd.DataFrame,
    *,
    value: str = "auc",
    low: str = "auc_low",
    high: str = "auc_high",
    label: str = "model",
    group: str = "",
    reference: float = 0.5,
    xlabel: str = "test AUC",
) -> Figure:
    """Draw values with intervals, one row a label, the first at the top.

    Baselines are grey, and `clinical_…` models, which were given more than the image, are orange. Where the table has
    the column `ideal_auc` (demo data), a green line shows what the drawing's own parameters reach.

    `value`, `low`, `high` and `label` are columns of the table, whose rows are drawn in their order. `group` is the
    column of the part within a label, with a colour and legend of its own; "" for one row a label. The dashed line
    stands at `reference`, and `xlabel` says what the values are.
    """
    names, groups = list(dict.fromkeys(table[label])), list(dict.fromkeys(table[group])) if group else [""]
    figure, axis = new_figure(size=(7 if group else 6.5, 0.9 + 0.32 * len(table)))
    for row in table.to_dict("records"):
        name, part = row[label], groups.index(row[group]) if group else 0
        y = names.index(name) + 0.6 * ((part + 0.5) / len(groups) - 0.5)
        colour = GREY if name in BASELINES else ORANGE if str(name).startswith("clinical_") else COLOURS[part]
        axis.plot([row[low], row[high]], [y, y], color=colour, linewidth=2)
        axis.plot(row[value], y, "o", color=colour, label=row[group] if group and name == names[0] else None)
    axis.axvline(reference, color="#999999", linestyle="--", linewidth=1)
    for ideal in table.get("ideal_auc", pd.Series(dtype=float)).dropna().unique():
        axis.axvline(ideal, color=COLOURS[2], linestyle="-.", linewidth=1.5)
        axis.text(ideal, -0.7, "ideal observer", color=COLOURS[2], fontsize=8, ha="right", va="bottom")
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=f"{xlabel}\nwith 95 % interval by patient")
    axis.set_ylim(len(names) - 0.4, -0.6)  # top first, no row on the frame
    axis.grid(False, axis="y")
    if group:
        axis.legend(fontsize=8)
    return figure


def plot_localisation(table: pd.DataFrame, measures: Sequence[str], *, references: Collection[str] = ()) -> Figure:
    """Draw measures of localisation with their intervals, one panel a measure and one row a method.

    The table has the columns method, measure, value, low, high; its methods are drawn in their order, top first, the
    `references` in grey: what a heatmap has to beat.
    """
    methods = list(dict.fromkeys(table.method))
    size = (2.2 + 2.6 * len(measures), 0.8 + 0.26 * len(methods))
    figure, axes = new_figure(1, len(measures), size=size, sharey=True, squeeze=False)
    for axis, measure in zip(axes[0], measures, strict=True):
        for row in table[table.measure == measure].to_dict("records"):
            y = methods.index(row["method"])
            colour = GREY if row["method"] in references else COLOURS[0]
            axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
            axis.plot(row["value"], y, marker="o", color=colour)
        axis.set(xlabel=measure.replace("_", " "), yticks=range(len(methods)), yticklabels=methods)
        axis.set_xlim(left=0)
        axis.grid(False, axis="y")
    axes[0, 0].invert_yaxis()
    return figure
