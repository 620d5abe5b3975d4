"""Every figure against scikit-learn, SciPy, a slow definition, a published value or a simulation."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn import metrics as sk
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from shared.evaluation import calibration, comparisons, groups, intervals, metrics, points
from shared.run import DataError
from tests.evaluation.recompute import clustered_p


def two_views(generator, patients=120, shift=1.0, resemblance=0.6):
    """Patients with two views of the same class whose noise has this correlation: labels, scores, patients."""
    labels = np.repeat(generator.permutation(np.arange(patients) % 2), 2)
    common = np.repeat(generator.normal(size=patients), 2) * np.sqrt(resemblance)
    noise = common + generator.normal(size=2 * patients) * np.sqrt(1 - resemblance)
    return labels, special.expit(shift * labels + noise - shift / 2), np.repeat(np.arange(patients), 2)


@pytest.fixture
def example():
    labels, scores, patients = two_views(np.random.default_rng(5))
    return labels, np.round(scores, 2), patients  # rounded, so that there are ties


def test_summarise_gives_what_the_recomputation_of_a_run_leaves_out(example):
    labels, scores, _ = example
    called, found = scores >= 0.55, metrics.summarise(labels, scores, threshold=0.55)
    counts = sk.confusion_matrix(labels, called).ravel().tolist()
    assert found["confusion"] == dict(zip(("tn", "fp", "fn", "tp"), counts, strict=True))
    assert (found["n"], found["threshold"]) == (len(labels), 0.55)
    assert found["mcc"] == pytest.approx(np.corrcoef(labels, called)[0, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_nan_without_warning(label):
    labels, scores = np.full(6, label), np.linspace(0.1, 0.9, 6)
    found = metrics.summarise(labels, scores, threshold=0.5)
    for name in ("auc", "average_precision", "balanced_accuracy", "mcc"):
        assert np.isnan(found[name]), name
    assert np.isnan(found["specificity" if label else "sensitivity"])
    assert found["accuracy"] == 0.5
    interval = intervals.bootstrap_interval(labels, scores, range(6), draws=20)
    p_value = comparisons.delong_test(labels, scores, scores**2)
    assert np.isnan([interval.value, interval.low, interval.high, p_value]).all()
    assert intervals.roc_band(labels, scores, range(6), draws=5)[["sensitivity", "low", "high"]].isna().all(axis=None)
    for refuse in (metrics.choose_threshold, calibration.fit_platt):
        with pytest.raises(DataError, match="one class only"):
            refuse(labels, scores)


@pytest.mark.parametrize(("labels", "scores", "message"), [
    ([0, 1], [0.5], "one score for each label"), ([], [], "no images"), ([0, 2], [0.1, 0.2], "labels other than"),
    ([0, 1], [0.1, np.nan], "1 scores are not finite"), ([0, 1], [0.1, 1.5], "no probabilities"),
])  # fmt: skip
def test_unusable_input_is_named(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.summarise(labels, scores, threshold=0.5)
    for options, refusal in (({"rule": "sensitivity"}, "needs a target"), ({"rule": "best"}, "not one of youden")):
        with pytest.raises(ValueError, match=refusal):
            metrics.choose_threshold([0, 1], [0.1, 0.2], **options)


def figures_at(labels, scores, threshold):
    found = metrics.summarise(labels, scores, threshold=threshold)
    return found["sensitivity"], found["specificity"]


def test_youden_is_the_largest_sum_and_fixed_rules_hold_their_target_at_the_least_price(example):
    labels, scores, _ = example
    every = [figures_at(labels, scores, cut) for cut in [*np.unique(scores), 2.0]]
    youden = sum(figures_at(labels, scores, metrics.choose_threshold(labels, scores)))
    assert youden == pytest.approx(max(map(sum, every)))
    for target in (0.5, 0.9, 1.0):
        for place, rule in enumerate(("sensitivity", "specificity")):
            found = figures_at(labels, scores, metrics.choose_threshold(labels, scores, rule=rule, target=target))
            assert found[place] >= target
            assert found[1 - place] == max(pair[1 - place] for pair in every if pair[place] >= target)


def test_threshold_lies_between_scores_and_constant_scores_follow_the_majority():
    assert metrics.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.7]) == pytest.approx(0.4)
    constant = np.full(5, 0.4)
    assert metrics.choose_threshold([0, 0, 0, 1, 1], constant) > 0.4
    assert metrics.choose_threshold([0, 0, 1, 1, 1], constant) == 0.4
    close = np.nextafter(0.5, 1)
    assert metrics.choose_threshold([0, 1], [0.5, close]) == close


def test_expected_calibration_error_by_hand():
    # bins of width 0.1: |1/2 - 0.15| on two images, |1/2 - 0.75| on two
    assert metrics.expected_calibration_error([0, 1, 0, 1], [0.12, 0.18, 0.72, 0.78]) == pytest.approx(0.3)
    assert metrics.expected_calibration_error([0, 0, 1, 1], [0, 0, 1, 1]) == 0


def test_platt_equals_scikit_learn(example):
    labels, scores, _ = example
    features = metrics.logit(scores)[:, None]
    model = LogisticRegression()  # whose decision function is its one feature
    model.classes_, model.coef_, model.intercept_ = np.array([0, 1]), np.ones((1, 1)), np.zeros(1)
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid").fit(features, labels)
    expected = calibrated.predict_proba(features)[:, 1]
    assert calibration.fit_platt(labels, scores).apply(scores) == pytest.approx(expected, abs=1e-4)


def test_platt_bears_saturated_and_separated_scores():
    labels = np.array([0] * 10 + [1] * 10)
    calibrated = calibration.fit_platt(labels, labels.astype(float)).apply(labels.astype(float))
    # Platt's targets (n + 1) / (n + 2) and 1 / (n + 2)
    assert calibrated == pytest.approx(np.where(labels, 11 / 12, 1 / 12), abs=1e-4)
    constant = calibration.fit_platt(labels, np.full(20, 0.3)).apply([0.3])
    assert constant == pytest.approx([0.5], abs=1e-6)


def resample(labels, scores, patients, *, draws, seed):
    """The bootstrap as one would write it: rows of the patients drawn, scikit-learn's AUC of each."""
    names, codes = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(seed)
    areas = []
    for counts in generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws):
        rows = np.repeat(np.arange(len(labels)), counts[codes])
        areas.append(sk.roc_auc_score(labels[rows], scores[rows]))
    return np.array(areas)


