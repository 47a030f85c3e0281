"""Baselines that learn without a network, from the training subjects of a run and from nobody else.

*linear*: target = slope * source + offset, channel by channel, by least squares over all voxels.
*rish_linear*: each order of the source is scaled so that its energy (RISH) becomes the target's, voxel by voxel, after
Mirzaalian et al. 2016 (doi:10.1016/j.neuroimage.2016.04.041). Published scales come from a template to which heads
are registered. Here, and this is our choice: heads are brought together by the centre and extent of their masks
along each world axis; energies are smoothed (3 mm FWHM) before their ratio; ratios are averaged over subjects; the
scale, the ratio's root, is kept within [0.5, 2].

What a subject teaches is kept as a few sums and one small map, so that heads are read one at a time, each once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Head
from harmonet.evaluation.baselines import interpolation
from harmonet.metrics.misalignment import smooth
from harmonet.platforms import Grid

Floats = NDArray[np.float32]
Table = NDArray[np.float64]
Mask = NDArray[np.bool_]

FWHM = 3.0  # mm
SIGMA = FWHM / np.sqrt(8 * np.log(2))
LOWEST, HIGHEST = 0.5, 2.0  # of the scale
REACH, EDGE = 2.6, 61  # the common space: standard deviations of the mask's voxels either way, and its voxels on edge
WITNESSED = 0.05  # of one subject: places that fewer have seen take the mean ratio


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one training subject says of one platform.

    Attributes:
        sums: (6, C) over the voxels of the mask: 1, x, y, x², y², xy of source x and target y.
        ratios: (E, E, E, G) target's energy over source's in the common space, times `weights`.
        weights: (E, E, E) how much of this place the subject has seen, 0 to 1.
    """

    sums: Table
    ratios: Floats
    weights: Floats


@dataclass(frozen=True, eq=False)
class Fitted:
    """What the training subjects of a run say of one platform: the sums of their lessons."""

    lesson: Lesson

    def linear(self, source: Floats, mask: Mask) -> Floats:
        """The interpolated source (X, Y, Z, C), channel by channel on the line that fits the training subjects."""
        slope, offset = line(self.lesson.sums)
        return np.where(mask[..., None], source * slope + offset, 0).astype(np.float32)

    def rish_linear(self, source: Floats, mask: Mask, grid: Grid, groups: Mapping[str, slice]) -> Floats:
        """The interpolated source (X, Y, Z, C), each order scaled voxel by voxel."""
        from scipy.ndimage import map_coordinates

        places = (_standing(mask, grid, np.argwhere(mask)) + REACH) * (EDGE - 1) / (2 * REACH)
        weights = map_coordinates(self.lesson.weights, places.T, order=1, mode="nearest")
        seen = weights > WITNESSED
        total = float(self.lesson.weights.sum())
        out = source.copy()
        for number, channels in enumerate(groups.values()):
            ratios = self.lesson.ratios[..., number]
            found = map_coordinates(ratios, places.T, order=1, mode="nearest")
            usual = float(ratios.sum()) / total if total else 1.0
            ratio = np.where(seen, found / np.where(seen, weights, 1), usual)
            out[mask, channels] *= np.clip(np.sqrt(ratio), LOWEST, HIGHEST)[:, None].astype(np.float32)
        return out


def learn(head: Head, platform: str, groups: Mapping[str, slice]) -> Lesson:
    """What this head says of one platform."""
    target, source = head.targets[platform], interpolation(head, platform)
    x, y = source[target.mask].astype(np.float64), target.channels[target.mask].astype(np.float64)
    sums = np.stack([np.full(x.shape[1], len(x)), *(v.sum(axis=0) for v in (x, y, x * x, y * y, x * y))])
    sigma = SIGMA / np.asarray(target.grid.voxel_size)
    theirs, ours = (smooth(energies(v, groups), target.mask, sigma) for v in (target.channels, source))
    ratios = np.divide(theirs, ours, out=np.ones_like(ours), where=ours > 0)
    return Lesson(sums, *_to_common(ratios, target.mask, target.grid))


def fit(lessons: Sequence[Lesson]) -> Fitted:
    """The lessons together."""
    return Fitted(
        Lesson(
            np.sum([one.sums for one in lessons], axis=0),
            np.sum([one.ratios for one in lessons], axis=0),
            np.sum([one.weights for one in lessons], axis=0),
        )
    )


def line(sums: Table) -> tuple[Table, Table]:
    """Slope and offset (C,) of the least-squares line; slope 0 for a source that does not vary.

    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0])
    >>> line(np.array([3, x.sum(), y.sum(), x @ x, y @ y, x @ y])[:, None])
    (array([2.]), array([1.]))
    """
    n, x, y, xx, _, xy = sums
    varies = n * xx - x * x
    usable = varies > 1e-12 * n * xx
    slope = np.where(usable, (n * xy - x * y) / np.where(usable, varies, 1), 0)
    return slope, (y - slope * x) / n


def energies(channels: Floats, groups: Mapping[str, slice]) -> Table:
    """(X, Y, Z, G) sum of squares of each group of channels."""
    return np.stack([np.sum(channels[..., s].astype(np.float64) ** 2, axis=-1) for s in groups.values()], axis=-1)


def _extent(mask: Mask, grid: Grid) -> tuple[Table, Table]:
    """Centre and standard deviation (3,) in mm of the mask's voxels along the world's axes."""
    world = np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world.mean(axis=0), np.maximum(world.std(axis=0), 1e-6)


def _standing(mask: Mask, grid: Grid, voxels: NDArray[np.int_]) -> Table:
    """Where voxels (V, 3) stand in the common space, (V, 3)."""
    centre, deviation = _extent(mask, grid)
    return np.asarray((voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3] - centre) / deviation)


def _to_common(ratios: Table, mask: Mask, grid: Grid) -> tuple[Floats, Floats]:
    """Ratios times weights (E, E, E, G), and weights (E, E, E), in the common space."""
    from scipy.ndimage import map_coordinates

    centre, deviation = _extent(mask, grid)
    steps = np.linspace(-REACH, REACH, EDGE)
    common = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, -1)
    world = common * deviation[:, None] + centre[:, None]
    back = np.linalg.inv(grid.affine)
    places = back[:3, :3] @ world + back[:3, 3:]
    weights = map_coordinates(mask.astype(np.float32), places, order=1, mode="constant")
    rows = [
        map_coordinates(np.where(mask, ratios[..., g], 0).astype(np.float32), places, order=1, mode="constant")
        for g in range(ratios.shape[-1])
    ]
    return np.stack(rows, axis=-1).reshape(EDGE, EDGE, EDGE, -1), weights.reshape(EDGE, EDGE, EDGE)
