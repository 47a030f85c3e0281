"""ComBat over places of the brain: source and target platform are the batches, the target the reference."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import DataError
from harmonet.methods.interpolation import interpolated
from harmonet.methods.places import HeadSpace
from harmonet.platforms import Grid
from harmonet_baselines.combat import fit

Floats = NDArray[np.float32]
Lesson = Mapping[str, NDArray[Any]]

SOURCE, TARGET = "source", "target"
SEEN = 0.5  # of a place, by every head: otherwise it is no feature
WITNESSED = 0.05  # of the places around a voxel: below it the mean over all places serves


class CombatPlaces(hn.Method):
    """A shift and a scale of each channel at each place.

    Args:
        groups: Name to channels; not used, since every channel is by itself.
        edge: Places on edge of the cube that all heads are laid into; 21 are about 10 mm apart.
        eb: Shrink shifts and scales to their distribution over places.
        mean_only: Leave scales alone.
    """

    maps: Floats  # (E, E, E, 2 C + 1): slopes and offsets times how well a place was seen, and that, 0 or 1

    def __init__(self, groups: Mapping[str, slice], edge: int = 21, eb: bool = True, mean_only: bool = False) -> None:
        super().__init__(groups)
        self.edge, self.eb, self.mean_only = edge, eb, mean_only

    def learn(self, pair: hn.Pair) -> Lesson:
        """`source` and `target` (E, E, E, C), channels at each place, and `seen` (E, E, E), how much of it by both."""
        space, found, shares = HeadSpace.of(pair.source, self.edge), {}, []
        for name, volume in ((SOURCE, pair.source), (TARGET, pair.target)):
            values, share = space.collect(volume.channels, volume.mask, volume.grid)
            found[name] = values / np.maximum(share, 1e-6)[..., None]
            shares.append(share)
        return found | {"seen": np.minimum(*shares)}

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """The affine map of each channel at each place that leads the source to the target.

        Raises:
            DataError: There is one subject, or no place that all have seen.
        """
        if len(lessons) < 2:
            raise DataError("combat found one training subject, who shows no spread: train on two or more.")
        seen = np.min([one["seen"] for one in lessons], axis=0) > SEEN
        if seen.sum() < 2:
            raise DataError("combat found no places that all training subjects show: check masks and affines.")
        batches = [name for name in (SOURCE, TARGET) for _ in lessons]
        scans = np.stack([one[name][seen] for name in (SOURCE, TARGET) for one in lessons], axis=-1)  # (F, C, N)
        maps = np.zeros((*seen.shape, 2 * scans.shape[1] + 1), dtype=np.float32)
        for channel in range(scans.shape[1]):
            found = fit(scans[:, channel], batches, eb=self.eb, mean_only=self.mean_only, reference=TARGET)
            slope = 1 / np.sqrt(found.scale[0])
            shifted = found.mean - found.deviation * found.shift[0] * slope
            maps[seen, channel], maps[seen, scans.shape[1] + channel] = slope, shifted - slope * found.mean
        maps[seen, -1] = 1
        self.maps = maps

    def state(self) -> dict[str, NDArray[Any]]:
        """`maps` (E, E, E, 2 C + 1)."""
        return {"maps": self.maps}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the maps."""
        self.maps = state["maps"]

    def predict(self, source: Volume, target: Grid) -> Floats:
        """The interpolated source, shifted and scaled (X', Y', Z', C), 0 where the source's mask says nothing."""
        out = interpolated(source, target)
        there = out.any(axis=-1)
        space = HeadSpace.of(source, len(self.maps))
        found = space.find(self.maps, target, np.argwhere(there).T)
        share, usual = found[:, -1:], self.maps[self.maps[..., -1] > 0].mean(axis=0)
        found = np.where(share > WITNESSED, found / np.where(share > WITNESSED, share, 1), usual)
        channels = out.shape[-1]
        out[there] = out[there] * found[:, :channels] + found[:, channels:-1]
        return out
