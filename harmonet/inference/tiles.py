"""Where a volume is cut: the source voxels near the mask, the tiles that cover them, and the weights of overlaps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import window
from harmonet.errors import DataError
from harmonet.platforms import Alignment, Grid

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Where:
    """The grid to predict one platform on, and how it lies on the source's."""

    grid: Grid
    alignment: Alignment


@dataclass(frozen=True, eq=False)
class Tile:
    """The source voxels from `low` to before `high`, (3,) each, that one window predicts; it shows `halo` more around.

    A tile may reach beyond the volume, which is 0 there.
    """

    low: Ints
    high: Ints
    halo: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the window."""
        x, y, z = (int(n) for n in self.high - self.low + 2 * self.halo)
        return x, y, z

    @property
    def voxels(self) -> int:
        """Number of voxels of the window."""
        return int(np.prod(self.shape))

    def cut(self, volume: Floats) -> Floats:
        """The window of a volume (X, Y, Z, C)."""
        return window(volume, self.low - self.halo, self.high + self.halo)


@dataclass(frozen=True, eq=False)
class Near:
    """The mask and one voxel around it, since voxels of a finer target mask may lie just beyond the source's.

    `inside` has one voxel more than the volume on every side: a target's grid may begin before the source's.
    """

    inside: Bools

    def of(self, tile: Tile) -> Bools:
        """Which of the tile's voxels are near the mask."""
        return window(self.inside, tile.low + 1, tile.high + 1)


def near(mask: Bools) -> Near:
    """The mask (X, Y, Z) and one voxel around it.

    Raises:
        DataError: The mask is empty.

    >>> mask = np.zeros((4, 4, 4), dtype=bool)
    >>> mask[0, 0, 0] = True
    >>> near(mask).inside.shape, int(near(mask).inside.sum())
    ((6, 6, 6), 27)
    """
    if not mask.any():
        raise DataError("a prediction needs a mask with voxels inside, found an empty one: give another mask.")
    inside = np.pad(mask, 1)
    for axis in range(3):
        inside = inside | np.roll(inside, 1, axis) | np.roll(inside, -1, axis)  # the pad is what comes round
    return Near(inside)


def cores(around: Near, core: int, stride: int, halo: int) -> list[Tile]:
    """Tiles of `core` voxels on edge, `stride` apart, that together cover what is near the mask.

    >>> mask = np.zeros((8, 8, 8), dtype=bool)
    >>> mask[2:5, 2:5, 2:5] = True
    >>> [(tile.low.tolist(), tile.high.tolist()) for tile in cores(near(mask), 5, 5, 3)]
    [([1, 1, 1], [6, 6, 6])]
    """
    low, high = _extent(around.inside)
    steps = np.maximum(-(-(high - low - core) // stride), 0) + 1
    corners = (low - 1 + stride * np.array(index) for index in np.ndindex(*steps))
    tiles = (Tile(corner, corner + core, halo) for corner in corners)
    return [tile for tile in tiles if around.of(tile).any()]


def blocks(around: Near, edge: int, halo: int) -> list[Tile]:
    """Tiles of at most `edge` voxels that split what is near the mask, each shrunk to what it holds of it.

    >>> mask = np.zeros((60, 9, 9), dtype=bool)
    >>> mask[2:4, 2, 2] = mask[55:57, 2, 2] = True
    >>> [(tile.low.tolist(), tile.high.tolist()) for tile in blocks(near(mask), 32, 3)]
    [([1, 1, 1], [5, 4, 4]), ([54, 1, 1], [58, 4, 4])]
    """
    return list(_shrunk(around, edge, halo))


def _shrunk(around: Near, edge: int, halo: int) -> Iterator[Tile]:
    low, high = _extent(around.inside)
    cuts = [np.linspace(a, b, -(-(b - a) // edge) + 1).round().astype(int) for a, b in zip(low, high, strict=True)]
    for corner in product(*(range(len(c) - 1) for c in cuts)):
        first = np.array([c[i] for c, i in zip(cuts, corner, strict=True)])
        last = np.array([c[i + 1] for c, i in zip(cuts, corner, strict=True)])
        part = window(around.inside, first, last)
        if part.any():
            begin, end = _extent(part)
            yield Tile(first + begin - 1, first + end - 1, halo)


def _extent(inside: Bools) -> tuple[Ints, Ints]:
    """First index and one after the last, (3,) each, of what is inside."""
    ends = []
    for axis in range(3):
        found = np.flatnonzero(np.moveaxis(inside, axis, 0).any(axis=(1, 2)))
        ends.append((found[0], found[-1] + 1))
    low, high = np.array(ends).T
    return low, high


@dataclass(frozen=True, eq=False)
class Overlap:
    """How tiles share source voxels: the sum of their weights in each, from the voxel `origin` on."""

    total: Floats
    origin: Ints

    @classmethod
    def of(cls, tiles: Sequence[Tile]) -> "Overlap":
        """How these tiles overlap."""
        origin = np.min([tile.low for tile in tiles], axis=0)
        total = np.zeros(np.max([tile.high for tile in tiles], axis=0) - origin, dtype=np.float32)
        for tile in tiles:
            total[box(tile.low - origin, tile.high - origin)] += weights(tile.high - tile.low)
        return cls(total, origin)

    def share(self, tile: Tile, inside: Bools) -> Floats:
        """The tile's share of each of its voxels, exactly 1 where there is no other tile; 0 where not `inside`."""
        total = self.total[box(tile.low - self.origin, tile.high - self.origin)]
        return np.asarray(weights(tile.high - tile.low) / total * inside, dtype=np.float32)


def weights(edges: Ints) -> Floats:
    """Weights of a tile's voxels where tiles overlap: they fall linearly from its middle on every axis.

    >>> weights(np.array([3, 5, 1]))[:, :, 0].tolist()
    [[1.0, 2.0, 3.0, 2.0, 1.0], [2.0, 4.0, 6.0, 4.0, 2.0], [1.0, 2.0, 3.0, 2.0, 1.0]]
    """
    lines = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in edges]
    x, y, z = np.ix_(*lines)
    return np.asarray(x * y * z, dtype=np.float32)


def box(low: Ints, high: Ints) -> tuple[slice, slice, slice]:
    """Slices from `low` to before `high`, (3,) each."""
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z
