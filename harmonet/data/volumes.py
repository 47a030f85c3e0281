"""Channels on a grid, and a subject's volumes brought together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.data.gradients import NO_GRADIENTS, Gradients
from harmonet.errors import DataError, ShapeError
from harmonet.platforms import Alignment, Grid, align

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Volume:
    """Channels (X, Y, Z, C), 0 outside the mask (X, Y, Z), on a grid in closest-canonical axes.

    `gradients` are those that were measured; none for a scalar image or a volume that was predicted.
    """

    channels: NDArray[np.float32]
    mask: NDArray[np.bool_]
    grid: Grid
    gradients: Gradients = NO_GRADIENTS


@dataclass(frozen=True, eq=False)
class Head:
    """One travelling head: its source volume, its target volumes, and where each target lies on the source.

    Attributes:
        subject: Name.
        source: What is read.
        targets: Platform to what is predicted.
        alignments: Platform to how its voxels lie on the source's.
    """

    subject: str
    source: Volume
    targets: Mapping[str, Volume]
    alignments: Mapping[str, Alignment]


def bring_together(subject: str, source: Volume, targets: Mapping[str, Volume], upsampling: Mapping[str, int]) -> Head:
    """A head whose targets are found on the source through both affines."""
    alignments = {}
    for platform, volume in targets.items():
        try:
            alignments[platform] = align(source.grid, volume.grid, upsampling[platform])
        except ShapeError as error:
            raise DataError(f"{subject} {platform}: {error}") from None
        if alignments[platform].kind == "cell":
            raise DataError(
                f"{subject} {platform}: its voxels lie inside the source's and not on them (a shift of half a voxel): "
                "resample the target so that the voxel centres coincide."
            )
    return Head(subject, source, dict(targets), alignments)


def window(array: NDArray[T], low: NDArray[np.int_], high: NDArray[np.int_]) -> NDArray[T]:
    """array[low:high] on the first three axes, with zeros where that reaches beyond the array.

    >>> window(np.ones((2, 2, 2)), np.array([-1, 0, 0]), np.array([1, 2, 2])).sum(axis=(1, 2))
    array([0., 4.])
    """
    out = np.zeros((*(high - low), *array.shape[3:]), dtype=array.dtype)
    start, stop = np.maximum(low, 0), np.minimum(high, array.shape[:3])
    if (start < stop).all():
        inner = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        outer = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        out[inner] = array[outer]
    return out
