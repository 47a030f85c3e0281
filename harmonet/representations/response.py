"""What the signal of one fibre is, which deconvolution divides by, and what all deconvolutions share.

One given response serves all platforms (our choice), so that a channel means the same everywhere and nothing has to be
estimated from a head or stored beside the model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.errors import RecipeError
from harmonet.representation import Representation, Rewrite, Rows, Table
from harmonet.representations.sh_signal import SHSignal

PARALLEL, PERPENDICULAR = 1.7e-3, 0.3e-3  # mm²/s: white matter
FASTEST = 0.01  # mm²/s: three times free water at body temperature
NODES = 64  # of the quadrature: exact to rounding up to b = 20,000 s/mm²


class Deconvolution(Representation):
    """SH coefficients of fibre orientations, from one shell; a subclass says how they are found.

    Args:
        name: Of the representation, for messages.
        shells: The b-value in s/mm², one.
        order: Even SH order.
        parallel, perpendicular: Diffusivity of one fibre along and across it in mm²/s, the same for all platforms.
        laplace_beltrami: Weight of the penalty on curvature in the fit of the signal.
    """

    measure = "SH coefficients of fibre orientations"

    def __init__(
        self,
        name: str,
        shells: Sequence[float],
        order: int,
        parallel: float,
        perpendicular: float,
        laplace_beltrami: float,
    ) -> None:
        shell = one_shell(name, shells)
        self.order = order
        self.signal = SHSignal(shells, order, laplace_beltrami)
        self.channels = self.signal.channels
        self.response = response(shell, order, parallel, perpendicular)
        self.fibre = response_sidecar(parallel, perpendicular)

    def decoder(self, bvals: Table, directions: Table) -> Rewrite:
        """The coefficients times the response, evaluated along the directions."""
        decode = self.signal.decoder(bvals, directions)

        def convolve(channels: Rows) -> Rows:
            return decode(np.asarray(channels * self.response, dtype=np.float32))

        return convolve

    def groups(self) -> dict[str, slice]:
        """One group for each l."""
        return self.signal.groups()

    def turn(self, rotation: Table) -> Table:
        """The rotation of the sphere: the response is round its axis."""
        return self.signal.turn(rotation)

    def check_count(self, n: int) -> None:
        """Refuse a number of directions that is too small for the order."""
        self.signal.check_count(n)


def one_shell(name: str, shells: Sequence[float]) -> float:
    """The shell (s/mm²) of a representation that reads one only.

    Raises:
        RecipeError: There are several, or none.
    """
    if len(shells) != 1:
        found = ", ".join(f"{shell:g}" for shell in shells) or "none"
        raise RecipeError(
            f"{name} reads one shell that source and targets share, found {found} (s/mm²): choose one, "
            "or use sh_signal, which reads several."
        )
    return shells[0]


def response(shell: float, order: int, parallel: float, perpendicular: float) -> NDArray[np.float64]:
    """(C,) what each SH coefficient of fibre orientations is multiplied with in their signal S / S0.

    That is r_l = 2 pi * integral of exp(-b (perpendicular + (parallel - perpendicular) t²)) P_l(t) over t in [-1, 1]
    (Funk and Hecke's theorem), the response's rotational harmonics (Tournier et al. 2004,
    doi:10.1016/j.neuroimage.2004.07.037).

    Args:
        shell: b in s/mm².
        order: Even SH order.
        parallel, perpendicular: Diffusivity along and across the fibre in mm²/s.

    Raises:
        RecipeError: No fibre has these diffusivities.
    """
    numbers = isinstance(parallel, int | float) and isinstance(perpendicular, int | float)
    if not (numbers and 0 <= perpendicular < parallel <= FASTEST):
        raise RecipeError(
            f"a fibre with parallel={parallel!r} and perpendicular={perpendicular!r} mm²/s gives no response: "
            f"use 0 <= perpendicular < parallel <= {FASTEST:g}, such as {PERPENDICULAR:g} and {PARALLEL:g}."
        )
    cosine, weight = np.polynomial.legendre.leggauss(NODES)
    signal = np.exp(-shell * (perpendicular + (parallel - perpendicular) * cosine**2))
    legendre = np.polynomial.legendre.legvander(cosine, order)
    by_l = 2 * np.pi * (weight * signal) @ legendre
    return np.concatenate([np.full(s.stop - s.start, by_l[l]) for l, s in sh.order_slices(order).items()])


def response_sidecar(parallel: float, perpendicular: float) -> dict[str, Any]:
    """The response in the keys of BIDS' BEP016: eigenvalues in mm²/s, and the signal at b = 0."""
    return {"Type": "eigen", "Coefficients": [parallel, perpendicular, perpendicular, 1.0]}
