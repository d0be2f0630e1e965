"""Quality and calibration from logits: hand-computed cases, scikit-learn as the reference."""

import numpy as np
import pytest
from sklearn import metrics as reference

from analysis.mistakes import agreement
from analysis.statistics.calibration import fit_temperature, null_error, summarise
from experiments.metrics import (
    brier_per_image,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    nll_per_image,
    reliability,
    top_k,
)


@pytest.fixture
def random_case():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 500)
    logits = generator.normal(size=(500, 7)) + 1.5 * np.eye(7)[labels]
    return logits, labels


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def logits_of(probabilities):
    """Two-class logits whose softmax gives these probabilities to class 0."""
    p = np.asarray(probabilities)
    return np.column_stack((np.log(p / (1 - p)), np.zeros(len(p))))


# ---------------------------------------------------------------------------------------------------------------- per image
def test_top_k_by_hand():
    logits = [[3, 2, 1, 0], [0, 1, 2, 3], [0, 3, 2, 1]]
    labels = [0, 1, 0]
    assert top_k(logits, labels, 1).tolist() == [True, False, False]
    assert top_k(logits, labels, 2).tolist() == [True, False, False]
    assert top_k(logits, labels, 3).tolist() == [True, True, False]
    assert top_k(logits, labels, 4).tolist() == [True, True, True]


def test_equal_logits_rank_by_class_index():
    logits, labels = np.zeros((4, 4)), np.arange(4)
    assert top_k(logits, labels, 1).tolist() == [True, False, False, False]
    assert top_k(logits, labels, 3).tolist() == [True, True, True, False]


def test_top_k_agrees_with_the_reference(random_case):
    logits, labels = random_case
    for k in (1, 2, 5):
        assert top_k(logits, labels, k).mean() == pytest.approx(reference.top_k_accuracy_score(labels, logits, k=k))


def test_nll_and_brier_by_hand():
    # p = (3/4, 1/4) of logits (ln 3, 0). Label 0: −ln(3/4), (1/4)² + (1/4)²; label 1: −ln(1/4), (3/4)² + (3/4)².
    logits = np.array([[np.log(3), 0], [np.log(3), 0]])
    np.testing.assert_allclose(nll_per_image(logits, [0, 1]), [np.log(4 / 3), np.log(4)])
    np.testing.assert_allclose(brier_per_image(logits, [0, 1]), [1 / 8, 9 / 8])


def test_nll_and_brier_agree_with_the_reference(random_case):
    logits, labels = random_case
    assert nll_per_image(logits, labels).mean() == pytest.approx(reference.log_loss(labels, softmax(logits)))
    expected = np.sum((softmax(logits) - np.eye(7)[labels]) ** 2, axis=1)
    np.testing.assert_allclose(brier_per_image(logits, labels), expected)


def test_huge_logits_of_half_precision_stay_finite():
    logits = np.array([[60000, -60000], [60000, -60000]], dtype=np.float16)
    np.testing.assert_allclose(nll_per_image(logits, [0, 1]), [0, np.float64(logits[0, 0]) * 2])
    np.testing.assert_allclose(brier_per_image(logits, [0, 1]), [0, 2])


def test_input_is_left_as_it_was(random_case):
    logits, labels = random_case
    before = logits.copy()
    for function in (nll_per_image, brier_per_image, macro_f1, expected_calibration_error, fit_temperature):
        function(logits, labels)
    np.testing.assert_array_equal(logits, before)


# ------------------------------------------------------------------------------------------------------------ over classes
def test_confusion_and_macro_f1_by_hand():
    # Predicted 0, 1, 1, 1, 0 for true 0, 0, 1, 1, 1; class 2 has no image.
    logits, labels = np.eye(3)[[0, 1, 1, 1, 0]], [0, 0, 1, 1, 1]
    assert confusion_matrix(logits, labels).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    # F1 of class 0: 2·1/(2 + 2), of class 1: 2·2/(3 + 3); class 2 occurs nowhere and does not count.
    assert macro_f1(logits, labels) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_only_ever_predicted_counts_with_zero():
    # Class 2 is predicted once and never true: F1 = 0. Class 0: 2·1/(2 + 1).
    logits, labels = np.eye(3)[[0, 2]], [0, 0]
    assert macro_f1(logits, labels) == pytest.approx((2 / 3 + 0) / 2)
    assert macro_f1(logits, labels) == pytest.approx(reference.f1_score([0, 0], [0, 2], average="macro"))


