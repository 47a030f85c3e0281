"""Rotation-invariant energies of the signal (RISH)."""

import numpy as np

from harmonet import sh
from harmonet.metrics.image import Feature, Image, Map, shells_of, signals

HIGHEST = 8  # order of the series that is fitted, where the directions carry it


def rish(l: int, shell: int = 0) -> Feature:
    """The feature that is the energy of order l of S / S0 on one shell, sum over m of c_lm^2, (X, Y, Z, 1).

    It is that of the signal whatever the channels are, so that representations can be compared; our choice, as is the
    lowest shell. None for a scalar image, a shell that is not there, or an order that its directions do not carry.

    Args:
        l: Even order.
        shell: Counted from the lowest, 0.
    """

    def of(image: Image) -> Map | None:
        signal = image.context.signal
        measured = image.once(signals)
        if signal is None or measured is None or shell >= len(shells_of(signal)):
            return None
        rows = shells_of(signal)[shell]
        order = max(o for o in range(0, HIGHEST + 1, 2) if sh.n_coefficients(o) <= len(rows))
        if l > order:
            return None
        fit = sh.fit_matrix(signal.directions[rows], order, 0.0)[sh.order_slices(order)[l]]
        return image.fill(np.sum((measured[:, rows] @ fit.T) ** 2, axis=1))

    return of
