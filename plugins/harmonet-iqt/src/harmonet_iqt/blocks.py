"""Which target voxels belong to a source voxel: they are what a method predicts there, its block.

At upsampling 1 a block is one voxel. At upsampling 2 it is 2 x 2 x 2: the halves of the source voxel where grids are
cell-aligned; the voxel that lies on it and those half a step towards the end of each axis where they are node-aligned.
Either way every target voxel belongs to exactly one source voxel.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from harmonet.data.resample import resample
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, ShapeError
from harmonet.platforms import KINDS, Alignment, Grid, Kind, Platform, align, upsampling_between

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int_]


@dataclass(frozen=True)
class Layout:
    """How blocks lie on source voxels, the same for all subjects of a training."""

    factor: int
    kind: Kind

    def packed(self) -> NDArray[np.int64]:
        """(2,) numbers that `unpacked` takes."""
        return np.array([self.factor, KINDS.index(self.kind)])

    @staticmethod
    def unpacked(numbers: NDArray[np.int64]) -> "Layout":
        """The layout that `packed` gave.

        >>> Layout.unpacked(Layout(2, "cell").packed())
        Layout(factor=2, kind='cell')
        """
        return Layout(int(numbers[0]), KINDS[int(numbers[1])])

    @property
    def steps(self) -> Indices:
        """(factor³, 3) from the first voxel of a block to each."""
        return np.array(list(product(range(self.factor), repeat=3)))


def common_layout(packed: list[NDArray[np.int64]]) -> Layout:
    """The one layout of all subjects.

    Raises:
        DataError: There is no subject, or they differ.
    """
    layouts = sorted({Layout.unpacked(one) for one in packed}, key=str)
    if len(layouts) != 1:
        found = ", ".join(f"{one.kind}-aligned at ratio {one.factor}" for one in layouts) or "no subject"
        raise DataError(f"the training subjects need one way to lie on the source, found {found}: resample the others.")
    return layouts[0]


def blocks_of(pair_source: Volume, target: Volume) -> tuple[Layout, Indices, Floats]:
    """The layout, source voxels (N, 3) and their blocks (N, factor³ C), all inside both masks.

    A target that does not nest in the source's grid is resampled to the node-aligned grid that does.

    Raises:
        ShapeError: The voxel sizes have no ratio near 1 or 2.
    """
    source = pair_source.grid
    factor = _factor(source, target.grid)
    channels, mask = target.channels, target.mask
    try:
        alignment = align(source, target.grid, factor)
    except ShapeError:
        onto = source.refined(factor)
        channels, mask = resample(target.channels, target.mask, target.grid, onto)
        alignment = align(source, onto, factor)
    layout = Layout(factor, alignment.kind)
    voxels = np.argwhere(pair_source.mask)
    places = alignment.first(voxels)[:, None] + layout.steps
    inside = _inside(places, mask.shape)
    x, y, z = np.where(inside[..., None], places, 0).transpose(2, 0, 1)
    whole = (inside & mask[x, y, z]).all(axis=1)
    x, y, z = places[whole].transpose(2, 0, 1)
    return layout, voxels[whole], channels[x, y, z].reshape(int(whole.sum()), -1)


def laid(layout: Layout, voxels: Indices, blocks: Floats, source: Grid, target: Grid) -> Floats:
    """Blocks (N, factor³ C) of source voxels (N, 3) on the target's grid, (X', Y', Z', C); 0 where there are none.

    They are resampled where the target does not nest in the source as in training.

    Raises:
        ShapeError: The voxel sizes have another ratio than in training.
    """
    factor = _factor(source, target)
    if factor != layout.factor:
        raise ShapeError(
            f"the method was trained at upsampling {layout.factor}, found {factor}: train it on such a target."
        )
    alignment = _alignment(source, target, factor)
    if alignment is not None and alignment.kind in (layout.kind, *KINDS[: factor == 1]):
        return _laid(layout, alignment, voxels, blocks, target.shape)[0]
    fine = source.refined(factor, layout.kind)
    channels, mask = _laid(layout, align(source, fine, factor), voxels, blocks, fine.shape)
    return resample(channels, mask, fine, target)[0]


def _laid(
    layout: Layout, alignment: Alignment, voxels: Indices, blocks: Floats, shape: tuple[int, int, int]
) -> tuple[Floats, Bools]:
    """Channels (X', Y', Z', C), and where there are any."""
    places = (alignment.first(voxels)[:, None] + layout.steps).reshape(-1, 3)
    inside = _inside(places, shape)
    values = blocks.reshape(len(places), -1)
    out, mask = np.zeros((*shape, values.shape[1]), dtype=np.float32), np.zeros(shape, dtype=bool)
    x, y, z = places[inside].T
    out[x, y, z], mask[x, y, z] = values[inside], True
    return out, mask


def _alignment(source: Grid, target: Grid, factor: int) -> Alignment | None:
    """How the target lies on the source, None where it does not nest."""
    try:
        return align(source, target, factor)
    except ShapeError:
        return None


def _factor(source: Grid, target: Grid) -> int:
    """Target voxels along one source voxel."""
    fine = Platform("target", target.voxel_size, (), 0)
    return upsampling_between(Platform("source", source.voxel_size, (), 0), fine)


def _inside(places: Indices, shape: tuple[int, ...]) -> Bools:
    """Whether places (..., 3) are voxels of an image of this shape, (...)."""
    return np.asarray(((places >= 0) & (places < np.asarray(shape))).all(axis=-1))
