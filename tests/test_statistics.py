"""Statistics over subjects: against brute force, scipy and tables worked out by hand."""

from itertools import product

import numpy as np
import pytest

from harmonet.errors import DataError
from harmonet.evaluation.significance import bonferroni, holm, patch_test, signed_rank, smallest_p
from harmonet.evaluation.statistics import bootstrap, compare, resamples, seed_means, summarise


def named(values):
    """Subject to value."""
    return dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", values, strict=False))


def normal(n, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def test_seeds_are_averaged_within_the_subject_and_add_no_subjects():
    one = summarise(seed_means({"A": [1.0], "B": [3.0], "C": [8.0]}))
    three = summarise(seed_means({"A": [0.0, 1.0, 2.0], "B": [3.0] * 3, "C": [7.0, 9.0, 8.0]}))
    assert three == one
    assert one.n == 3


@pytest.mark.parametrize("errors", [{}, {"A": []}, {"A": [1.0, 2.0], "B": [1.0]}])
def test_subjects_without_the_same_seeds_are_refused(errors):
    with pytest.raises(DataError, match="same seeds"):
        seed_means(errors)


def test_a_summary_is_worked_out_by_hand():
    found = summarise({"A": 1.0, "B": 2.0, "C": 6.0})
    assert (found.n, found.mean, found.worst.subject, found.worst.value) == (3, 3.0, "C", 6.0)
    assert found.deviation == pytest.approx(7**0.5)
    assert (found.interval.low, found.interval.high) == (1.0, 6.0)  # AAA and CCC have a chance of 1/27 > 2.5 % each


def test_a_comparison_is_worked_out_by_hand():
    found = compare({"A": 1.0, "B": 3.0, "C": 2.0}, {"A": 2.0, "B": 2.0, "C": 4.0})
    assert found.n == 3
    assert found.differences == {"A": -1.0, "B": 1.0, "C": -2.0}
    assert found.mean == pytest.approx(-2 / 3)
    assert found.deviation == pytest.approx((7 / 3) ** 0.5)
    assert (found.interval.low, found.interval.high) == (-2.0, 1.0)
    assert found.gain == pytest.approx(25.0)
    assert (found.gain_interval.low, found.gain_interval.high) == pytest.approx((-50.0, 50.0))
    assert (found.worst.subject, found.worst.value) == ("B", 1.0)
    assert (found.signed_rank.n, found.signed_rank.smallest_p) == (3, 0.25)


def test_subjects_are_paired_by_name_and_not_by_place():
    ours, theirs = {"A": 1.0, "B": 5.0}, {"B": 6.0, "A": 2.0}
    assert compare(ours, theirs).differences == {"B": -1.0, "A": -1.0}


def test_one_subject_has_no_interval_and_no_spread():
    found = compare({"A": 1.0}, {"A": 2.0})
    assert (found.n, found.mean, found.gain) == (1, -1.0, 50.0)
    assert found.deviation is found.interval is found.gain_interval is None
    assert (found.signed_rank.p, found.signed_rank.smallest_p) == (1.0, 1.0)
    alone = summarise({"A": 1.0})
    assert (alone.mean, alone.deviation, alone.interval) == (1.0, None, None)


@pytest.mark.parametrize(
    ("method", "reference", "match"),
    [
        ({"A": 1.0}, {"B": 1.0}, "same subjects, found A, B"),
        ({}, {}, "at least one subject"),
        ({"A": float("nan"), "B": 1.0}, {"A": 1.0, "B": 1.0}, "finite errors, found nan for A"),
        ({"A": 1.0, "B": 1.0}, {"A": 1.0, "B": 0.0}, "above 0, found 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(method, reference, match):
    with pytest.raises(DataError, match=match):
        compare(method, reference)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_enumerated_interval_is_that_of_all_resamples_one_by_one(n):
    values = normal(n)
    means = np.sort([np.mean([values[i] for i in draw]) for draw in product(range(n), repeat=n)])
    found = bootstrap(lambda weights: weights @ values, n)
    last = len(means) - 1
    assert found.low == pytest.approx(means[int(np.ceil(0.025 * len(means) - 1e-9)) - 1])
    assert found.high == pytest.approx(means[min(int(np.ceil(0.975 * len(means) - 1e-9)) - 1, last)])
    assert (found.n, found.resamples) == (n, "all")


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_the_chances_of_all_resamples_add_to_one(n):
    counts, chances = resamples(n)
    assert chances.sum() == pytest.approx(1)
    assert (counts.sum(axis=1) == n).all()
    assert len(np.unique(counts, axis=0)) == len(counts)


@pytest.mark.parametrize("n", [8, 15])
def test_the_interval_is_that_of_scipy(n):
    from scipy.stats import bootstrap as reference

    values = normal(n)
    theirs = reference((values,), np.mean, method="percentile", n_resamples=40_000, rng=0).confidence_interval
    ours = bootstrap(lambda weights: weights @ values, n)
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.02)


def test_a_drawn_interval_is_the_same_each_time_and_says_that_it_was_drawn():
    values = named(normal(15))
    assert summarise(values) == summarise(values)
    assert summarise(values).interval.resamples == "10,000 drawn"


def test_the_interval_mirrors_when_method_and_reference_change_places():
    ours, theirs = named(normal(6, 0, 9.0)), named(normal(6, 1, 9.0))
    there, back = compare(ours, theirs).interval, compare(theirs, ours).interval
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_intervals_hold_the_truth_as_often_as_their_docstring_says():
    draws = normal(4000 * 5).reshape(4000, 5)
    held = 0
    for values in draws:
        found = bootstrap(lambda w, values=values: w @ values, 5)
        held += found.low <= 0 <= found.high
    assert held / 4000 == pytest.approx(0.84, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 25])
def test_the_signed_rank_test_is_that_of_scipy(n):
    from scipy.stats import wilcoxon

    differences = normal(n, seed=n, mean=0.5)
    found = signed_rank(differences)
    assert found.p == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-12)
    assert (found.n, found.unequal) == (n, n)


@pytest.mark.parametrize("differences", [[1, 1, 2, -2, 3], [1, 1, 1, 1], [2, -2, 2, -1, 1, 4, 4]])
def test_tied_differences_have_the_p_of_all_signs_one_by_one(differences):
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(differences))
    sums = np.array([ranks @ signs for signs in product([0, 1], repeat=len(ranks))])
    observed = ranks @ (np.array(differences) > 0)
    tail = min((sums <= observed).mean(), (sums >= observed).mean())
    assert signed_rank(differences).p == pytest.approx(min(1, 2 * tail))


