"""Pieces of one head that stand in for subjects, where real data hold few heads."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harmonet.data.numbers import Numbers
from harmonet.data.scan import Scan
from harmonet.errors import DataError
from harmonet.platforms import Grid

MIN_SLAB = 5  # source voxels: fewer are hardly an image


@dataclass(frozen=True)
class Slab:
    """A piece of a head along one axis, in source voxels: the mask lies in `core`, the image is `context`."""

    axis: int
    core: tuple[int, int]
    context: tuple[int, int]


def slabs_of(mask: NDArray[np.bool_], slabs: int, gap: int) -> tuple[Slab, ...]:
    """Pieces of equal thickness along the mask's longest axis, `gap` voxels between neighbours.

    Args:
        mask: (X, Y, Z) at the source's resolution.
        slabs: How many; one is the whole image.
        gap: Voxels between the cores. Contexts reach (gap - 1) / 2 voxels beyond them and never meet.

    Raises:
        DataError: The head is too small for so many.
    """
    spans = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        spans.append((int(there[0]), int(there[-1]) + 1))
    axis = int(np.argmax([end - start for start, end in spans]))
    start, end = spans[axis]
    if slabs == 1:
        return (Slab(axis, (0, mask.shape[axis]), (0, mask.shape[axis])),)
    thickness = (end - start - gap * (slabs - 1)) // slabs
    if thickness < MIN_SLAB:
        fit = max(1, (end - start + gap) // (MIN_SLAB + gap))
        raise DataError(
            f"{slabs} slabs of at least {MIN_SLAB} source voxels with gaps of {gap} need "
            f"{slabs * MIN_SLAB + (slabs - 1) * gap}, the head is {end - start} long: ask for at most {fit}."
        )
    reach = max((gap - 1) // 2, 0)
    cores = [(at, at + thickness) for at in (start + number * (thickness + gap) for number in range(slabs))]
    size = mask.shape[axis]
    return tuple(Slab(axis, (a, b), (max(a - reach, 0), min(b + reach, size))) for a, b in cores)


def cut(scan: Scan, piece: Slab, factor: int) -> Scan:
    """The slab's image, masked to its core; target voxels that lie on or between its source voxels."""

    def part(span: tuple[int, int]) -> tuple[slice, ...]:
        kept = slice(factor * span[0], factor * (span[1] - 1) + 1)
        return tuple(kept if axis == piece.axis else slice(None) for axis in range(3))

    core = np.zeros_like(scan.mask)
    core[part(piece.core)] = True
    here = part(piece.context)
    mask = (scan.mask & core)[here]
    shift = np.eye(4)
    shift[piece.axis, 3] = factor * piece.context[0]
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), scan.grid.affine @ shift)
    return replace(scan, numbers=Numbers(scan.signal[here]), mask=mask, grid=grid)
