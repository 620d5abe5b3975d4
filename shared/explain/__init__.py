"""Heatmaps: where a network looks, whether that is the lesion, and what is left of it with random weights."""

from shared.explain.heatmaps import CAM_METHODS, METHODS, MapOptions, heatmap, normalise_maps
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

__all__ = [
    "BASELINES", "CAM_METHODS", "COLUMNS", "MEASURES", "METHODS", "MapOptions", "baseline_maps", "compare",
    "cut_wide_fields", "deletion_insertion_curves", "find_feature_layer", "heatmap", "measure", "normalise_maps",
    "randomise_weights", "summarise", "weighted_layers",
]  # fmt: skip
