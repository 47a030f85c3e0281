"""The spherical-harmonic (SH) convention, once.

Coefficients are those of real, even, orthonormal SH in DIPY's `descoteaux07` basis with `legacy=False`
(Descoteaux et al. 2007, doi:10.1002/mrm.21277), ordered by l = 0, 2, 4, ... and m = -l ... l within each l.
Directions are unit vectors in world axes (RAS+).
"""

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import ShapeError

BASIS = "descoteaux07"
LEGACY = False
LAPLACE_BELTRAMI = 0.006  # Koppers 2018 and other entries of the 2017 challenge

FloatArray = NDArray[np.floating]


def n_coefficients(order: int) -> int:
    """Number of coefficients of the even series up to `order`.

    >>> [n_coefficients(order) for order in (0, 2, 4, 6, 8)]
    [1, 6, 15, 28, 45]
    """
    if order < 0 or order % 2:
        raise ShapeError(f"SH order {order} is not an even number of 0 or more: use 4, 6 or 8.")
    return (order + 1) * (order + 2) // 2


def order_of(n: int) -> int:
    """Order of the even series that has `n` coefficients.

    >>> order_of(28)
    6
    >>> order_of(29)
    Traceback (most recent call last):
    harmonet.errors.ShapeError: 29 channels is no even SH series: order 6 has 28, order 8 has 45.
    """
    order = 0
    while n_coefficients(order) < n:
        order += 2
    if n_coefficients(order) != n:
        below = f"order {order - 2} has {n_coefficients(order - 2)}, " if order else ""
        raise ShapeError(f"{n} channels is no even SH series: {below}order {order} has {n_coefficients(order)}.")
    return order


def order_slices(order: int) -> dict[int, slice]:
    """Where the coefficients of each l stand in the series.

    >>> order_slices(4)
    {0: slice(0, 1, None), 2: slice(1, 6, None), 4: slice(6, 15, None)}
    """
    return {l: slice(n_coefficients(l - 2) if l else 0, n_coefficients(l)) for l in range(0, order + 1, 2)}


def basis_matrix(directions: FloatArray, order: int) -> NDArray[np.float64]:
    """Value of each basis function at each direction.

    Args:
        directions: (N, 3) unit vectors, world axes.
        order: Even SH order.

    Returns:
        (N, C) matrix B with signal = B @ coefficients.
    """
    from dipy.reconst.shm import real_sh_descoteaux

    x, y, z = np.asarray(directions, dtype=np.float64).T
    theta = np.arccos(np.clip(z, -1, 1))  # polar angle from z
    phi = np.arctan2(y, x)
    matrix, _, _ = real_sh_descoteaux(order, theta, phi, legacy=LEGACY)
    return np.asarray(matrix, dtype=np.float64)


def fit_matrix(directions: FloatArray, order: int, laplace_beltrami: float = LAPLACE_BELTRAMI) -> NDArray[np.float64]:
    """Matrix M with coefficients = M @ signal: least squares with a Laplace-Beltrami penalty.

    M = (B'B + lambda diag(l^2 (l+1)^2))^-1 B' (Descoteaux et al. 2007).

    Args:
        directions: (N, 3) unit vectors, world axes.
        order: Even SH order.
        laplace_beltrami: lambda, dimensionless.

    Returns:
        (C, N) matrix.
    """
    basis = basis_matrix(directions, order)
    degrees = _degrees(order)
    penalty = np.diag((degrees * (degrees + 1)) ** 2)
    return np.asarray(np.linalg.solve(basis.T @ basis + laplace_beltrami * penalty, basis.T), dtype=np.float64)


def rotation(turn: FloatArray, order: int) -> NDArray[np.float64]:
    """Matrix (C, C) that turns coefficients as the orthogonal map `turn` (3, 3) turns the function on the sphere.

    Reflections are allowed: even functions cannot tell a map from its negative.

    >>> np.round(rotation(np.diag([-1.0, 1.0, 1.0]), 2).diagonal())
    array([ 1.,  1., -1.,  1.,  1., -1.])
    """
    directions = _spread(8 * n_coefficients(order))
    # (turned f)(d) = f(turn' d), and the turned f is fitted exactly: it has the same order.
    return np.asarray(fit_matrix(directions, order, 0.0) @ basis_matrix(directions @ np.asarray(turn), order))


def _spread(n: int) -> NDArray[np.float64]:
    """(n, 3) directions evenly over the sphere: a Fibonacci spiral."""
    place = np.arange(n) + 0.5
    z = 1 - 2 * place / n
    phi = np.pi * (1 + 5**0.5) * place
    radius = np.sqrt(1 - z**2)
    return np.column_stack([radius * np.cos(phi), radius * np.sin(phi), z])


def _degrees(order: int) -> NDArray[np.float64]:
    return np.concatenate([np.full(2 * l + 1, float(l)) for l in range(0, order + 1, 2)])


def rish(coefficients: FloatArray) -> NDArray[np.floating]:
    """Energy of each order, sum over m of c_lm^2: unchanged by rotation (Mirzaalian et al. 2015).

    Args:
        coefficients: (..., C).

    Returns:
        (..., order / 2 + 1).
    """
    slices = order_slices(order_of(coefficients.shape[-1])).values()
    return np.stack([np.sum(coefficients[..., s] ** 2, axis=-1) for s in slices], axis=-1)


def condition_number(directions: FloatArray, order: int) -> float:
    """How badly the directions determine the coefficients without a penalty: 1 is ideal, over 100 hopeless."""
    return float(np.linalg.cond(basis_matrix(directions, order)))