def test_vectorised_bootstrap_equals_resampled_patients_whatever_the_chunk(example, monkeypatch):
    labels, scores, patients = example
    areas = resample(labels, scores, patients, draws=60, seed=3)
    found, seeded = (intervals.bootstrap_interval(labels, scores, patients, draws=60, seed=seed) for seed in (3, 4))
    assert found != seeded
    monkeypatch.setattr(intervals, "CELLS", 1000)
    assert intervals.bootstrap_interval(labels, scores, patients, draws=60, seed=3) == found
    error = areas.std(ddof=1) / (found.value * (1 - found.value))
    count = len(set(patients))
    step = stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    limits = special.expit(special.logit(found.value) + np.array([-1, 1]) * step * error)
    assert (found.low, found.high) == pytest.approx(tuple(limits), abs=1e-12)
    assert found.standard_error == pytest.approx(areas.std(ddof=1), abs=1e-12)
    other = np.round(scores + np.random.default_rng(0).normal(0, 0.2, len(labels)), 1)
    deltas = areas - resample(labels, other, patients, draws=60, seed=3)
    paired = intervals.bootstrap_interval(labels, scores, patients, minus=other, draws=60, seed=3)
    assert paired.standard_error == pytest.approx(deltas.std(ddof=1), abs=1e-12)
    assert paired.high - paired.low == pytest.approx(2 * step * paired.standard_error)


