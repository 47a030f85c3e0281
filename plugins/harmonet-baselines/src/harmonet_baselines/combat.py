"""ComBat: batch effects on features removed as a shift and a scale of each, shrunk to what all features have alike.

Written from the formulas of Johnson et al. 2007 (doi:10.1093/biostatistics/kxj037) and Fortin et al. 2018
(doi:10.1016/j.neuroimage.2017.11.024):

    y_ijf = mean_f + covariates_j b_f + shift_if + scale_if noise_ijf

for scan j of batch i and feature f. Features must be alike, such as one measure at many places: they share a prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmonet.errors import DataError

Table = NDArray[np.float64]

CHANGE, STEPS = 1e-8, 1000  # of the posterior's iteration: largest relative change at its end, and most steps
STILL = 1e-12  # of a feature's square: a variance below this is none


@dataclass(frozen=True, eq=False)
class Combat:
    """What was learned of F features in B batches.

    Attributes:
        batches: Their names.
        mean: (F,) over batches, weighted by scans; of the reference where there is one.
        deviation: (F,) of what batches and covariates leave; 0 for a feature that does not vary, which stays as it is.
        slopes: (K, F) of the covariates.
        shift: (B, F) of each batch, in deviations.
        scale: (B, F) variance of each batch over that of all.
    """

    batches: tuple[str, ...]
    mean: Table
    deviation: Table
    slopes: Table
    shift: Table
    scale: Table

    def apply(self, data: ArrayLike, batches: Sequence[str], covariates: ArrayLike | None = None) -> Table:
        """Features (F, N) of scans, old or new, without the effect of their batches.

        Args:
            data: (F, N).
            batches: Of each scan.
            covariates: (N, K), as when this was fitted.

        Raises:
            DataError: A batch was not there when this was fitted, or sizes differ.
        """
        values, design = _checked(data, batches, covariates)
        if (len(values), design.shape[1]) != (len(self.mean), len(self.slopes)):
            raise DataError(
                f"ComBat was fitted to {len(self.mean)} features and {len(self.slopes)} covariates, found "
                f"{len(values)} and {design.shape[1]}: give the same ones."
            )
        if unknown := sorted(set(batches) - set(self.batches)):
            raise DataError(
                f"ComBat was not fitted to scans of {', '.join(unknown)}, only of {', '.join(self.batches)}: fit it "
                "again with some of them."
            )
        rows = [self.batches.index(name) for name in batches]
        usual = self.mean[:, None] + (design @ self.slopes).T
        moves = self.deviation > 0
        z = (values - usual) / np.where(moves, self.deviation, 1)[:, None]
        said = (z - self.shift[rows].T) / np.sqrt(self.scale[rows].T) * self.deviation[:, None] + usual
        return np.where(moves[:, None], said, values)


def fit(
    data: ArrayLike,
    batches: Sequence[str],
    covariates: ArrayLike | None = None,
    *,
    eb: bool = True,
    mean_only: bool = False,
    reference: str | None = None,
) -> Combat:
    """What ComBat learns of features (F, N).

    Args:
        data: (F, N), features by scans.
        batches: Of each scan.
        covariates: (N, K) that are kept, such as age; categories as indicators without one of them.
        eb: Shrink shifts and scales to their distribution over features, by parametric empirical Bayes.
        mean_only: Leave scales alone.
        reference: A batch that stays as it is, to which the others are led.

    Raises:
        DataError: Sizes differ, a number is not finite, there are too few scans or features, or covariates and batches
            cannot be told apart.
    """
    values, given = _checked(data, batches, covariates)
    names = tuple(dict.fromkeys(batches))
    members = np.array([[name == batch for name in batches] for batch in names])  # (B, N)
    counts = members.sum(axis=1)
    _refuse_unfit(names, counts, len(values), given, members, eb=eb, mean_only=mean_only, reference=reference)
    design = np.hstack([members.T.astype(float), given])
    found = np.linalg.lstsq(design, values.T, rcond=None)[0]  # (B + K, F)
    slopes = found[len(names) :]
    mine = names.index(reference) if reference is not None else None
    mean = counts @ found[: len(names)] / counts.sum() if mine is None else found[mine]
    left = np.square(values - (design @ found).T)
    variance = left.mean(axis=1) if mine is None else left[:, members[mine]].mean(axis=1)
    moves = variance > STILL * np.square(values).mean(axis=1)
    deviation = np.where(moves, np.sqrt(variance), 0)
    z = (values - mean[:, None] - (given @ slopes).T) / np.where(moves, deviation, 1)[:, None]
    shift, scale = np.zeros((len(names), len(values))), np.ones((len(names), len(values)))
    for row, inside in enumerate(members):
        if row != mine:  # the reference has neither
            shift[row, moves], scale[row, moves] = _effects(z[moves][:, inside], eb=eb, mean_only=mean_only)
    return Combat(names, mean, deviation, slopes, shift, scale)


def _effects(z: Table, *, eb: bool, mean_only: bool) -> tuple[Table, Table]:
    """Shift and scale (F,) of one batch's standardised features (F, n)."""
    shift = z.mean(axis=1)
    scale = np.ones(len(z)) if mean_only else z.var(axis=1, ddof=1)
    if not eb:
        return shift, np.where(scale > STILL, scale, 1)  # of scans that are all alike nothing can be scaled
    if mean_only:  # as published: each mean counts as one observation of variance 1
        spread = shift.var(ddof=1)
        return (spread * shift + shift.mean()) / (spread + 1), scale
    return _posterior(z, shift, scale)


