"""Heatmaps: where a network looks, whether that is the lesion, and what is left of it with random weights."""

from shared.explain.heatmaps import METHODS, heatmap
from shared.explain.inspection import find_feature_layer, randomise_weights, weighted_layers
from shared.explain.localisation import (
    BASELINES,
    COLUMNS,
    MEASURES,
    baseline_maps,
    compare,
    deletion_insertion_curves,
    measure,
    summarise,
)
from shared.explain.wide_fields import cut_wide_fields