def test_bootstrap_of_means_leaves_out_what_is_unknown():
    values = np.column_stack([np.arange(60.0), np.where(np.arange(60) < 20, np.nan, 1.0), np.full(60, np.nan)])
    first, second, third = intervals.bootstrap_means(values, np.arange(60) // 2, draws=400)
    assert first.value == 29.5
    assert first.standard_error == pytest.approx(np.arange(0.5, 60, 2).std() / np.sqrt(30), rel=0.1)  # 30 patients
    assert (second.value, second.low, second.high) == (1, 1, 1)
    assert np.isnan(third.value)


def test_perfect_scores_and_few_patients_are_bracketed_and_intervals_say_where_zero_is():
    assert str(intervals.Interval(0.75, 0.7, 0.8)) == "0.750 [0.700, 0.800]"
    assert [intervals.Interval(0.1, low, 0.2).excludes_zero for low in (0.01, -0.01)] == [True, False]
    labels = np.array([0, 0, 1, 1])
    assert intervals.bootstrap_interval(labels, labels * 0.8, list("abcd"), draws=500).low == 1
    few = intervals.bootstrap_interval([0, 1, 1], [0.2, 0.1, 0.9], [1, 2, 3], draws=500)
    assert few.low <= few.value <= few.high
    with pytest.raises(ValueError, match="3 patients or groups for 4 images"):
        intervals.bootstrap_interval(labels, labels, [1, 2, 3])


def test_interval_covers_the_known_auc():
    """AUC = Phi(shift / sqrt 2); Monte Carlo error of the share: 0.011."""
    truth, covered = stats.norm.cdf(1 / np.sqrt(2)), []
    for seed in range(400):
        labels, scores, patients = two_views(np.random.default_rng(seed))
        interval = intervals.bootstrap_interval(labels, scores, patients, draws=300, seed=seed)
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_roc_band_goes_through_the_curve(example):
    labels, scores, patients = example
    band = intervals.roc_band(labels, scores, patients, draws=300)
    false_alarms, sensitivity, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    expected = np.interp(band.false_positive_rate, false_alarms, sensitivity)
    assert band.sensitivity.to_numpy() == pytest.approx(expected)
    assert ((band.low <= band.sensitivity) & (band.sensitivity <= band.high)).all()
    area = np.trapezoid(band.sensitivity, band.false_positive_rate)
    assert area == pytest.approx(metrics.auc(labels, scores), abs=0.01)


def delong_variance(labels, scores, patients=None):
    return comparisons.delong_covariance(np.asarray(labels), np.asarray(scores)[None], patients)[1][0, 0]


def test_delong_equals_its_definition(example):
    """That of a single image a patient is DeLong's of 1988."""
    labels, first, _ = example
    second = np.round(first + np.random.default_rng(0).normal(0, 0.2, len(labels)), 2)
    expected = clustered_p(labels, first, second, np.arange(len(labels)))
    for patients in (None, range(len(labels))):
        assert comparisons.delong_test(labels, first, second, patients=patients) == pytest.approx(expected)


def test_delong_at_its_limits():
    labels = np.array([0, 0, 1, 1])
    perfect, constant = labels.astype(float), np.full(4, 0.5)
    assert comparisons.delong_test(labels, perfect, perfect) == 1
    assert np.isnan(comparisons.delong_test(labels, perfect, constant))
    assert np.isnan(delong_variance([0, 1, 1], [0.1, 0.2, 0.3]))


def both_classes(generator):
    """150 patients of four images each, most with two of either class; the patients' levels cancel."""
    patients = np.repeat(np.arange(150), 4)
    labels = np.tile([0, 0, 1, 1], 150) ^ (generator.uniform(size=600) < 0.1)
    return (
        labels,
        special.expit(labels + 3 * generator.normal(size=150)[patients] + generator.normal(size=600)),
        patients,
    )


@pytest.mark.parametrize("case", ["patients", "images", "patients of both classes"])
def test_delong_agrees_with_the_bootstrap(case):
    generator = np.random.default_rng(11)
    draw = both_classes if "both" in case else partial(two_views, patients=350, resemblance=0.7)
    labels, scores, patients = draw(generator)
    other = special.expit(metrics.logit(scores) + generator.normal(0, 0.8, len(labels))[patients])
    units = patients if "patients" in case else np.arange(700)
    paired = intervals.bootstrap_interval(labels, scores, units, minus=other, draws=5000, seed=1)
    error = abs(paired.value) / stats.norm.isf(comparisons.delong_test(labels, scores, other, patients=units) / 2)
    assert error == pytest.approx(paired.standard_error, rel=0.06)
    drawn = intervals.bootstrap_interval(labels, scores, units, draws=5000, seed=1).standard_error
    assert np.sqrt(delong_variance(labels, scores, patients=units)) == pytest.approx(drawn, rel=0.05)
    assert ("both" in case) == (np.sqrt(delong_variance(labels, scores)) > 1.2 * drawn)


def test_delong_rejects_a_true_null_as_often_as_it_says():
    """Two equally good models, views and models correlated: 5 % of 1,000 tests, Monte Carlo error 0.7 %."""
    by_patient, by_image = [], []
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        labels, scores, patients = two_views(generator, patients=100)
        noise = np.repeat(generator.normal(size=(2, 100)), 2, axis=1)
        first, second = (metrics.logit(scores) + row for row in noise)
        by_patient.append(comparisons.delong_test(labels, first, second, patients=patients))
        by_image.append(comparisons.delong_test(labels, first, second))
    assert np.mean(np.array(by_patient) < 0.05) == pytest.approx(0.05, abs=0.018)
    assert np.mean(np.array(by_image) < 0.05) > 0.1  # what ignoring the patients would do


def test_holm_gives_the_published_example():
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm"), and Holm's ordering on a shuffled set
    assert comparisons.holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert comparisons.holm([0.04, 0.005, 0.9, 0.01]) == pytest.approx([0.08, 0.02, 0.9, 0.03])
    assert comparisons.holm([0.6, 0.7]).tolist() == [1, 1]
    assert comparisons.holm([np.nan, 0.02, 0.5])[1:] == pytest.approx([0.04, 0.5])
    assert np.isnan(comparisons.holm([np.nan])[0])
    assert comparisons.holm([]).shape == (0,)


def test_paired_differences_table(example):
    labels, scores, patients = example
    generator = np.random.default_rng(0)
    models = {"good": scores, "noise": generator.uniform(size=len(labels)), "same": scores**3}
    pairs = [("good", "noise"), ("good", "same")]
    table = comparisons.paired_differences(labels, models, patients, pairs=pairs)
    assert [*table] == ["model_a", "model_b", "delta_auc", "low", "high", "p_delong", "p_holm", "detectable"]
    assert table.delta_auc[0] == pytest.approx(metrics.auc(labels, scores) - metrics.auc(labels, models["noise"]))
    assert table.low[0] > 0
    assert table.p_holm[0] == pytest.approx(2 * table.p_delong[0])
    assert (table.delta_auc[1], table.p_holm[1]) == (0, 1)
    worse = comparisons.paired_differences(labels, models, patients, pairs=[("noise", "good")])
    unknown = table[:1].assign(p_delong=np.nan, p_holm=np.nan)
    words = comparisons.describe_differences(pd.concat([table, worse, unknown]))
    not_shown = f"no difference shown; 80 % power from {table.detectable[1]:.3f}"
    assert words.verdict.tolist() == ["better", not_shown, "worse", "no test possible"]
    assert words["p, Holm"].tolist() == ["< 0.001", "1.000", "< 0.001", ""]
    some = comparisons.paired_differences(labels, models, patients, pairs=pairs, primary=pairs[:1])
    assert some.p_holm[0] == some.p_delong[0]
    assert comparisons.describe_differences(some)[["p, Holm", "verdict"]].iloc[1].tolist() == ["", "descriptive"]
    assert words["AUC difference"].iloc[1] == "+0.000 [+0.000, +0.000]"


def test_a_lesion_averages_its_views_and_a_case_takes_its_highest_lesion_and_its_worst_label():
    views = pd.DataFrame(
        [("P1", "LEFT", "a", 0, 0.2), ("P1", "LEFT", "a", 0, 0.8), ("P1", "LEFT", "b", 1, 0.1),
         ("P1", "LEFT", "b", 1, 0.5), ("P1", "RIGHT", "", 0, 0.9), ("P2", "", "", 0, 0.1), ("P2", np.nan, "", 0, 0.3)],
        columns=["patient_id", "side", "lesion", "label", "score"],
    )  # fmt: skip
    lesions = metrics.lesion_table(views)
    assert lesions.score.tolist() == pytest.approx([0.5, 0.3, 0.9, 0.2])
    assert (lesions.lesion.tolist(), lesions.label.tolist()) == (["a", "b", "", ""], [0, 1, 0, 0])
    cases = [("P1", "LEFT", 1, 0.5), ("P1", "RIGHT", 0, 0.9), ("P2", "", 0, 0.2)]
    expected = pd.DataFrame(cases, columns=["patient_id", "side", "label", "score"])
    pd.testing.assert_frame_equal(metrics.case_table(views), expected, check_dtype=False)
    without = metrics.case_table(views.drop(columns=["lesion", "side"]))
    assert without.to_numpy().tolist() == [["P1", "", 1, 0.5], ["P2", "", 0, 0.2]]


def frame(labels, scores, patients, **more):
    return pd.DataFrame({"patient_id": patients, "label": labels, "score": scores, **more})


def test_operating_points_follow_the_reader_of_validation_and_are_paired():
    held = frame(*two_views(np.random.default_rng(0)))
    test = frame(*two_views(np.random.default_rng(1)))
    readers = [part.assign(called=(part.label + np.arange(240) % 3 > 1).astype(int)) for part in (held, test)]
    found = points.operating_points(*readers, draws=300)
    assert list(found) == ["Youden", "at the reader's sensitivity", "at the reader's specificity", "reader"]
    target = readers[0].called[held.label == 1].mean()
    threshold = metrics.choose_threshold(held.label, held.score, rule="sensitivity", target=target)
    figures = metrics.summarise(test.label, test.score, threshold=threshold)
    point = found["at the reader's sensitivity"]
    values = (point.threshold, point.sensitivity.value, point.specificity.value)
    assert values == pytest.approx((threshold, figures["sensitivity"], figures["specificity"]))
    assert found["reader"].sensitivity.value == readers[1].called[test.label == 1].mean()
    gap = point.minus(found["reader"]).sensitivity
    assert gap.value == pytest.approx(point.sensitivity.value - found["reader"].sensitivity.value)
    fixed = points.operating_points(None, test, draws=300)["fixed"]
    assert fixed.sensitivity.value == (test.score >= 0.5)[test.label == 1].mean()
    width, alone = (at.sensitivity.high - at.sensitivity.low for at in (found["Youden"], fixed))
    assert width > alone  # the threshold's own uncertainty


def test_predictive_values_are_those_of_bayes_rule():
    point = points.OperatingPoint(0.5, np.array([[0.8, 0.9], [0.7, 0.8], [0.9, 0.95]]), patients=100)
    found = point.at_prevalence(0.1)
    assert found["PPV"].value == pytest.approx(0.08 / (0.08 + 0.09))
    assert found["NPV"].value == pytest.approx(0.81 / (0.81 + 0.02))
    assert found["recalls per 1,000"].value == pytest.approx(170)
    assert found["cancers found per 1,000"].value + found["cancers missed per 1,000"].value == pytest.approx(100)


def test_calibration_of_shifted_and_of_right_scores():
    generator = np.random.default_rng(2)
    patients = np.repeat(np.arange(1500), 2)
    logits = generator.normal(0, 1.5, 1500)[patients]
    labels = (generator.random(3000) < special.expit(logits)).astype(int)
    right = calibration.describe_calibration(labels, special.expit(logits), patients)
    assert right["calibration intercept"].low < 0 < right["calibration intercept"].high
    assert right["calibration slope"].low < 1 < right["calibration slope"].high
    assert right["ECE"].value == pytest.approx(right["ECE of a perfect model"].value, abs=0.02)
    halves = [frame(labels[i::2], special.expit(2 * logits[i::2] + 1), patients[i::2]) for i in (0, 1)]
    scores, table = calibration.assess_calibration(*halves)
    assert np.array_equal(scores["chosen"], scores["Platt"])
    assert table["calibration slope"]["as it is"].value == pytest.approx(0.5, abs=0.06)
    assert table["calibration slope"]["Platt"].value == pytest.approx(1, abs=0.12)
    shifted = frame(labels[:600], special.expit(logits[:600] + 1), patients[:600])
    assert calibration.choose_calibration(shifted) == "intercept"
    assert calibration.fit_intercept(shifted.label, shifted.score).intercept == pytest.approx(-1, abs=0.3)
    assert calibration.choose_calibration(shifted.assign(score=special.expit(logits[:600]))) == "as it is"


def test_trainings_are_drawn_too(example):
    labels, scores, patients = example
    other = np.random.default_rng(3).random(len(labels))
    both = intervals.bootstrap_interval(labels, np.stack([scores, other]), patients, draws=500)
    areas = [metrics.auc(labels, row) for row in (scores, other)]
    assert both.value == pytest.approx(np.mean(areas))
    assert both.low < min(areas) + 0.05 < max(areas) - 0.05 < both.high  # either training may be drawn twice


def test_groups_stand_against_the_others():
    labels, scores, patients = two_views(np.random.default_rng(7))
    rows = frame(labels, scores, patients, kind=np.where(patients < 30, "few", "many"), one="", pure=labels.astype(str))
    found = groups.compare_groups(rows, ["kind", "one", "pure", "absent"], threshold=0.5, draws=200).set_index("group")
    assert found.index.tolist() == ["images", "few", "many"]  # a group of one class has no AUC
    assert found.descriptive.tolist() == [False, True, False]
    assert found.difference["few"] == pytest.approx(found.auc["few"] - found.auc["many"])
    assert found.difference_low["few"] == pytest.approx(-found.difference_high["many"], abs=0.05)
    assert np.isnan(found.difference["images"])
    rows["score"] = np.where(patients < 30, labels, scores)  # the small group is ranked without an error
    found = groups.compare_groups(rows, ["kind"], threshold=0.5, draws=200).set_index("group")
    assert found.auc["few"] == 1
    assert found.loc[["few", "many"], "difference"].notna().all()
    assert found.loc["few", ["auc_low", "difference_low"]].isna().all()
    assert 0 < found.loc["many", "auc_low"] < found.loc["many", "auc"]
