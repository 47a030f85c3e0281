"""One network with a head for each platform: the control for what sharing every feature is worth."""

from collections.abc import Mapping

from torch import nn

from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.fusion import Features, Fusion, Source, Stage


class HardSharing(Fusion):
    """One trunk, the network of one platform, and from its tapped features a new head for each platform.

    Published (Caruana 1997, doi:10.1023/A:1007379606734): hidden layers that all tasks share, an output for each.
    Our choice: a head is a connection network; which network is the trunk; it is trained alone on its own platform
    first, and its own prediction stays the first stage. Networks of other platforms are neither trained nor run.

    Args:
        sources: Platform to measured sizes, two platforms or more.
        target: Any of them: one fusion predicts all.
        trunk: Platform whose network is shared. Where None, the first on the coarsest grid: its features are of the
            source's grid, from which connection networks lead to every other.
        hidden: Width of the heads; the features' channels where None.
    """

    def __init__(
        self, sources: Mapping[str, Source], target: str, trunk: str | None = None, hidden: int | None = None
    ) -> None:
        super().__init__(sources, target)
        if len(sources) < 2:
            raise ShapeError(
                f"hard_sharing shares one network among two platforms or more, found only {target}: "
                "train its network without a fusion."
            )
        self.trunk = min(sources, key=lambda p: sources[p].prediction[1:]) if trunk is None else trunk
        if self.trunk not in sources:
            raise NotFoundError(f"hard_sharing has no network for trunk={trunk!r}. {nearest(self.trunk, sources)}")
        sizes = list(sources[self.trunk].features.values())
        self.heads = nn.ModuleDict()
        for platform, source in sources.items():
            try:
                self.heads[platform] = ConnectionNet(sizes, source.prediction, hidden)
            except ShapeError as error:
                raise ShapeError(f"{self.trunk} to {platform}: {error}") from None

    @property
    def reads(self) -> list[str]:
        """The trunk's platform."""
        return [self.trunk]

    @property
    def refines(self) -> list[str]:
        """All platforms."""
        return list(self.sources)

    def forward(self, first: Stage, features: Features) -> list[Stage]:
        """One later stage, what each head says of the trunk's features."""
        shared = [features[self.trunk][tap] for tap in self.sources[self.trunk].features]
        return [Stage({platform: head(*shared) for platform, head in self.heads.items()})]

    def wiring(self) -> dict[str, str]:
        """The heads."""
        return {self.trunk: "; ".join(f"{platform} by {head}" for platform, head in self.heads.items())}