def test_class_measures_agree_with_the_reference(random_case):
    logits, labels = random_case
    predicted = logits.argmax(axis=1)
    np.testing.assert_array_equal(confusion_matrix(logits, labels), reference.confusion_matrix(labels, predicted))
    assert macro_f1(logits, labels) == pytest.approx(reference.f1_score(labels, predicted, average="macro"))


def test_agreement_by_hand():
    # Alike on images 0 and 3; both wrong on images 2 (differently) and 3 (alike).
    assert agreement([0, 1, 1, 2], [0, 0, 2, 2], [0, 1, 0, 0]) == (2 / 4, 2 / 4)
    # Over two seeds the shares are those of all pairs: the second seed agrees and is right everywhere.
    assert agreement([[0, 1, 1, 2], [0, 1, 0, 0]], [[0, 0, 2, 2], [0, 1, 0, 0]], [0, 1, 0, 0]) == (6 / 8, 2 / 8)


# -------------------------------------------------------------------------------------------------------------- calibration
def test_calibration_error_by_hand():
    # Three images of confidence .75, two of them right; two of confidence .55, both wrong; class 0 is predicted throughout.
    # Bins of width 1/5: 3/5·|2/3 − .75| + 2/5·|0 − .55| = .05 + .22.
    logits = logits_of([0.75, 0.75, 0.75, 0.55, 0.55])
    labels = [0, 0, 1, 1, 1]
    assert expected_calibration_error(logits, labels, bins=5) == pytest.approx(0.27)
    diagram = reliability(logits, labels, bins=5)
    assert diagram.count.tolist() == [0, 0, 2, 3, 0]
    np.testing.assert_allclose(diagram.accuracy, [np.nan, np.nan, 0, 2 / 3, np.nan])
    np.testing.assert_allclose(diagram.confidence, [np.nan, np.nan, 0.55, 0.75, np.nan])
    np.testing.assert_allclose(diagram.edges, [0, 0.2, 0.4, 0.6, 0.8, 1])
    # One bin: |2/5 − (3·.75 + 2·.55)/5| = .27 too: both bins err to the same side.
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(0.27)


def test_bins_hide_what_cancels_inside_them():
    # Confidence .9 and wrong, .6 and right: one bin has accuracy .5 against .75; bins of width 1/4 hold one image each.
    logits, labels = logits_of([0.9, 0.6]), [1, 0]
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(0.25)
    assert expected_calibration_error(logits, labels, bins=4) == pytest.approx((0.9 + 0.4) / 2)


def test_certain_predictions_fall_into_the_last_bin():
    logits = np.array([[1000.0, 0.0], [1000.0, 0.0]])
    assert reliability(logits, [0, 0]).count.tolist() == [0] * 14 + [2]
    assert expected_calibration_error(logits, [0, 0]) == 0
    assert expected_calibration_error(logits, [1, 1]) == 1


def test_equal_logits_are_a_confidence_of_one_over_classes():
    # Confidence 1/3 is the right border of the fifth of 15 bins and belongs to it.
    assert reliability(np.zeros((4, 3)), [0, 1, 2, 0]).count.tolist() == [0] * 4 + [4] + [0] * 10


def test_null_error_by_hand():
    # One image of confidence p: |1 − p| with probability p, else p, so 2·p·(1 − p).
    assert null_error(reliability(logits_of([0.9]), [0]))[0] == pytest.approx(2 * 0.9 * 0.1)
    # Two of .8 in one bin: 2, 1 or 0 right with .64, .32, .04 against 1.6 expected: .64·.4 + .32·.6 + .04·1.6 over 2 images.
    assert null_error(reliability(logits_of([0.8, 0.8]), [0, 0]))[0] == pytest.approx((0.256 + 0.192 + 0.064) / 2)
    # Bins are independent, and the labels do not matter.
    both = null_error(reliability(logits_of([0.9, 0.8, 0.8]), [1, 1, 1]))[0]
    assert both == pytest.approx((0.18 + 0.512) / 3)
    assert null_error(reliability(np.array([[1000.0, 0.0]]), [0])) == (0, 0)


