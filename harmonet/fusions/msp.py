"""MSP: the multi-stage prediction network (Blumberg et al. 2019, doi:10.48550/arXiv.1907.11629)."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from harmonet.blocks import connection_card
from harmonet.blocks.connection import ConnectionNet, Size
from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.fusion import Features, Fusion, Source, Stage

# How far alpha has come, 0 to 1, at a fraction of the ramp.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda ramp: ramp,
    "cosine": lambda ramp: (1 - math.cos(math.pi * ramp)) / 2,
    "fixed": lambda _: 1.0,
}

WEIGHTS = ("mean", "learned")


class MSP(Fusion):
    """Equation (1) of the paper.

    y_T(2) = (1 - a) y_T(1) + a / (P - 1) (sum over i != T of N_iT(z_i) + y_T(1)),

    with P - 1 target platforms, z_i the tapped features of network i, N_iT a connection network and a = `alpha`.
    At a = 0 that is the single network's prediction, at a = 1 the plain mean of P - 1 predictions.

    Published: the equation, with two stages and one tap; that a rises from 0 to 1 in training. Our reading of more
    stages: each has connection networks of its own, which read z_i and the previous stage's y_T, and that y_T stands
    in the equation where y_T(1) does; a is the same. Our choice: a rises linearly, beginning at the fraction `start`
    of the training and reaching `final` after a further fraction `ramp`. Several taps of a network are fused by its
    connection network, as the paper proposes for the future.

    Args:
        sources: Platform to measured sizes, two platforms or more, with one tap or more each.
        target: The platform T.
        stages: 2, or more.
        connection: Name of a registered connection network.
        connection_options: Its options.
        hidden: Width of the connection networks; the features' channels where None.
        resample: "trilinear" where features may be interpolated; see `ConnectionNet`.
        schedule: `linear`, `cosine` (half a wave), or `fixed`, which is `final` from the beginning.
        start: Fraction of the training before alpha rises.
        ramp: Fraction of the training over which alpha rises.
        final: Alpha once it has risen; with 0 the fusion is the control that refines nothing.
        weights: `mean`, the paper's, or `learned`, our choice: softmax over the P - 1 predictions of a parameter for
            each of them and each channel, one set for each later stage, equal at first.

    Raises:
        NotFoundError: There is no such connection network, option or schedule.
        ShapeError: Too few platforms or stages, no tap, sizes that do not fit, or fractions that are none.
    """

    alpha: Tensor

    def __init__(
        self,
        sources: Mapping[str, Source],
        target: str,
        stages: int = 2,
        connection: str = "two_convs",
        connection_options: Mapping[str, Any] | None = None,
        hidden: int | None = None,
        resample: str | None = None,
        schedule: str = "linear",
        start: float = 0.0,
        ramp: float = 0.5,
        final: float = 1.0,
        weights: str = "mean",
    ) -> None:
        super().__init__(sources, target)
        if len(sources) < 2:
            raise ShapeError(
                f"msp needs two target platforms or more, found only {target}: with one, equation (1) is the single "
                "network itself, so train that without a fusion."
            )
        if stages < 2:
            raise ShapeError(f"msp was asked for {stages} stages: use 2, as published, or more.")
        if schedule not in SCHEDULES:
            raise NotFoundError(f"msp has no schedule {schedule!r}. {nearest(str(schedule), SCHEDULES)}")
        if weights not in WEIGHTS:
            raise NotFoundError(f"msp has no weights {weights!r}. {nearest(str(weights), WEIGHTS)}")
        for name, value in (("start", start), ("ramp", ramp), ("final", final)):
            if not 0 <= value <= 1:
                raise ShapeError(f"msp was asked for {name} = {value}: use a number from 0 to 1.")
        self.schedule, self.start, self.ramp, self.final = schedule, start, ramp, final
        self.taps = {platform: list(source.features) for platform, source in sources.items() if platform != target}
        asked = {"hidden": hidden, "resample": resample}
        options = {name: value for name, value in asked.items() if value is not None} | dict(connection_options or {})
        self.connection = connection
        seen: list[Size] = [sources[target].prediction]
        self.connections = nn.ModuleList(
            nn.ModuleDict({platform: self._connect(platform, before, options) for platform in self.taps})
            for before in ([], *[seen] * (stages - 2))
        )
        self.register_buffer("alpha", torch.tensor(self._scheduled(0.0)))
        self.logits = None
        if weights == "learned":  # (later stages, predictions with the own first, channels)
            self.logits = nn.Parameter(torch.zeros(stages - 1, len(sources), seen[0][0]))

    def _connect(self, platform: str, seen: Sequence[Size], options: Mapping[str, Any]) -> nn.Module:
        """A connection network from the taps of a platform, and what else is `seen`, to the target."""
        sizes = self.sources[platform].features
        if not sizes:
            raise ShapeError(
                f"msp reads features of each other network, found no tap of {platform}: name one with --tap or taps=."
            )
        card = connection_card(self.connection)
        card.check_options(options)
        try:
            net = card.load()([*sizes.values(), *seen], self.sources[self.target].prediction, **options)
        except ShapeError as error:
            raise ShapeError(f"{platform} to {self.target}: {error}") from None
        if not isinstance(net, nn.Module):
            raise ShapeError(f"connection {self.connection} builds a {type(net).__name__}, not an nn.Module.")
        return net

    def forward(self, first: Stage, features: Features) -> list[dict[str, Tensor]]:
        """The later stages, each the target's refined prediction."""
        share = self.alpha / len(self.sources)
        own = 1 - share * len(self.taps)  # = (1 - a) + a / (P - 1); exactly 1 at a = 0
        refined = [first[self.target]]
        for number, nets in enumerate(self._networks()):
            seen = refined[-1:] if number else []
            others = [net(*(features[i][tap] for tap in self.taps[i]), *seen) for i, net in nets.items()]
            self._refuse_other_sizes(dict(zip(nets, others, strict=True)), refined[0])
            if self.logits is None:
                refined.append(own * refined[-1] + share * reduce(add, others))
            else:
                weights = self.logits[number].softmax(0)[..., None, None, None]
                joined = reduce(add, (w * y for w, y in zip(weights, [refined[-1], *others], strict=True)))
                refined.append((1 - self.alpha) * refined[-1] + self.alpha * joined)
        return [{self.target: y} for y in refined[1:]]

    def _refuse_other_sizes(self, others: Mapping[str, Tensor], own: Tensor) -> None:
        """A stranger's connection network can give anything, and the sum would broadcast it."""
        for platform, y in others.items():
            if y.shape != own.shape:
                found, wanted = (" x ".join(map(str, tensor.shape[1:])) for tensor in (y, own))
                raise ShapeError(
                    f"connection {self.connection} from {platform} to {self.target} gives {found}, where the "
                    f"prediction is {wanted}: build it for that size."
                )

    def advance(self, done: float) -> None:
        """Raise alpha with the training."""
        self.alpha.fill_(self._scheduled(done))

    def _scheduled(self, done: float) -> float:
        passed = done - self.start
        risen = min(max(passed / self.ramp, 0.0), 1.0) if self.ramp else float(passed >= 0)
        return self.final * SCHEDULES[self.schedule](risen)

    def wiring(self) -> dict[str, str]:
        """The convolutions of each connection network; from the third stage on, those of one stage stand for all."""
        first, *more = ({i: self._words(net) for i, net in nets.items()} for nets in self._networks())
        return {i: f"{words}; then {len(more)} x ({more[0][i]})" if more else words for i, words in first.items()}

    def _words(self, net: nn.Module) -> str:
        return str(net) if isinstance(net, ConnectionNet) else self.connection

    def _networks(self) -> list[dict[str, nn.Module]]:
        """For each later stage, platform to connection network."""
        return [dict(nets.items()) for nets in self.connections if isinstance(nets, nn.ModuleDict)]
