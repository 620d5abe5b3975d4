"""Figures. Each function returns a closed matplotlib Figure, which a notebook shows once, as the last line of a cell.

Mammograms are grey with a fixed range; train, validation and test keep one colour each; colours are those of
Okabe & Ito, which colour-blind readers tell apart.
"""

import itertools
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from shared.evaluation import metrics
from shared.run import BASELINES, files

TRAIN_COLOUR, VALIDATION_COLOUR, TEST_COLOUR, EXCLUDED_COLOUR = "#0072B2", "#E69F00", "#009E73", "#999999"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MODEL_COLOURS = {  # the same in every figure; any other model takes what is left of COLOURS
    "small_cnn": "#009E73",
    "simple_cnn": "#56B4E9",
    "mobilenetv2": "#0072B2",
    "mobilenetv2_frozen": "#CC79A7",
    "mean_intensity": "#E69F00",
    "birads": "#000000",
    "descriptors": "#999999",
}
CLASS_COLOURS = ("#0072B2", "#D55E00")
STYLE = {
    "figure.dpi": 80,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def new_figure(rows=1, columns=1, *, size=(6, 4), **options):
    """Return (Figure, axes) in the series' style; the figure is closed, so that a notebook shows it once only."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
        plt.close(figure)
    return figure, axes


def save_figure(figure, run_dir, name, *, folder="figures"):
    """Save a figure as `results/<folder>/<name>.png` and return it, so that it can be shown in the same line."""
    with files.atomic_write(Path(run_dir) / f"results/{folder}/{name}.png") as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    return figure


def model_colours(names):
    """Return a colour for each model: its own of `MODEL_COLOURS`, or one that no other of them has."""
    names = list(names)
    taken = {MODEL_COLOURS[name] for name in names if name in MODEL_COLOURS}
    free = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
    others = [name for name in names if name not in MODEL_COLOURS]
    return [MODEL_COLOURS.get(name) or free[others.index(name) % len(free)] for name in names]


# -------------------------------------------------------------------- images
def show_images(images, *, titles=None, columns=6, width=1.7, heading=None):
    """Show grey images side by side.

    Args:
        images: sequence of (H, W), 0–255.
        titles: words above each.
        columns: how many stand in a row.
        width: inches an image.
        heading: words above all.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = width * images[0].shape[0] / images[0].shape[1] + (0.3 if titles is not None else 0.05)
    figure, axes = new_figure(rows, columns, size=(columns * width, rows * height + (0.4 if heading else 0)))
    axes = np.atleast_1d(axes).ravel()
    for axis in axes:
        axis.axis("off")
    for i, image in enumerate(images):
        axes[i].imshow(image, cmap="gray", vmin=0, vmax=255)
        if titles is not None:
            axes[i].set_title(titles[i], fontsize=9)
    if heading:
        figure.suptitle(heading, fontsize=11)
    return figure


def plot_histograms(groups, *, label, bins=40, density=True):
    """Draw the distributions of one quantity in several groups: {name: values}."""
    figure, axis = new_figure(size=(6, 3.2))
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(values, float) for values in groups.values()]), bins)
    for colour, (name, values) in zip(itertools.cycle(COLOURS), groups.items(), strict=False):
        axis.hist(values, edges, density=density, histtype="stepfilled", alpha=0.35, color=colour, label=name)
        axis.hist(values, edges, density=density, histtype="step", color=colour)
    axis.set(xlabel=label, ylabel="density" if density else "images")
    axis.legend()
    return figure


def plot_split(table, class_names):
    """Draw how many images of each class every split holds: `splits.split_table`."""
    figure, axis = new_figure(size=(6, 2.8))
    left = np.zeros(len(table))
    for colour, name in zip(CLASS_COLOURS, class_names, strict=True):
        axis.barh(table["split"], table[name], left=left, color=colour, label=name)
        left += table[name].to_numpy()
    for y, (total, patients) in enumerate(zip(left, table.patients, strict=True)):
        axis.text(total, y, f"  {patients} patients", va="center", fontsize=9)
    axis.set(xlabel="images", xlim=(0, left.max() * 1.25 + 1))
    axis.invert_yaxis()
    axis.legend(ncols=2, loc="lower right")
    axis.grid(False, axis="y")
    return figure


