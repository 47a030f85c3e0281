"""Where voxels of one grid lie in another, and in a space in which all heads lie alike."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.errors import DataError
from harmonet.platforms import Grid

Floats = NDArray[np.float32]
Table = NDArray[np.float64]
Mask = NDArray[np.bool_]
Voxels = NDArray[np.int_]

REACH, EDGE = 2.6, 61  # the head space: standard deviations of the mask's voxels either way, and its voxels on edge


def voxels_of(grid: Grid) -> Voxels:
    """Indices (3, N) of all voxels."""
    return np.indices(grid.shape).reshape(3, -1)


def within(source: Grid, grid: Grid, voxels: Voxels) -> Table:
    """Where voxels (3, N) of a grid lie on the source's, in its voxels, (3, N), through both affines."""
    between = np.linalg.inv(source.affine) @ grid.affine
    return np.asarray(between[:3, :3] @ voxels + between[:3, 3:])


@dataclass(frozen=True, eq=False)
class HeadSpace:
    """A cube of `edge`³ places in which heads lie on each other without being registered.

    It has the world's axes; each head is moved and stretched along them so that the voxels of its mask have mean 0 and
    standard deviation 1. Two brains of other shape or pose agree only roughly in it: this is our choice.

    Attributes:
        centre, deviation: (3,) of the mask's voxels, in mm.
        edge: Places on edge, over 2.6 deviations either way.
    """

    centre: Table
    deviation: Table
    edge: int = EDGE

    @classmethod
    def of(cls, head: Volume, edge: int = EDGE) -> Self:
        """The space of a head, found by its mask.

        Raises:
            DataError: The mask is empty.
        """
        if not head.mask.any():
            raise DataError("a head without a voxel in its mask lies nowhere: check the mask.")
        world = np.argwhere(head.mask) @ head.grid.affine[:3, :3].T + head.grid.affine[:3, 3]
        return cls(world.mean(axis=0), np.maximum(world.std(axis=0), 1e-6), edge)

    def collect(self, values: NDArray[np.floating], mask: Mask, grid: Grid) -> tuple[Floats, Floats]:
        """Values in the space, times how much of each place the mask holds (E, E, E, K), and that share (E, E, E).

        Divide sums of both over heads for the mean of those who have seen a place.

        Args:
            values: (X, Y, Z, K).
            mask: (X, Y, Z); nothing outside it is read.
            grid: Of both.
        """
        from scipy.ndimage import map_coordinates

        steps = np.linspace(-REACH, REACH, self.edge)
        places = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, -1)
        world = places * self.deviation[:, None] + self.centre[:, None]
        back = np.linalg.inv(grid.affine)
        at = back[:3, :3] @ world + back[:3, 3:]
        share = map_coordinates(mask.astype(np.float32), at, order=1, mode="constant")
        rows = [
            map_coordinates(np.where(mask, values[..., k], 0).astype(np.float32), at, order=1, mode="constant")
            for k in range(values.shape[-1])
        ]
        cube = (self.edge, self.edge, self.edge)
        return np.stack(rows, axis=-1).reshape(*cube, -1), share.reshape(cube)

    def find(self, maps: Floats, grid: Grid, voxels: Voxels) -> Floats:
        """What maps (E, E, E, K) hold at voxels (3, N) of a grid, (N, K)."""
        from scipy.ndimage import map_coordinates

        world = voxels.T @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        places = ((world - self.centre) / self.deviation + REACH) * (self.edge - 1) / (2 * REACH)
        found = [map_coordinates(maps[..., k], places.T, order=1, mode="nearest") for k in range(maps.shape[-1])]
        return np.stack(found, axis=-1)
