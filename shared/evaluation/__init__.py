"""Score predictions: metrics, intervals by patient, paired tests, the comparison table, cross-validation, cards.

No TensorFlow: `validate_externally` imports `shared.models` when it is called.
"""

from shared.evaluation.calibration import assess_calibration
from shared.evaluation.cards import collect_facts, write_cards
from shared.evaluation.comparisons import describe_differences, paired_differences
from shared.evaluation.cross_validation import cross_validate_heads, parallel
from shared.evaluation.external import validate_externally
from shared.evaluation.groups import compare_groups
from shared.evaluation.intervals import Interval, bootstrap_interval, bootstrap_means, roc_band
from shared.evaluation.metrics import auc, choose_threshold, summarise
from shared.evaluation.points import OperatingPoint, operating_points
from shared.evaluation.results import choose_image_model, load_predictions, load_results, load_table, renew_table
from shared.evaluation.scoring import evaluate, score_baselines, show_results
