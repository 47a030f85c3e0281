"""Do the b-vectors follow the FSL convention of their image? The anatomy answers.

A table with an axis reversed, or two of them swapped, changes no rotation-invariant measure, so nothing computed
from powers per order sees it. But fibres run on in the direction in which they point: the principal direction of a
voxel agrees with that of the voxel to which it points, and less so under any wrong map. This is the idea of the fiber
coherence index (Schilling et al. 2019, doi:10.1016/j.mri.2019.01.018). Our score looks two and three voxels ahead and
not at the next one, where a right table leads less clearly: by 1.09 to 1.14 on three whole heads, against 1.23 to 1.28.

Turning the table turns every principal direction with it, so one tensor fit serves all 24 maps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmonet.data.gradients import SHELL_TOLERANCE, distinct_directions, shells, to_world
from harmonet.data.scan import Scan

FloatArray = NDArray[np.floating]

AXES = "xyz"
STEPS = (2, 3)  # how far to look ahead, in voxels
ANISOTROPIC = 0.25  # FA above which a voxel has a direction worth the name
USUAL_B = 1000.0  # s/mm², where a tensor fits well
SEEDS = 20_000  # voxels from which to look ahead, at most: more change the third digit only

# Measured on three real heads: every wrong table loses to the right one by a factor of 1.23 or more over the whole
# head, by 1.10 or more over thirds of it, and by 1.06 with noise of SNR 10; in slabs of the cerebellum and below there
# is no winner, and there a wrong table may lead by 1.01. In simulated heads, whose fibres leave the white matter at any
# angle, wrong tables lead by up to 1.05.
MIN_VOXELS = 3000  # with a direction; fewer are a corner of a brain
WRONG = 1.1  # the best map's score over that of the table as given
FINE = 1.05  # the given table's score over that of the best other map


class AxisMap(NamedTuple):
    """A map of b-vectors, in the file's own table axes: `order` of the axes, then one axis `reversed`, or none.

    Reversing two axes is reversing the third, since the sign of a whole direction means nothing.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    reversed: int | None = None

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) what a b-vector is multiplied by."""
        matrix = np.eye(3)[list(self.order)]
        if self.reversed is not None:
            matrix[self.reversed] *= -1
        return matrix

    @property
    def formula(self) -> str:
        """What (x, y, z) becomes.

        >>> AxisMap((1, 0, 2), 0).formula
        '(-y, x, z)'
        """
        signs = ("-" if axis == self.reversed else "" for axis in range(3))
        return f"({', '.join(sign + AXES[axis] for sign, axis in zip(signs, self.order, strict=True))})"

    def __str__(self) -> str:
        """What is wrong with a table that needs this map.

        >>> str(AxisMap(reversed=0)), str(AxisMap((1, 0, 2)))
        ('x is reversed', 'x and y are swapped')
        """
        moved = [AXES[axis] for axis in range(3) if self.order[axis] != axis]
        words = {0: [], 2: [f"{' and '.join(moved)} are swapped"], 3: ["x, y and z are in another order"]}[len(moved)]
        if self.reversed is not None:
            words = [*words, f"{AXES[self.reversed]} is reversed"]
        return ", ".join(words) or "as given"


AS_GIVEN = AxisMap()
MAPS = tuple(AxisMap((x, y, z), axis) for x, y, z in permutations((0, 1, 2)) for axis in (None, 0, 1, 2))


@dataclass(frozen=True)
class Orientation:
    """How well the anatomy agrees with a gradient table.

    Attributes:
        verdict: `fine`, `wrong` (another map is clearly better), or `doubtful`: too few voxels, or no clear winner.
        best: The map of the table under which fibres run on best.
        score: Its coherence, 0 to 1.
        given: The coherence of the table as given.
        voxels: How many had a direction.
    """

    verdict: Literal["fine", "doubtful", "wrong"]
    best: AxisMap = AS_GIVEN
    score: float = 0.0
    given: float = 0.0
    voxels: int = 0


def orientation(scan: Scan) -> Orientation:
    """Whether the scan's b-vectors are in the FSL convention of its affine, judged by the anatomy."""
    places, directions = principal_directions(scan)
    if len(places) < MIN_VOXELS:
        return Orientation("doubtful", voxels=len(places))
    scores = dict(_scores(scan, places, directions))
    best = max(scores, key=lambda each: scores[each])
    given = scores[AS_GIVEN]
    second = max(score for each, score in scores.items() if each != AS_GIVEN)
    verdict: Literal["fine", "doubtful", "wrong"] = "doubtful"
    if given >= FINE * second:
        verdict = "fine"
    elif scores[best] >= WRONG * given:
        verdict = "wrong"
    return Orientation(verdict, best, scores[best], given, len(places))


def check_orientation(scan: Scan) -> str | None:
    """What is wrong with the orientation of the b-vectors and how to mend it; None where nothing clearly is."""
    return fault(scan, orientation(scan))


