"""MSP: the multi-stage prediction network (Blumberg et al. 2019, doi:10.48550/arXiv.1907.11629)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import ShapeError
from harmonet.fusion import Fusion, Source, Stage


class MSP(Fusion):
    """Equation (1) of the paper.

    y_T(2) = (1 - a) y_T(1) + a / (P - 1) (sum over i != T of N_iT(z_i) + y_T(1)),

    with P - 1 target platforms, z_i the tapped features of network i, N_iT a connection network and a = `alpha`.
    At a = 0 that is the single network's prediction, at a = 1 the plain mean of P - 1 predictions.

    Published: the equation; that a rises from 0 to 1 in training. Our choice: it rises linearly, beginning at the
    fraction `start` of the training and reaching 1 after a further fraction `ramp`.

    Args:
        sources: Platform to measured sizes, two platforms or more, one tap each.
        target: The platform T.
        hidden: Width of the connection networks; the features' channels where None.
        start: Fraction of the training before alpha rises.
        ramp: Fraction of the training over which alpha goes from 0 to 1.
    """

    alpha: Tensor

    def __init__(
        self,
        sources: Mapping[str, Source],
        target: str,
        hidden: int | None = None,
        start: float = 0.0,
        ramp: float = 0.5,
    ) -> None:
        super().__init__(sources, target)
        if len(sources) < 2:
            raise ShapeError(
                f"msp needs two target platforms or more, found only {target}: with one, equation (1) is the single "
                "network itself, so train that without a fusion."
            )
        self.start, self.ramp = start, ramp
        self.connections = nn.ModuleDict()
        self.taps: dict[str, str] = {}
        for platform, source in sources.items():
            if platform == target:
                continue
            if len(source.features) != 1:
                names = ", ".join(source.features) or "none"
                raise ShapeError(f"msp reads one tap of each other network, found for {platform}: {names}.")
            ((self.taps[platform], size),) = source.features.items()
            try:
                self.connections[platform] = ConnectionNet(size, sources[target].prediction, hidden)
            except ShapeError as error:
                raise ShapeError(f"{platform} to {target}: {error}") from None
        self.register_buffer("alpha", torch.zeros(()))

    def forward(self, first: Stage, features: Mapping[str, Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """One later stage, the target's refined prediction."""
        share = self.alpha / len(self.sources)
        others = [net(features[i][self.taps[i]]) for i, net in self.connections.items()]
        own = 1 - share * len(others)  # = (1 - a) + a / (P - 1); exactly 1 at a = 0
        return [{self.target: own * first[self.target] + share * torch.stack(others).sum(0)}]

    def advance(self, done: float) -> None:
        """Raise alpha with the training."""
        self.alpha.fill_(
            min(max((done - self.start) / self.ramp, 0.0), 1.0) if self.ramp else float(done >= self.start)
        )

    def wiring(self) -> dict[str, str]:
        """The two convolutions of each connection network."""
        return {platform: str(net) for platform, net in self.connections.items()}
