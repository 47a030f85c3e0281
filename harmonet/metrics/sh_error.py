"""Squared error of SH coefficients."""

import numpy as np
from numpy.typing import NDArray


def sh_mse(prediction: NDArray[np.floating], truth: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Mean squared error over the mask's voxels and all coefficients.

    Args:
        prediction, truth: (X, Y, Z, C) in the same units.
        mask: (X, Y, Z).

    >>> sh_mse(np.zeros((1, 1, 2, 6)), np.full((1, 1, 2, 6), 2.0), np.array([[[True, False]]]))
    4.0
    """
    return float(np.mean((prediction[mask] - truth[mask]) ** 2, dtype=np.float64))


def calibration(
    prediction: NDArray[np.floating],
    variance: NDArray[np.floating] | None,
    truth: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> float | None:
    """Mean of squared error over predicted variance, 1 where the variance is honest; None without a variance.

    >>> one = np.ones((1, 1, 1, 1))
    >>> calibration(0 * one, 4 * one, 2 * one, one[..., 0] > 0)
    1.0
    """
    if variance is None:
        return None
    squares = (prediction[mask] - truth[mask]) ** 2
    return float(np.mean(squares / np.maximum(variance[mask], 1e-12), dtype=np.float64))
