"""Constrained spherical deconvolution (Tournier et al. 2007, doi:10.1016/j.neuroimage.2007.02.016)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.representation import Rewrite, Rows, Table
from harmonet.representations.response import PARALLEL, PERPENDICULAR, Deconvolution
from harmonet.representations.sh_signal import check_rank

# As in dipy's ConstrainedSphericalDeconvModel, whose results these are.
SMALL = 0.1  # tau: amplitudes below this share of the mean are pressed towards 0
WEIGHT = 1.0  # lambda: how hard
ROUNDS = 50  # of moving the set of small amplitudes
START = 15  # coefficients (l <= 4) that the first set is found from
RIDGE = 1e-5  # mu: added where the directions leave a coefficient open

BATCH = 256  # voxels at once: their normal equations stay in cache


class CSD(Deconvolution):
    """SH coefficients of fibre orientations that are not negative, from S / S0 of one shell; no way back.

    The decoder gives the signal that these orientations explain, which lacks whatever only negative ones could.

    Args:
        shells: The b-value in s/mm², one.
        order: Even SH order; 6 has 28 coefficients.
        parallel, perpendicular: Diffusivity of one fibre along and across it in mm²/s, the same for all platforms.
    """

    invertible = False

    def __init__(
        self,
        shells: Sequence[float],
        order: int = 6,
        parallel: float = PARALLEL,
        perpendicular: float = PERPENDICULAR,
    ) -> None:
        super().__init__("csd", shells, order, parallel, perpendicular, laplace_beltrami=0.0)

    def encoder(self, bvals: Table, directions: Table) -> Rewrite:
        """Constrained least squares, voxel by voxel; refuses directions that are too few for the order."""
        check_rank(directions, self.order)
        forward = sh.basis_matrix(directions, self.order) * self.response
        amplitudes = constraint(self.order, self.response[0])

        def encode(signal: Rows) -> Rows:
            return deconvolve(signal.astype(np.float64), forward, amplitudes).astype(np.float32)

        return encode

    def sidecar(self) -> dict[str, Any]:
        """Basis, degree, response and constraint, in the keys of BIDS' BEP016."""
        return {
            "ModelDescription": "Constrained spherical deconvolution of the b0-normalised diffusion signal; the signal "
            "that comes back is what non-negative fibre orientations explain",
            "Shells": list(self.signal.shells),
            "NonNegativity": "regularized",
            "ResponseFunction": self.fibre,
            "OrientationEncoding": sh.orientation_encoding(self.order),
            "HarmonetBasis": {"name": sh.BASIS, "legacy": sh.LEGACY},
        }


def constraint(order: int, mean_response: float) -> NDArray[np.float64]:
    """(D, C) matrix to the weighted amplitudes along 181 directions all round, none of which is to be negative.

    Args:
        order: Even SH order.
        mean_response: The response's first number, r_0.
    """
    from dipy.data import small_sphere

    basis = sh.basis_matrix(small_sphere.vertices, order)
    directions, coefficients = basis.shape
    scale = float(WEIGHT * coefficients * mean_response / np.sqrt(directions * 362.0))  # comparable across orders
    return basis * scale


def deconvolve(
    signal: NDArray[np.float64], forward: NDArray[np.float64], amplitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(V, C) coefficients of the orientations, for each row those of dipy's `csdeconv`.

    Least squares with a penalty on the small amplitudes; which these are is looked at anew until the set stays. Where
    it still moves after `ROUNDS`, the last solution is kept, as dipy does.

    Args:
        signal: (V, N) S / S0.
        forward: (N, C) matrix from orientations to signal.
        amplitudes: (D, C) from `constraint`.
    """
    normal = forward.T @ forward
    try:
        np.linalg.cholesky(normal)
    except np.linalg.LinAlgError:
        normal = normal + RIDGE * np.eye(len(normal))
    squares = (amplitudes[:, :, None] * amplitudes[:, None, :]).reshape(len(amplitudes), -1)
    found = np.empty((len(signal), len(normal)))
    for start in range(0, len(signal), BATCH):
        rows = slice(start, start + BATCH)
        found[rows] = _batch(signal[rows] @ forward, normal, amplitudes, squares)
    return found


def _batch(
    loaded: NDArray[np.float64],
    normal: NDArray[np.float64],
    amplitudes: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The orientations of some voxels, all those whose set still moves at once."""
    found: NDArray[np.float64] = np.asarray(np.linalg.solve(normal, loaded.T), dtype=np.float64).T
    threshold = SMALL * amplitudes[0, 0] * found[:, :1]
    small = found[:, :START] @ amplitudes[:, :START].T < threshold
    none = ~small.any(axis=1)
    small[none] = found[none] @ amplitudes.T < threshold[none]
    moving = np.flatnonzero(small.any(axis=1))
    for _ in range(ROUNDS):
        penalised = (small[moving].astype(np.float64) @ squares).reshape(-1, *normal.shape)
        penalised += normal
        found[moving] = np.linalg.solve(penalised, loaded[moving, :, None])[..., 0]
        now = found[moving] @ amplitudes.T < threshold[moving]
        moved = (now != small[moving]).any(axis=1)
        small[moving] = now
        moving = moving[moved]
        if not moving.size:
            break
    return found
