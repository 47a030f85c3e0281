"""Who trains, who chooses, who judges: always whole subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonet.errors import DataError, NotFoundError, nearest


@dataclass(frozen=True)
class Split:
    """Names of the subjects in each part; no subject is in two."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_subjects(
    subjects: Sequence[str], validation: int | Sequence[str], test: int | Sequence[str], seed: int
) -> Split:
    """A split of whole subjects.

    Args:
        subjects: Names of all subjects that can be used.
        validation, test: How many subjects, drawn with the seed, or which.
        seed: Seed of the draw.

    Raises:
        DataError: A subject would be in two parts, or none is left to train on.

    >>> split_subjects(["a", "b", "c"], ["b"], ["c"], seed=0)
    Split(train=('a',), validation=('b',), test=('c',))
    """
    named = [] if isinstance(test, int) else _known(test, subjects)
    named_validation = [] if isinstance(validation, int) else _known(validation, subjects)
    both = sorted(set(named) & set(named_validation))
    if both:
        raise DataError(f"{', '.join(both)} cannot be in validation and test at once: name other subjects.")
    order = list(np.random.default_rng([seed, len(subjects)]).permutation(sorted(subjects)))
    free = [str(name) for name in order if name not in named and name not in named_validation]
    if isinstance(test, int):
        named, free = free[:test], free[test:]
    if isinstance(validation, int):
        named_validation, free = free[:validation], free[validation:]
    if not (free and named and named_validation):
        raise DataError(
            f"{len(subjects)} subjects ({', '.join(sorted(subjects))}) do not leave at least one each for training, "
            "validation and test: add subjects, or set [split] in the recipe."
        )
    return Split(tuple(sorted(free)), tuple(sorted(named_validation)), tuple(sorted(named)))


def _known(names: Sequence[str], subjects: Sequence[str]) -> list[str]:
    for name in names:
        if name not in subjects:
            raise NotFoundError(f"no subject {name!r} with every platform of the recipe. {nearest(name, subjects)}")
    return list(names)
