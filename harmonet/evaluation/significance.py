"""How likely differences over subjects would be by chance, exactly, and corrected for the number of questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError

Floats = NDArray[np.float64]

TOO_SMALL = (
    "Patch-level p-values are too small: patches of one subject overlap and share its anatomy, noise and alignment, so "
    "they are no independent observations, and the number of patches says nothing about another subject."
)


@dataclass(frozen=True)
class SignedRank:
    """The exact two-sided signed-rank test of Wilcoxon 1945 (doi:10.2307/3001968).

    Attributes:
        n: Subjects.
        unequal: Subjects with a difference other than 0; the others say nothing and are left out, as Wilcoxon did.
        p: Chance of ranks as one-sided as these, or more, if signs were tossed; 1 where all differences are 0.
        smallest_p: What p would be if all n subjects agreed: no effect, however large, gives less.
    """

    n: int
    unequal: int
    p: float
    smallest_p: float


@dataclass(frozen=True)
class PatchTest:
    """The patch-level test of Blumberg et al. 2019, no evidence of anything: `warning` belongs beside every p.

    Attributes:
        n: Subjects.
        patches: Patches of all subjects.
        p: Two-sided signed-rank test over patches, by its normal approximation.
        warning: Why p is too small.
    """

    n: int
    patches: int
    p: float
    warning: str = TOO_SMALL


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """The exact signed-rank test of one difference per subject, ties and zeros included.

    Raises:
        DataError: There is no subject, or a difference is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise DataError(
            f"a signed-rank test needs finite differences of subjects, found {list(differences)}: score them."
        )
    kept = values[values != 0]
    ranks = _doubled_midranks(np.abs(kept))
    chances = np.ones(1)  # chances[w]: that the doubled ranks of the positive signs add to w, if signs are tossed
    for rank in ranks:
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    positive = int(ranks[kept > 0].sum())
    smaller = min(positive, int(ranks.sum()) - positive)
    p = min(1.0, 2 * float(chances[: smaller + 1].sum()))
    return SignedRank(len(values), len(kept), p, smallest_p(len(values)))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a signed-rank test of n subjects can give, 2 / 2^n.

    >>> smallest_p(10), smallest_p(1)
    (0.001953125, 1.0)
    """
    return float(0.5 ** (n - 1))


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p times the number of tests, at most 1: the correction of Blumberg et al. 2019.

    >>> bonferroni([0.25, 0.5])
    [0.5, 1.0]
    """
    return [min(1.0, p * len(p_values)) for p in p_values]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, step by step from the smallest (Holm 1979).

    As strict as Bonferroni's on the smallest and never stricter; they hold whatever the tests have in common.

    >>> holm([0.5, 0.25])
    [0.5, 0.5]
    """
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    corrected, highest = [0.0] * m, 0.0
    for step, i in enumerate(order):
        highest = max(highest, min(1.0, (m - step) * p_values[i]))
        corrected[i] = highest
    return corrected


def patch_test(method: Mapping[str, Floats], reference: Mapping[str, Floats]) -> PatchTest:
    """The paper's test over patches as if each were a subject, with the sentence that must stand beside it.

    Args:
        method, reference: Subject to the errors (P,) of its patches, in the same order.

    Raises:
        DataError: Subjects or numbers of patches differ, or all patches have equal errors.
    """
    if {s: len(e) for s, e in method.items()} != {s: len(e) for s, e in reference.items()}:
        raise DataError("a paired test over patches needs the same patches of the same subjects: score both on them.")
    from scipy.stats import wilcoxon

    differences = np.concatenate([np.asarray(method[s]) - np.asarray(reference[s]) for s in reference] or [np.zeros(0)])
    if not np.isfinite(differences).all() or not differences.any():
        raise DataError("a test over patches needs finite errors that differ somewhere: check what was predicted.")
    p = float(wilcoxon(differences, method="asymptotic").pvalue)
    return PatchTest(len(reference), len(differences), p)


def _doubled_midranks(sizes: Floats) -> NDArray[np.int64]:
    """Twice the rank of each size, equal sizes sharing the middle of their ranks: whole numbers."""
    _, place, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((2 * last - counts + 1)[place], dtype=np.int64)
