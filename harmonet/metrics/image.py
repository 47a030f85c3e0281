"""What a metric is: a function of two images, the prediction and the truth, that returns a number.

    def worst_channel(prediction: Image, truth: Image) -> float | None:
        return float(np.abs(prediction.channels - truth.channels)[truth.mask].max())

None says that there is nothing to measure: no second shell, no labels, no voxel of the kind. Most metrics are a
feature of the image, such as FA, and a measure of how far two maps of it are apart: `metric_of` joins them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.representation import Rewrite

Map = NDArray[np.floating]  # (X, Y, Z, K), 0 outside the mask
Mask = NDArray[np.bool_]  # (X, Y, Z)
Rows = NDArray[np.floating]  # (V, K)
Table = NDArray[np.float64]

T = TypeVar("T")

GAP = 100.0  # s/mm²: a shell is its b-value give or take 50


@dataclass(frozen=True, eq=False)
class Signal:
    """How channels become S / S0 along a gradient table, the same for prediction and truth.

    Attributes:
        decode: From channels (V, C) to signals (V, N).
        bvals: (N,) in s/mm², of the shells only.
        directions: (N, 3) unit vectors, world axes.
    """

    decode: Rewrite
    bvals: Table
    directions: Table


@dataclass(frozen=True, eq=False)
class Context:
    """What metrics may need to know of an image beside its channels.

    Attributes:
        voxel_size: mm along each axis.
        groups: Channels whose errors are reported together, by name, as `Representation.groups` has them.
        signal: How channels become signal; None for a scalar image.
        labels: (X, Y, Z) whole numbers, the region of each voxel, 0 for none; None where no label map was given.
    """

    voxel_size: tuple[float, float, float]
    groups: Mapping[str, slice]
    signal: Signal | None = None
    labels: NDArray[np.integer] | None = None


@dataclass(frozen=True, eq=False)
class Image:
    """A prediction or a truth on the target's grid.

    Attributes:
        channels: (X, Y, Z, C) in raw units.
        mask: (X, Y, Z), the voxels that count: those of the target for both images.
        context: What is known of both.

    Raises:
        ShapeError: The sizes do not fit together, or the mask is empty.
    """

    channels: Map
    mask: Mask
    context: Context
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no metric could read."""
        labels = self.context.labels
        if self.channels.ndim != 4 or self.channels.shape[:3] != self.mask.shape:
            raise ShapeError(
                f"an image has channels (X, Y, Z, C) and a mask (X, Y, Z), found {self.channels.shape} and "
                f"{self.mask.shape}: bring them to one grid."
            )
        if labels is not None and labels.shape != self.mask.shape:
            raise ShapeError(
                f"labels {labels.shape} lie on another grid than the mask {self.mask.shape}: resample them."
            )
        if not self.mask.any():
            raise ShapeError("an image's mask has no voxel, so nothing can be measured: check the mask.")

    def once(self, make: Callable[["Image"], T]) -> T:
        """`make(image)`, made at the first call: metrics share one tensor fit."""
        if make not in self._made:
            self._made[make] = make(self)
        found: T = self._made[make]
        return found

    def fill(self, rows: Rows) -> Map:
        """(X, Y, Z, K) map of rows (V, K) or (V,) of the mask's voxels, 0 outside the mask."""
        out = np.zeros((*self.mask.shape, rows.size // len(rows)))
        out[self.mask] = rows.reshape(len(rows), -1)
        return out


Feature = Callable[[Image], Map | None]
Measure = Callable[[Map, Map, Mask, Context], float | None]  # prediction, truth, mask, context
Metric = Callable[[Image, Image], float | None]  # prediction, truth


def metric_of(feature: Feature, measure: Measure) -> Metric:
    """The metric that measures how far the feature of the prediction is from that of the truth.

    Raises:
        ShapeError: Called with images of different masks.
    """

    def metric(prediction: Image, truth: Image) -> float | None:
        if not np.array_equal(prediction.mask, truth.mask):
            raise ShapeError("prediction and truth need one mask, found two that differ: use the target's for both.")
        maps = feature(prediction), feature(truth)
        if maps[0] is None or maps[1] is None:
            return None
        return measure(maps[0], maps[1], truth.mask, truth.context)

    return metric


def channels(image: Image) -> Map:
    """The channels themselves."""
    return image.channels


def group(name: str) -> Feature:
    """The feature that is the channels of one of the representation's groups, such as `l = 2`."""

    def of(image: Image) -> Map:
        if name not in image.context.groups:
            raise NotFoundError(f"the image has no group of channels {name!r}. {nearest(name, image.context.groups)}")
        return image.channels[..., image.context.groups[name]]

    return of


def signals(image: Image) -> Table | None:
    """S / S0 (V, N) of the mask's voxels along the context's gradient table; None for a scalar image."""
    signal = image.context.signal
    if signal is None:
        return None
    return signal.decode(image.channels[image.mask].astype(np.float32, copy=False)).astype(np.float64)


def shells_of(signal: Signal) -> list[NDArray[np.intp]]:
    """Which rows of the gradient table belong to each shell, from the lowest; shells lie over 100 s/mm² apart."""
    order = np.argsort(signal.bvals, kind="stable")
    gaps = np.flatnonzero(np.diff(signal.bvals[order]) > GAP) + 1
    return [np.sort(rows) for rows in np.split(order, gaps)]
