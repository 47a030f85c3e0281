"""The paper's own test, over patches; see `significance.TOO_SMALL` for what it is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError
from harmonet.evaluation.result import Floats, Patched
from harmonet.evaluation.significance import bonferroni, patch_test
from harmonet.metrics.patch_error import patch_mse

Errors = NDArray[np.float64]
Place = tuple[str, str, str]  # method, platform, against

PATCHES = 278  # of each subject: about as many as the paper's test set has of a brain


def patch_errors(prediction: Floats, truth: Floats, mask: NDArray[np.bool_], patch_size: int) -> Errors:
    """(P,) error of patches whose centres are spread evenly over the mask's voxels, the same for every method."""
    errors = patch_mse(prediction, truth, mask, patch_size)
    return np.asarray(errors[np.linspace(0, len(errors) - 1, min(PATCHES, len(errors))).round().astype(int)])


def patch_tests(
    errors: Mapping[Place, Mapping[str, Sequence[Errors]]], singles: Sequence[str], untested: Sequence[str]
) -> list[Patched]:
    """Every method against the single network whose mean over patches is lowest, as the paper compares them.

    Args:
        errors: Method, platform and reference to, for each subject, the errors of its patches with each seed.
        singles: The single networks.
        untested: Methods that get no test: what learned nothing.
    """
    means = {place: {s: np.mean(seeds, axis=0) for s, seeds in found.items()} for place, found in errors.items()}
    over = {place: np.concatenate(list(found.values())) for place, found in means.items()}
    rows: list[Patched] = []
    for place, found in means.items():
        method, platform, against = place
        rivals = [r for name in singles if (r := (name, platform, against)) in means and np.isfinite(over[r]).all()]
        best = min(rivals, key=lambda rival: float(over[rival].mean()), default=None)
        test = None
        if best is not None and best != place and method not in untested:
            try:
                test = patch_test(found, means[best])
            except DataError:
                test = None  # equal or not finite: there is nothing to test
        rival = "" if best is None else best[0]
        mean, deviation = float(over[place].mean()), float(over[place].std(ddof=1)) if len(over[place]) > 1 else 0.0
        rows.append(Patched(method, platform, against, rival, mean, deviation, test, None))
    return _corrected(rows)


def _corrected(rows: Sequence[Patched]) -> list[Patched]:
    """The rows with p-values times the number of tests against the same reference."""
    from dataclasses import replace

    done = []
    for row in rows:
        family = [r.test.p for r in rows if r.test is not None and r.against == row.against]
        corrected = None if row.test is None else bonferroni([row.test.p, *([1.0] * (len(family) - 1))])[0]
        done.append(replace(row, corrected=corrected))
    return done
