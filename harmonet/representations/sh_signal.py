"""Spherical harmonics of the b0-normalised signal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.errors import DataError

CHUNK = 8192  # voxels per matrix product: keeps the working set in cache and memory bounded


class SHSignal:
    """Even real SH coefficients of S / S0 on one shell; invertible on the sphere, not in the measured noise.

    Args:
        order: Even SH order; 6 has 28 coefficients.
        laplace_beltrami: Weight of the penalty on curvature.
    """

    def __init__(self, order: int = 6, laplace_beltrami: float = sh.LAPLACE_BELTRAMI) -> None:
        self.order = order
        self.laplace_beltrami = laplace_beltrami
        self.channels = sh.n_coefficients(order)

    def encode(
        self, signal: NDArray[np.float32], directions: NDArray[np.floating], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Coefficients of the signal inside the mask, 0 outside.

        Args:
            signal: S / S0, (X, Y, Z, N).
            directions: (N, 3) unit vectors, world axes.
            mask: (X, Y, Z).

        Returns:
            (X, Y, Z, C).

        Raises:
            DataError: The directions do not determine so many coefficients.
        """
        self.check(directions)
        matrix = sh.fit_matrix(directions, self.order, self.laplace_beltrami).T
        inside = np.flatnonzero(mask)
        voxels = signal.reshape(-1, signal.shape[-1])
        coefficients = np.zeros((mask.size, self.channels), dtype=np.float32)
        for start in range(0, inside.size, CHUNK):
            chunk = inside[start : start + CHUNK]
            coefficients[chunk] = voxels[chunk].astype(np.float64) @ matrix
        return coefficients.reshape(*mask.shape, self.channels)

    def check(self, directions: NDArray[np.floating]) -> None:
        """Refuse directions (N, 3) that cannot carry the order: too few, or too badly spread."""
        n = len(directions)
        self.check_count(n)
        rank = int(np.linalg.matrix_rank(sh.basis_matrix(directions, self.order)))
        if rank < self.channels:
            raise DataError(
                f"the {n} directions repeat or lie in a plane: they determine {rank} of {self.channels} coefficients "
                f"of SH order {self.order}; use a lower order."
            )

    def check_count(self, n: int) -> None:
        """Refuse a number of directions that is too small for the order."""
        best = max(order for order in range(0, self.order + 1, 2) if sh.n_coefficients(order) <= max(n, 1))
        if best < self.order:
            raise DataError(
                f"{n} directions cannot give SH order {self.order} ({self.channels} coefficients): "
                f"use order {best} ({sh.n_coefficients(best)} coefficients)."
            )

    def decode(self, coefficients: NDArray[np.float32], directions: NDArray[np.floating]) -> NDArray[np.float32]:
        """The signal S / S0 along the directions, (..., C) to (..., N)."""
        matrix = sh.basis_matrix(directions, self.order).T
        return np.asarray(coefficients @ matrix.astype(np.float32))

    def sidecar(self) -> dict[str, Any]:
        """What a reader of the coefficients must know, in the keys of BIDS' BEP016."""
        return {
            "ModelDescription": "Spherical harmonics of the b0-normalised diffusion signal",
            "OrientationEncoding": {
                "EncodingAxis": 3,
                "Reference": "xyz",
                "SphericalHarmonicBasis": "Descoteaux" if sh.BASIS == "descoteaux07" else sh.BASIS,
                "SphericalHarmonicDegree": self.order,
                "Type": "sh",
            },
            "HarmonetBasis": {"name": sh.BASIS, "legacy": sh.LEGACY, "laplace_beltrami": self.laplace_beltrami},
        }
