"""Which metrics are measured, and the images that they are measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harmonet import plugins
from harmonet.data.volumes import Head, Volume
from harmonet.errors import HarmonetError, NotFoundError
from harmonet.evaluation.result import MAIN, MetricCard
from harmonet.metrics.image import Context, Image, Metric, Signal
from harmonet.registry import METRICS, MetricEntry
from harmonet.representation import Representation

Floats = NDArray[np.float32]

ALL, ROUTINE = "all", "routine"


@dataclass(frozen=True, eq=False)
class Measures:
    """Metrics to take of every prediction.

    Attributes:
        cards: Metric to its card, in the order of the tables.
        metrics: Name of a number, which may be that of a group of channels, to how it is measured.
        trouble: What could not be measured and why, a sentence each: filled while measuring.
    """

    cards: Mapping[str, MetricCard]
    metrics: Mapping[str, Metric]
    trouble: dict[str, None] = field(default_factory=dict)

    def of(self, prediction: Image, truth: Image, where: str) -> dict[str, float | None]:
        """Every number; None for what was not measured, NaN throughout for a prediction that is not finite.

        Args:
            prediction, truth: On one grid, with one mask.
            where: Platform and subject, for words.
        """
        if not np.isfinite(prediction.channels[prediction.mask]).all():
            return dict.fromkeys(self.metrics, float("nan"))
        return {name: self._one(name, metric, prediction, truth, where) for name, metric in self.metrics.items()}

    def _one(self, name: str, metric: Metric, prediction: Image, truth: Image, where: str) -> float | None:
        try:
            value = metric(prediction, truth)
        except HarmonetError as error:  # such as a table with too few directions: other metrics are still wanted
            self.trouble[f"{name} of {where} was not measured: {error}"] = None
            return None
        return None if value is None else float(value)


def measures_of(words: Sequence[str], representation: Representation) -> Measures:
    """The metrics of these names; `sh_mse` is always among them, and first.

    Args:
        words: Names, `routine` for those that are measured unless asked otherwise, or `all`.
        representation: What the channels are.

    Raises:
        NotFoundError: A name is no metric's.
    """
    plugins.load()
    names = [MAIN]
    for word in words:
        known = METRICS.names()
        names += known if word == ALL else [n for n in known if METRICS.get(n).routine] if word == ROUTINE else [word]
    entries = {name: plugins.metric(name) for name in dict.fromkeys(names)}
    metrics: dict[str, Metric] = {}
    for name, entry in entries.items():
        metrics[name] = _built(entry)
        if entry.grouped:
            metrics |= {f"{name} {group}": entry.load()(group=group) for group in representation.groups()}
    cards = {name: MetricCard(entry.summary, entry.unit, entry.best) for name, entry in entries.items()}
    return Measures(cards, metrics)


def _built(entry: MetricEntry) -> Metric:
    built: Metric = entry.load()()
    if not callable(built):
        raise NotFoundError(f"metric {entry.name} builds no function but {built!r:.80}: ask who brought it to mend it.")
    return built


def context_of(
    head: Head, platform: str, representation: Representation, labels: NDArray[np.integer] | None
) -> Context:
    """What metrics may know of one platform of a head: the signal along the directions that were measured there."""
    target: Volume = head.targets[platform]
    signal = None
    if representation.uses_gradients:
        bvals, directions = target.gradients.bvals, target.gradients.directions
        signal = Signal(representation.decoder(bvals, directions), bvals, directions)
    x, y, z = (float(edge) for edge in target.grid.voxel_size)
    return Context((x, y, z), representation.groups(), signal, labels)
