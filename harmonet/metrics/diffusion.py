"""Diffusion tensor and kurtosis of an image: FA, MD, direction, colour, MK.

Prediction and truth go the same route: channels become S / S0 along one gradient table, clipped to [0.001, 1] behind a
b0 of 1; a weighted linear fit gives the tensor from the lowest shell, and the kurtosis from the lowest two. The
fit is that of dipy (`fit_method="WLS"`) for all voxels at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError
from harmonet.metrics.image import Image, Map, Signal, Table, shells_of, signals

SMALLEST = 1e-3  # S / S0
ANISOTROPIC = 0.2  # FA above which a principal direction means something
MICRO = 1e3  # from mm²/s to µm²/ms
CHUNK = 4096  # voxels at once: their normal equations stay small
HIGHEST_KURTOSIS = 3.0


@dataclass(frozen=True, eq=False)
class Tensor:
    """Diffusion tensors of the mask's voxels: FA (V,), MD (V,) in µm²/ms and principal direction (V, 3), world axes."""

    fa: Table
    md: Table
    direction: Table


def tensor(image: Image) -> Tensor | None:
    """The tensors of the lowest shell; None for a scalar image.

    Raises:
        DataError: The shell's directions are too few, or lie badly, for a tensor.
    """
    signal, measured = image.context.signal, image.once(signals)
    if signal is None or measured is None:
        return None
    from dipy.reconst.dti import design_matrix, fractional_anisotropy

    rows = shells_of(signal)[0]
    design = design_matrix(_with_b0(signal, rows))
    eigenvalues, eigenvectors = _decomposed(weighted_fit(_readable(measured, rows), design), design)
    return Tensor(
        fa=np.asarray(fractional_anisotropy(eigenvalues)),
        md=np.asarray(eigenvalues.mean(axis=1) * MICRO),
        direction=np.asarray(eigenvectors[:, :, 0]),
    )


def fa(image: Image) -> Map | None:
    """Fractional anisotropy, (X, Y, Z, 1)."""
    found = image.once(tensor)
    return None if found is None else image.fill(found.fa)


def md(image: Image) -> Map | None:
    """Mean diffusivity in µm²/ms, (X, Y, Z, 1)."""
    found = image.once(tensor)
    return None if found is None else image.fill(found.md)


def direction_colour(image: Image) -> Map | None:
    """Direction-encoded colour, FA times the size of each component of the principal direction, (X, Y, Z, 3)."""
    found = image.once(tensor)
    return None if found is None else image.fill(found.fa[:, None] * np.abs(found.direction))


def principal_angle(prediction: Image, truth: Image) -> float | None:
    """Mean angle (0 to 90 degrees) between principal directions where the truth's FA is over 0.2; None if nowhere."""
    ours, theirs = prediction.once(tensor), truth.once(tensor)
    if ours is None or theirs is None:
        return None
    where = theirs.fa > ANISOTROPIC
    cosine = np.abs(np.sum(ours.direction[where] * theirs.direction[where], axis=1))
    return float(np.degrees(np.arccos(np.minimum(cosine, 1))).mean()) if where.any() else None


def mk(image: Image) -> Map | None:
    """Mean kurtosis of the lowest two shells, clipped to [0, 3], (X, Y, Z, 1); None without a second shell.

    Raises:
        DataError: The directions are too few, or lie badly, for a kurtosis tensor.
    """
    found = image.once(kurtosis)
    return None if found is None else image.fill(found)


def kurtosis(image: Image) -> Table | None:
    """Mean kurtosis (V,) of the mask's voxels, as `mk`."""
    signal, measured = image.context.signal, image.once(signals)
    if signal is None or measured is None or len(shells_of(signal)) < 2:
        return None
    from dipy.reconst.dki import mean_kurtosis
    from dipy.reconst.utils import dki_design_matrix

    rows = np.concatenate(shells_of(signal)[:2])
    design: Table = dki_design_matrix(_with_b0(signal, rows))  # type: ignore[no-untyped-call]
    found = weighted_fit(_readable(measured, rows), design)
    eigenvalues, eigenvectors = _decomposed(found, design)
    elements = found[:, 6:21] / eigenvalues.mean(axis=1, keepdims=True) ** 2
    parameters = np.column_stack([eigenvalues, eigenvectors.reshape(-1, 9), elements])
    return np.asarray(mean_kurtosis(parameters, min_kurtosis=0, max_kurtosis=HIGHEST_KURTOSIS))


def weighted_fit(measured: Table, design: Table) -> Table:
    """(V, P) parameters of ln(signal) = design @ parameters: least squares with the squared signal as weight.

    The weights are those of the signal that an unweighted fit predicts (Salvador et al. 2005,
    doi:10.1002/hbm.20076). Columns are scaled first, since those of b² are a million times those of 1.

    Args:
        measured: (V, N) signals above 0.
        design: (N, P).

    Raises:
        DataError: The design leaves a parameter open.
    """
    scale = np.abs(design).max(axis=0)
    scaled = design / np.where(scale > 0, scale, 1)
    n, p = scaled.shape
    rank = int(np.linalg.matrix_rank(scaled))
    if rank < p:
        raise DataError(
            f"the {n - 1} directions of the gradient table determine {rank} of {p} parameters of the diffusion model: "
            "use more, or better spread, directions."
        )
    hat = scaled @ np.linalg.pinv(scaled)
    products = (scaled[:, :, None] * scaled[:, None, :]).reshape(n, p * p)
    found = np.empty((len(measured), p))
    for start in range(0, len(measured), CHUNK):
        logs = np.log(measured[start : start + CHUNK])
        weights = np.exp(2 * (logs @ hat.T))
        normal = (weights @ products).reshape(-1, p, p)
        found[start : start + CHUNK] = np.linalg.solve(normal, ((weights * logs) @ scaled)[..., None])[..., 0]
    return np.asarray(found / scale)


def _readable(measured: Table, rows: NDArray[np.intp]) -> Table:
    """(V, 1 + N) signals of some rows of the table behind a b0 of 1, clipped to what a logarithm can read."""
    return np.column_stack([np.ones(len(measured)), np.clip(measured[:, rows], SMALLEST, 1)])


def _decomposed(found: Table, design: Table) -> tuple[Table, Table]:
    """Eigenvalues (V, 3) from the largest, and eigenvectors (V, 3, 3) in columns, of fitted tensors."""
    from dipy.reconst.dti import decompose_tensor, from_lower_triangular

    smallest = 1e-6 / -design.min()  # as dipy: eigenvalues that noise made negative are raised to it
    tensors = from_lower_triangular(found[:, :6])  # type: ignore[no-untyped-call]
    values, vectors = decompose_tensor(tensors, min_diffusivity=smallest)
    return values, vectors


def _with_b0(signal: Signal, rows: NDArray[np.intp]) -> Any:
    """dipy's gradient table of some rows behind a b0."""
    from dipy.core.gradients import gradient_table

    return gradient_table(
        np.concatenate([[0.0], signal.bvals[rows]]), bvecs=np.concatenate([np.zeros((1, 3)), signal.directions[rows]])
    )