def _posterior(z: Table, shift: Table, scale: Table) -> tuple[Table, Table]:
    """Shift and scale (F,) as their posterior says, under a normal and an inverse gamma prior over the features."""
    n, centre, spread = z.shape[1], shift.mean(), shift.var(ddof=1)
    middle, width = scale.mean(), scale.var(ddof=1)
    if width <= STILL * middle**2:  # all features have one scale, so there is nothing left to say about it
        fixed = np.full_like(scale, middle)
        return (spread * n * shift + fixed * centre) / (spread * n + fixed), fixed
    a, b = (2 * width + middle**2) / width, (middle * width + middle**3) / width
    now, size = shift, scale
    for _ in range(STEPS):
        new = (spread * n * shift + size * centre) / (spread * n + size)
        # the squares about the new mean, from those about the scans' own mean
        squares = np.square(z - shift[:, None]).sum(axis=1) + n * np.square(shift - new)
        wide = (0.5 * squares + b) / (n / 2 + a - 1)
        change = max(np.max(np.abs(new - now) / np.sqrt(wide)), np.max(np.abs(wide - size) / wide))
        now, size = new, wide
        if change < CHANGE:
            break
    return now, size


def _checked(data: ArrayLike, batches: Sequence[str], covariates: ArrayLike | None) -> tuple[Table, Table]:
    """Features (F, N) and covariates (N, K) as numbers, K = 0 where there are none."""
    values = np.asarray(data, dtype=float)
    design = np.zeros((len(batches), 0)) if covariates is None else np.asarray(covariates, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(batches) or design.ndim != 2 or len(design) != len(batches):
        raise DataError(
            f"ComBat takes features x scans, {len(batches)} batches and scans x covariates, found {values.shape} and "
            f"{design.shape}: turn or cut them."
        )
    if not (np.isfinite(values).all() and np.isfinite(design).all()):
        raise DataError("ComBat found a value that is not finite: leave out its feature or its scan.")
    return values, design


def _refuse_unfit(
    names: Sequence[str],
    counts: NDArray[np.int_],
    features: int,
    covariates: Table,
    members: NDArray[np.bool_],
    *,
    eb: bool,
    mean_only: bool,
    reference: str | None,
) -> None:
    """Refuse what ComBat can learn nothing from."""
    if len(names) < 2:
        raise DataError(f"ComBat found scans of {', '.join(names) or 'no batch'} alone: give two batches or more.")
    if reference is not None and reference not in names:
        raise DataError(f"ComBat has no batch {reference!r} to lead to, only {', '.join(names)}: name one of them.")
    if eb and features < 2:
        raise DataError("ComBat found one feature, which has no others to learn a prior from: use eb=False.")
    if not mean_only and counts.min() < 2:
        alone = names[int(counts.argmin())]
        raise DataError(f"ComBat found one scan of {alone}, which shows no scale: add scans, or use mean_only=True.")
    columns = np.hstack([members.T.astype(float), covariates])
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise DataError(
            "ComBat cannot tell covariates and batches apart, since one follows from the others: leave a covariate out."
        )
