"""What a fusion is: it reads the first predictions and features of single networks and gives later stages."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from harmonet.stages import Gaussian, Stage

__all__ = ["Fusion", "Gaussian", "Source", "Stage"]

Size = tuple[int, ...]  # (C, X, Y, Z)


@dataclass(frozen=True)
class Source:
    """Measured sizes (C, X, Y, Z) of one single network: its prediction, and its features by tap name."""

    prediction: Size
    features: Mapping[str, Size]


class Fusion(nn.Module, ABC):
    """Joins single networks for one target platform.

    A subclass builds what it needs from the measured sizes and says in `forward` what the later stages predict:

        class Mine(hn.Fusion):
            def __init__(self, sources, target, width=8):
                super().__init__(sources, target)
                ...
            def forward(self, first, features):
                return [{self.target: ...}]

    Attributes:
        sources: Platform to the sizes of its single network.
        target: The platform that later stages predict.
    """

    def __init__(self, sources: Mapping[str, Source], target: str) -> None:
        super().__init__()
        self.sources = dict(sources)
        self.target = target

    @abstractmethod
    def forward(self, first: Stage, features: Mapping[str, Mapping[str, Tensor]]) -> Sequence[dict[str, Tensor]]:
        """The later stages.

        Args:
            first: Platform to the first-stage prediction (B, C, X, Y, Z).
            features: Platform to tap name to tensor (B, C, X, Y, Z).

        Returns:
            One dict, platform to prediction, per later stage; a `Stage` where predictions have variances.
        """

    def advance(self, done: float) -> None:
        """Follow the training: `done` rises from 0 to 1. Called before every step; nothing to do by default."""

    def wiring(self) -> dict[str, str]:
        """Platform to a few words on how its features reach the target, for the wiring table."""
        return {}
