"""Linear spherical deconvolution (Tournier et al. 2004, doi:10.1016/j.neuroimage.2004.07.037)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonet import sh
from harmonet.representation import Rewrite, Rows, Table
from harmonet.representations.response import PARALLEL, PERPENDICULAR, Deconvolution


class SHSD(Deconvolution):
    """SH coefficients of the fibre orientations: those of S / S0 of one shell over the response's, order by order.

    Nothing keeps the orientations from turning negative, so dividing loses nothing and the signal comes back. Once
    standardised, the channels are those of `sh_signal` up to their sign.

    Args:
        shells: The b-value in s/mm², one.
        order: Even SH order; 6 has 28 coefficients.
        parallel, perpendicular: Diffusivity of one fibre along and across it in mm²/s, the same for all platforms.
        laplace_beltrami: Weight of the penalty on the signal's curvature.
    """

    def __init__(
        self,
        shells: Sequence[float],
        order: int = 6,
        parallel: float = PARALLEL,
        perpendicular: float = PERPENDICULAR,
        laplace_beltrami: float = sh.LAPLACE_BELTRAMI,
    ) -> None:
        super().__init__("sh_sd", shells, order, parallel, perpendicular, laplace_beltrami)

    def encoder(self, bvals: Table, directions: Table) -> Rewrite:
        """The fit of the signal, over the response."""
        encode = self.signal.encoder(bvals, directions)

        def deconvolve(signal: Rows) -> Rows:
            return np.asarray(encode(signal) / self.response, dtype=np.float32)

        return deconvolve

    def sidecar(self) -> dict[str, Any]:
        """Basis, degree and response, in the keys of BIDS' BEP016."""
        return self.signal.sidecar() | {
            "ModelDescription": "Linear spherical deconvolution of the b0-normalised diffusion signal",
            "ResponseFunction": self.fibre,
        }
