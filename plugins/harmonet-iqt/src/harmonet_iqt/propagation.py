"""Modality propagation: a target is put together from the training heads' voxels that look alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, RecipeError
from harmonet.platforms import Grid
from harmonet_iqt.blocks import Layout, blocks_of, common_layout, laid
from harmonet_iqt.patches import Frame, completed, framed

Floats = NDArray[np.float32]
Indices = NDArray[np.int_]
Table = NDArray[np.float64]

SMALLEST = 1e-12  # bandwidth, so that an exact match is divided by something


class Propagation(hn.Method):
    """Predicts a source voxel's target voxels as the mean of those of the most similar source patches nearby.

    Ye et al. 2013 (doi:10.1007/978-3-642-40811-3_76). Every training head is laid on the new one by the centre and
    extent of both masks, and searched in a window around each voxel. The first iteration compares source patches
    alone; later ones add how far a candidate's target patch is from the estimate so far, with a weight that grows to
    1, so that neighbours come to agree. See the card for what is our choice.

    The library, which is the method's state, holds all voxels of the training heads in 16 bits: values are exact to
    about 1 in 2,000 of a channel's largest.

    Args:
        groups: Name to channels that belong together; all channels are compared alike.
        radius: Of the patches in voxels.
        window: Of the search in voxels: 3 is 7 x 7 x 7.
        neighbours: Candidates that are averaged, from all heads together.
        iterations: 1 compares source patches alone.

    Raises:
        RecipeError: An option lies outside what it can be.
    """

    def __init__(
        self, groups: Mapping[str, slice], radius: int = 1, window: int = 3, neighbours: int = 5, iterations: int = 3
    ) -> None:
        super().__init__(groups)
        least = {"radius": (radius, 0), "window": (window, 0), "neighbours": (neighbours, 1)}
        for name, (value, lowest) in (least | {"iterations": (iterations, 1)}).items():
            if value < lowest:
                raise RecipeError(
                    f"modality_propagation needs {name} of {lowest} or more, found {value}: give a larger one."
                )
        self.radius, self.window, self.neighbours, self.iterations = radius, window, neighbours, iterations
        self._library: dict[str, NDArray[Any]] = {}

    def learn(self, pair: hn.Pair) -> dict[str, NDArray[Any]]:
        """The head in 16 bits, cropped to its mask.

        `source` (N, C) in the mask and `target` (R, O), the blocks that lie whole in both masks; `mask` (X, Y, Z) is
        1 where there is a source, 2 where there is a block as well; `affine` of the head's grid, of which only the
        axes matter, since masks say where heads are; `layout`. What the numbers were divided by to fit is
        `source_unit` (C,) and `target_unit` (O,).
        """
        layout, voxels, blocks = blocks_of(pair.source, pair.target)
        marked = pair.source.mask.astype(np.uint8)
        marked[tuple(voxels.T)] = 2
        inside = np.argwhere(marked)
        low, high = inside.min(axis=0), inside.max(axis=0) + 1
        source, source_unit = halved(pair.source.channels[pair.source.mask])
        target, target_unit = halved(blocks)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return {
            "source": source,
            "source_unit": source_unit,
            "target": target,
            "target_unit": target_unit,
            "mask": marked[box].copy(),
            "affine": pair.source.grid.affine,
            "layout": layout.packed(),
        }

    def fit(self, lessons: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Keep the heads, as `head 0 source` and so on."""
        layout = common_layout([lesson["layout"] for lesson in lessons])
        kept = {f"head {n} {name}": array for n, head in enumerate(lessons) for name, array in head.items()}
        self._library = {"layout": layout.packed(), "heads": np.array([len(lessons)]), **kept}

    def state(self) -> dict[str, NDArray[Any]]:
        """The library."""
        return dict(self._library)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the library."""
        self._library = dict(state)

    def predict(self, source: Volume, target: Grid) -> Floats:
        """The target's channels (X', Y', Z', C), in the blocks of source voxels in the mask or next to it.

        Raises:
            DataError: No training head has a voxel in any window.
        """
        layout = Layout.unpacked(self._library["layout"])
        frame = framed(source, self.radius + 1)
        voxels = frame.near()
        placed = Placed.of(source, frame, self.window)
        shelves = [shelved(self._head(n), placed, layout) for n in range(int(self._library["heads"][0]))]
        estimate, known = self._estimate(frame, voxels, shelves, None, 0.0)
        for iteration in range(1, self.iterations):
            current = completed(spread(means(estimate, layout), voxels, frame), spread(known, voxels, frame))
            weight = iteration / (self.iterations - 1)
            estimate, known = self._estimate(frame, voxels, shelves, current, weight)
        whole = completed(spread(estimate, voxels, frame), spread(known, voxels, frame))[tuple(voxels.T)]
        return laid(layout, voxels + frame.origin, whole, source.grid, target)

    def _head(self, number: int) -> Mapping[str, NDArray[Any]]:
        """One head of the library, as it was learned."""
        name = f"head {number} "
        return {key.removeprefix(name): array for key, array in self._library.items() if key.startswith(name)}

    def _estimate(
        self, frame: Frame, voxels: Indices, shelves: Sequence["Shelf"], current: Floats | None, weight: float
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Blocks (N, O) at the frame's voxels (N, 3), and where there was any candidate (N,)."""
        shape = (self.neighbours, len(voxels))
        best = np.full(shape, np.inf, dtype=np.float32)
        owner, row = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
        x, y, z = voxels.T
        for number, shelf in enumerate(shelves):
            for shift in product(range(2 * self.window + 1), repeat=3):
                box = tuple(slice(s, s + n) for s, n in zip(shift, frame.mask.shape, strict=True))
                apart = distance(frame.channels, shelf.source[box]) / shelf.source_variance
                if current is not None:
                    apart += weight / shelf.target_variance * distance(current, shelf.target[box])
                found = boxed(apart, self.radius)[x, y, z]
                rows = shelf.rows[box][x, y, z]
                found[rows < 0] = np.inf
                worst = best.argmax(axis=0)
                better = np.flatnonzero(found < best[worst, np.arange(len(voxels))])
                slot = worst[better]
                best[slot, better], owner[slot, better], row[slot, better] = found[better], number, rows[better]
        known = np.asarray(np.isfinite(best).any(axis=0))
        if not known.any():
            raise DataError(
                "modality_propagation looked for training voxels in the windows of the new head, found none: check "
                "the masks, or give a wider window."
            )
        return averaged(best, owner, row, [shelf.blocks for shelf in shelves]), known


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the new head's frame, with a window around it, lies in units of its mask.

    Attributes:
        standing: (3, X, Y, Z) distance from the mask's centre along the world's axes, in the standard deviations of
            the mask's voxels.
    """

    standing: Table

    @staticmethod
    def of(source: Volume, frame: Frame, window: int) -> "Placed":
        """That of a head."""
        centre, deviation = extent(source.mask, source.grid.affine)
        shape = tuple(n + 2 * window for n in frame.mask.shape)
        index = np.indices(shape).reshape(3, -1) + (frame.origin - window)[:, None]
        world = source.grid.affine[:3, :3] @ index + source.grid.affine[:3, 3:]
        return Placed(((world - centre[:, None]) / deviation[:, None]).reshape(3, *shape))


@dataclass(frozen=True, eq=False)
class Shelf:
    """One training head laid on the new one, each place holding its nearest voxel.

    Attributes:
        source, target: (X, Y, Z, C) channels, and means of blocks; completed outside the masks.
        rows: (X, Y, Z) which of the `blocks` belongs here, -1 where none does.
        blocks: (R, O).
        source_variance, target_variance: Of all channels together, what distances are measured in.
    """

    source: Floats
    target: Floats
    rows: Indices
    blocks: Floats
    source_variance: float
    target_variance: float


def shelved(head: Mapping[str, NDArray[Any]], placed: Placed, layout: Layout) -> Shelf:
    """A head of the library laid on the new one."""
    marked, affine = head["mask"], head["affine"]
    mask, usable = marked > 0, marked > 1
    source = head["source"].astype(np.float32) * head["source_unit"]
    blocks = head["target"].astype(np.float32) * head["target_unit"]
    coarse = means(blocks, layout)
    channels, target = (np.zeros((*mask.shape, v.shape[1]), dtype=np.float32) for v in (source, coarse))
    channels[mask], target[usable] = source, coarse
    rows = np.full(mask.shape, -1)
    rows[usable] = np.arange(len(blocks))

    centre, deviation = extent(mask, affine)
    shape = placed.standing.shape[1:]
    world = placed.standing.reshape(3, -1) * deviation[:, None] + centre[:, None]
    back = np.linalg.inv(affine)
    place = np.rint(back[:3, :3] @ world + back[:3, 3:]).astype(int)
    held = np.clip(place, 0, np.asarray(mask.shape)[:, None] - 1)
    beyond = (place != held).any(axis=0).reshape(shape)
    x, y, z = held.reshape(3, *shape)
    return Shelf(
        completed(channels, mask)[x, y, z],
        completed(target, usable)[x, y, z],
        np.where(beyond, -1, rows[x, y, z]),
        blocks,
        max(float(source.var(axis=0, dtype=np.float64).sum()), SMALLEST),
        max(float(coarse.var(axis=0, dtype=np.float64).sum()), SMALLEST),
    )


def averaged(best: Floats, owner: Indices, row: Indices, blocks: Sequence[Floats]) -> Floats:
    """(N, O) mean of the blocks at distances `best` (K, N), weighted by exp(-d / h), h the least of each voxel."""
    least = best.min(axis=0)
    bandwidth = np.maximum(np.where(np.isfinite(least), least, 1), SMALLEST)
    weights = np.exp(-best / bandwidth)
    total = np.zeros((best.shape[1], blocks[0].shape[1]), dtype=np.float32)
    for number, theirs in enumerate(blocks):
        for rank in range(len(best)):
            mine = np.flatnonzero((owner[rank] == number) & np.isfinite(best[rank]))
            total[mine] += weights[rank, mine, None] * theirs[row[rank, mine]]
    return np.asarray(total / np.maximum(weights.sum(axis=0), SMALLEST)[:, None])


def halved(values: Floats) -> tuple[NDArray[np.float16], Floats]:
    """Values (N, D) in 16 bits, divided by the largest of their column, and these (D,)."""
    unit = np.abs(values).max(axis=0, initial=0)
    unit = np.where(unit > 0, unit, 1).astype(np.float32)
    return (values / unit).astype(np.float16), unit


def means(blocks: Floats, layout: Layout) -> Floats:
    """(N, C) means of blocks (N, factor³ C)."""
    return np.asarray(blocks.reshape(len(blocks), layout.factor**3, -1).mean(axis=1))


def spread(rows: NDArray[Any], voxels: Indices, frame: Frame) -> NDArray[Any]:
    """Rows (N, ...) at voxels (N, 3) of a frame, (X, Y, Z, ...), 0 elsewhere."""
    out = np.zeros((*frame.mask.shape, *rows.shape[1:]), dtype=rows.dtype)
    out[tuple(voxels.T)] = rows
    return out


def extent(mask: NDArray[np.bool_], affine: Table) -> tuple[Table, Table]:
    """Centre and standard deviation (3,) in mm of the mask's voxels along the world's axes."""
    world = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return world.mean(axis=0), np.maximum(world.std(axis=0), 1e-6)


def distance(one: Floats, other: Floats) -> Floats:
    """(X, Y, Z) squared distance of channels (X, Y, Z, C)."""
    apart = one - other
    return np.asarray(np.einsum("xyzc,xyzc->xyz", apart, apart))


def boxed(values: Floats, radius: int) -> Floats:
    """(X, Y, Z) sums over boxes of 2 radius + 1 voxels, by adding up slices: a running sum would lose exact zeros."""
    from scipy.ndimage import convolve1d

    for axis in range(3):
        values = convolve1d(values, np.ones(2 * radius + 1), axis=axis, mode="constant")
    return values
