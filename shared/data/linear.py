"""The one linear classifier of the project: baselines, probes, heads and stacking use it."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def make_logistic(*, balanced: bool = False, seed: int | None = None) -> Pipeline:
    """Make a logistic regression on standardised columns; the scaler learns from the rows it is fitted on alone.

    `balanced` weights the classes so that both count alike. `seed` is the solver's, where it draws.
    """
    weights = "balanced" if balanced else None
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights, max_iter=2000, random_state=seed))
