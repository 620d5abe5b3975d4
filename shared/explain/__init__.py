"""Heatmaps: where a network looks, whether that is the lesion, and what is left of it with random weights."""

from shared.explain.heatmaps import CAM_METHODS, METHODS, MapOptions, heatmap, normalise_maps, target_scores
from shared.explain.localisation import (
    BASELINES, COLUMNS, FILE, MEASURES, baseline_maps, compare, deletion_insertion_curves, format_table, measure,
    similarity, summarise,
)  # fmt: skip
from shared.explain.networks import find_feature_layer, randomise_weights, weighted_layers
from shared.explain.wide_fields import can_cut, cut_wide_fields

__all__ = [
    "BASELINES", "CAM_METHODS", "COLUMNS", "FILE", "MEASURES", "METHODS", "MapOptions", "baseline_maps", "can_cut",
    "compare", "cut_wide_fields", "deletion_insertion_curves", "find_feature_layer", "format_table", "heatmap",
    "measure", "normalise_maps", "randomise_weights", "similarity", "summarise", "target_scores", "weighted_layers",
]  # fmt: skip
