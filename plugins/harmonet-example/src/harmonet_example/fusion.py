"""The smallest sensible fusion: a learned convex sum of predictions."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import harmonet as hn
from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import ShapeError
from harmonet.fusion import Stage


class Weighted(hn.Fusion):
    """Adds up the target's own first prediction and one prediction from each tap of the other networks.

    y = w_0 y_T + sum over k of w_k N_k(z_k), w = softmax(logits): the weights are positive, sum to one and are learned.
    N_k is a connection network: two convolutions that lead from the features z_k to the target's grid, whichever that
    is. harmonet measures the sizes in a dry run and hands them over as `sources`, so nobody types one.

    Args:
        sources: Platform to the measured sizes of its network; two platforms or more.
        target: The platform that is refined.
        own: Weight of the target's own prediction at the beginning, between 0 and 1.

    Raises:
        HarmonetError: `own` is no such weight.
        ShapeError: There is nothing to add, or no connection network leads from one grid to the other.
    """

    def __init__(self, sources: Mapping[str, hn.Source], target: str, own: float = 0.9) -> None:
        super().__init__(sources, target)
        if not 0 < own < 1:
            raise hn.HarmonetError(f"weighted begins with an own weight between 0 and 1, found {own}: try 0.9.")
        size = sources[target].prediction
        self.taps = [(other, tap) for other in sources if other != target for tap in sources[other].features]
        if not self.taps:
            raise ShapeError(f"weighted found no features besides those of {target}: compose two platforms or more.")
        self.connections = nn.ModuleList(ConnectionNet(sources[other].features[tap], size) for other, tap in self.taps)
        # With logits (a, 0, ..., 0) the first weight is e^a / (e^a + k).
        self.logits = nn.Parameter(torch.zeros(1 + len(self.taps)))
        with torch.no_grad():
            self.logits[0] = math.log(own / (1 - own) * len(self.taps))

    def forward(self, first: Mapping[str, Tensor], features: Mapping[str, Mapping[str, Tensor]]) -> list[Stage]:
        """One later stage: the target's refined prediction."""
        predictions = [first[self.target]]
        predictions += [net(features[p][tap]) for (p, tap), net in zip(self.taps, self.connections, strict=True)]
        weights = self.logits.softmax(0)
        return [{self.target: (weights[:, None, None, None, None, None] * torch.stack(predictions)).sum(0)}]

    def wiring(self) -> dict[str, str]:
        """The connection networks, for the table that `harmonet compose` prints."""
        words: dict[str, str] = {}
        for (platform, _), net in zip(self.taps, self.connections, strict=True):
            words[platform] = "; ".join(filter(None, [words.get(platform), str(net)]))
        return words
