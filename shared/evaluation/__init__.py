"""Score predictions: metrics, intervals by patient, paired tests, the comparison table, cross-validation, cards.

No TensorFlow: `validate_externally` imports `shared.models` when it is called.
"""

from shared.evaluation.cards import collect_facts, write_cards
from shared.evaluation.comparisons import (
    delong_test,
    delong_variance,
    describe_differences,
    holm,
    paired_differences,
    permutation_p_value,
)
from shared.evaluation.ensembles import OutOfFold, cross_validate_heads, parallel
from shared.evaluation.external import has_files, validate_externally
from shared.evaluation.intervals import (
    Interval,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_means,
    roc_band,
    subgroup_table,
)
from shared.evaluation.metrics import (
    auc,
    case_table,
    choose_threshold,
    expected_calibration_error,
    fit_platt,
    logit,
    net_benefit,
    summarise,
)
from shared.evaluation.results import (
    choose_image_model,
    load_predictions,
    load_results,
    load_table,
    renew_table,
    save_predictions,
)
from shared.evaluation.scoring import evaluate, score_baselines, show_results

__all__ = [
    "Interval", "OutOfFold", "auc", "bootstrap_difference", "bootstrap_interval", "bootstrap_means", "case_table",
    "choose_image_model", "choose_threshold", "collect_facts", "cross_validate_heads", "delong_test",
    "delong_variance", "describe_differences", "evaluate", "expected_calibration_error", "fit_platt",
    "has_files", "holm", "load_predictions", "load_results", "load_table", "logit", "net_benefit",
    "paired_differences", "parallel", "permutation_p_value", "renew_table", "roc_band", "save_predictions",
    "score_baselines", "show_results", "subgroup_table", "summarise", "validate_externally", "write_cards",
]  # fmt: skip
