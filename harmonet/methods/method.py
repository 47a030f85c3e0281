"""What a method that is no network is: it learns from whole volumes and predicts whole volumes, in raw units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.data.volumes import Volume
from harmonet.platforms import Grid

Lesson = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Pair:
    """One training subject on the source platform and on the target platform, co-registered, in raw units."""

    subject: str
    source: Volume
    target: Volume


class Method:
    """Predicts one target platform from the source platform without a network.

    Subjects are read one at a time: `learn` keeps of each a few small arrays, `fit` makes of all of them what `predict`
    needs, and `state` is what is kept on disk of that. A method that learns nothing defines `predict` alone.

    Attributes:
        groups: Name to channels that belong together, such as the orders `l = 2`; empty for a scalar image.
    """

    def __init__(self, groups: Mapping[str, slice]) -> None:
        self.groups = dict(groups)

    def learn(self, pair: Pair) -> Lesson:
        """What one training subject teaches: names to small arrays."""
        return {}

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """Take what the training subjects teach together; called once, before `predict`."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned, names to arrays of numbers; kept with the run."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take what `state` gave in place of learning it."""

    def predict(self, source: Volume, target: Grid) -> NDArray[np.float32]:
        """The target's channels (X', Y', Z', C) on its grid, in raw units.

        What is said where the source's mask has no voxel near is not used.
        """
        raise NotImplementedError(f"{type(self).__name__} predicts nothing: define predict(self, source, target).")
