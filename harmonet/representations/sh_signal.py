"""Spherical harmonics of the b0-normalised signal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.errors import DataError, RecipeError
from harmonet.representation import Representation, Rewrite, Rows, Table

SHELL_TOLERANCE = 50.0  # s/mm² to each side: as everywhere in this package


class SHSignal(Representation):
    """Even real SH coefficients of S / S0, shell after shell; invertible on the sphere, not in the measured noise.

    Args:
        shells: b-values in s/mm².
        order: Even SH order; 6 has 28 coefficients on each shell.
        laplace_beltrami: Weight of the penalty on curvature, 0 or more.

    Raises:
        RecipeError: The penalty is no such number.
        ShapeError: The order is odd or negative.
    """

    def __init__(self, shells: Sequence[float], order: int = 6, laplace_beltrami: float = sh.LAPLACE_BELTRAMI) -> None:
        if not (isinstance(laplace_beltrami, int | float) and 0 <= laplace_beltrami < np.inf):
            raise RecipeError(
                f"laplace_beltrami={laplace_beltrami!r} is no penalty: use 0 or more, such as {sh.LAPLACE_BELTRAMI:g}."
            )
        self.shells = tuple(shells)
        self.order = order
        self.laplace_beltrami = laplace_beltrami
        self.channels = sh.n_coefficients(order) * len(self.shells)

    def encoder(self, bvals: Table, directions: Table) -> Rewrite:
        """Least squares on each shell; refuses directions that are too few or too badly spread for the order."""
        matrix = np.zeros((len(bvals), self.channels))
        for shell, columns, rows in zip(self.shells, self._blocks(), self._rows(bvals), strict=True):
            try:
                self._check(directions[rows])
            except DataError as error:
                raise DataError(f"at b = {shell:g} s/mm² {error}") from None
            matrix[rows, columns] = sh.fit_matrix(directions[rows], self.order, self.laplace_beltrami).T

        def encode(signal: Rows) -> Rows:
            return np.asarray(signal.astype(np.float64) @ matrix, dtype=np.float32)

        return encode

    def decoder(self, bvals: Table, directions: Table) -> Rewrite:
        """The series evaluated along the directions."""
        matrix = np.zeros((self.channels, len(bvals)))
        for columns, rows in zip(self._blocks(), self._rows(bvals), strict=True):
            matrix[columns, rows] = sh.basis_matrix(directions[rows], self.order).T

        def decode(channels: Rows) -> Rows:
            return np.asarray(channels.astype(np.float64) @ matrix, dtype=np.float32)

        return decode

    def groups(self) -> dict[str, slice]:
        """One group for each l, on each shell."""
        several = len(self.shells) > 1
        return {
            (f"b = {shell:g}, l = {l}" if several else f"l = {l}"): slice(block.start + s.start, block.start + s.stop)
            for shell, block in zip(self.shells, self._blocks(), strict=True)
            for l, s in sh.order_slices(self.order).items()
        }

    def turn(self, rotation: Table) -> Table:
        """The same rotation of the sphere on each shell."""
        matrix = np.zeros((self.channels, self.channels))
        for block in self._blocks():
            matrix[block, block] = sh.rotation(rotation, self.order)
        return matrix

    def check_count(self, n: int) -> None:
        """Refuse a number of directions that is too small for the order."""
        check_count(n, self.order)

    def sidecar(self) -> dict[str, Any]:
        """Basis and degree, in the keys of BIDS' BEP016."""
        return {
            "ModelDescription": "Spherical harmonics of the b0-normalised diffusion signal",
            "Shells": list(self.shells),
            "OrientationEncoding": sh.orientation_encoding(self.order),
            "HarmonetBasis": {"name": sh.BASIS, "legacy": sh.LEGACY, "laplace_beltrami": self.laplace_beltrami},
        }

    def _blocks(self) -> list[slice]:
        """The channels of each shell."""
        n = sh.n_coefficients(self.order)
        return [slice(n * place, n * (place + 1)) for place in range(len(self.shells))]

    def _rows(self, bvals: Table) -> list[NDArray[np.intp]]:
        """The volumes of each shell; one that lies near two shells belongs to the nearest."""
        apart = np.abs(bvals[:, None] - np.array(self.shells))
        nearest = apart.argmin(axis=1)
        return [
            np.flatnonzero((nearest == place) & (apart[:, place] <= SHELL_TOLERANCE))
            for place in range(len(self.shells))
        ]

    def _check(self, directions: Table) -> None:
        check_rank(directions, self.order)
        condition = sh.condition_number(directions, self.order)
        if not self.laplace_beltrami and condition > sh.WORST_CONDITION:
            raise DataError(
                f"the {len(directions)} directions are spread so badly that a fit of SH order {self.order} has "
                f"condition number {condition:.0f} (over {sh.WORST_CONDITION:g}): use a lower order, or "
                f"laplace_beltrami {sh.LAPLACE_BELTRAMI:g}."
            )


def check_count(n: int, order: int) -> None:
    """Refuse a number of directions that is too small for the order, with the highest that would do."""
    needed = sh.n_coefficients(order)
    if n >= needed:
        return
    best = max(o for o in range(0, order + 1, 2) if sh.n_coefficients(o) <= max(n, 1))
    raise DataError(
        f"{n} directions cannot give SH order {order} ({needed} coefficients): "
        f"use order {best} ({sh.n_coefficients(best)} coefficients)."
    )


def check_rank(directions: Table, order: int) -> None:
    """Refuse directions that leave a coefficient open, with or without a penalty."""
    n, needed = len(directions), sh.n_coefficients(order)
    check_count(n, order)
    rank = int(np.linalg.matrix_rank(sh.basis_matrix(directions, order)))
    if rank < needed:
        raise DataError(
            f"the {n} directions repeat or lie in a plane: they determine {rank} of {needed} coefficients "
            f"of SH order {order}; use a lower order."
        )
