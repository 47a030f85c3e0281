"""The spherical-harmonic (SH) convention, once.

Inside this package coefficients are those of real, even, orthonormal SH in DIPY's `descoteaux07` basis with
`legacy=False` (Descoteaux et al. 2007, doi:10.1002/mrm.21277), ordered by l = 0, 2, 4, ... and m = -l ... l within
each l. Other bases exist at the edges only: `convert` there. Directions are unit vectors in world axes (RAS+).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import NotFoundError, ShapeError, nearest

BASIS = "descoteaux07"
LEGACY = False
BASES = ("descoteaux07", "descoteaux07_legacy", "tournier07", "tournier07_legacy", "mrtrix3")
LAPLACE_BELTRAMI = 0.006  # Koppers 2018 and other entries of the 2017 challenge
WORST_CONDITION = 100.0  # above it, a fit without a penalty is noise

# The names of BIDS' BEP016, whose formulas have |m| where m < 0: its Descoteaux is dipy's legacy basis, not ours.
BEP016 = {"descoteaux07_legacy": "Descoteaux", "tournier07": "MRtrix3", "mrtrix3": "MRtrix3"}

FloatArray = NDArray[np.floating]


def n_coefficients(order: int) -> int:
    """Number of coefficients of the even series up to `order`.

    >>> [n_coefficients(order) for order in (0, 2, 4, 6, 8)]
    [1, 6, 15, 28, 45]
    """
    if not isinstance(order, int | np.integer) or order < 0 or order % 2:
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


def basis_matrix(directions: FloatArray, order: int, basis: str = BASIS) -> NDArray[np.float64]:
    """Value of each basis function at each direction.

    Args:
        directions: (N, 3) unit vectors, world axes.
        order: Even SH order.
        basis: One of `BASES`.

    Returns:
        (N, C) matrix B with signal = B @ coefficients.

    Raises:
        NotFoundError: There is no such basis.
    """
    places, factors = _in_ours(basis, order)
    from dipy.reconst.shm import real_sh_descoteaux

    x, y, z = np.asarray(directions, dtype=np.float64).T
    theta = np.arccos(np.clip(z, -1, 1))  # polar angle from z
    phi = np.arctan2(y, x)
    matrix, _, _ = real_sh_descoteaux(order, theta, phi, legacy=LEGACY)
    return np.asarray(matrix[:, places] * factors, dtype=np.float64)


def convert(coefficients: FloatArray, source: str, target: str) -> NDArray[np.floating]:
    """The coefficients of the same functions in another basis; exact but for the rounding of the square root of 2.

    >>> convert(np.arange(6.0), "descoteaux07", "mrtrix3").tolist()
    [0.0, 5.0, 4.0, 3.0, -2.0, 1.0]

    Args:
        coefficients: (..., C) in the basis `source`.
        source, target: Two of `BASES`.

    Raises:
        NotFoundError: There is no such basis.
        ShapeError: C channels are no even SH series.
    """
    given = np.asarray(coefficients)
    order = order_of(given.shape[-1])
    places, factors = _in_ours(source, order)
    ours = np.empty(given.shape, dtype=np.result_type(given, np.float32))
    ours[..., places] = given * factors
    places, factors = _in_ours(target, order)
    return np.asarray(ours[..., places] / factors, dtype=ours.dtype)


def _in_ours(basis: str, order: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which of our functions each function of a basis is, and the number that it is multiplied with.

    Our functions are sqrt(2) Re Y_l^m for m < 0 and sqrt(2) Im Y_l^m for m > 0, with the Y of quantum mechanics.
    The legacy form has |m| for m; Tournier's has |m| too, and the real parts at m > 0.
    """
    if basis not in BASES:
        raise NotFoundError(f"no SH basis {basis!r}. {nearest(str(basis), BASES)}")
    m = np.concatenate([np.arange(-l, l + 1) for l in order_slices(order)])
    same, mirrored = np.arange(m.size), np.arange(m.size) - 2 * m
    flip = (-1.0) ** m  # Y_l^-m is the conjugate of Y_l^m times this
    if basis == "descoteaux07":
        return same, np.ones(m.size)
    if basis == "descoteaux07_legacy":
        return same, np.where(m < 0, flip, 1)
    orthonormal = np.where(m > 0, flip, 1)
    if basis == "tournier07_legacy":
        return mirrored, orthonormal * np.where(m == 0, 1, np.sqrt(0.5))
    return mirrored, orthonormal


def orientation_encoding(order: int) -> dict[str, Any]:
    """What BIDS' BEP016 says of an image whose last axis holds our coefficients, for a JSON sidecar."""
    return {
        "EncodingAxis": 3,
        "Reference": "xyz",
        "SphericalHarmonicBasis": BEP016.get(BASIS, BASIS),
        "SphericalHarmonicDegree": order,
        "Type": "sh",
    }


def fit_matrix(directions: FloatArray, order: int, laplace_beltrami: float = LAPLACE_BELTRAMI) -> NDArray[np.float64]:
    """Matrix M with coefficients = M @ signal: least squares with a Laplace-Beltrami penalty.

    M = (B'B + lambda diag(l^2 (l+1)^2))^-1 B' (Descoteaux et al. 2007, doi:10.1002/mrm.21277).

    Args:
        directions: (N, 3) unit vectors, world axes.
        order: Even SH order.
        laplace_beltrami: lambda, dimensionless, 0 or more.

    Returns:
        (C, N) matrix.
    """
    basis = basis_matrix(directions, order)
    degrees = np.array([float(l) for l, s in order_slices(order).items() for _ in range(s.start, s.stop)])
    penalty = np.sqrt(laplace_beltrami) * degrees * (degrees + 1)
    # The penalty as further rows of zero signal: the normal equations would square the condition number.
    augmented = np.concatenate([basis, np.diag(penalty)])
    return np.asarray(np.linalg.pinv(augmented)[:, : len(basis)], dtype=np.float64)


def rotation(turn: FloatArray, order: int) -> NDArray[np.float64]:
    """Matrix (C, C) that turns coefficients as the orthogonal map `turn` (3, 3) turns the function on the sphere.

    Reflections are allowed: even functions cannot tell a map from its negative.

    >>> np.round(rotation(np.diag([-1.0, 1.0, 1.0]), 2).diagonal())
    array([ 1.,  1., -1.,  1.,  1., -1.])
    """
    directions = spread(8 * n_coefficients(order))
    # (turned f)(d) = f(turn' d), and the turned f is fitted exactly: it has the same order.
    return np.asarray(fit_matrix(directions, order, 0.0) @ basis_matrix(directions @ np.asarray(turn), order))


def spread(n: int) -> NDArray[np.float64]:
    """(n, 3) directions evenly over the sphere: a Fibonacci spiral."""
    place = np.arange(n) + 0.5
    z = 1 - 2 * place / n
    phi = np.pi * (1 + 5**0.5) * place
    radius = np.sqrt(1 - z**2)
    return np.column_stack([radius * np.cos(phi), radius * np.sin(phi), z])


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
    """How badly the directions determine the coefficients without a penalty: 1 is ideal, over 100 is hopeless."""
    return float(np.linalg.cond(basis_matrix(directions, order)))
