"""Train classifiers out of fold with scikit-learn, on the cores of this machine or on a cluster. No TensorFlow."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_validate
from threadpoolctl import threadpool_limits

from shared.run import UsageError

SCHEDULER_SECONDS = 10  # how long to wait for a cluster to answer


@contextmanager
def parallel(scheduler: str = "") -> Iterator[None]:
    """Let joblib, and so scikit-learn, run what is inside the block on all cores, or on a Dask cluster.

    `scheduler` is Dask's, "tcp://host:8786", whose workers have this project installed; "" stays on this machine.
    """
    if not scheduler:
        # threads leave no process behind; one core for each, so that scores do not depend on how many there are
        with threadpool_limits(1, user_api="blas"), joblib.parallel_config("threading", n_jobs=-1):
            yield
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError('SCHEDULER needs Dask: pip install "dask[distributed]"') from None
    try:
        client = Client(scheduler, timeout=SCHEDULER_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"SCHEDULER {scheduler!r}: no Dask scheduler answers there ({error})") from None
    with client, joblib.parallel_config("dask", n_jobs=-1, wait_for_workers_timeout=60):
        yield


@dataclass(frozen=True)
class OutOfFold:
    """What cross-validation gives of one classifier."""

    by_seed: np.ndarray  # float64 (seeds, N), by the model that did not see the row; by all where it is in no fold
    by_model: np.ndarray  # float64 (seeds * folds, N), every fold model on all rows, those it learned from too
    seconds: float  # of training, summed over folds and seeds

    @property
    def scores(self) -> np.ndarray:
        """float64 (N,): the mean over the seeds."""
        return self.by_seed.mean(axis=0)


def cross_validate_heads(
    heads: Mapping[str, BaseEstimator], features: np.ndarray, labels: np.ndarray, folds: Mapping[int, list[np.ndarray]]
) -> dict[str, OutOfFold]:
    """Train every head for every seed and fold, on features (N, C) and labels int (N,); see `parallel` for where.

    Heads are unfitted scikit-learn classifiers with `predict_proba`, whose `random_state` each seed sets. Folds are for
    each seed the rows that each fold holds out, as `group_folds` of `shared.data` returns them.
    """
    found = {}
    for name, head in heads.items():
        scores = np.zeros((len(folds), len(labels)))
        every = []
        seconds = 0.0
        for place, (seed, held_out) in enumerate(folds.items()):
            rows = np.concatenate(held_out)
            cuts = [(np.setdiff1d(rows, held), held) for held in held_out]
            seeded = {key: seed for key in head.get_params() if key.split("__")[-1] == "random_state"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # heads limit their epochs on purpose
                run = cross_validate(clone(head).set_params(**seeded), features, labels, cv=cuts, return_estimator=True)
            predicted = np.array([model.predict_proba(features)[:, 1] for model in run["estimator"]])
            scores[place] = predicted.mean(axis=0)
            every.append(predicted)
            for held, column in zip(held_out, predicted, strict=True):
                scores[place, held] = column[held]
            seconds += float(run["fit_time"].sum())
        found[name] = OutOfFold(scores, np.concatenate(every), seconds)
    return found