def fault(scan: Scan, found: Orientation) -> str | None:
    """The sentence of `check_orientation`, for an orientation that was found before."""
    if found.verdict != "wrong":
        return None
    return (
        f"{scan.subject} {scan.platform} has b-vectors that do not follow the FSL convention of their image: "
        f"{found.best} (fibre coherence {found.score:.2f} with that mended, {found.given:.2f} as given, over "
        f"{found.voxels} voxels): replace each b-vector (x, y, z) by {found.best.formula}, or export the table again."
    )


def principal_directions(scan: Scan) -> tuple[NDArray[np.int_], NDArray[np.float32]]:
    """Voxels with a clear direction, as indices (V,) into the flattened grid, and that direction (V, 3) in the world.

    A tensor is fitted to the logarithm of one shell, the nearest to b = 1000 s/mm² that has six directions or more.
    """
    volumes = _shell(scan)
    if volumes is None:
        return np.zeros(0, dtype=int), np.zeros((0, 3), dtype=np.float32)
    x, y, z = scan.directions[volumes].T
    design = -scan.bvals[volumes, None] * np.stack([x * x, x * y, x * z, y * y, y * z, z * z], axis=1)
    design[:, [1, 2, 4]] *= 2
    solve = np.linalg.pinv(design).T.astype(np.float32)
    found = [_clear(scan, voxels, volumes, solve) for voxels in scan.chunks()]
    places, tensors = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, axes = np.linalg.eigh(tensors)
    return places, axes[:, :, 2]


def _shell(scan: Scan) -> NDArray[np.bool_] | None:
    """(N,) true for the volumes to fit, None where no shell determines a tensor."""
    for b in sorted(shells(scan.bvals), key=lambda b: abs(b - USUAL_B)):
        volumes = np.asarray(scan.is_dwi & (np.abs(scan.bvals - b) <= SHELL_TOLERANCE))
        if distinct_directions(scan.directions[volumes]) >= 6:
            return volumes
    return None


def _clear(
    scan: Scan, voxels: NDArray[np.int_], volumes: NDArray[np.bool_], solve: FloatArray
) -> tuple[NDArray[np.int_], FloatArray]:
    """Those of the voxels that are anisotropic, and their tensors (V, 3, 3)."""
    rows = scan.rows(voxels, volumes, normalised=True)
    measured = rows.min(axis=1) > 0  # a signal of 0 has no logarithm
    elements = np.log(rows[measured]) @ solve
    mean = elements[:, [0, 3, 5]].mean(axis=1)
    squared = (elements**2) @ np.array([1, 2, 2, 1, 2, 1], dtype=elements.dtype)
    # FA² = 3/2 |D - mean|² / |D|² without eigenvalues, which are worth computing for few voxels only.
    squared_fa = 1.5 * (1 - 3 * mean**2 / np.maximum(squared, np.finfo(squared.dtype).tiny))
    clear = (mean > 0) & (squared_fa > ANISOTROPIC**2) & (squared_fa < 1)
    return voxels[measured][clear], elements[clear][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


def _scores(scan: Scan, places: NDArray[np.int_], directions: FloatArray) -> Iterator[tuple[AxisMap, float]]:
    """Coherence of each map: |cosine| between a voxel's direction and that found ahead and behind, 0 where none is."""
    margin = int(np.ceil(max(STEPS) * _spread(scan))) + 1
    number = np.full(scan.mask.size, -1, dtype=np.int32)
    number[places] = np.arange(len(places))
    padded = np.pad(number.reshape(scan.mask.shape), margin, constant_values=-1)
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    flat = padded.ravel()

    some = slice(None, None, -(-len(places) // SEEDS))
    start = np.stack(np.unravel_index(places[some], scan.mask.shape), axis=1) + margin
    ahead = directions[some]
    axes = to_world(np.eye(3), scan.stored.affine).T  # of the table, in the world
    to_voxels = np.mean(scan.grid.voxel_size) * np.linalg.inv(scan.grid.affine[:3, :3])
    for each in MAPS:
        step = (ahead @ (to_voxels @ axes @ each.matrix @ axes.T).T).astype(np.float32)
        total = 0.0
        for length in (*STEPS, *(-s for s in STEPS)):
            there = flat[np.rint(start + length * step).astype(int) @ strides]
            # A map turns both directions alike, so their angle is that of the table as given.
            agreement = np.abs(np.einsum("vi,vi->v", ahead, directions[there]))
            total += float(np.where(there >= 0, agreement, 0).mean())
        yield each, total / (2 * len(STEPS))


def _spread(scan: Scan) -> float:
    """Voxels along the finest axis in one step of the mean voxel size."""
    return float(np.mean(scan.grid.voxel_size) / min(scan.grid.voxel_size))
