"""Squared error in units of how much the truth varies."""

import numpy as np

from harmonet.metrics.image import Rows


def standardised(prediction: Rows, truth: Rows) -> float | None:
    """Mean over channels of squared error over the truth's variance: 1 for who predicts the mean; None if none varies.

    The deviation is that of the truth's own rows, so that runs whose training subjects differ are measured alike; our
    choice. Channels that do not vary are left out.

    >>> standardised(np.array([[1.0], [1.0]]), np.array([[0.0], [2.0]]))
    1.0
    """
    variances = truth.var(axis=0)
    varies = variances > 0
    errors = np.mean((prediction - truth) ** 2, axis=0)
    return float(np.mean(errors[varies] / variances[varies])) if varies.any() else None