# ------------------------------------------------------------------ training
def plot_learning_curves(history, *, best_epoch=None, title=""):
    """Draw loss and AUC of train and validation over the epochs.

    Args:
        history: DataFrame epoch, loss, val_loss, auc, val_auc.
        best_epoch: value of `epoch` to mark: where the kept weights come from.
        title: words above both.
    """
    figure, axes = new_figure(1, 2, size=(9, 3.2))
    for axis, quantity in zip(axes, ("loss", "auc"), strict=True):
        for column, name, colour in (
            (quantity, "train", TRAIN_COLOUR),
            (f"val_{quantity}", "validation", VALIDATION_COLOUR),
        ):
            if column in history:
                axis.plot(history["epoch"], history[column], color=colour, marker=".", label=name)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="#666666", linestyle=":", label="kept")
        axis.set(xlabel="epoch", ylabel={"loss": "loss", "auc": "AUC"}[quantity])
        axis.locator_params(axis="x", integer=True)
    axes[1].axhline(0.5, color="#999999", linestyle="--", linewidth=1)
    axes[1].set_ylim(min(0.4, axes[1].get_ylim()[0]), 1.0)
    axes[0].legend()
    figure.suptitle(title, fontsize=11)
    return figure


# --------------------------------------------------------------- evaluation
def plot_roc_curves(predictions, *, bands=True):
    """Draw ROC curves, each with its band by bootstrap over patients.

    Args:
        predictions: {model: DataFrame patient_id, label, score}, rows of one split.
        bands: for which models, True for all, False for none.
    """
    figure, axis = new_figure(size=(5.2, 5))
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="chance")
    banded = predictions if bands is True else bands or ()
    for colour, (name, rows) in zip(model_colours(predictions), predictions.items(), strict=True):
        rates, hits, _ = roc_curve(rows.label, rows.score)
        axis.plot(rates, hits, color=colour, label=f"{name} ({metrics.auc(rows.label, rows.score):.2f})")
        if name in banded:
            band = metrics.roc_band(rows.label, rows.score, rows.patient_id, draws=500)
            axis.fill_between(band.false_positive_rate, band.low, band.high, color=colour, alpha=0.12, linewidth=0)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axis.legend(fontsize=8, loc="lower right")
    return figure


def plot_precision_recall(predictions):
    """Draw precision over recall for {model: DataFrame label, score}; the dashed line is the prevalence."""
    figure, axis = new_figure(size=(5.2, 4.2))
    for colour, (name, rows) in zip(model_colours(predictions), predictions.items(), strict=True):
        precision, recall, _ = precision_recall_curve(rows.label, rows.score)
        axis.step(recall, precision, where="post", color=colour, label=name)
    axis.axhline(rows.label.mean(), color="#999999", linestyle="--", linewidth=1, label="prevalence")
    axis.set(xlabel="recall (sensitivity)", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return figure


def plot_confusion(confusion, class_names, *, title=""):
    """Draw a confusion matrix from {"tn", "fp", "fn", "tp"} with counts and row shares."""
    counts = np.array([[confusion["tn"], confusion["fp"]], [confusion["fn"], confusion["tp"]]])
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure, axis = new_figure(size=(3.8, 3.4))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.6 else "black"
        axis.text(j, i, f"{count}\n{shares[i, j]:.0%}", ha="center", va="center", color=colour)
    axis.set(xticks=(0, 1), yticks=(0, 1), xticklabels=class_names, yticklabels=class_names, title=title)
    axis.set(xlabel="called", ylabel="truth")
    axis.grid(False)
    return figure


def plot_score_distributions(predictions, threshold, class_names):
    """Draw the scores of both classes of one model with the threshold chosen on validation."""
    groups = {name: predictions.score[predictions.label == label] for label, name in enumerate(class_names)}
    figure = plot_histograms(groups, label="score", bins=25)
    figure.axes[0].axvline(threshold, color="black", linestyle=":", label="threshold")
    figure.axes[0].legend()
    return figure


def plot_reliability(curves):
    """Draw observed shares over mean scores.

    Args:
        curves: {name: (DataFrame label, score)}.
    """
    figure, axis = new_figure(size=(5.2, 4.6))
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="calibrated")
    for colour, (name, rows) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
        curve = metrics.reliability_curve(rows.label, rows.score, bins=8, strategy="quantile")
        axis.plot(curve.mean_score, curve.observed, marker="o", markersize=4, color=colour, label=name)
    axis.set(xlabel="mean score in the bin", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8)
    return figure


