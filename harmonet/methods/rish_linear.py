"""Each SH order of the source scaled so that its energy (RISH) becomes the target's, place by place.

After Mirzaalian et al. 2016 (doi:10.1016/j.neuroimage.2016.04.041), whose scales come from a template to which heads
are registered. Here, and this is our choice: heads are brought together by the centre and extent of their masks along
each world axis; energies are smoothed before their ratio; ratios are averaged over subjects.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.errors import RecipeError
from harmonet.methods.interpolation import interpolated
from harmonet.methods.method import Lesson, Method, Pair
from harmonet.methods.places import HeadSpace
from harmonet.metrics.misalignment import smooth
from harmonet.platforms import Grid

Floats = NDArray[np.float32]
Table = NDArray[np.float64]

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
WITNESSED = 0.05  # of one subject: places that fewer have seen take the mean ratio


class RishLinear(Method):
    """One scale for each order and place.

    Args:
        groups: Name to channels of one order.
        fwhm: Of the Gaussian that energies are smoothed by, in mm.
        lowest, highest: Of a scale, the root of a ratio of energies.

    Raises:
        RecipeError: There are no orders, as of a scalar image.
    """

    ratios: Floats  # (E, E, E, G), sums over subjects in the head space
    weights: Floats  # (E, E, E), how many have seen this place

    def __init__(
        self, groups: Mapping[str, slice], fwhm: float = 3.0, lowest: float = 0.5, highest: float = 2.0
    ) -> None:
        super().__init__(groups)
        if not groups:
            raise RecipeError("rish_linear scales SH orders, which a scalar image does not have: use linear.")
        self.sigma, self.lowest, self.highest = fwhm * FWHM_TO_SIGMA, lowest, highest

    def learn(self, pair: Pair) -> Lesson:
        """`ratios` (E, E, E, G), target's energy over source's times `weights`, and `weights` (E, E, E), 0 to 1."""
        target, source = pair.target, interpolated(pair.source, pair.target.grid)
        sigma = self.sigma / np.asarray(target.grid.voxel_size)
        theirs, ours = (smooth(energies(v, self.groups), target.mask, sigma) for v in (target.channels, source))
        ratios = np.divide(theirs, ours, out=np.ones_like(ours), where=ours > 0)
        found, weights = HeadSpace.of(pair.source).collect(ratios, target.mask, target.grid)
        return {"ratios": found, "weights": weights}

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """Sums over the subjects."""
        self.ratios, self.weights = (np.sum([one[key] for one in lessons], axis=0) for key in ("ratios", "weights"))

    def state(self) -> dict[str, NDArray[Any]]:
        """`ratios` and `weights`, as summed."""
        return {"ratios": self.ratios, "weights": self.weights}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take ratios and weights."""
        self.ratios, self.weights = state["ratios"], state["weights"]

    def predict(self, source: Volume, target: Grid) -> Floats:
        """The interpolated source, each order scaled (X', Y', Z', C), 0 where the source's mask says nothing."""
        out = interpolated(source, target)
        there = out.any(axis=-1)
        scales = np.clip(np.sqrt(self._ratios(source, target, np.argwhere(there).T)), self.lowest, self.highest)
        for number, channels in enumerate(self.groups.values()):
            out[there, channels] *= scales[:, number, None].astype(np.float32)
        return out

    def _ratios(self, source: Volume, target: Grid, voxels: NDArray[np.int_]) -> Floats:
        """(N, G) the mean ratio of the subjects who have seen a place, that over all places where none has."""
        maps = np.concatenate([self.ratios, self.weights[..., None]], axis=-1)
        found = HeadSpace.of(source, len(self.weights)).find(maps, target, voxels)
        ratios, weights = found[:, :-1], found[:, -1:]
        seen, total = weights > WITNESSED, float(self.weights.sum())
        usual = self.ratios.sum(axis=(0, 1, 2)) / total if total else np.ones(ratios.shape[1])
        return np.asarray(np.where(seen, ratios / np.where(seen, weights, 1), usual))


def energies(channels: Floats, groups: Mapping[str, slice]) -> Table:
    """(X, Y, Z, G) sum of squares of each group of channels."""
    return np.stack([np.sum(channels[..., s].astype(np.float64) ** 2, axis=-1) for s in groups.values()], axis=-1)
