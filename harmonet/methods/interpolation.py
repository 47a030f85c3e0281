"""The source on the target's grid: what a network that doubles the resolution must beat."""

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.methods.method import Method
from harmonet.methods.places import voxels_of, within
from harmonet.platforms import Grid

LEAST = 1e-3  # of all weight: less is no witness


class Interpolation(Method):
    """Says the source interpolated on the target's grid."""

    def predict(self, source: Volume, target: Grid) -> NDArray[np.float32]:
        """The source's channels on the target's grid (X', Y', Z', C)."""
        return interpolated(source, target)


def interpolated(source: Volume, target: Grid) -> NDArray[np.float32]:
    """The source's channels interpolated trilinearly on another grid (X', Y', Z', C), 0 where its mask has no weight.

    Each voxel is the mean of its eight neighbours inside the mask, weighted trilinearly.
    """
    from scipy.ndimage import map_coordinates

    places = within(source.grid, target, voxels_of(target))
    weights = map_coordinates(source.mask.astype(np.float32), places, order=1, mode="nearest")
    witnessed = np.flatnonzero(weights > 0)
    places, weights = places[:, witnessed], np.maximum(weights[witnessed], LEAST)
    out = np.zeros((int(np.prod(target.shape)), source.channels.shape[-1]), dtype=np.float32)
    for channel in range(out.shape[-1]):
        values = map_coordinates(source.channels[..., channel], places, order=1, mode="nearest")
        out[witnessed, channel] = values / weights
    return out.reshape(*target.shape, -1)
