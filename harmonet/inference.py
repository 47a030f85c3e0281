"""Whole volumes from a network that was trained on patches.

Networks deeper than the patch learn its zero padding, so the volume is covered with patches of the trained size and
of each only the central core is kept (5 source voxels, stride 5): every voxel comes from exactly one patch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from harmonet.model import Model
from harmonet.data.volumes import window
from harmonet.platforms import Alignment, Grid

CORE = 5  # source voxels kept of each patch
BATCH = 24

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Where:
    """The grid to predict one platform on, and how it lies on the source's."""

    grid: Grid
    alignment: Alignment


class Filled(dict[str, Floats]):
    """One stage's volumes by platform; those of their variances, where a network gives them, in `variances`."""

    def __init__(self) -> None:
        super().__init__()
        self.variances: dict[str, Floats] = {}


def predict_stages(
    model: Model,
    source: Floats,
    mask: NDArray[np.bool_],
    where: Mapping[str, Where],
    patch_size: int,
    watch: Callable[[int, int], None] | None = None,
) -> list[Filled]:
    """Every stage's prediction of each platform, standardised.

    Args:
        model: Composed model or single networks.
        source: (X, Y, Z, C), standardised, 0 outside the mask.
        mask: (X, Y, Z); patches whose core lies outside are not computed.
        where: Platform to grid.
        patch_size: Edge of the patches that the model was trained on.
        watch: Called with patches done and their number.

    Returns:
        One dict per stage, platform to (X', Y', Z', C); 0 where nothing was computed.
    """
    centres = tile_centres(mask)
    radius = patch_size // 2
    model.eval()
    stages: list[Filled] = []
    for start in range(0, len(centres), BATCH):
        chunk = centres[start : start + BATCH]
        patches = np.stack([window(source, c - radius, c + radius + 1) for c in chunk])
        with torch.inference_mode():
            predicted = model(torch.from_numpy(patches).to(model.device).movedim(-1, 1))
        stages = stages or [Filled() for _ in predicted]
        for out, stage in zip(stages, predicted, strict=True):
            _keep(out, stage, chunk, where)
            _keep(out.variances, getattr(stage, "variances", {}), chunk, where)
        if watch is not None:
            watch(start + len(chunk), len(centres))
    return stages


def _keep(
    out: dict[str, Floats], patches: Mapping[str, torch.Tensor], centres: NDArray[np.int_], where: Mapping[str, Where]
) -> None:
    """Copy the cores of some patches of each platform to their places."""
    for platform, values in patches.items():
        if platform not in out:
            out[platform] = np.zeros((*where[platform].grid.shape, values.shape[1]), dtype=np.float32)
        _keep_cores(out[platform], values.movedim(1, -1).cpu().numpy(), centres, where[platform])


def tile_centres(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Centres of the patches whose cores together cover the mask and one voxel around it, (N, 3).

    >>> mask = np.zeros((8, 8, 8), dtype=bool)
    >>> mask[2:5, 2:5, 2:5] = True
    >>> tile_centres(mask).tolist()
    [[3, 3, 3]]
    """
    places = np.argwhere(mask)
    # One voxel more, since voxels of a finer target mask may lie just beyond the source's.
    low, high = places.min(axis=0) - 1, places.max(axis=0) + 1
    axes = [np.arange(a, b + 1, CORE) + CORE // 2 for a, b in zip(low, high, strict=True)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    reach = CORE // 2 + 1
    return np.array([c for c in centres if window(mask, c - reach, c + reach + 1).any()])


def _keep_cores(out: Floats, patches: Floats, centres: NDArray[np.int_], where: Where) -> None:
    """Copy the core of each target patch to its place; the patches' own size says where they begin."""
    factor, edge = where.alignment.factor, patches.shape[1]
    shape = np.asarray(where.grid.shape)
    for patch, centre in zip(patches, centres, strict=True):
        first = where.alignment.corner(centre, edge)
        low = where.alignment.first(centre - CORE // 2)
        high = low + factor * CORE
        low, high = np.maximum(low, 0), np.minimum(high, shape)
        if (low < high).all():
            (a, b, c), (d, e, f) = low, high
            (i, j, k), (l, m, n) = low - first, high - first
            out[a:d, b:e, c:f] = patch[i:l, j:m, k:n]
