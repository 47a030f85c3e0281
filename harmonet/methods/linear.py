"""One line for each channel: what is left of a difference between scanners when only gain and offset are corrected."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.methods.interpolation import interpolated
from harmonet.methods.method import Lesson, Method, Pair
from harmonet.platforms import Grid

Table = NDArray[np.float64]


class Linear(Method):
    """target = slope * interpolated source + offset, channel by channel."""

    slope: Table
    offset: Table

    def learn(self, pair: Pair) -> Lesson:
        """`sums` (6, C) over the target's mask: 1, x, y, x², y², xy of interpolated source x and target y."""
        mask = pair.target.mask
        x = interpolated(pair.source, pair.target.grid)[mask].astype(np.float64)
        y = pair.target.channels[mask].astype(np.float64)
        sums = (np.full(x.shape[1], len(x)), *(v.sum(axis=0) for v in (x, y, x * x, y * y, x * y)))
        return {"sums": np.stack(sums)}

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """Slope and offset over all subjects' voxels."""
        self.slope, self.offset = line(np.sum([lesson["sums"] for lesson in lessons], axis=0))

    def state(self) -> dict[str, NDArray[Any]]:
        """`slope` and `offset` (C,)."""
        return {"slope": self.slope, "offset": self.offset}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take slope and offset."""
        self.slope, self.offset = state["slope"], state["offset"]

    def predict(self, source: Volume, target: Grid) -> NDArray[np.float32]:
        """The interpolated source on its lines (X', Y', Z', C); the offset where the source's mask says nothing."""
        return (interpolated(source, target) * self.slope + self.offset).astype(np.float32)


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