def plot_forest(
    table, *, value="auc", low="auc_low", high="auc_high", label="model", reference=0.5, xlabel="test AUC", beyond=()
):
    """Draw values with intervals, one row each; baselines are grey, and orange what was given more than the image.

    Args:
        table: DataFrame with the named columns, in the order to draw, top first.
        beyond: labels of the orange rows.
        reference: where the dashed line stands.
    """
    figure, axis = new_figure(size=(6.5, 0.9 + 0.32 * len(table)))
    y = np.arange(len(table))
    for i, row in enumerate(table.itertuples(index=False)):
        name, middle = getattr(row, label), getattr(row, value)
        colour = "#888888" if name in BASELINES else "#D55E00" if name in beyond else COLOURS[0]
        axis.plot([getattr(row, low), getattr(row, high)], [i, i], color=colour, linewidth=2)
        axis.plot(middle, i, marker="o", color=colour)
    axis.axvline(reference, color="#999999", linestyle="--", linewidth=1)
    axis.set(yticks=y, yticklabels=table[label], xlabel=f"{xlabel} with 95 % interval by patient")
    axis.set_ylim(len(table) - 0.4, -0.6)  # top first, no row on the frame
    axis.grid(False, axis="y")
    return figure


def plot_decision_curves(predictions):
    """Draw net benefit over the risk at which one would act, for {model: DataFrame label, score}.

    Vickers & Elkin, Med Decis Making 2006;26:565. Scores should be calibrated.
    """
    figure, axis = new_figure(size=(6, 4))
    for colour, (name, rows) in zip(model_colours(predictions), predictions.items(), strict=True):
        curve = metrics.net_benefit(rows.label, rows.score)
        axis.plot(curve.threshold, curve.model, color=colour, label=name)
    axis.plot(curve.threshold, curve["all"], color="#999999", linestyle="--", label="everyone")
    axis.axhline(0, color="#999999", linewidth=1, label="no one")
    axis.set(xlabel="risk at which one would act", ylabel="net benefit", xlim=(0, 0.9))
    axis.set_ylim(-0.1, rows.label.mean() * 1.1)
    axis.legend(fontsize=8)
    return figure


def plot_threshold_transfer(table):
    """Draw sensitivity and specificity on validation (where the threshold was chosen) and on test.

    Args:
        table: DataFrame model, and sensitivity_validation, sensitivity_test, specificity_validation, specificity_test.
    """
    figure, axes = new_figure(1, 2, size=(9, 0.9 + 0.3 * len(table)), sharey=True)
    kinds = (("validation", VALIDATION_COLOUR, "o"), ("test", TEST_COLOUR, "s"))
    for axis, measure in zip(axes, ("sensitivity", "specificity"), strict=True):
        for i, row in enumerate(table.to_dict("records")):
            ends = row[f"{measure}_validation"], row[f"{measure}_test"]
            axis.plot(ends, [i, i], color="#BBBBBB", zorder=1)
            for end, (name, colour, marker) in zip(ends, kinds, strict=True):
                axis.scatter(end, i, color=colour, marker=marker, label=name if i == 0 else None, zorder=2)
        axis.set(xlabel=measure, xlim=(-0.02, 1.02), yticks=range(len(table)), yticklabels=table["model"])
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def plot_grouped_intervals(table, *, label, group, value="auc", low="auc_low", high="auc_high", xlabel="AUC"):
    """Draw values with intervals, one block of rows a label and one colour a group.

    Args:
        table: DataFrame with the named columns; labels and groups are drawn in the order of their first row.
    """
    names, groups = list(dict.fromkeys(table[label])), list(dict.fromkeys(table[group]))
    figure, axis = new_figure(size=(7, 1.2 + 0.3 * len(table)))
    for row in table.to_dict("records"):
        place = groups.index(row[group])
        y = names.index(row[label]) + 0.6 * ((place + 0.5) / len(groups) - 0.5)
        axis.plot([row[low], row[high]], [y, y], color=COLOURS[place], linewidth=2)
        axis.plot(row[value], y, "o", color=COLOURS[place], label=row[group] if row[label] == names[0] else None)
    axis.axvline(0.5, color="#999999", linestyle="--", linewidth=1)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=f"{xlabel} with 95 % interval by patient")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(False, axis="y")
    axis.legend(fontsize=8)
    return figure


