"""A signal turned into channels on a grid, and a subject's volumes brought together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.data.scan import Scan
from harmonet.errors import DataError, ShapeError
from harmonet.platforms import Grid, align

T = TypeVar("T", bound=np.generic)

SHELL_WIDTH = 50.0  # s/mm²: volumes this close to the shell belong to it


class Encoder(Protocol):
    """What this module needs of a representation."""

    def encode(
        self, signal: NDArray[np.float32], directions: NDArray[np.floating], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Channels (X, Y, Z, C) of the normalised signal (X, Y, Z, N)."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Channels (X, Y, Z, C), 0 outside the mask (X, Y, Z), on a grid in closest-canonical axes.

    `directions` (N, 3), world axes, are those that were measured; none for a volume that was predicted.
    """

    channels: NDArray[np.float32]
    mask: NDArray[np.bool_]
    grid: Grid
    directions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))


@dataclass(frozen=True, eq=False)
class Head:
    """One travelling head: its source volume, its target volumes, and where each target lies on the source.

    Attributes:
        subject: Name.
        source: What is read.
        targets: Platform to what is predicted.
        nodes: Platform to the target index that lies on source voxel (0, 0, 0).
    """

    subject: str
    source: Volume
    targets: Mapping[str, Volume]
    nodes: Mapping[str, tuple[int, int, int]]


def represent(scan: Scan, encoder: Encoder, shell: float) -> Volume:
    """The channels of one shell of a scan.

    Args:
        scan: What was read.
        encoder: The representation.
        shell: b-value in s/mm².

    Raises:
        DataError: The scan has no such shell, or too few directions on it.
    """
    chosen = np.abs(scan.bvals[scan.is_dwi] - shell) <= SHELL_WIDTH
    if not chosen.any():
        found = ", ".join(f"{b:g}" for b in sorted(set(scan.bvals[scan.is_dwi])))
        raise DataError(
            f"{scan.subject} {scan.platform} has no volumes at b = {shell:g} s/mm², found {found}: choose one of these."
        )
    directions = scan.directions[scan.is_dwi][chosen]
    try:
        channels = encoder.encode(scan.normalised()[..., chosen], directions, scan.mask)
    except DataError as error:
        raise DataError(f"{scan.subject} {scan.platform}: {error}") from None
    return Volume(channels, scan.mask, scan.grid, directions)


def bring_together(subject: str, source: Volume, targets: Mapping[str, Volume], upsampling: Mapping[str, int]) -> Head:
    """A head whose targets are found on the source through both affines."""
    nodes = {}
    for platform, volume in targets.items():
        try:
            nodes[platform] = align(source.grid, volume.grid, upsampling[platform])
        except ShapeError as error:
            raise DataError(f"{subject} {platform}: {error}") from None
    return Head(subject, source, dict(targets), nodes)


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
