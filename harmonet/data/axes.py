"""Storage orders: an image is brought to closest-canonical axes (right, anterior, superior) without a copy, and back.

Two storage orders of one brain, paired by voxel index, correlate with 0.0003.
"""

from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.platforms import Grid

T = TypeVar("T", bound=np.generic)
ORIENTATIONS: Any = nib.orientations  # Any: nibabel's functions carry no types
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])


def canonical_grid(stored: Grid) -> Grid:
    """The voxels of a file in closest-canonical axis order.

    >>> canonical_grid(Grid((2, 3, 4), np.diag([-2.0, 2.0, 2.0, 1.0]))).affine[0].tolist()
    [2.0, 0.0, 0.0, -2.0]
    """
    turns = _turns(stored)
    shape = [0, 0, 0]
    for size, axis in zip(stored.shape, turns[:, 0], strict=True):
        shape[int(axis)] = size
    return Grid(first_three(shape), stored.affine @ ORIENTATIONS.inv_ornt_aff(turns, stored.shape))


def to_canonical(volume: NDArray[T], stored: Grid) -> NDArray[T]:
    """A view (X, Y, Z[, N]) in closest-canonical axes of what lies in the axes of the file."""
    return np.asarray(ORIENTATIONS.apply_orientation(volume, _turns(stored)))


def from_canonical(volume: NDArray[T], stored: Grid) -> NDArray[T]:
    """The volume (X', Y', Z'[, N]) in the axes of the file of what lies in closest-canonical ones."""
    back = ORIENTATIONS.ornt_transform(CANONICAL, _turns(stored))
    return np.ascontiguousarray(ORIENTATIONS.apply_orientation(volume, back))


def first_three(shape: Any) -> tuple[int, int, int]:
    """The sizes of space, of an image of three axes or more."""
    x, y, z = shape[:3]
    return int(x), int(y), int(z)


def _turns(grid: Grid) -> NDArray[np.float64]:
    return np.asarray(ORIENTATIONS.io_orientation(grid.affine), dtype=np.float64)