def plot_patient_curve(table, *, xlabel="patients to learn from", ylabel="out-of-fold AUC"):
    """Draw a score over the number of patients: one dot a seed, their mean, and its band by patient.

    Args:
        table: DataFrame patients, seed, auc, auc_low, auc_high; one row a size and seed.
    """
    figure, axis = new_figure(size=(6, 3.6))
    mean = table.groupby("patients")[["auc", "auc_low", "auc_high"]].mean()
    axis.fill_between(
        mean.index, mean.auc_low, mean.auc_high, color=VALIDATION_COLOUR, alpha=0.2, label="95 % interval"
    )
    axis.plot(mean.index, mean.auc, color=VALIDATION_COLOUR, label="mean over the seeds")
    axis.scatter(table.patients, table.auc, s=14, color="black", zorder=3, label="one seed")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8, loc="lower right")
    return figure


# ------------------------------------------------------------------ heatmaps
def show_heatmaps(images, maps, *, masks=None, titles=None, width=1.45, opacity=0.65):
    """Lay heatmaps over grey images: one row an image, first the image alone, then one column a map.

    The stronger the map, the less transparent its colour, so that the mammogram stays visible where the map is silent.

    Args:
        images: (N, H, W), 0–255.
        maps: {name: float (N, H, W) in [0, 1]}.
        masks: (N, H, W) or None; their outline is drawn in white and black.
        titles: N words, one a row.
        width: inches a picture.
        opacity: of a map at 1.
    """
    count, columns = len(images), ["image", *maps]
    figure, axes = new_figure(
        count, len(columns), size=(width * len(columns) + 0.3, width * count + 0.3), squeeze=False
    )
    for row, column in np.ndindex(count, len(columns)):
        axis = axes[row, column]
        axis.imshow(images[row], cmap="gray", vmin=0, vmax=255)
        if column:
            heat = np.asarray(maps[columns[column]][row])
            axis.imshow(heat, cmap="plasma", vmin=0, vmax=1, alpha=opacity * np.sqrt(np.clip(heat, 0, 1)))
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


def plot_localisation(table, measures, *, references=None):
    """Draw measures of localisation with their intervals, one panel a measure and one row a method.

    Args:
        table: DataFrame with `localisation.COLUMNS`, methods in the order to draw, top first.
        measures: which to draw.
        references: methods drawn in grey: what a heatmap has to beat.
    """
    methods = list(dict.fromkeys(table.method))
    figure, axes = new_figure(
        1, len(measures), size=(2.2 + 2.6 * len(measures), 0.8 + 0.26 * len(methods)), sharey=True, squeeze=False
    )
    for axis, measure in zip(axes[0], measures, strict=True):
        for row in table[table.measure == measure].itertuples(index=False):
            y, colour = methods.index(row.method), "#888888" if row.method in (references or ()) else COLOURS[0]
            axis.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
            axis.plot(row.value, y, marker="o", color=colour)
        axis.set(xlabel=measure.replace("_", " "), yticks=range(len(methods)), yticklabels=methods)
        axis.set_xlim(left=0)
        axis.grid(False, axis="y")
    axes[0, 0].invert_yaxis()
    return figure


