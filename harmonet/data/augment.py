"""Patches turned and mirrored as a whole, their channels with them.

A turned head is not a turned array of the same numbers: coefficients of a function on the sphere turn too, as the
representation says. On standardised channels that is an affine map, and voxels outside the mask stay 0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import permutations, product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from harmonet.data.cuts import Inside, Layer, Patches
from harmonet.errors import NotFoundError, nearest
from harmonet.platforms import Grid

Table = NDArray[np.float64]
Indices = NDArray[np.int_]
Words = Literal["none", "flips", "octahedral"]
Turn = Callable[[Table], Table]  # an orthogonal map of the world (3, 3) to the map of the channels (C, C)

SAME_SIZE = 1e-3  # relative: voxel edges that differ by less are equal


def symmetries(augment: Words, voxel_size: Sequence[float]) -> Indices:
    """(G, 3, 3) signed permutations of the voxel axes that keep the voxels' shape, the identity first.

    Args:
        augment: `flips`, the 8 mirrorings and half turns; `octahedral`, the 48 with quarter turns; or `none`.
        voxel_size: In mm; axes of different sizes are not exchanged.

    >>> [len(symmetries("octahedral", size)) for size in ((2, 2, 2), (2, 2, 3), (1, 2, 3))]
    [48, 16, 8]
    """
    if augment not in get_args(Words):
        raise NotFoundError(f"no augmentation {augment!r}. {nearest(augment, get_args(Words))}")
    if augment == "none":
        return np.eye(3, dtype=int)[None]
    orders = permutations(range(3)) if augment == "octahedral" else [(0, 1, 2)]
    size = np.asarray(voxel_size)
    kept = [order for order in orders if np.abs(size[list(order)] - size).max() <= SAME_SIZE * size.max()]
    signs = list(product((1, -1), repeat=3))
    return np.array([np.diag(sign)[:, list(order)] for order in kept for sign in signs])


def in_world(element: Indices, grid: Grid) -> Table:
    """(3, 3) what a signed permutation of the grid's voxel axes does to the world."""
    return np.asarray(grid.cosines @ element @ grid.cosines.T)


class _Maps(NamedTuple):
    """Standardised channels y become y @ matrix + shift."""

    matrix: NDArray[np.float32]
    shift: NDArray[np.float32]


class Augmentation:
    """A random symmetry of the voxels for each patch, the same for the source and all targets.

    Which one depends on the seed, the epoch and the place, and on nothing else.

    Args:
        augment: See `symmetries`.
        turn: The representation's.
        seed: Of the draws.
        grids: The source grid of each head.
        layers: Platform to the parts whose standardisations are in force.
    """

    def __init__(
        self,
        augment: Words,
        turn: Turn,
        seed: int,
        grids: Sequence[Grid],
        layers: Mapping[str, Layer],
    ) -> None:
        self._turn, self._seed, self._grids = turn, seed, grids
        self._standards = {
            platform: [None if part is None else part.standard for part in layer.cuts]
            for platform, layer in layers.items()
        }
        self._groups = [symmetries(augment, grid.voxel_size) for grid in grids]
        self._sizes = np.array([len(group) for group in self._groups])
        self._maps = lru_cache(maxsize=2048)(self._work_out)

    def draw(self, places: Indices, epoch: int) -> Indices:
        """(B,) the number of each patch's symmetry in its head's group; places are rows of (head, x, y, z)."""
        mixed = np.full(len(places), self._seed % 2**64, dtype=np.uint64)
        for column in (np.full(len(places), epoch), *places.T):
            mixed = _scramble(mixed ^ column.astype(np.uint64))
        return (mixed % self._sizes[places[:, 0]].astype(np.uint64)).astype(int)

    def turned(self, platform: str, patches: Patches, inside: Inside, places: Indices, epoch: int) -> Any:
        """The patches (B, e, e, e, C) and their masks (B, e, e, e) after each one's symmetry, as they came."""
        numbers = self.draw(places, epoch).tolist()
        heads = places[:, 0].tolist()
        edge, width = patches.shape[1], patches.shape[-1]
        order = np.array(
            [_order(self._groups[head][number].tobytes(), edge) for head, number in zip(heads, numbers, strict=True)],
            dtype=np.intp,
        )
        maps = [self._maps(platform, head, number) for head, number in zip(heads, numbers, strict=True)]
        rows, order, matrix, shift = (
            _beside(patches, array)
            for array in (
                np.arange(len(places))[:, None],
                order,
                np.array([m.matrix for m in maps]),
                np.array([m.shift for m in maps])[:, None],
            )
        )
        voxels = patches.reshape(len(places), -1, width)[rows, order]
        there = inside.reshape(len(places), -1)[rows, order]
        out = voxels @ matrix
        out += shift
        out *= there[..., None]
        return out.reshape(patches.shape), there.reshape(inside.shape)

    def _work_out(self, platform: str, head: int, number: int) -> _Maps:
        """In raw channels c = std * y + mean, and c becomes T c."""
        turn = self._turn(in_world(self._groups[head][number], self._grids[head]))
        standard = self._standards[platform][head]
        mean, std = (np.zeros(len(turn)), np.ones(len(turn))) if standard is None else (standard.mean, standard.std)
        matrix = turn * std / std[:, None]
        shift = (turn @ mean - mean) / std
        return _Maps(matrix.T.astype(np.float32), shift.astype(np.float32))


@lru_cache(maxsize=192)
def _order(element: bytes, edge: int) -> NDArray[np.int32]:
    """(e³,) which voxel of a patch comes to each place when the symmetry turns the patch about its centre."""
    symmetry = np.frombuffer(element, dtype=int).reshape(3, 3)
    twice = 2 * np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij")).reshape(3, -1) - (edge - 1)
    x, y, z = (symmetry.T @ twice + edge - 1) // 2  # the inverse; twice, since an even patch has no centre voxel
    return np.asarray((x * edge + y) * edge + z, dtype=np.int32)


def _beside(patches: Patches, array: NDArray[Any]) -> Any:
    """The array where the patches are: as it is, or as a tensor on their device."""
    if isinstance(patches, np.ndarray):
        return array
    import torch

    return torch.from_numpy(array).to(patches.device)


def _scramble(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word well mixed: the finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
