"""Score a model the one way the series does it, and the baselines that every score stands beside."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shared.data import manifests
from shared.evaluation import metrics, result_files
from shared.run import BASELINES, TEST, TRAIN, VALIDATION, DataError, files

DESCRIPTORS = ("shape", "margins", "calc_type", "calc_distribution")


def evaluate(
    prepared,
    name,
    scores,
    *,
    weights="",
    train_seconds=0.0,
    parameters=0,
    threshold=None,
    out_of_fold=False,
    extra=None,
):
    """Score one model and write its predictions, its metrics and its row of the comparison table.

    The threshold is the one that does best on validation by Youden's index; no choice is made on test. The interval
    of the AUC is a 95 % bootstrap over patients.

    Args:
        prepared: preparation.Prepared.
        name: the model's name in the table and in the file names.
        scores: float (N,), probability of class 1 for row i of the manifest, NaN where there is none. Every
            validation and every test image needs one.
        weights: what the training started from, e.g. "random", "imagenet".
        train_seconds: wall-clock time of the training.
        parameters: how many numbers the model has.
        threshold: float, only where validation cannot choose one (a constant score).
        out_of_fold: True keeps the scores of training rows too, which must then be out of fold.
        extra: dict of whatever else should be kept in the metrics file.
    Returns:
        dict: `schema.TABLE_COLUMNS` and more, as in `results/metrics/<name>.json`.
    """
    settings = prepared.settings
    scores = _held_out(prepared, scores, out_of_fold)
    predictions = result_files.save_predictions(settings.run_dir, name, prepared.manifest, scores)
    validation, test = (predictions[predictions.split == split] for split in (VALIDATION, TEST))
    for split, part in ((VALIDATION, validation), (TEST, test)):
        if len(part) != len(prepared.rows(split)):
            raise ValueError(f"{name}: {len(part)} scores for {len(prepared.rows(split))} {split} images")
    if threshold is None:
        threshold = metrics.choose_threshold(validation.label, validation.score)
    figures = metrics.summarise(test.label, test.score, threshold=threshold)
    area = metrics.bootstrap_interval(test.label, test.score, test.patient_id, seed=settings.seed)
    cases = metrics.case_table(test)
    case_area = metrics.bootstrap_interval(cases.label, cases.score, cases.patient_id, seed=settings.seed)
    result = {
        **figures,
        "model": name,
        "dataset": settings.dataset,
        "weights": weights,
        "n_test": len(test),
        "n_patients": int(test.patient_id.nunique()),
        "threshold_rule": "Youden's index on validation",
        "auc_low": area.low,
        "auc_high": area.high,
        "case_auc": case_area.value,
        "case_auc_low": case_area.low,
        "case_auc_high": case_area.high,
        "val_auc": metrics.auc(validation.label, validation.score),
        "validation": metrics.summarise(validation.label, validation.score, threshold=threshold),
        "train_seconds": round(float(train_seconds), 2),
        "parameters": int(parameters),
        "split_key": manifests.split_key(prepared.manifest),
        **(extra or {}),
    }
    result_files.save_metrics(settings.run_dir, name, result)
    return result


def _held_out(prepared, scores, out_of_fold):
    """Keep the scores of validation and test: what a model says of its own training images is no result."""
    kept = (VALIDATION, TEST, TRAIN) if out_of_fold else (VALIDATION, TEST)
    return np.where(prepared.manifest.split.isin(kept), np.asarray(scores, dtype=float), np.nan)


def table_row(result):
    """Return a short, readable form of `evaluate`'s result as a one-row DataFrame."""
    return pd.DataFrame(
        [
            {
                "model": result["model"],
                "test AUC": f"{result['auc']:.3f} [{result['auc_low']:.3f}, {result['auc_high']:.3f}]",
                "case AUC": f"{result['case_auc']:.3f}",
                "validation AUC": f"{result['val_auc']:.3f}",
                "sensitivity": f"{result['sensitivity']:.2f}",
                "specificity": f"{result['specificity']:.2f}",
                "balanced accuracy": f"{result['balanced_accuracy']:.2f}",
                "seconds": f"{result['train_seconds']:.0f}",
            }
        ]
    )


