"""Who trains, who chooses, who judges: whole subjects, but for the paper's own split, which says so."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harmonet.errors import DataError, NotFoundError, nearest

SUBJECTS, PAPER = "subjects", "paper"


@dataclass(frozen=True)
class Split:
    """Names of the subjects in each part.

    Attributes:
        train, validation, test: No subject is in two, unless the split is leaky.
        scheme: `subjects`, or `paper`: random places of the same subjects, 90 % to train on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    scheme: str = SUBJECTS

    @property
    def leaky(self) -> bool:
        """Whether a subject is in two parts; all that is made from such a split must say so.

        >>> Split(("a", "b"), ("c",), ("b",)).leaky
        True
        """
        parts = (self.train, self.validation, self.test)
        return any(set(one) & set(other) for one, other in combinations(parts, 2))


def split_subjects(
    subjects: Sequence[str], validation: int | Sequence[str], test: int | Sequence[str], seed: int
) -> Split:
    """A split of whole subjects.

    Args:
        subjects: Names of all subjects that can be used, in any order.
        validation, test: How many subjects, drawn with the seed, or which.
        seed: Seed of the draw.

    Raises:
        DataError: A subject would be in two parts, or a part would be empty.

    >>> split_subjects(["a", "b", "c"], ["b"], ["c"], seed=0)
    Split(train=('a',), validation=('b',), test=('c',), scheme='subjects')
    """
    order = _shuffled(subjects, seed)
    named = [] if isinstance(test, int) else _known(test, subjects)
    named_validation = [] if isinstance(validation, int) else _known(validation, subjects)
    both = sorted(set(named) & set(named_validation))
    if both:
        raise DataError(f"{', '.join(both)} cannot be in validation and test at once: name other subjects.")
    free = [name for name in order if name not in named and name not in named_validation]
    if isinstance(test, int):
        named, free = free[: max(test, 0)], free[max(test, 0) :]
    if isinstance(validation, int):
        named_validation, free = free[: max(validation, 0)], free[max(validation, 0) :]
    if not (free and named and named_validation):
        raise DataError(
            f"{len(subjects)} subjects ({', '.join(sorted(subjects))}) do not leave at least one each for training, "
            "validation and test: add subjects, or set [split] in the recipe."
        )
    return Split(tuple(sorted(free)), tuple(sorted(named_validation)), tuple(sorted(named)))


def k_folds(subjects: Sequence[str], k: int, validation: int, seed: int) -> list[Split]:
    """`k` splits in which every subject tests once; sizes of the test parts differ by at most one.

    Args:
        subjects: Names of all subjects that can be used, in any order.
        k: How many, from 2 to as many as there are subjects.
        validation: How many of the others choose, in each fold.
        seed: Seed of the draw.

    Raises:
        DataError: There are not enough subjects.

    >>> [fold.test for fold in k_folds(["a", "b", "c", "d"], k=2, validation=1, seed=0)]
    [('a', 'c'), ('b', 'd')]
    """
    order = _shuffled(subjects, seed)
    n = len(order)
    if not 2 <= k <= n:
        raise DataError(
            f"{n} subjects cannot be dealt into {k} folds: ask for 2 folds or more, one per subject at most."
        )
    largest = -(-n // k)
    if validation < 1 or n - largest - validation < 1:
        raise DataError(
            f"{n} subjects in {k} folds leave {n - largest} beside the test subjects, which cannot give {validation} "
            "for validation and at least one for training: ask for 1 or more and leave one, or add subjects."
        )
    folds = []
    for number in range(k):
        # From the subject after this fold's first on, so that the validation parts go round as the test parts do.
        test = order[number::k]
        others = [name for name in order[number:] + order[:number] if name not in test]
        folds.append(Split(tuple(sorted(others[validation:])), tuple(sorted(others[:validation])), tuple(sorted(test))))
    return sorted(folds, key=lambda fold: fold.test)


def leave_one_out(subjects: Sequence[str], validation: int, seed: int) -> list[Split]:
    """One split per subject, in the order of their names, in which that subject alone tests.

    Raises:
        DataError: There are not enough subjects.
    """
    return k_folds(subjects, len(subjects), validation, seed)


def inner_folds(split: Split, k: int, validation: int, seed: int) -> list[Split]:
    """`k` splits of the subjects that do not test in `split`: nested cross-validation chooses on these.

    Every comparison of models or settings happens among the inner splits; the test subjects of the outer one, who are
    in none of them, then judge the winner.

    Raises:
        DataError: There are not enough subjects, or the outer split is leaky.
    """
    if split.leaky:
        raise DataError("a leaky split has no inner folds, its test subjects train too: split by subject.")
    return k_folds((*split.train, *split.validation), k, validation, seed)


def paper_split(subjects: Sequence[str]) -> Split:
    """All subjects in all parts, leaky; the patch feed then parts their places at random, 90 % to train on.

    Neighbouring patches overlap by more than 90 %, so a score under it is that of brains which were seen. It is here to
    compare with Blumberg et al. 2019 (doi:10.48550/arXiv.1907.11629), for nothing else.

    Raises:
        DataError: There is no subject, or one is named twice.
    """
    names = tuple(_sorted(subjects))
    if not names:
        raise DataError("the paper's split needs subjects, found none: give at least one.")
    return Split(names, names, names, PAPER)


def _sorted(subjects: Sequence[str]) -> list[str]:
    twice = [name for name, count in Counter(subjects).items() if count > 1]
    if twice:
        raise DataError(f"subject {min(twice)!r} is named twice: name each subject once.")
    return sorted(subjects)


def _shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """The subjects in an order that follows from their names and the seed alone."""
    names = _sorted(subjects)
    return [str(name) for name in np.random.default_rng([seed, len(names)]).permutation(names)]


def _known(names: Sequence[str], subjects: Sequence[str]) -> list[str]:
    for name in names:
        if name not in subjects:
            raise NotFoundError(f"no subject {name!r} with every platform of the recipe. {nearest(name, subjects)}")
    return _sorted(names)
