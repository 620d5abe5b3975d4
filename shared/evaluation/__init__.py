"""Score predictions: metrics, intervals by patient, paired tests, the comparison table, cross-validation, cards.

No TensorFlow: `validate_externally` imports `shared.models` when it is called.
"""

from shared.evaluation.cards import collect_facts, write_cards
from shared.evaluation.comparisons import describe_differences, paired_differences, permutation_p_value
from shared.evaluation.cross_validation import OutOfFold, cross_validate_heads, parallel
from shared.evaluation.external import validate_externally
from shared.evaluation.intervals import Interval, bootstrap_difference, bootstrap_interval, bootstrap_means, roc_band
from shared.evaluation.metrics import auc, choose_threshold, fit_platt, summarise
from shared.evaluation.results import choose_image_model, load_predictions, load_results, load_table, renew_table
from shared.evaluation.scoring import evaluate, score_baselines, show_results

__all__ = [
    "Interval", "OutOfFold", "auc", "bootstrap_difference", "bootstrap_interval", "bootstrap_means",
    "choose_image_model", "choose_threshold", "collect_facts", "cross_validate_heads", "describe_differences",
    "evaluate", "fit_platt", "load_predictions", "load_results", "load_table", "paired_differences", "parallel",
    "permutation_p_value", "renew_table", "roc_band", "score_baselines", "show_results", "summarise",
    "validate_externally", "write_cards",
]  # fmt: skip
