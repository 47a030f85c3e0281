"""Channels carried from one grid to another: trilinear in space, with the mask's voxels as the only witnesses.

Channels are in world axes, so a turned grid needs no turned channels.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from harmonet.platforms import Grid

CHUNK = 16384  # voxels at once: the eight neighbours' channels stay a few MB

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int_]


def resample(channels: Floats, mask: Bools, grid: Grid, onto: Grid) -> tuple[Floats, Bools]:
    """Channels and mask on another grid.

    Each voxel is the mean of its eight neighbours inside the mask, weighted trilinearly; it lies in the new mask
    where these hold at least half of all weight. Beyond the output, memory does not grow with the volume.

    Args:
        channels: (X, Y, Z, C).
        mask: (X, Y, Z).
        grid: Where they are.
        onto: Where they are wanted.

    Returns:
        (X', Y', Z', C), 0 outside the mask, and the mask (X', Y', Z').
    """
    between = np.linalg.inv(grid.affine) @ onto.affine
    shape = onto.shape
    out = np.zeros((*shape, channels.shape[-1]), dtype=np.float32)
    inside = np.zeros(shape, dtype=bool)
    rows, kept = out.reshape(-1, out.shape[-1]), inside.reshape(-1)
    for start in range(0, kept.size, CHUNK):
        voxels = np.arange(start, min(start + CHUNK, kept.size))
        places = between[:3, :3] @ np.array(np.unravel_index(voxels, shape)) + between[:3, 3:]
        near, weights = _neighbours(places, mask)
        total = weights.sum(axis=0)
        # A tie, exact halves of regular grids, must not hang on the last digit of an affine.
        chosen = total >= 0.5 - 1e-6
        if not chosen.any():
            continue
        mean = np.zeros((int(chosen.sum()), channels.shape[-1]), dtype=np.float32)
        for (x, y, z), weight in zip(near[:, :, chosen], weights[:, chosen] / total[chosen], strict=True):
            mean += weight[:, None].astype(np.float32) * channels[x, y, z]
        rows[voxels[chosen]] = mean
        kept[voxels[chosen]] = True
    return out, inside


def seen(mask: Bools, grid: Grid, field: Grid) -> float:
    """Share of the mask's voxels whose centres lie in the field of view of another grid, 0 to 1."""
    between = np.linalg.inv(field.affine) @ grid.affine
    voxels = np.flatnonzero(mask)
    count = 0
    for start in range(0, voxels.size, CHUNK):
        index = np.array(np.unravel_index(voxels[start : start + CHUNK], mask.shape))
        places = between[:3, :3] @ index + between[:3, 3:]
        limit = np.asarray(field.shape)[:, None] - 0.5
        count += int(((places >= -0.5) & (places <= limit)).all(axis=0).sum())
    return count / voxels.size if voxels.size else 1.0


def _neighbours(places: NDArray[np.float64], mask: Bools) -> tuple[Indices, NDArray[np.float64]]:
    """Indices (8, 3, N) of the voxels around the places (3, N) and their weights (8, N), 0 outside the mask."""
    low = np.floor(places)
    part = places - low
    limit = np.asarray(mask.shape)[:, None]
    near, weights = [], []
    for corner in product((0, 1), repeat=3):
        step = np.array(corner)[:, None]
        at = (low + step).astype(int)
        x, y, z = held = np.clip(at, 0, limit - 1)
        there = (at == held).all(axis=0) & mask[x, y, z]
        near.append(held)
        weights.append(np.where(step, part, 1 - part).prod(axis=0) * there)
    return np.array(near), np.array(weights)
