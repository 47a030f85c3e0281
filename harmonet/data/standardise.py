"""Mean 0 and standard deviation 1 per channel: from training subjects, or from each image of the source by itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.errors import DataError

SLAB = 4 << 20  # bytes at once: volumes may be mapped from files and larger than memory

Floats = NDArray[np.float32]


class Standardises(Protocol):
    """Whatever knows the statistics that a volume of one platform is standardised with."""

    def standardisation_for(self, volume: Volume) -> "Standardisation":
        """Statistics for this volume."""


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and standard deviation (C,) of each channel inside the mask, of one platform."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def standardisation_for(self, volume: Volume) -> "Standardisation":
        """Itself: training subjects' statistics serve every volume of the platform."""
        return self

    def apply(self, volume: Volume) -> Floats:
        """Standardised channels, 0 (the mean) outside the mask."""
        return self.apply_to(volume.channels, volume.mask)

    def apply_to(self, channels: Floats, mask: NDArray[np.bool_]) -> Floats:
        """Standardised channels of a piece of a volume: (..., C) where the mask (...) is true, 0 elsewhere."""
        out = channels - self.mean.astype(np.float32)
        out /= self.std.astype(np.float32)
        out[~mask] = 0
        return np.asarray(out)

    def invert(self, channels: Floats) -> Floats:
        """Channels (..., C) in the units of the representation."""
        out = channels * self.std.astype(np.float32)
        out += self.mean.astype(np.float32)
        return np.asarray(out)


@dataclass(frozen=True)
class PerAcquisition:
    """Every image by its own statistics, "per acquisition" in Blumberg et al. 2019 (doi:10.48550/arXiv.1907.11629).

    For a source only: the statistics of a target are unknown when it is to be predicted.

    Attributes:
        platform: Name, for messages.
    """

    platform: str

    def standardisation_for(self, volume: Volume) -> Standardisation:
        """Statistics of this volume alone."""
        return statistics([volume], self.platform, whose="the image")


def statistics(volumes: Iterable[Volume], platform: str, whose: str = "the training subjects") -> Standardisation:
    """Statistics over the masks of the volumes, read one slab at a time.

    Means and squares are merged as in Chan et al. 1983 (doi:10.1080/00031305.1983.10483115), so that nothing cancels.

    Args:
        volumes: Those of the training subjects, or one image.
        platform, whose: What they are called in messages.

    Raises:
        DataError: There is no voxel, or a channel is constant, so that it cannot be scaled.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for volume in volumes:
        for inside in _rows(volume):
            n, centre = len(inside), inside.mean(axis=0)
            between = centre - mean
            squares = squares + ((inside - centre) ** 2).sum(axis=0) + between**2 * (count * n / (count + n))
            mean = mean + between * (n / (count + n))
            count += n
    if not count:
        raise DataError(f"the masks of {platform} hold no voxel of {whose}: check the masks.")
    std = np.sqrt(squares / count)
    constant = np.flatnonzero(std <= 1e-9 * np.maximum(np.abs(mean), 1e-6))
    if constant.size:
        raise DataError(
            f"channel {constant[0]} of {platform} is the same in every voxel of {whose}: "
            "check the images, or use a lower SH order."
        )
    return Standardisation(mean, std)


def _rows(volume: Volume) -> Iterable[NDArray[np.float64]]:
    """The masked voxels' channels (V, C), slab after slab; none is empty."""
    thick = slab_thickness(volume.channels.shape, np.dtype(np.float64))
    for start in range(0, volume.mask.shape[0], thick):
        here = slice(start, start + thick)
        inside = volume.channels[here][volume.mask[here]].astype(np.float64)
        if len(inside):
            yield inside


def slab_thickness(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
    """How many planes of the first axis fit in one slab, at least one."""
    return max(1, SLAB // (int(np.prod(shape[1:])) * dtype.itemsize))