def describe_differences(differences):
    """Return paired differences in words, one row a pair.

    Args:
        differences: DataFrame as from `metrics.paired_differences`.
    Returns:
        DataFrame indexed by `model`: `against`, `AUC difference` with its interval, `p` (DeLong), `p, Holm`, `verdict`.
        The verdict follows the corrected p-value at 0.05.
    """

    def chance(p):
        return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"

    def verdict(row):
        if np.isnan(row.p_holm):
            return "no test possible"
        if row.p_holm > 0.05:
            return "no difference shown"
        return "better" if row.delta_auc > 0 else "worse"

    rows = [
        {
            "model": row.model_a,
            "against": row.model_b,
            "AUC difference": f"{row.delta_auc:+.3f} [{row.low:+.3f}, {row.high:+.3f}]",
            "p": chance(row.p_delong),
            "p, Holm": chance(row.p_holm),
            "verdict": verdict(row),
        }
        for row in differences.itertuples()
    ]
    columns = ["model", "against", "AUC difference", "p", "p, Holm", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index("model")


def choose_image_model(results):
    """Return the image model that validation likes best, or None where there is none.

    Baselines, and models that were given more than the image (`inputs` in their metrics), do not count.

    Args:
        results: {model: metrics dict} as from `result_files.load_metrics`.
    """
    image_models = {
        name: result
        for name, result in results.items()
        if name not in BASELINES and set(result.get("inputs", ())) <= {"image"}
    }
    return max(image_models, key=lambda name: image_models[name]["val_auc"], default=None)


# ----------------------------------------------------------------- baselines
def score_baselines(prepared):
    """Score what needs no image model: each a row of the table like any other.

    `majority` gives every image the share of class 1 in train. `mean_intensity` is a logistic regression on the mean
    of the file's own pixels. `birads` is one on the radiologist's assessment of the same images, `descriptors` one on
    the radiologist's words (shape, margins, type, distribution); these two only where the source has them.

    Returns:
        {name: metrics dict}
    """
    results = {
        "majority": evaluate(
            prepared,
            "majority",
            np.full(len(prepared.manifest), prepared.labels[prepared.rows(TRAIN)].mean()),
            threshold=0.5,
            extra={"threshold_rule": "0.5: the class that train has more of"},
        )
    }
    for name, features in baseline_features(prepared).items():
        scores, parameters = fit_logistic(prepared, features)
        results[name] = evaluate(prepared, name, scores, parameters=parameters)
    return results


def baseline_features(prepared):
    """Return {name: float (N, k)} of the baselines this data set allows."""
    manifest = prepared.manifest
    features = {"mean_intensity": prepared.statistics[["mean"]].fillna(0).to_numpy()}
    if manifest.birads.nunique() > 1:
        features["birads"] = one_hot(manifest.birads)
    words = [one_hot(manifest[column]) for column in DESCRIPTORS if manifest[column].nunique() > 1]
    if words:
        features["descriptors"] = np.hstack(words)
    return features


def one_hot(words):
    """Return float (N, k): one column a word; combined words (`OVAL-LOBULATED`) set several, empty ones set none."""
    return words.str.get_dummies("-").to_numpy(dtype=float)


def fit_logistic(prepared, features, *, penalty=1.0):
    """Fit a standardised logistic regression on train.

    Args:
        features: float (N, k), row i belongs to image i.
        penalty: strength of the L2 penalty, the inverse of scikit-learn's C.
    Returns:
        scores float (N,), and the number of its parameters.
    """
    train = prepared.rows(TRAIN)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=2000))
    model.fit(features[train], prepared.labels[train])
    return model.predict_proba(features)[:, 1], features.shape[1] + 1


# ------------------------------------------------------------------ networks
def targets(prepared):
    """Return what a network is trained on, int (N,), and the number of classes.

    The label, or with TASK = "subtype" one of four: benign calcification, benign mass, malignant calcification,
    malignant mass.
    """
    if prepared.settings.task == "subtype":
        return prepared.manifest.subtype.to_numpy(), 4
    return prepared.labels, 2


def predict_held_out(prepared, model, *, tta=False):
    """Return a network's probability of class 1 for validation and test, float64 (N,), NaN elsewhere.

    With four subtypes it is the sum of the two malignant ones. `tta` averages the eight flips and quarter turns.
    """
    from shared.models import training

    rows = prepared.rows(VALIDATION, TEST)
    scores = training.predict_scores(model, prepared.images, rows, tta=tta)
    if scores.ndim == 2:
        scores = scores[:, 2:].sum(axis=1)
    everywhere = np.full(len(prepared.manifest), np.nan)
    everywhere[rows] = np.clip(scores, 0, 1)
    return everywhere


