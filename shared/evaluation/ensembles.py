"""Train members out of fold, on one machine or a cluster, and combine their scores. No TensorFlow.

A member is any scikit-learn classifier on features of the images. Rows are those of the manifest; `folds` is int (N,),
the fold that holds a row, -1 for rows that no fold holds (test, excluded).
"""

import contextlib
import time
import warnings
from dataclasses import dataclass, field

import joblib
import numpy as np
from scipy import special
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from shared.evaluation import metrics
from shared.run import UsageError

SCHEDULER_SECONDS = 10  # how long to wait for a cluster to answer


# ---------------------------------------------------------- independent tasks
def run_members(tasks, function, *, scheduler="", n_jobs=-1, **data):
    """Run `function(task, **data)` for every task and return the results in the order of the tasks.

    Each call computes with one thread, so that a result does not depend on where, or beside what, it was computed.

    Args:
        tasks: sequence of anything that pickles.
        function: a function that needs nothing but its arguments; it may be defined in a notebook.
        scheduler: address of a Dask scheduler ("tcp://host:8786") whose workers have this project installed; "" runs
            the tasks on this machine.
        n_jobs: processes on this machine; -1 is one a core, 1 runs them here, one after the other.
        data: what all tasks share, for instance feature arrays; sent to every worker once.
    Returns:
        list
    Raises:
        UsageError: no scheduler at that address, or Dask is not installed.
    """
    with _backend(scheduler, n_jobs, list(data.values())) as parallel:
        return parallel(joblib.delayed(_single_threaded)(function, task, **data) for task in tasks)


def _single_threaded(function, task, **data):
    with threadpool_limits(1):
        return function(task, **data)


@contextlib.contextmanager
def _backend(scheduler, n_jobs, shared_data):
    if not scheduler:
        yield joblib.Parallel(n_jobs=n_jobs)
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError('SCHEDULER needs Dask: pip install "dask[distributed]"') from None
    try:
        client = Client(scheduler, timeout=SCHEDULER_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"SCHEDULER {scheduler!r}: no Dask scheduler answers there ({error})") from None
    with client, joblib.parallel_config("dask", scatter=shared_data or None, wait_for_workers_timeout=60):
        yield joblib.Parallel(n_jobs=-1)


# ----------------------------------------------------------- cross-validation
@dataclass(frozen=True)
class Member:
    """A classifier to train out of fold.

    Attributes:
        name: as in the table.
        features: which array of the features it learns from.
        estimator: unfitted scikit-learn classifier with `predict_proba`.
    """

    name: str
    features: str
    estimator: BaseEstimator


@dataclass(frozen=True)
class FoldTask:
    """One member trained with one seed on all folds but one."""

    member: Member
    seed: int
    fold: int


@dataclass(frozen=True)
class OutOfFold:
    """What cross-validation gives of one member.

    Attributes:
        by_seed: float64 (seeds, N). Rows in a fold: the score of the model that did not see that fold. Rows in no
            fold: the mean over the models of all folds.
        seconds: training time, summed over the tasks.
    """

    by_seed: np.ndarray
    seconds: float = field(default=0.0)

    @property
    def scores(self):
        """float64 (N,): the mean over the seeds; out of fold for every row that a fold holds."""
        return self.by_seed.mean(axis=0)


def make_folds(labels, groups, rows, *, n_folds, seed, by_group=True):
    """Cut rows into folds of about equal size and prevalence.

    Args:
        labels, groups: (N,), class and patient.
        rows: int (n,), the rows to cut up.
        n_folds: number of folds.
        seed: of the shuffling.
        by_group: True keeps a patient in one fold. False cuts image by image, which leaks: for demonstration only.
    Returns:
        int (N,), -1 for rows not in `rows`.
    """
    labels, groups, rows = np.asarray(labels), np.asarray(groups), np.asarray(rows)
    splitter = (StratifiedGroupKFold if by_group else StratifiedKFold)(n_folds, shuffle=True, random_state=seed)
    folds = np.full(len(labels), -1)
    cuts = splitter.split(rows, labels[rows], groups[rows] if by_group else None)
    for fold, (_, held_out) in enumerate(cuts):
        folds[rows[held_out]] = fold
    return folds


