"""Mean squared and mean normalised error at global, regional and local level, and near the border apart.

The levels are those of Tax et al. 2019 (doi:10.1016/j.neuroimage.2019.01.077). What they leave open is our choice: a
global or regional error compares the means of prediction and truth, not voxels, and is mean-first for that reason.
A level turns a map into rows to compare, an error compares them, `at` joins the two into a measure.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harmonet.metrics.image import Context, Map, Mask, Measure, Rows

Level = Callable[[Map, Mask, Context], Rows | None]
Error = Callable[[Rows, Rows], float | None]  # prediction, truth

BORDER = 5.0  # mm: two voxels of 2.4 mm, our choice
FLOOR = 0.05  # of the truth's median size: below, a normalised error is mostly the division, our choice


def at(level: Level, error: Error) -> Measure:
    """The measure that compares the rows of a level; None where the level has no rows."""

    def measure(prediction: Map, truth: Map, mask: Mask, context: Context) -> float | None:
        rows = level(prediction, mask, context), level(truth, mask, context)
        return None if rows[0] is None or rows[1] is None else error(rows[0], rows[1])

    return measure


def voxels(values: Map, mask: Mask, context: Context) -> Rows | None:
    """Local level: one row (V, K) for each voxel of the mask; None without one."""
    return values[mask].astype(np.float64) if mask.any() else None


def whole(values: Map, mask: Mask, context: Context) -> Rows | None:
    """Global level: the mean over the mask, (1, K)."""
    rows = voxels(values, mask, context)
    return None if rows is None else rows.mean(axis=0, keepdims=True)


def regions(values: Map, mask: Mask, context: Context) -> Rows | None:
    """Regional level: the mean over each label inside the mask, (R, K); None without a label map."""
    if context.labels is None:
        return None
    labelled = mask & (context.labels != 0)
    _, place, counts = np.unique(context.labels[labelled], return_inverse=True, return_counts=True)
    if not len(counts):
        return None
    sums = [np.bincount(place, weights=column) for column in values[labelled].astype(np.float64).T]
    return np.stack(sums, axis=1) / counts[:, None]


def border(depth: float = BORDER) -> Level:
    """The level of the mask's voxels that lie within `depth` mm of its outside; the image's edge is outside."""

    def level(values: Map, mask: Mask, context: Context) -> Rows | None:
        return voxels(values, mask & (_depth(mask, context) <= depth), context)

    return level


def inside(depth: float = BORDER) -> Level:
    """The level of the mask's voxels that lie deeper than `depth` mm."""

    def level(values: Map, mask: Mask, context: Context) -> Rows | None:
        return voxels(values, mask & (_depth(mask, context) > depth), context)

    return level


def squared(prediction: Rows, truth: Rows) -> float:
    """Mean squared error over rows and channels.

    >>> squared(np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]]))
    2.0
    """
    return float(np.mean((prediction - truth) ** 2))


def median_squared(prediction: Rows, truth: Rows) -> float:
    """Median over rows of the squared error, the mean over channels of each: a few bad voxels do not move it."""
    return float(np.median(np.mean((prediction - truth) ** 2, axis=1)))


def normalised(prediction: Rows, truth: Rows) -> float | None:
    """Mean of (truth - prediction) / truth: signed as published, below 0 where too much is predicted, best at 0.

    Rows whose truth is below 5 % of its median size over the rows are left out, channel by channel; None if all are.

    >>> normalised(np.array([[1.0], [2.0], [9.0]]), np.array([[2.0], [2.0], [0.0]]))
    0.25
    """
    sizes = np.abs(truth)
    kept = (sizes > 0) & (sizes >= FLOOR * np.median(sizes, axis=0))
    return float(np.mean(((truth - prediction)[kept]) / truth[kept])) if kept.any() else None


def squared_bias(prediction: Rows, truth: Rows) -> float:
    """Square of the mean error, mean over channels: the part of the squared error that all rows share."""
    return float(np.mean((prediction - truth).mean(axis=0) ** 2))


def variance(prediction: Rows, truth: Rows) -> float:
    """Variance of the error over rows, mean over channels: the rest, so that both add to the mean squared error."""
    return float(np.mean((prediction - truth).var(axis=0)))


def _depth(mask: Mask, context: Context) -> NDArray[np.float64]:
    """mm from each voxel of the mask to the nearest voxel outside it, (X, Y, Z)."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(mask, 1)
    depth = distance_transform_edt(padded, sampling=context.voxel_size)
    return np.asarray(depth[1:-1, 1:-1, 1:-1])
