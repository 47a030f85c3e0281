"""Source patches and the features by which a tree parts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int_]
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """The part of a source volume around its mask.

    Attributes:
        channels: (X, Y, Z, C); outside the mask the values of the nearest voxel inside, so that patches are whole.
        mask: (X, Y, Z).
        origin: (3,) index in the source of the frame's first voxel; the frame may reach beyond the source.
    """

    channels: Floats
    mask: Bools
    origin: Indices

    def patches(self, voxels: Indices, radius: int) -> Floats:
        """(N, (2 radius + 1)³ C) patches around voxels (N, 3) of the frame, channels last."""
        steps = np.array(list(product(range(-radius, radius + 1), repeat=3)))
        x, y, z = (voxels[:, None] + steps).transpose(2, 0, 1)
        return np.asarray(self.channels[x, y, z].reshape(len(voxels), -1))

    def near(self) -> Indices:
        """(N, 3) voxels in the mask or next to it: what the mask says something about."""
        from scipy.ndimage import binary_dilation

        return np.argwhere(binary_dilation(self.mask, np.ones((3, 3, 3))))


def framed(source: Volume, margin: int) -> Frame:
    """The frame that leaves `margin` voxels on every side of the mask."""
    inside = np.argwhere(source.mask)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    around = [(margin, margin)] * 3
    mask = np.pad(source.mask[box], around)
    return Frame(completed(np.pad(source.channels[box], [*around, (0, 0)]), mask), mask, low - margin)


def completed(channels: Floats, mask: Bools) -> Floats:
    """Channels (X, Y, Z, C) whose voxels outside the mask have the values of the nearest inside."""
    from scipy.ndimage import distance_transform_edt

    x, y, z = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return np.asarray(channels[x, y, z])


def features(frame: Frame, groups: Mapping[str, slice], radius: int) -> Table:
    """(X, Y, Z, 2 G + 1) features without eigenvalues: which way a tree goes.

    Energy (RISH) of each group of channels at the centre, then its mean over the patch, then the standard deviation
    over the patch of the first group's energy. Without groups all channels are one.
    """
    from scipy.ndimage import uniform_filter

    edge = 2 * radius + 1
    groups = groups or {"all": slice(None)}
    centre = [np.sum(frame.channels[..., s].astype(np.float64) ** 2, axis=-1) for s in groups.values()]
    mean = [uniform_filter(energy, edge, mode="nearest") for energy in centre]
    variance = uniform_filter(centre[0] ** 2, edge, mode="nearest") - mean[0] ** 2
    return np.stack([*centre, *mean, np.sqrt(np.maximum(variance, 0))], axis=-1)
