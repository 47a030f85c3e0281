"""Patch pairs: an index is a place in a brain, a batch is one gather from memory, files or a device."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmonet.data.augment import Augmentation, Turn, Words
from harmonet.data.cuts import Cut, InMemory, Inside, Layer, OnDevice, Patches, cut
from harmonet.data.standardise import Standardises
from harmonet.data.volumes import Head
from harmonet.errors import DataError
from harmonet.platforms import Alignment, target_patch_size

Indices = NDArray[np.int_]

AT_ONCE = 64  # batches whose places are worked out together: for one alone numpy's calls would cost a tenth of it


class Batch(NamedTuple):
    """Standardised patches at the same places: arrays, or tensors where the feed is on a device.

    Attributes:
        source: (B, n, n, n, C).
        targets: Platform to (B, t, t, t, C), t as in `target_patch_size`; 0 where the subject lacks the platform.
        inside: Platform to (B, t, t, t): whether the voxel lies in the target's mask.
        present: Platform to (B,): whether the subject has the platform.
    """

    source: Patches
    targets: dict[str, Patches]
    inside: dict[str, Inside]
    present: dict[str, NDArray[np.bool_]]


class PatchFeed:
    """Patches of some heads; every voxel of a source mask is a place.

    Volumes are cut to the mask's box and a halo. They may be larger than memory: they are read in slabs, and with a
    `store` the cuts live in files. The same seed and epoch give the same batches wherever the cuts are.

    Args:
        heads: Travelling heads, each with at least one of the targets.
        standardise: Platform (the source's name among them) to what knows its statistics.
        source: Name of the source platform.
        upsampling: Target platform to 1 or 2; these targets are fed.
        patch_size: Edge of a source patch in voxels.
        per_subject: Places drawn from each head in one epoch; all where None.
        seed: Seed of the draws.
        stride: Only voxels at multiples of it from the corner of the mask's box are places; 1 is all.
        share: Which part of each head's places, in an order that the seed and the subject's name alone decide, may be
            used: (0, 0.9) and (0.9, 1) part them as the paper does, though patches of both parts overlap.
        store: Folder for the cuts; in memory where None.
        device: torch's name of a device to keep the cuts and gather on; numpy and the processor where None.
        augment: Turn each patch by a random one of the `flips` or of the `octahedral` symmetries, or `none`.
        turn: The representation's; needed to augment.

    Raises:
        DataError: A head has no place or no target, or the settings contradict each other.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        standardise: Mapping[str, Standardises],
        source: str,
        upsampling: Mapping[str, int],
        patch_size: int,
        per_subject: int | None,
        seed: int,
        *,
        stride: int = 1,
        share: tuple[float, float] = (0.0, 1.0),
        store: Path | None = None,
        device: str | None = None,
        augment: Words = "none",
        turn: Turn | None = None,
    ) -> None:
        if not 0 <= share[0] < share[1] <= 1:
            raise DataError(
                f"a share from {share[0]:g} to {share[1]:g} was asked for: use a rising pair within 0 to 1."
            )
        if not heads:
            raise DataError(f"patches of {', '.join(upsampling)} were asked for, found no head: add subjects.")
        if store is not None and device is not None:
            raise DataError(f"cuts were asked for in {store} and on {device} at once: give a store or a device.")
        if augment != "none" and turn is None:
            raise DataError(f"augmentation {augment!r} needs the representation's turn, found none: pass turn.")
        self.per_subject, self.seed, self.source, self.platforms = per_subject, seed, source, tuple(upsampling)
        places = [_places(head, stride, share, seed) for head in heads]
        self._places = np.concatenate(places)
        self._first = np.cumsum([0, *(len(each) for each in places)])  # number of each head's first place
        self._shapes = np.array([head.source.mask.shape for head in heads])
        self._present = {p: np.array([p in head.targets for head in heads]) for p in self.platforms}
        for head, some in zip(heads, np.any([*self._present.values()], axis=0), strict=True):
            if not some:
                raise DataError(f"{head.subject} has none of {', '.join(self.platforms)}: leave the subject out.")
        layers = {source: _source(heads, patch_size, standardise[source])}
        for platform, factor in upsampling.items():
            layers[platform] = _target(heads, platform, factor, patch_size, standardise[platform])
        width = heads[0].source.channels.shape[-1]
        self._cuts: InMemory | OnDevice
        if device is not None:
            self._cuts = OnDevice(layers, width, device)
        elif store is not None:
            self._cuts = InMemory(layers, width, {p: [store / f"{head.subject}.{p}" for head in heads] for p in layers})
        else:
            self._cuts = InMemory(layers, width)
        self._augmentation = None
        if turn is not None and augment != "none":
            self._augmentation = Augmentation(augment, turn, seed, [head.source.grid for head in heads], layers)

    def __len__(self) -> int:
        """Patches in one epoch."""
        return sum(self._drawn(int(count)) for count in np.diff(self._first))

    def steps(self, batch_size: int, ranks: int = 1) -> int:
        """Batches of one epoch on each rank."""
        whole, rest = divmod(len(self), batch_size * ranks)
        return whole + (rest >= ranks)

    def batches(self, epoch: int, batch_size: int, start: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The batches of one epoch, in an order that only the seed and the epoch decide.

        With several ranks, `batch_size * ranks` places make one step and each rank has its share of them in turn. All
        have the same number of batches and of patches in each: at the end of an epoch, as many places as do not divide
        among the ranks (fewer than there are ranks) are left out.

        Args:
            epoch: Counted from 0.
            batch_size: Patches of one rank in one step.
            start: Batches to skip, where an epoch is resumed.
            rank, ranks: Which of how many.
        """
        numbers, together = self._numbers(epoch), batch_size * ranks
        steps = self.steps(batch_size, ranks)
        for first in range(start, steps, AT_ONCE):
            rows = self._rows(numbers[first * together : (first + AT_ONCE) * together])
            for step in range(min(AT_ONCE, steps - first)):
                shared = rows[step * together : (step + 1) * together]
                each = len(shared) // ranks
                yield self.gather(shared[rank * each : (rank + 1) * each], epoch)

    def order(self, epoch: int) -> Indices:
        """Places of one epoch, shuffled: rows of (head, x, y, z)."""
        return self._rows(self._numbers(epoch))

    def gather(self, places: Indices, epoch: int = 0) -> Batch:
        """The patches at the given rows of (head, x, y, z); the epoch decides how they are turned."""
        channels: dict[str, Patches] = dict(self._cuts.channels(places))
        inside: dict[str, Inside] = {platform: self._cuts.inside(platform, places) for platform in self.platforms}
        present = {platform: there[places[:, 0]] for platform, there in self._present.items()}
        if self._augmentation is not None:
            there = {self.source: self._cuts.inside(self.source, places), **inside}
            for p, patches in channels.items():
                channels[p], there[p] = self._augmentation.turned(p, patches, there[p], places, epoch)
            inside = {platform: there[platform] for platform in self.platforms}
        return Batch(channels.pop(self.source), channels, inside, present)

    def _drawn(self, count: int) -> int:
        """How many of a head's places make up an epoch."""
        return count if self.per_subject is None else min(self.per_subject, count)

    def _numbers(self, epoch: int) -> Indices:
        """Places of one epoch as numbers, counted through all heads: a quarter of their rows' memory."""
        drawn = []
        for head, (first, count) in enumerate(zip(self._first[:-1], np.diff(self._first), strict=True)):
            chosen = np.random.default_rng([self.seed, epoch, head]).permutation(count)[: self._drawn(count)]
            drawn.append(first + chosen)
        numbers = np.concatenate(drawn)
        np.random.default_rng([self.seed, epoch]).shuffle(numbers)
        return numbers

    def _rows(self, numbers: Indices) -> Indices:
        heads = np.searchsorted(self._first, numbers, side="right") - 1
        flat = self._places[numbers].astype(int)
        _, y, z = self._shapes[heads].T
        return np.column_stack([heads, flat // (y * z), flat // z % y, flat % z])


def _box(mask: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """First and last index of the mask's voxels along each axis."""
    spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([span[0] for span in spans]), np.array([span[-1] for span in spans])


def _places(head: Head, stride: int, share: tuple[float, float], seed: int) -> NDArray[np.int32]:
    """Flat indices of the source voxels that patches may be centred on, ascending."""
    mask = head.source.mask
    if not mask.any():
        raise DataError(f"the source mask of {head.subject} is empty: no patch can be cut.")
    low, _ = _box(mask)
    grid = tuple(slice(start, None, stride) for start in low)
    chosen = np.zeros(mask.shape, dtype=bool)
    chosen[grid] = mask[grid]
    places = np.flatnonzero(chosen).astype(np.int32)
    # Keyed by name: the same parts whichever other heads are fed, so that what trains here tests nowhere.
    name = int.from_bytes(sha256(head.subject.encode()).digest()[:8], "big")
    shuffled = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(name,))).permutation(places)
    low_part, high_part = (round(part * len(places)) for part in share)
    places = np.sort(shuffled[low_part:high_part])
    if not len(places):
        raise DataError(
            f"{head.subject} has no place left at stride {stride} in the share from {share[0]:g} to {share[1]:g}: "
            "use a smaller stride or a larger share."
        )
    return places


def _source(heads: Sequence[Head], patch_size: int, standardise: Standardises) -> Layer:
    """The parts of the source volumes."""
    at = Alignment(1)
    parts = [
        cut(head.source, standardise.standardisation_for(head.source), _box(head.source.mask), at, patch_size)
        for head in heads
    ]
    return Layer(parts, at.factor, patch_size)


def _target(heads: Sequence[Head], platform: str, factor: int, patch_size: int, standardise: Standardises) -> Layer:
    """The parts of one platform's volumes, which lie on their sources alike, since their patches fill one batch."""
    kinds = {head.alignments[platform].kind for head in heads if platform in head.targets}
    if len(kinds) > 1:
        raise DataError(
            f"{platform} is node-aligned in some heads and cell-aligned in others: bring them together alike."
        )
    edge = target_patch_size(patch_size, factor, next(iter(kinds), "node"))
    parts: list[Cut | None] = []
    for head in heads:
        volume = head.targets.get(platform)
        if volume is None:
            parts.append(None)
            continue
        standard = standardise.standardisation_for(volume)
        parts.append(cut(volume, standard, _box(head.source.mask), head.alignments[platform], edge))
    return Layer(parts, factor, edge)