def train_fold(task, *, features, labels, folds):
    """Train one member on all folds but one and score every row that it has not seen.

    Args:
        task: FoldTask.
        features: {name: float (N, C)}.
        labels: int (N,).
        folds: {seed: int (N,)}.
    Returns:
        float64 (N,), NaN for training rows; and the seconds of training.
    """
    array, fold = features[task.member.features], folds[task.seed]
    training = (fold >= 0) & (fold != task.fold)
    model = _with_seed(clone(task.member.estimator), task.seed)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # members limit their epochs on purpose
        model.fit(array[training], labels[training])
    seconds = time.perf_counter() - started
    scores = np.full(len(labels), np.nan)
    scores[~training] = model.predict_proba(array[~training])[:, 1]
    return scores, seconds


def _with_seed(estimator, seed):
    names = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    return estimator.set_params(**dict.fromkeys(names, seed))


def cross_validate(members, features, labels, folds, *, scheduler="", n_jobs=-1):
    """Train every member for every seed and fold.

    Args:
        members: sequence of Member.
        features: {name: float (N, C)}.
        labels: int (N,), 0 or 1.
        folds: {seed: int (N,)}; each seed has its own cut and sets the estimators' `random_state`.
        scheduler, n_jobs: see `run_members`.
    Returns:
        {member name: OutOfFold}
    """
    labels = np.asarray(labels)
    tasks = [
        FoldTask(member, seed, fold) for member in members for seed in folds for fold in range(folds[seed].max() + 1)
    ]
    data = {"features": features, "labels": labels, "folds": folds}
    results = run_members(tasks, train_fold, scheduler=scheduler, n_jobs=n_jobs, **data)
    return {member.name: _collect(member, tasks, results, folds) for member in members}


def _collect(member, tasks, results, folds):
    by_seed, seconds = [], 0.0
    for seed, fold in folds.items():
        parts = [
            (task, *result)
            for task, result in zip(tasks, results, strict=True)
            if task.member.name == member.name and task.seed == seed
        ]
        scores = np.mean([np.where(fold >= 0, 0.0, part) for _, part, _ in parts], axis=0)
        for task, part, _ in parts:
            scores[fold == task.fold] = part[fold == task.fold]
        by_seed.append(scores)
        seconds += sum(spent for _, _, spent in parts)
    return OutOfFold(np.array(by_seed), seconds)


# ---------------------------------------------------------------- combination
def mean_probability(scores):
    """Average probabilities: scores float (M, N), or {model: (N,)} -> float64 (N,)."""
    return _stacked(scores).mean(axis=0)


def mean_logit(scores):
    """Average on the logit scale, where one very sure model weighs more: (M, N), or {model: (N,)} -> float64 (N,)."""
    return special.expit(metrics.logit(_stacked(scores)).mean(axis=0))


def validation_weights(scores, labels, rows):
    """Weigh each model by how far its AUC on some rows lies above chance.

    Args:
        scores: float (M, N), or {model: (N,)}.
        labels: int (N,).
        rows: int (n,), validation rows: not those that the models were trained on, and never test.
    Returns:
        float64 (M,), >= 0, sum 1; all equal where no model is better than chance.
    """
    labels = np.asarray(labels)[rows]
    gains = np.array([max(metrics.auc(labels, column[rows]) - 0.5, 0.0) for column in _stacked(scores)])
    return gains / gains.sum() if gains.sum() > 0 else np.full(len(gains), 1 / len(gains))


def weighted_probability(scores, weights):
    """Average probabilities with weights (M,): scores (M, N), or {model: (N,)} -> float64 (N,)."""
    return np.average(_stacked(scores), axis=0, weights=weights)


def stack(columns, labels, folds, *, strength=1.0):
    """Fit a logistic regression on out-of-fold columns (Wolpert 1992), itself out of fold.

    A row in a fold is scored by a regression on the other folds, a row in no fold (test) by one on all folds. So no
    label of a fold has touched the scores of that fold, as long as the columns are out of fold too.

    Args:
        columns: float (N, k): logits of models, one-hot metadata ...; finite for every row to be scored.
        labels: int (N,).
        folds: int (N,), the folds by patient.
        strength: inverse of the L2 penalty on the standardised columns (scikit-learn's C).
    Returns:
        float64 (N,), probabilities; NaN where a column is not finite.
    """
    columns, labels, folds = np.asarray(columns, float), np.asarray(labels), np.asarray(folds)
    usable = np.isfinite(columns).all(axis=1)
    scores = np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        training = usable & (folds >= 0) & (folds != fold)
        scored = usable & (folds == fold)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        if scored.any():
            scores[scored] = model.fit(columns[training], labels[training]).predict_proba(columns[scored])[:, 1]
    return scores


def _stacked(scores):
    columns = list(scores.values()) if hasattr(scores, "values") else scores
    return np.asarray(columns, dtype=float)
