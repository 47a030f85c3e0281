"""The model: single networks and fusions that give stages.

A model turns (B, C, X, Y, Z) into stages, a stage is a dict from platform to prediction. Without a fusion there is one
stage, the single networks; the last stage that has a platform is its answer. Nobody knows another kind.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harmonet.errors import NotFoundError
from harmonet.fusion import Fusion, Source, Stage
from harmonet.stages import Prediction
from harmonet.taps import forward_with_taps


class Model(nn.Module):
    """Single networks, and where there is one a fusion for each refined target.

    Attributes:
        singles: Platform to single network.
        fusions: Target to fusion; empty for single networks alone.
        taps: Platform to tap name to layer.
        sizes: Platform to the measured sizes of its network; empty where nothing was measured.
        frozen: Platforms whose networks are not trained on.
        lines: Platform to what is added to every stage's prediction of it; empty where networks predict all.
    """

    def __init__(
        self,
        singles: Mapping[str, nn.Module],
        fusions: Mapping[str, Fusion],
        taps: Mapping[str, Mapping[str, str]],
        sizes: Mapping[str, Source] | None = None,
        frozen: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.singles = nn.ModuleDict(singles)
        self.fusions = nn.ModuleDict(fusions)
        self.taps = {platform: dict(layers) for platform, layers in taps.items()}
        self.sizes = dict(sizes or {})
        self.lines = nn.ModuleDict()
        self.frozen = tuple(frozen)
        for platform in self.frozen:
            self.singles[platform].requires_grad_(False)

    @property
    def fusion(self) -> nn.Module:
        """The fusion, where there is exactly one target."""
        if len(self.fusions) != 1:
            raise NotFoundError(
                f"this model has {len(self.fusions)} fusions: use model.fusions[platform], "
                f"one of: {', '.join(self.fusions) or 'none'}."
            )
        return next(iter(self.fusions.values()))

    @property
    def device(self) -> torch.device:
        """Where the model computes; the CPU for one without parameters."""
        return next(self.parameters(), torch.zeros(())).device

    def forward(self, x: Tensor) -> list[Stage]:
        """All stages.

        Args:
            x: Source patches (B, C, n, n, n), standardised.

        Returns:
            One dict per stage, platform to (B, C, t, t, t), t = n, or at upsampling 2 2n - 3 (node) or 2n (cell).
            Networks with uncertainty put their variances beside.
        """
        run = _Once(self, x)
        if self.fusions:
            stages = aligned([fusion.stages(x, run) for fusion in self._fusions()])
        else:
            stages = [Stage()]
            for platform in self.singles:
                stages[0].add(platform, run(platform, x)[0])
        self._add_lines(x, stages)
        return stages

    def _add_lines(self, x: Tensor, stages: Sequence[Stage]) -> None:
        for stage in stages:
            for platform in stage.keys() & self.lines.keys():
                line = self.lines[platform](x, stage[platform])
                stage[platform] = stage[platform] + line
                if platform in stage.members:
                    stage.members[platform] = [member + line for member in stage.members[platform]]

    def train(self, mode: bool = True) -> "Model":
        """Set the mode of training; frozen networks stay in that of evaluation, their statistics too."""
        super().train(mode)
        for platform in self.frozen:
            self.singles[platform].eval()
        return self

    def advance(self, done: float) -> None:
        """Tell every fusion how far the training is, 0 to 1."""
        for fusion in self._fusions():
            fusion.advance(done)

    def _fusions(self) -> list[Fusion]:
        return [fusion for fusion in self.fusions.values() if isinstance(fusion, Fusion)]


class _Once:
    """Runs single networks; on the model's own patch each at most once, however many fusions read it."""

    def __init__(self, model: Model, x: Tensor) -> None:
        self.model, self.x = model, x
        self.found: dict[str, tuple[Prediction, dict[str, Tensor]]] = {}

    def __call__(self, platform: str, x: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
        if x is self.x and platform in self.found:
            return self.found[platform]
        given = forward_with_taps(self.model.singles[platform], self.model.taps.get(platform, {}), x)
        if x is self.x:
            self.found[platform] = given
        return given


def aligned(joined: Sequence[Sequence[Mapping[str, Tensor]]]) -> list[Stage]:
    """The stages of several fusions as one list: the last of each together, each other in the first place free for it.

    No prediction is lost: where two fusions say different things of one platform on the way, each has its own stage.

    >>> y, z = torch.zeros(1), torch.ones(1)
    >>> [sorted(stage) for stage in aligned([[{"a": y, "b": y}, {"a": z}], [{"a": y, "b": y}, {"b": z}]])]
    [['a', 'b'], ['a', 'b']]
    """
    places: list[Stage] = []
    for *early, _ in joined:
        after = 0  # what a fusion says later stands later
        for stage in early:
            numbers = range(after, len(places))
            free = (n for n in numbers if all(k not in places[n] or places[n][k] is y for k, y in stage.items()))
            number = next(free, len(places))
            if number == len(places):
                places.append(Stage())
            _add(places[number], stage)
            after = number + 1
    last = Stage()
    for stages in joined:
        _add(last, stages[-1])
    return [*places, last]


def _add(place: Stage, stage: Mapping[str, Tensor]) -> None:
    place.update(stage)
    if isinstance(stage, Stage):
        place.variances.update(stage.variances)
        place.members.update(stage.members)


def answers(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Platform to its answer: the last stage that has it.

    >>> answers([{"a": 1, "b": 2}, {"a": 3}])
    {'a': 3, 'b': 2}
    """
    return {platform: prediction for stage in stages for platform, prediction in stage.items()}
