"""What one gets without a network: no claim stands without these beside it.

`identity` and `interpolation` learn nothing. `linear` and `rish_linear` rewrite the interpolated source by what the
training subjects show, and nothing else: see `fit` for what is learned of each subject.
"""

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Head

Floats = NDArray[np.float32]


def identity(head: Head, platform: str) -> Floats:
    """The source's coefficients at the nearest source voxel of each target voxel, (X', Y', Z', C)."""
    target = head.targets[platform]
    places = np.rint(_places(head, platform)).astype(int)
    limit = np.asarray(head.source.mask.shape) - 1
    x, y, z = np.clip(places, 0, limit[:, None])
    out = np.zeros((*target.mask.shape, head.source.channels.shape[-1]), dtype=np.float32)
    out[target.mask] = head.source.channels[x, y, z]
    return out


def interpolation(head: Head, platform: str) -> Floats:
    """The source's coefficients interpolated trilinearly at each target voxel, (X', Y', Z', C).

    SH coefficients are the interpolation in angle. Voxels outside the source's mask have no weight.
    """
    from scipy.ndimage import map_coordinates

    target = head.targets[platform]
    places = _places(head, platform)
    weights = map_coordinates(head.source.mask.astype(np.float32), places, order=1, mode="nearest")
    channels = head.source.channels
    out = np.zeros((*target.mask.shape, channels.shape[-1]), dtype=np.float32)
    values = np.stack(
        [map_coordinates(channels[..., c], places, order=1, mode="nearest") for c in range(channels.shape[-1])], axis=-1
    )
    out[target.mask] = values / np.maximum(weights, 1e-3)[:, None]
    return out


def _places(head: Head, platform: str) -> NDArray[np.float64]:
    """Source coordinates (3, N) of the voxels in the target's mask, through both affines."""
    target = head.targets[platform]
    between = np.linalg.inv(head.source.grid.affine) @ target.grid.affine
    return np.asarray(between[:3, :3] @ np.argwhere(target.mask).T + between[:3, 3:])


BASELINES = {"identity": identity, "interpolation": interpolation}
