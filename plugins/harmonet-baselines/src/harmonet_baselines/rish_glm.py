"""RISH-GLM: the RISH of every site from one linear model at each place, and orders scaled by the ratio of two sites.

After De Luca et al. 2025 (doi:10.1002/mrm.30575). Our choice: RISH is the root of an order's energy, and the model has
an indicator for each site and no intercept. Travelling heads are the same at every site, so that there are no
covariates, and a site's effect is its mean over the scans.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, RecipeError
from harmonet.methods.interpolation import interpolated
from harmonet.methods.places import REACH, HeadSpace
from harmonet.methods.rish_linear import FWHM_TO_SIGMA, energies
from harmonet.metrics.misalignment import smooth
from harmonet.platforms import Grid

Floats = NDArray[np.float32]
Lesson = Mapping[str, NDArray[Any]]

SEEN = 0.05  # of one subject: places that fewer have seen take the mean scale
FLOOR = 0.01  # of the source's mean effect over all places: nothing smaller is divided by


class RishGlm(hn.Method):
    """One scale for each order and place.

    Args:
        groups: Name to channels of one order.
        fwhm: Of the Gaussian that the sites' effects are smoothed by, in mm.
        lowest, highest: Of a scale.

    Raises:
        RecipeError: There are no orders, as of a scalar image.
    """

    scales: Floats  # (E, E, E, G + 1): scales where somebody was seen, else 0, and whether somebody was, 0 or 1

    def __init__(
        self, groups: Mapping[str, slice], fwhm: float = 3.0, lowest: float = 0.5, highest: float = 2.0
    ) -> None:
        super().__init__(groups)
        if not groups:
            raise RecipeError("rish_glm scales SH orders, which a scalar image does not have: use linear.")
        self.sigma, self.lowest, self.highest = fwhm * FWHM_TO_SIGMA, lowest, highest

    def learn(self, pair: hn.Pair) -> Lesson:
        """`source`, `target` (E, E, E, G + 1), RISH times how much of a place is seen, and that; `places` (3,) mm."""
        space = HeadSpace.of(pair.source)
        found = {}
        for name, volume in (("source", pair.source), ("target", pair.target)):
            values, share = space.collect(np.sqrt(energies(volume.channels, self.groups)), volume.mask, volume.grid)
            found[name] = np.concatenate([values, share[..., None]], axis=-1)
        return found | {"places": space.deviation * 2 * REACH / (space.edge - 1)}

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """The ratio of the sites' smoothed effects.

        Raises:
            DataError: There is no place that both sites show.
        """
        sums = {name: np.sum([one[name] for one in lessons], axis=0) for name in ("source", "target")}
        seen = np.minimum(sums["source"][..., -1], sums["target"][..., -1]) > SEEN
        if not seen.any():
            raise DataError("rish_glm found no place that both platforms show: check masks and affines.")
        sigma = self.sigma / np.mean([one["places"] for one in lessons], axis=0)
        ours, theirs = (
            smooth(both[..., :-1] / np.where(seen, both[..., -1], 1)[..., None], seen, sigma) for both in sums.values()
        )
        floor = np.maximum(FLOOR * ours[seen].mean(axis=0), np.finfo(np.float32).tiny)
        scales = np.clip(theirs / np.maximum(ours, floor), self.lowest, self.highest)
        self.scales = np.concatenate([np.where(seen[..., None], scales, 0), seen[..., None]], axis=-1).astype(
            np.float32
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """`scales` (E, E, E, G + 1)."""
        return {"scales": self.scales}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the scales."""
        self.scales = state["scales"]

    def predict(self, source: Volume, target: Grid) -> Floats:
        """The interpolated source, each order scaled (X', Y', Z', C), 0 where the source's mask says nothing."""
        out = interpolated(source, target)
        there = out.any(axis=-1)
        found = HeadSpace.of(source, len(self.scales)).find(self.scales, target, np.argwhere(there).T)
        share, usual = found[:, -1:], self.scales[self.scales[..., -1] > 0].mean(axis=0)
        scales = np.where(share > SEEN, found / np.where(share > SEEN, share, 1), usual)
        for number, channels in enumerate(self.groups.values()):
            out[there, channels] *= scales[:, number, None]
        return out