def plot_cascade(table):
    """Draw how maps change as the weights are randomised from the output down.

    Args:
        table: DataFrame, index: the lowest layer randomised ("none" first); columns: quantities from 0 to 1.
    """
    figure, axis = new_figure(size=(7, 3.4))
    for colour, column in zip(itertools.cycle(COLOURS), table.columns, strict=False):
        axis.plot(range(len(table)), table[column], marker="o", color=colour, label=column)
    axis.axhline(0, color="#999999", linewidth=1)
    axis.set(
        xlabel="randomised from the output down to", ylabel="similarity, or share of hits", xticks=range(len(table))
    )
    axis.set_xticklabels(table.index, rotation=30, ha="right")
    axis.legend(fontsize=8)
    return figure


def plot_deletion_insertion_curves(curves, *, title="", xlabel="share of pixels taken away"):
    """Draw the mean score while pixels are taken away or brought back: {name: float (N, points)}."""
    figure, axis = new_figure(size=(5.2, 3.4))
    for colour, (name, values) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
        axis.plot(np.linspace(0, 1, values.shape[1]), values.mean(axis=0), color=colour, label=name)
    axis.set(xlabel=xlabel, ylabel="mean logit", title=title)
    axis.legend(fontsize=8)
    return figure


# ------------------------------------------------------------ synthetic or real
def plot_ladder(ladder, best, control):
    """Draw how well each rung's images can be told apart: network and best single cue, with intervals.

    Args:
        ladder: DataFrame with `synthetic.LADDER_COLUMNS`; the rows of `cnn` are drawn.
        best: DataFrame with the same columns, one row a rung, as from `synthetic.best_probes`.
        control: dict with auc, auc_low, auc_high: real against real, drawn as a band.
    """
    figure, axis = new_figure(size=(7.5, 4))
    axis.axhspan(control["auc_low"], control["auc_high"], color="#BBBBBB", alpha=0.4, linewidth=0)
    axis.axhline(control["auc"], color="#777777", linestyle="--", label="real against real, 95 % interval")
    parts = (("CNN", ladder[ladder.classifier == "cnn"], -0.06, "o"), ("best single cue", best, 0.06, "s"))
    for (name, rows, shift, marker), colour in zip(parts, itertools.cycle(COLOURS), strict=False):
        x = np.arange(len(rows)) + shift
        spread = np.clip([rows.auc - rows.auc_low, rows.auc_high - rows.auc], 0, None)
        axis.errorbar(x, rows.auc, yerr=spread, marker=marker, color=colour, capsize=3, label=name)
    for x, row in enumerate(best.itertuples()):
        axis.annotate(row.classifier, (x + 0.06, row.auc), xytext=(5, -11), textcoords="offset points", fontsize=8)
    words = [f"{row.rung}\n{textwrap.fill(row.description, 16)}" for row in best.itertuples()]
    axis.set_xticks(np.arange(len(best)), words, fontsize=8)
    axis.set(ylabel="test AUC, original against synthetic", ylim=(0.35, 1.03))
    axis.legend(loc="lower left")
    return figure


def plot_spectra(frequencies, groups):
    """Draw the mean radial power spectrum of several groups with one standard deviation: {name: float (n, bands)}.

    Args:
        frequencies: (bands,), cycles per pixel.
    """
    figure, axis = new_figure(size=(6, 3.4))
    for (name, power), colour in zip(groups.items(), CLASS_COLOURS, strict=False):
        middle, spread = power.mean(axis=0), power.std(axis=0)
        axis.plot(frequencies, middle, color=colour, label=name)
        axis.fill_between(frequencies, middle - spread, middle + spread, color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="spatial frequency (cycles per pixel)", ylabel="log10 power")
    axis.legend()
    return figure


def as_photo(figure, *, quality=85):
    """Return a figure as a JPEG to show in a notebook: pictures of tissue are several times smaller than as PNG.

    Returns:
        IPython.display.Image
    """
    from io import BytesIO

    from IPython.display import Image

    with BytesIO() as buffer:
        figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": quality})
        return Image(data=buffer.getvalue(), format="jpeg")
