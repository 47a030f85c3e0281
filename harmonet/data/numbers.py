"""The numbers of an image as they lie in memory, and float32 values of those voxels that are asked for.

A file holds volume after volume, in its own axes and type. Converting or transposing all of it takes longer than
inflating it, while most users want some voxels of the mask: those are gathered volume by volume, in the order in which
they lie.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int_]
FloatImage = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of any real type and memory order: a value is slope * number + inter.

    Attributes:
        stored: (X, Y, Z, N) or fewer axes.
        slope, inter: How numbers become values.
    """

    stored: NDArray[Any]
    slope: float = 1.0
    inter: float = 0.0

    def values(self) -> FloatImage:
        """All values as float32: a view where they are that already, in the same memory order where not."""
        if self._plain:
            with np.errstate(over="ignore", invalid="ignore"):  # see _scaled
                return self.stored.astype(np.float32, copy=False)
        out = np.empty_like(self.stored, dtype=np.float32)
        for index in range(self.stored.shape[-1]):  # by volume: float64 of everything would take twice the memory
            out[..., index] = self._scaled(self.stored[..., index])
        return out

    def volume(self, index: int) -> FloatImage:
        """(X, Y, Z) the values of one volume."""
        return self._scaled(self.stored[..., index])

    def mean(self, volumes: Indices) -> FloatImage:
        """(X, Y, Z) the mean of some volumes."""
        total = np.zeros(self.stored.shape[:3])
        for index in volumes:
            total += self.volume(index)
        return np.asarray(total / len(volumes), dtype=np.float32)

    def gather(self, voxels: Indices, volumes: Indices) -> FloatImage:
        """(V, N) the values of some voxels, given by their index in the flattened (X, Y, Z), in some volumes."""
        places = self._places(voxels)
        rows = np.empty((len(volumes), len(voxels)), dtype=np.float32)
        for row, volume in zip(rows, volumes, strict=True):
            row[:] = self._scaled(self._flat[:, volume][places])
        return rows.T

    def means(self, voxels: Indices) -> NDArray[np.float64]:
        """(N,) the mean of each volume over some voxels, given by their index in the flattened (X, Y, Z)."""
        places = self._places(voxels)
        return np.array([self._scaled(column[places]).mean(dtype=np.float64) for column in self._flat.T])

    def sweep(self, mask: NDArray[np.bool_]) -> Indices:
        """(V,) the voxels of a mask (X, Y, Z), by index in the flattened mask, in the order in which they lie here."""
        order, turned = self._order, self._unflipped(mask)
        lying = turned.transpose(order)
        coordinates = np.unravel_index(np.flatnonzero(lying), lying.shape)
        return self._flattened([coordinates[order.index(axis)] for axis in range(3)], range(3))

    @property
    def always_finite(self) -> bool:
        """Whether no number can stand for NaN or infinity: integers, but for an absurd slope."""
        if self.stored.dtype.kind not in "iu":
            return False
        limits = np.iinfo(self.stored.dtype)
        return bool(np.isfinite(self._scaled(np.array([limits.min, limits.max], self.stored.dtype))).all())

    @property
    def _plain(self) -> bool:
        return (self.slope, self.inter) == (1.0, 0.0)

    def _scaled(self, numbers: NDArray[Any]) -> FloatImage:
        # What is no float32 becomes infinite; the caller counts those where they matter.
        with np.errstate(over="ignore", invalid="ignore"):
            values = numbers if self._plain else numbers * self.slope + self.inter
            return np.asarray(values, dtype=np.float32)

    @cached_property
    def _flat(self) -> NDArray[Any]:
        """(X * Y * Z, N) the numbers with their space in memory order: a view of what was read from a file."""
        turned = self._unflipped(self.stored).transpose(*self._order, 3)
        return turned.reshape(-1, turned.shape[3])

    @cached_property
    def _order(self) -> list[int]:
        """The axes of space, from the one whose neighbours lie farthest apart to the one whose lie side by side."""
        return sorted(range(3), key=lambda axis: -abs(self.stored.strides[axis]))

    def _unflipped(self, array: NDArray[Any]) -> NDArray[Any]:
        steps = (slice(None, None, -1 if stride < 0 else 1) for stride in self.stored.strides[:3])
        return array[tuple(steps)]

    def _places(self, voxels: Indices) -> Indices:
        """Rows of `_flat` where these voxels lie."""
        return self._flattened(np.unravel_index(voxels, self.stored.shape[:3]), self._order)

    def _flattened(self, coordinates: Any, order: Any) -> Indices:
        """The index with the axes in this order of voxels whose coordinates are given, turned the other way."""
        shape, strides = self.stored.shape, self.stored.strides
        turned = [shape[axis] - 1 - coordinates[axis] if strides[axis] < 0 else coordinates[axis] for axis in order]
        return np.asarray(np.ravel_multi_index(turned, [shape[axis] for axis in order]))
