"""Errors that forgive small misalignment, which no network can predict and which plain errors count in full.

None of them is a score of its own: smoothing forgives blur that is narrower than its own, so each belongs beside the
plain error. Means over regions, the third such measure, are `levels.regions`.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmonet.metrics.image import Context, Map, Mask, Measure, Rows
from harmonet.metrics.levels import Level, squared, voxels


class Shifted(NamedTuple):
    """The lowest mean squared error over shifts, and the shift: prediction[place + shift] is nearest truth[place]."""

    error: float
    shift: tuple[int, int, int]


def best_shift(reach: int = 1) -> Measure:
    """The measure that is the lowest mean squared error over whole-voxel shifts of up to `reach` along each axis.

    All shifts are compared on the same voxels, those of `interior(reach)`, whose plain error belongs beside it: the
    best of many is never higher. None where the interior is empty.
    """

    def measure(prediction: Map, truth: Map, mask: Mask, context: Context) -> float | None:
        found = find_shift(prediction, truth, mask, reach)
        return None if found is None else found.error

    return measure


def find_shift(prediction: Map, truth: Map, mask: Mask, reach: int) -> Shifted | None:
    """The best shift of the prediction, the smallest where several are equal; None where the interior is empty."""
    places = np.flatnonzero(_eroded(mask, reach))
    if not len(places):
        return None
    flat = prediction.reshape(-1, prediction.shape[-1])
    wanted = truth.reshape(flat.shape)[places].astype(np.float64)
    strides = np.array([mask.shape[1] * mask.shape[2], mask.shape[2], 1])
    steps = range(-reach, reach + 1)
    shifts = sorted(product(steps, steps, steps), key=lambda shift: sum(step * step for step in shift))
    tried = [Shifted(squared(flat[places + int(strides @ shift)], wanted), shift) for shift in shifts]
    return min(tried, key=lambda one: one.error)


def interior(reach: int = 1) -> Level:
    """The level of the voxels whose neighbours up to `reach` away along each axis, corners too, lie in the mask."""

    def level(values: Map, mask: Mask, context: Context) -> Rows | None:
        return voxels(values, _eroded(mask, reach), context)

    return level


def smoothed(sigma: float) -> Level:
    """The level of voxels after prediction and truth were smoothed alike, by a Gaussian of `sigma` mm.

    Only voxels of the mask are averaged, with weights that add to 1.
    """

    def level(values: Map, mask: Mask, context: Context) -> Rows | None:
        return voxels(smooth(values, mask, sigma / np.asarray(context.voxel_size)), mask, context)

    return level


def smooth(values: Map, mask: Mask, sigma: NDArray[np.float64]) -> Map:
    """Gaussian means (X, Y, Z, K) over the voxels of the mask around each of them, 0 outside.

    Args:
        values: (X, Y, Z, K).
        mask: (X, Y, Z).
        sigma: Voxels, along each axis.
    """
    from scipy.ndimage import gaussian_filter

    weights = gaussian_filter(mask.astype(np.float64), sigma, mode="constant")
    out = np.zeros(values.shape)
    for channel in range(values.shape[-1]):
        sums = gaussian_filter(np.where(mask, values[..., channel], 0).astype(np.float64), sigma, mode="constant")
        out[mask, channel] = sums[mask] / weights[mask]
    return out


def _eroded(mask: Mask, reach: int) -> Mask:
    """The mask without the voxels that lie within `reach` of its outside along any axis or diagonal."""
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(mask, np.ones((2 * reach + 1,) * 3)))