# ------------------------------------------------------- external validation
EXTERNAL_COLUMNS = (
    "model", "dataset", "n", "prevalence", "auc", "auc_low", "auc_high", "threshold", "sensitivity", "specificity",
)  # fmt: skip


def prepare_external(settings, dataset_name, data_dir):
    """Read a second data set with the image steps of the first, all of it as one held-out set.

    Args:
        settings: those of the run; its image size, window, task and input are used unchanged.
        dataset_name: one of `datasets.READERS`.
        data_dir: where the second data set lies.
    Returns:
        preparation.Prepared whose manifest marks every readable row as test.
    Raises:
        DataError: the second data set holds patients of the first.
    """
    from dataclasses import replace

    from shared.data import images, preparation
    from shared.data import readers as datasets

    folder = settings.run_dir / "results/external" / dataset_name
    dataset = datasets.load(dataset_name, data_dir, task=settings.task, input=settings.input)
    first, second = (datasets.FAMILIES.get(name, name) for name in (settings.dataset, dataset_name))
    both = set(manifests.load_manifest(settings.run_dir).patient_id) & set(dataset.manifest.patient_id)
    if both and first == second:
        raise DataError(
            f"EXTERNAL_DATASET {dataset_name}: {len(both)} of its patients stand in the first data set as well, "
            f"e.g. {min(both)}; external validation needs other patients"
        )
    store, masks, statistics = images.build_image_store(dataset, folder / "data", preparation.image_steps(settings))
    _, _, own = images.open_image_store(settings.run_dir / "data")
    copies = statistics.content.ne("") & statistics.content.isin(own.content)
    if copies.any():
        raise DataError(
            f"EXTERNAL_DATASET {dataset_name}: {int(copies.sum())} of its pictures stand in the first data set as "
            f"well, e.g. {statistics.image_id[copies].iloc[0]}; external validation needs other patients"
        )
    readable = (statistics.problem == "").to_numpy()
    manifest = dataset.manifest.assign(split=np.where(readable, TEST, "excluded"), fold=-1)
    second = replace(settings, dataset=dataset_name, data_dir=dataset.data_dir)
    return preparation.Prepared(second, manifest, store, masks, statistics, dataset.class_names)


def evaluate_external(external, results, run_dir):
    """Apply saved networks unchanged to a second data set, with the thresholds they have.

    Args:
        external: preparation.Prepared as from `prepare_external`.
        results: {model: metrics dict} of networks whose files lie in `models/`; `files` (default: the model's name)
            lists them, their scores are averaged; `tta` says whether flips and turns are averaged.
        run_dir: where `models/` is, and where `results/external_validation.csv` goes.
    Returns:
        DataFrame with `EXTERNAL_COLUMNS`
    """
    rows = []
    for name, result in results.items():
        scores = score_files(external, result, run_dir)
        scored = external.manifest.assign(score=scores)[np.isfinite(scores)]
        columns = ["image_id", "patient_id", "side", "split", "fold", "label", "score"]
        path = run_dir / f"results/external/{external.settings.dataset}/{name}.csv"
        files.write_csv(path, scored[columns])
        figures = metrics.summarise(scored.label, scored.score, threshold=result["threshold"])
        area = metrics.bootstrap_interval(scored.label, scored.score, scored.patient_id)
        figures |= {"model": name, "dataset": external.settings.dataset, "auc_low": area.low, "auc_high": area.high}
        rows.append({column: figures[column] for column in EXTERNAL_COLUMNS})
    table = pd.DataFrame(rows, columns=list(EXTERNAL_COLUMNS))
    files.write_csv(run_dir / "results/external_validation.csv", table)
    return table


def score_files(prepared, result, run_dir):
    """Average the scores of the files that make up one row of the table; see `evaluate_external`."""
    from shared.models import training

    return np.mean(
        [
            predict_held_out(prepared, training.load_model(run_dir, file), tta=bool(result.get("tta")))
            for file in result.get("files", [result["model"]])
        ],
        axis=0,
    )


def has_files(result, run_dir):
    """Tell whether the saved networks behind a row of the table are in `models/`."""
    return all((run_dir / f"models/{file}.keras").exists() for file in result.get("files", [result["model"]]))
