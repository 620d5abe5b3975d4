"""Figures: what is drawn where, and in which colour."""

import matplotlib.colors
import numpy as np
import pandas as pd

from shared import plots

HEX = matplotlib.colors.to_hex


def test_saved_figure_is_a_png_of_120_dpi(tmp_path):
    figure, _ = plots.new_figure(size=(3, 2))
    assert plots.save_figure(figure, tmp_path, "one", folder="more") is figure
    image = (tmp_path / "results/more/one.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert tuple(int.from_bytes(image[start : start + 4], "big") for start in (16, 20)) == (360, 240)


def test_models_keep_their_colour_and_share_none():
    colours = plots.model_colours(["new", "birads", "mobilenetv2", "other"])
    assert colours[1:3] == [plots.MODEL_COLOURS["birads"], plots.MODEL_COLOURS["mobilenetv2"]]
    assert len(set(colours)) == 4


def test_images_in_rows_with_a_fixed_grey_range():
    figure = plots.show_images([np.full((4, 6), 9)] * 5, titles=list("abcde"), columns=3)
    assert [axis.get_title() for axis in figure.axes] == [*"abcde", ""]
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_heatmaps_have_a_row_an_image_and_an_outline():
    masks = np.zeros((2, 8, 8))
    masks[0, 2:5, 2:5] = 1
    maps = {"gradcam": np.eye(8)[None].repeat(2, axis=0)}
    figure = plots.show_heatmaps(np.zeros((2, 8, 8)), maps, masks=masks, titles=["one", "two"])
    assert [len(axis.images) for axis in figure.axes] == [1, 2, 1, 2]
    assert [bool(axis.collections) for axis in figure.axes] == [True, True, False, False]
    assert figure.axes[2].get_ylabel() == "two"


def test_learning_curves_mark_the_kept_epoch():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1, 2], "val_loss": [3, 4], "auc": [0.2, 0.6], "val_auc": 1})
    loss, auc = plots.plot_learning_curves(history, best_epoch=2).axes
    assert [list(line.get_ydata()) for line in loss.lines[:2]] == [[1, 2], [3, 4]]
    assert list(loss.lines[2].get_xdata()) == [2, 2]
    assert auc.get_ylim()[0] <= 0.2


def test_roc_curves_show_their_area_and_the_bands_asked_for():
    rows = pd.DataFrame({"patient_id": range(20), "label": [0, 1] * 10, "score": np.arange(20) % 4})
    axis = plots.plot_roc_curves({"small_cnn": rows, "birads": rows}, bands=["birads"]).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()][1:] == ["small_cnn (0.75)", "birads (0.75)"]
    assert len(axis.collections) == 1
    assert HEX(axis.collections[0].get_facecolor()[0]) == plots.MODEL_COLOURS["birads"].lower()


def test_forest_has_a_row_a_label_a_colour_a_kind_and_the_parts_of_a_label_side_by_side():
    table = pd.DataFrame({"model": ["clinical_both", "small_cnn", "birads"], "auc": [0.9, 0.8, 0.7]})
    table = table.assign(auc_low=table.auc - 0.1, auc_high=table.auc + 0.1)
    axis = plots.plot_forest(table).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(table.model)
    colours = [HEX(line.get_color()) for line in axis.lines if line.get_marker() == "o"]
    assert colours == [colour.lower() for colour in (plots.ORANGE, plots.COLOURS[0], plots.GREY)]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # first at the top
    twice = pd.concat([table[:2].assign(protocol=name) for name in "ab"])
    axis = plots.plot_forest(twice, label="protocol", group="model").axes[0]
    lines = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(line.get_ydata()[0]) for line in lines] == [-0.15, 0.15, 0.85, 1.15]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(table.model[:2])


def test_localisation_draws_references_in_grey():
    table = pd.DataFrame({"method": ["gradcam", "centre"], "measure": "pointing", "value": [0.5, 0.4]})
    table = table.assign(low=0.3, high=0.6)
    axis = plots.plot_localisation(table, ["pointing"], references=["centre"]).axes[0]
    assert [HEX(line.get_color()) for line in axis.lines[::2]] == [plots.COLOURS[0].lower(), plots.GREY]
