"""Features of all networks mixed by learned weights (Misra et al. 2016, doi:10.1109/CVPR.2016.433), as we read it."""

from collections.abc import Mapping

import torch
from torch import nn

from harmonet.blocks.connection import ConnectionNet, resolve
from harmonet.errors import ShapeError
from harmonet.fusion import Features, Fusion, Size, Source, Stage


class CrossStitch(Fusion):
    """One cross-stitch unit over the tapped features of all networks, and behind it a new head for each platform.

    y_T(2) = head_T(sum over i of w_Ti u_i), u_i the feature of network i at one common size, w_Ti a learned number.

    Published: a unit mixes activation maps of networks for several tasks by learned weights that begin from 0 to 1.
    Differs, all our choice: the paper puts units at several layers of two networks of one architecture, each of which
    runs on from its mixture. Layers of arbitrary networks need not match, and nothing can run on from one of them: so
    one unit, at one tap of each network, and connection networks as heads in place of the networks' own ends. The
    common size is that of the first feature of fewest voxels that connection networks reach from all other grids;
    1 x 1 x 1 convolutions lead there from other channels.

    Args:
        sources: Platform to measured sizes, two platforms or more, one tap each.
        target: Any of them: one fusion predicts all.
        own: First weight of a platform's own feature; the others share 1 - own.
        hidden: Width of connection networks; their incoming channels where None.
    """

    def __init__(self, sources: Mapping[str, Source], target: str, own: float = 0.9, hidden: int | None = None) -> None:
        super().__init__(sources, target)
        if len(sources) < 2:
            raise ShapeError(
                f"cross_stitch mixes the features of two networks or more, found only that of {target}: "
                "train it without a fusion."
            )
        if crowded := [platform for platform, source in sources.items() if len(source.features) != 1]:
            names = ", ".join(sources[crowded[0]].features) or "none"
            raise ShapeError(f"cross_stitch reads one tap of each network, found for {crowded[0]}: {names}.")
        sizes = {platform: size for platform, source in sources.items() for size in source.features.values()}
        within_reach = [size for size in sizes.values() if all(resolve(z[1], size[1]) for z in sizes.values())]
        common = min(within_reach or sizes.values(), key=lambda size: size[1])
        self.leads, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for platform, source in sources.items():
            try:
                self.leads[platform] = _lead(sizes[platform], common, hidden)
                self.heads[platform] = ConnectionNet(common, source.prediction, hidden)
            except ShapeError as error:
                raise ShapeError(f"cross_stitch, {platform}: {error}") from None
        others = (1 - own) / (len(sources) - 1)
        self.weights = nn.Parameter(torch.full((len(sources),) * 2, others).fill_diagonal_(own))

    @property
    def refines(self) -> list[str]:
        """All platforms."""
        return list(self.sources)

    def forward(self, first: Stage, features: Features) -> list[Stage]:
        """One later stage, what each head says of its mixture."""
        led = torch.stack([lead(*features[platform].values()) for platform, lead in self.leads.items()])
        mixed = torch.tensordot(self.weights, led, 1)  # (P, P) over (P, B, C, X, Y, Z)
        return [Stage({platform: head(u) for (platform, head), u in zip(self.heads.items(), mixed, strict=True)})]

    def wiring(self) -> dict[str, str]:
        """The heads."""
        return {platform: f"mixed, {head}" for platform, head in self.heads.items()}


def _lead(size: Size, common: Size, hidden: int | None) -> nn.Module:
    """What leads a feature to the size at which features are mixed."""
    if size == common:
        return nn.Identity()
    return nn.Conv3d(size[0], common[0], 1) if size[1:] == common[1:] else ConnectionNet(size, common, hidden)
