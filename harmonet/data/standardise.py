"""Mean 0 and standard deviation 1 per channel, from training subjects only."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.errors import DataError


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and standard deviation (C,) of each channel inside the mask, of one platform."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def apply(self, volume: Volume) -> NDArray[np.float32]:
        """Standardised channels, 0 (the mean) outside the mask."""
        channels = (volume.channels - self.mean.astype(np.float32)) / self.std.astype(np.float32)
        channels[~volume.mask] = 0
        return np.asarray(channels)

    def invert(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Channels (..., C) in the units of the representation."""
        return np.asarray(channels * self.std.astype(np.float32) + self.mean.astype(np.float32))


def statistics(volumes: Iterable[Volume], platform: str) -> Standardisation:
    """Statistics over the masks of the training subjects' volumes.

    Raises:
        DataError: A channel is constant, so that it cannot be scaled.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for volume in volumes:
        inside = volume.channels[volume.mask].astype(np.float64)
        count += len(inside)
        total = total + inside.sum(axis=0)
        squares = squares + (inside**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    constant = np.flatnonzero(std <= 1e-9 * np.maximum(np.abs(mean), 1e-6))
    if constant.size:
        raise DataError(
            f"channel {constant[0]} of {platform} is the same in every voxel of the training subjects: "
            "check the images, or use a lower SH order."
        )
    return Standardisation(mean, std)
