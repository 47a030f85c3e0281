"""Patch pairs: an index is a place in a brain, a batch is one gather from volumes in memory.

Volumes are cut to the mask's box and a halo, channels last, so that a batch viewed as (B, C, X, Y, Z) is already in
torch's channels-last layout.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.data.standardise import Standardisation
from harmonet.data.volumes import Head, window
from harmonet.errors import DataError
from harmonet.platforms import Alignment, target_patch_size

Floats = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)


class Batch(NamedTuple):
    """Standardised patches at the same places.

    Attributes:
        source: (B, n, n, n, C).
        targets: Platform to (B, t, t, t, C), t = n or 2n - 3.
        inside: Platform to (B, t, t, t): whether the voxel lies in the target's mask.
    """

    source: Floats
    targets: dict[str, Floats]
    inside: dict[str, NDArray[np.bool_]]


class _Cut(NamedTuple):
    """One volume cut to where patches can reach; `origin` is the index that its first voxel had before."""

    channels: Floats
    inside: NDArray[np.bool_]
    alignment: Alignment
    origin: NDArray[np.int_]
    edge: int


class PatchFeed:
    """Patches of some heads; every voxel of a source mask is a place.

    Args:
        heads: Travelling heads.
        standardise: Platform (the source's name among them) to its statistics.
        source: Name of the source platform.
        upsampling: Target platform to 1 or 2; these targets are fed.
        patch_size: Edge of a source patch in voxels.
        per_subject: Places drawn from each head in one epoch.
        seed: Seed of the draws. The same seed and epoch give the same batches.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        standardise: Mapping[str, Standardisation],
        source: str,
        upsampling: Mapping[str, int],
        patch_size: int,
        per_subject: int,
        seed: int,
    ) -> None:
        self.per_subject = per_subject
        self.seed = seed
        self.platforms = tuple(upsampling)
        self._places = [np.argwhere(head.source.mask) for head in heads]
        for head, places in zip(heads, self._places, strict=True):
            if not len(places):
                raise DataError(f"the source mask of {head.subject} is empty: no patch can be cut.")
        self._sources: list[_Cut] = []
        self._targets: list[dict[str, _Cut]] = []
        for head, places in zip(heads, self._places, strict=True):
            low, high = places.min(axis=0), places.max(axis=0)
            standard = standardise[source].apply(head.source)
            self._sources.append(_cut(standard, head.source.mask, low, high, Alignment(1), patch_size))
            cuts = {}
            for platform, factor in upsampling.items():
                volume = head.targets[platform]
                edge = target_patch_size(patch_size, factor)
                standard = standardise[platform].apply(volume)
                cuts[platform] = _cut(standard, volume.mask, low, high, head.alignments[platform], edge)
            self._targets.append(cuts)

    def __len__(self) -> int:
        """Patches in one epoch."""
        return sum(min(self.per_subject, len(places)) for places in self._places)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """The batches of one epoch, in an order that only the seed and the epoch decide."""
        order = self.order(epoch)
        for start in range(0, len(order), batch_size):
            yield self.gather(order[start : start + batch_size])

    def order(self, epoch: int) -> NDArray[np.int_]:
        """Places of one epoch, shuffled: rows of (subject, x, y, z)."""
        rows = []
        for subject, places in enumerate(self._places):
            random = np.random.default_rng([self.seed, epoch, subject])
            chosen = random.permutation(len(places))[: self.per_subject]
            rows.append(np.column_stack([np.full(len(chosen), subject), places[chosen]]))
        order = np.concatenate(rows)
        np.random.default_rng([self.seed, epoch]).shuffle(order)
        return order

    def gather(self, places: NDArray[np.int_]) -> Batch:
        """The patches at the given rows of (subject, x, y, z)."""
        sources = [self._sources[row[0]] for row in places]
        targets: dict[str, Floats] = {}
        inside: dict[str, NDArray[np.bool_]] = {}
        for platform in self.platforms:
            cuts = [self._targets[row[0]][platform] for row in places]
            targets[platform] = _gather([cut.channels for cut in cuts], cuts, places)
            inside[platform] = _gather([cut.inside for cut in cuts], cuts, places)
        return Batch(_gather([cut.channels for cut in sources], sources, places), targets, inside)


def _cut(
    channels: Floats,
    mask: NDArray[np.bool_],
    low: NDArray[np.int_],
    high: NDArray[np.int_],
    alignment: Alignment,
    edge: int,
) -> _Cut:
    first, last = alignment.corner(low, edge), alignment.corner(high, edge) + edge
    return _Cut(
        np.ascontiguousarray(window(channels, first, last), dtype=np.float32),
        np.asarray(window(mask, first, last), dtype=bool),
        alignment,
        first,
        edge,
    )


def _gather(arrays: Sequence[NDArray[T]], cuts: Sequence[_Cut], places: NDArray[np.int_]) -> NDArray[T]:
    """One patch per row of `places`, copied slice by slice: long contiguous rows, so at memory speed."""
    edge = cuts[0].edge
    out = np.empty((len(places), edge, edge, edge, *arrays[0].shape[3:]), dtype=arrays[0].dtype)
    for i, (array, cut, place) in enumerate(zip(arrays, cuts, places, strict=True)):
        x, y, z = cut.alignment.corner(place[1:], edge) - cut.origin
        out[i] = array[x : x + edge, y : y + edge, z : z + edge]
    return out
