"""Splits part whole subjects, exactly, and always alike from the same names and seed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harmonet.data.splits import Split, inner_folds, k_folds, leave_one_out, paper_split, split_subjects
from harmonet.errors import DataError, NotFoundError

NAMES = st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True), min_size=3, max_size=30, unique=True)
SEEDS = st.integers(0, 2**32)
FAST = settings(deadline=None, max_examples=50, derandomize=True, database=None)


def parts_of(split):
    return (split.train, split.validation, split.test)


def assert_exact(split, names):
    """Everybody is in one part, every part has somebody, and names are sorted."""
    assert sorted(name for part in parts_of(split) for name in part) == sorted(names)
    assert all(part == tuple(sorted(part)) and part for part in parts_of(split))
    assert (split.leaky, split.scheme) == (False, "subjects")


@st.composite
def folded(draw):
    """Names, k and a number of validation subjects that leave somebody to train on."""
    names = draw(NAMES)
    k = draw(st.integers(2, len(names)))
    free = len(names) - -(-len(names) // k)
    assume(free >= 2)
    return names, k, draw(st.integers(1, free - 1))


@FAST
@given(NAMES, SEEDS, st.data())
def test_a_split_is_exact_and_has_the_sizes_asked_for(names, seed, data):
    test = data.draw(st.integers(1, len(names) - 2))
    validation = data.draw(st.integers(1, len(names) - test - 1))
    split = split_subjects(names, validation, test, seed)
    assert_exact(split, names)
    assert (len(split.validation), len(split.test)) == (validation, test)
    assert split == split_subjects(data.draw(st.permutations(names)), validation, test, seed)


@FAST
@given(NAMES, SEEDS, st.data())
def test_named_subjects_are_where_they_were_named(names, seed, data):
    test = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=len(names) - 2, unique=True))
    split = split_subjects(names, 1, test, seed)
    assert_exact(split, names)
    assert set(split.test) == set(test)


@FAST
@given(folded(), SEEDS, st.data())
def test_every_fold_is_exact_and_every_subject_tests_once(drawn, seed, data):
    names, k, validation = drawn
    folds = k_folds(names, k, validation, seed)
    assert len(folds) == k
    for fold in folds:
        assert_exact(fold, names)
        assert len(fold.validation) == validation
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(name for fold in folds for name in fold.test) == sorted(names)
    assert folds == k_folds(data.draw(st.permutations(names)), k, validation, seed)


@FAST
@given(NAMES, SEEDS, st.data())
def test_leaving_one_out_everybody_tests_alone_and_chooses_equally_often(names, seed, data):
    validation = data.draw(st.integers(1, len(names) - 2))
    folds = leave_one_out(names, validation, seed)
    assert [fold.test for fold in folds] == [(name,) for name in sorted(names)]
    for fold in folds:
        assert_exact(fold, names)
    chosen = [name for fold in folds for name in fold.validation]
    assert {chosen.count(name) for name in names} == {validation}


@FAST
@given(folded(), SEEDS, st.integers(2, 4))
def test_inner_folds_never_see_the_test_subjects_of_the_outer_one(drawn, seed, inner):
    names, k, validation = drawn
    for outer in k_folds(names, k, validation, seed):
        rest = {*outer.train, *outer.validation}
        if inner > len(rest) or len(rest) - -(-len(rest) // inner) < 2:
            with pytest.raises(DataError):
                inner_folds(outer, inner, 1, seed)
            continue
        folds = inner_folds(outer, inner, 1, seed)
        assert len(folds) == inner
        for fold in folds:
            assert_exact(fold, rest)
        assert sorted(name for fold in folds for name in fold.test) == sorted(rest)


def test_the_seed_decides_and_different_seeds_differ():
    names = [f"s{i}" for i in range(12)]
    assert len({tuple(k_folds(names, 3, 2, seed)) for seed in range(20)}) == 20
    assert len({split_subjects(names, 2, 3, seed) for seed in range(20)}) >= 19


def test_draws_stay_as_they_were_when_runs_were_made_with_them():
    names = [f"s{i}" for i in range(9)]
    split = split_subjects(names, 2, 3, seed=1)
    order = np.random.default_rng([1, 9]).permutation(names)
    assert (split.test, split.validation) == (tuple(sorted(order[:3])), tuple(sorted(order[3:5])))
    assert all(type(name) is str for part in parts_of(split) for name in part)


def test_the_papers_split_has_everybody_everywhere_and_says_that_it_leaks():
    split = paper_split(["b", "a"])
    assert parts_of(split) == (("a", "b"),) * 3
    assert (split.scheme, split.leaky) == ("paper", True)


@pytest.mark.parametrize(
    ("parts", "leaky"),
    [
        ((("a",), ("b",), ("c",)), False),
        ((("a", "b"), ("b",), ("c",)), True),
        ((("a", "c"), ("b",), ("c",)), True),
        ((("a",), ("b", "c"), ("c",)), True),
    ],
)
def test_a_split_leaks_where_a_subject_is_in_two_parts_whatever_it_is_called(parts, leaky):
    assert Split(*parts).leaky is leaky


ABC = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: split_subjects(["a", "b"], 1, 1, 0), DataError, "do not leave at least one each"),
        (lambda: split_subjects(ABC, 0, 1, 0), DataError, "do not leave at least one each"),
        (lambda: split_subjects(ABC, 1, 0, 0), DataError, "do not leave at least one each"),
        (lambda: split_subjects([*ABC, "d", "e"], 1, -3, 0), DataError, "do not leave at least one each"),
        (lambda: split_subjects([*ABC, "d", "e"], -3, 1, 0), DataError, "do not leave at least one each"),
        (lambda: split_subjects(ABC, ["a"], ["a"], 0), DataError, "a cannot be in validation and test at once"),
        (lambda: split_subjects(ABC, ["d"], ["a"], 0), NotFoundError, "no subject 'd'"),
        (lambda: split_subjects([*ABC, "a"], 1, 1, 0), DataError, "subject 'a' is named twice"),
        (lambda: split_subjects(ABC, 1, ["c", "c"], 0), DataError, "subject 'c' is named twice"),
        (lambda: k_folds(ABC, 4, 1, 0), DataError, "3 subjects cannot be dealt into 4 folds"),
        (lambda: k_folds(ABC, 1, 1, 0), DataError, "3 subjects cannot be dealt into 1 folds"),
        (lambda: k_folds(ABC, 0, 1, 0), DataError, "3 subjects cannot be dealt into 0 folds"),
        (lambda: k_folds(ABC, -1, 1, 0), DataError, "3 subjects cannot be dealt into -1 folds"),
        (lambda: k_folds(ABC, 3, 2, 0), DataError, "leave 2 beside the test subjects, which cannot give 2"),
        (lambda: k_folds(ABC, 3, 0, 0), DataError, "cannot give 0 for validation"),
        (lambda: k_folds(ABC, 2, 1, 0), DataError, "leave 1 beside the test subjects"),
        (lambda: k_folds([*ABC, "a"], 2, 1, 0), DataError, "subject 'a' is named twice"),
        (lambda: leave_one_out(["a", "b"], 1, 0), DataError, "leave 1 beside the test subjects"),
        (lambda: leave_one_out(["a"], 1, 0), DataError, "1 subjects cannot be dealt into 1 folds"),
        (lambda: leave_one_out([], 1, 0), DataError, "0 subjects cannot be dealt into 0 folds"),
        (lambda: inner_folds(paper_split(ABC), 2, 1, 0), DataError, "a leaky split has no inner folds"),
        (lambda: paper_split([]), DataError, "found none"),
        (lambda: paper_split(["a", "a"]), DataError, "subject 'a' is named twice"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()
