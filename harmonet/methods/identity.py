"""The source as it is: what a method must beat to have done anything."""

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.methods.method import Method
from harmonet.methods.places import voxels_of, within
from harmonet.platforms import Grid


class Identity(Method):
    """Says the source's channels at the nearest source voxel; beyond its field of view, those of its border."""

    def predict(self, source: Volume, target: Grid) -> NDArray[np.float32]:
        """The source's channels on the target's grid (X', Y', Z', C)."""
        nearest = np.rint(within(source.grid, target, voxels_of(target))).astype(int)
        x, y, z = np.clip(nearest, 0, np.asarray(source.mask.shape)[:, None] - 1)
        return np.asarray(source.channels[x, y, z].reshape(*target.shape, -1))
