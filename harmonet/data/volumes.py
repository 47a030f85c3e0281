"""Channels on a grid, and a subject's volumes brought together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.data.gradients import NO_GRADIENTS, Gradients
from harmonet.data.resample import resample, seen
from harmonet.errors import DataError, ShapeError
from harmonet.platforms import Alignment, Grid, Kind, align, misfit

SEEN = 0.9  # a target that shows less of the source's mask gets a note

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Volume:
    """Channels (X, Y, Z, C), 0 outside the mask (X, Y, Z), on a grid in closest-canonical axes.

    `gradients` are those that were measured; none for a scalar image or a volume that was predicted. `notes` are what
    reading it had to say, a sentence each.
    """

    channels: NDArray[np.float32]
    mask: NDArray[np.bool_]
    grid: Grid
    gradients: Gradients = NO_GRADIENTS
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Head:
    """One travelling head: its source volume, its target volumes, and where each target lies on the source.

    Attributes:
        subject: Name.
        source: What is read.
        targets: Platform to what is predicted; a platform that the subject was not scanned on is left out.
        alignments: Platform to how its voxels lie on the source's.
        notes: What reading the volumes and bringing them together had to say, a sentence each.
    """

    subject: str
    source: Volume
    targets: Mapping[str, Volume]
    alignments: Mapping[str, Alignment]
    notes: tuple[str, ...] = ()


def bring_together(
    subject: str,
    source: Volume,
    targets: Mapping[str, Volume],
    upsampling: Mapping[str, int],
    kinds: Mapping[str, Kind] | None = None,
) -> Head:
    """A head whose targets are found on the source through both affines.

    A target whose voxels do not lie on the source's as is wanted is resampled to a grid that does, with a note.

    Args:
        subject: Name.
        source, targets: Volumes in closest-canonical axes.
        upsampling: Platform to the number of target voxels along one source voxel.
        kinds: Platform to the alignment that is wanted; nodes where nothing is said.

    Raises:
        DataError: A target shows nothing of the source's mask.
    """
    found, alignments, notes = {}, {}, list(source.notes)
    for platform, volume in targets.items():
        name, factor, kind = f"{subject} {platform}", upsampling[platform], (kinds or {}).get(platform, "node")
        notes += volume.notes
        share = seen(source.mask, source.grid, volume.grid)
        if not share:
            raise DataError(f"{name}: its field of view holds no voxel of the source's mask: check both affines.")
        if share < SEEN:
            notes.append(f"{name}: its field of view holds {share:.0%} of the source's mask")
        alignment, why = _nested(source.grid, volume.grid, factor, kind)
        if alignment is None:
            onto = source.grid.refined(factor, kind)
            notes.append(
                f"{name}: resampled from {_mm(volume.grid)} to the {kind}-aligned {_mm(onto)} grid of the source "
                f"({why})"
            )
            channels, mask = resample(volume.channels, volume.mask, volume.grid, onto)
            if not mask.any():
                raise DataError(f"{name}: its mask shows nothing in the source's field of view: check both affines.")
            volume = replace(volume, channels=channels, mask=mask, grid=onto)
            alignment = align(source.grid, onto, factor)
        found[platform], alignments[platform] = volume, alignment
    return Head(subject, source, found, alignments, tuple(notes))


def _nested(source: Grid, target: Grid, factor: int, kind: Kind) -> tuple[Alignment | None, str]:
    """How the target lies on the source where it does so as is wanted, else why not; at factor 1 kinds are the same."""
    try:
        alignment = align(source, target, factor)
    except ShapeError:
        return None, misfit(source, target, factor)
    if factor == 1 or alignment.kind == kind:
        return alignment, ""
    return None, f"it was {alignment.kind}-aligned"


def _mm(grid: Grid) -> str:
    """Voxel size in words, one number where all are the same.

    >>> _mm(Grid((1, 1, 1), np.diag([1.2, 1.2, 2.4, 1.0])))
    '1.2 x 1.2 x 2.4 mm'
    """
    words = [f"{edge:.3g}" for edge in grid.voxel_size]
    return (words[0] if len(set(words)) == 1 else " x ".join(words)) + " mm"


def window(array: NDArray[T], low: NDArray[np.int_], high: NDArray[np.int_]) -> NDArray[T]:
    """array[low:high] on the first three axes, with zeros where that reaches beyond the array.

    >>> window(np.ones((2, 2, 2)), np.array([-1, 0, 0]), np.array([1, 2, 2])).sum(axis=(1, 2))
    array([0., 4.])
    """
    out = np.zeros((*(high - low), *array.shape[3:]), dtype=array.dtype)
    start, stop = np.maximum(low, 0), np.minimum(high, array.shape[:3])
    if (start < stop).all():
        inner = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        outer = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        out[inner] = array[outer]
    return out
