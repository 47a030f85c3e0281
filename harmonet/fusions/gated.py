"""A choice among predictions for each voxel: the control for what learned weights are worth over fixed ones."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import ShapeError
from harmonet.fusion import Features, Fusion, Source, Stage


class Gated(Fusion):
    """The target's own prediction and those of connection networks, weighed voxel by voxel.

    y_T(2) = sum over i of g_i c_i, with c_T = y_T(1), c_i = N_iT(z_i) for i != T as in `msp`, and g the softmax of a
    gate over i, alike for all channels of a voxel.

    Published (Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79): the softmax of a gating network weighs experts, all
    trained together. Our choice: which experts; a gate of two convolutions that reads all tapped features and all c_i;
    the own prediction's advantage `lead`, so that training begins close to it; the error of the sum as loss.

    Args:
        sources: Platform to measured sizes, two platforms or more.
        target: The platform T.
        hidden: Width of the connection networks; the features' channels where None.
        gate_width: Width of the gate.
        lead: What is added to the gate for the own prediction; at 4, even gates give it 0.96 of three platforms.
    """

    lead: Tensor

    def __init__(
        self,
        sources: Mapping[str, Source],
        target: str,
        hidden: int | None = None,
        gate_width: int = 8,
        lead: float = 4.0,
    ) -> None:
        super().__init__(sources, target)
        if len(sources) < 2:
            raise ShapeError(
                f"gated chooses among the predictions of two platforms or more, found only {target}: "
                "train its network without a fusion."
            )
        prediction = sources[target].prediction
        self.connections = nn.ModuleDict()
        for platform, source in sources.items():
            if platform != target:
                try:
                    self.connections[platform] = ConnectionNet(list(source.features.values()), prediction, hidden)
                except ShapeError as error:
                    raise ShapeError(f"{platform} to {target}: {error}") from None
        read = [size for source in sources.values() for size in source.features.values()]
        candidates = [prediction] * len(sources)
        self.gate = ConnectionNet([*read, *candidates], (len(sources), *prediction[1:]), gate_width)
        own = torch.tensor([lead] + [0.0] * len(self.connections))  # the own candidate comes first
        self.register_buffer("lead", own.view(-1, 1, 1, 1), persistent=False)

    def forward(self, first: Stage, features: Features) -> list[dict[str, Tensor]]:
        """One later stage, the target's weighed prediction."""
        read = {p: [features[p][tap] for tap in source.features] for p, source in self.sources.items()}
        candidates = [first[self.target], *(net(*read[p]) for p, net in self.connections.items())]
        gate = self.gate(*(z for tensors in read.values() for z in tensors), *candidates)  # (B, P, X, Y, Z)
        weights = (gate + self.lead).softmax(1).unsqueeze(2)
        return [{self.target: (weights * torch.stack(candidates, 1)).sum(1)}]

    def wiring(self) -> dict[str, str]:
        """The connection networks."""
        return {platform: str(net) for platform, net in self.connections.items()}