def test_subjects_without_a_difference_are_left_out_and_counted():
    found = signed_rank([0.0, 1.0, 2.0, 3.0])
    assert (found.n, found.unequal, found.p) == (4, 3, signed_rank([1.0, 2.0, 3.0]).p)
    none = signed_rank([0.0, 0.0])
    assert (none.n, none.unequal, none.p) == (2, 0, 1.0)


@pytest.mark.parametrize("n", range(1, 12))
def test_no_effect_gives_a_smaller_p_than_the_smallest(n):
    assert signed_rank(np.arange(1.0, n + 1)).p == pytest.approx(smallest_p(n))


def test_ten_subjects_cannot_reach_the_p_of_the_paper():
    assert smallest_p(10) == pytest.approx(0.00195, abs=1e-5)
    assert bonferroni([smallest_p(10)] * 15)[0] == pytest.approx(0.0293, abs=1e-4)


@pytest.mark.parametrize(
    ("p_values", "by_holm", "by_bonferroni"),
    [
        ([], [], []),
        ([0.04], [0.04], [0.04]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02], [0.04, 0.16, 0.12, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06], [0.06, 0.06, 0.06]),
        ([0.6, 0.01, 0.5], [1.0, 0.03, 1.0], [1.0, 0.03, 1.0]),
        ([0.3, 0.001, 0.011], [0.3, 0.003, 0.022], [0.9, 0.003, 0.033]),
    ],
)
def test_corrected_p_values_are_those_worked_out_by_hand(p_values, by_holm, by_bonferroni):
    assert holm(p_values) == pytest.approx(by_holm)
    assert bonferroni(p_values) == pytest.approx(by_bonferroni)


def test_patches_of_few_subjects_find_effects_that_are_not_there():
    """Subjects differ at random by no more than patches do, and neither method is better."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        reference = {s: rng.normal(10.0, 1.0, 278) for s in "ABCDE"}
        method = {s: e + rng.normal(0.0, 0.5) + rng.normal(0.0, 1.0, 278) for s, e in reference.items()}
        by_patch = patch_test(method, reference)
        by_subject = signed_rank([method[s].mean() - reference[s].mean() for s in reference])
        found.append((by_patch.p < 0.05, by_subject.p < 0.05))
    by_patch_share, by_subject_share = np.mean(found, axis=0)
    assert by_patch_share > 0.5
    assert by_subject_share == 0  # five subjects reach 0.0625 at best


def test_a_patch_level_p_comes_with_its_warning_and_its_subjects():
    from scipy.stats import wilcoxon

    method, reference = {"A": normal(50, 1), "B": normal(50, 2)}, {"B": normal(50, 4), "A": normal(50, 3)}
    found = patch_test(method, reference)
    differences = np.concatenate([method[s] - reference[s] for s in "AB"])
    assert found.p == pytest.approx(wilcoxon(differences, method="asymptotic").pvalue)
    assert (found.n, found.patches) == (2, 100)
    assert "too small" in found.warning


@pytest.mark.parametrize(
    ("method", "reference", "match"),
    [
        ({"A": np.ones(3)}, {"A": np.ones(4)}, "same patches"),
        ({"A": np.ones(3)}, {"A": np.ones(3)}, "differ somewhere"),
        ({}, {}, "differ somewhere"),
    ],
)
def test_patches_that_cannot_be_compared_are_refused(method, reference, match):
    with pytest.raises(DataError, match=match):
        patch_test(method, reference)