@pytest.mark.parametrize("n_images", [75, 2000])
@pytest.mark.parametrize("spread", [1, 4, 20])
def test_a_perfectly_calibrated_model_scores_its_null(n_images, spread):
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(n_images, 3)) * spread
    chances = softmax(logits).cumsum(axis=1)
    draws = generator.random((1000, n_images, 1))
    errors = [expected_calibration_error(logits, np.minimum((u > chances).sum(axis=1), 2)) for u in draws]
    mean, high = null_error(reliability(logits, np.zeros(n_images, dtype=int)))
    assert np.mean(errors) == pytest.approx(mean, rel=0.05)
    assert 0.03 < np.mean(errors > np.float64(high)) < 0.08
    if (n_images, spread) == (75, 4):
        assert 0.08 < mean < 0.11  # what a photo set of 75 images has for a floor


def test_scaling_is_left_out_where_validation_does_not_determine_it(random_case):
    logits, labels = random_case

    def scaled(n_val, val_logits=logits):
        val = {"val_logits": val_logits[:n_val], "val_labels": labels[:n_val]}
        return summarise({"logits": logits, "labels": labels, **val})

    known = scaled(100)
    assert known["ece_scaled_note"] == "" and 0 < known["ece_scaled"] < 1
    assert known["ece"] == expected_calibration_error(logits, labels)
    for few in (99, 0):
        row = scaled(few)
        assert np.isnan(row["ece_scaled"]) and row["ece_scaled_note"] == "not scaled: fewer than 100 validation images"
        assert row["ece_null"] == known["ece_null"]
    at_bound = scaled(200, np.eye(7)[labels])  # never wrong
    assert np.isnan(at_bound["ece_scaled"]) and at_bound["ece_scaled_note"].endswith("at the bound 0.05")


def test_temperature_divides_the_logits(random_case):
    logits, labels = random_case
    assert expected_calibration_error(logits, labels, temperature=2.5) == pytest.approx(
        expected_calibration_error(logits / 2.5, labels), abs=1e-12
    )


def test_temperature_in_closed_form():
    # All logits are (2 ln 3, 0) and three of four labels are 0: the best confidence is 3/4, whose logit is ln 3, so T = 2.
    logits = np.tile([2 * np.log(3), 0], (4, 1))
    labels = np.array([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2, rel=1e-5)
    assert fit_temperature(10 + logits / 8, labels) == pytest.approx(1 / 4, rel=1e-5)


def test_temperature_scaling_repairs_over_confidence():
    # Labels are drawn from the softmax of the logits, which are then trebled.
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20_000, 5))
    labels = (generator.random((20_000, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    validation, test = slice(0, 10_000), slice(10_000, None)
    temperature = fit_temperature(3 * logits[validation], labels[validation])
    assert temperature == pytest.approx(3, rel=0.05)
    before = expected_calibration_error(3 * logits[test], labels[test])
    after = expected_calibration_error(3 * logits[test], labels[test], temperature=temperature)
    assert before > 0.2
    assert after < 0.02


def test_temperature_is_at_a_minimum_of_the_nll(random_case):
    logits, labels = random_case
    best = fit_temperature(logits, labels)
    at_best = nll_per_image(logits / best, labels).mean()
    for factor in (0.98, 1.02):
        assert nll_per_image(logits / (best * factor), labels).mean() > at_best


def test_temperature_stays_in_its_range():
    labels = np.array([0, 1, 2])
    assert fit_temperature(np.eye(3), labels) == 0.05
    assert fit_temperature(-np.eye(3), labels) == 20
    assert fit_temperature(1e4 * np.eye(3), labels) == 0.05


# ---------------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nll_per_image([[0.0, np.nan], [0.0, 1.0]], [0, 1]),
            r"`logits` must be finite: 1 of 2 images .* first is 0",
        ),
        (lambda: top_k([[0.0, 1.0]], [2], 1), "`labels` must be integers from 0 to 1, got int64 from 2 to 2"),
        (lambda: top_k([[0.0, 1.0]], [-1], 1), "from -1 to -1"),
        (lambda: top_k([[0.0, 1.0]], [0.5], 1), "got float64"),
        (lambda: brier_per_image([[0.0, 1.0]], [0, 1]), r"shapes \(1, 2\) and \(2,\)"),
        (lambda: macro_f1(np.empty((0, 3)), np.empty(0, dtype=int)), "one label per image"),
        (lambda: top_k([[0.0, 1.0]], [0], 3), "`k` must lie between 1 and the number of classes, 2, got 3"),
        (lambda: top_k([[0.0, 1.0]], [0], 0), "got 0"),
        (lambda: reliability([[0.0, 1.0]], [0], bins=0), "`bins` must be at least 1, got 0"),
        (lambda: reliability([[0.0, 1.0]], [0], temperature=0), "`temperature` must be positive"),
    ],
)
def test_bad_predictions_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
