"""What a fusion is: it reads the first predictions and features of single networks and gives later stages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from harmonet.stages import Gaussian, Prediction, Stage

__all__ = ["Fusion", "Gaussian", "Run", "Source", "Stage"]

Size = tuple[int, ...]  # (C, X, Y, Z)
Features = Mapping[str, Mapping[str, Tensor]]  # platform -> tap name -> (B, C, X, Y, Z)


@dataclass(frozen=True)
class Source:
    """Measured sizes (C, X, Y, Z) of one single network: its prediction, its features by tap name, its input."""

    prediction: Size
    features: Mapping[str, Size]
    patch: Size | None = None  # of the source; None where nothing was measured


class Run(Protocol):
    """Runs the single network of a platform on a patch; twice on the model's own patch is computed once."""

    def __call__(self, platform: str, x: Tensor) -> tuple[Prediction, Mapping[str, Tensor]]:
        """Its prediction, and its features by tap name."""


class Fusion(nn.Module):
    """Joins single networks for one target platform.

    A subclass builds what it needs from the measured sizes and says in `forward` what the later stages predict:

        class Mine(hn.Fusion):
            def __init__(self, sources, target, width=8):
                super().__init__(sources, target)
                ...
            def forward(self, first, features):
                return [{self.target: ...}]

    One that runs the networks itself, such as on an altered patch, overrides `stages` in place of `forward`.

    Attributes:
        sources: Platform to the sizes of its single network.
        target: The platform that later stages predict.
        default_taps: Which taps of a network's card are read where the user names none: the `first`, `all` or `none`.
        takes_all: Whether it reads all networks of a platform that has several (`first.members`); else training keeps
            the best of them.
        in_unison: Whether networks and fusion are trained on together, once each network was trained alone.
    """

    default_taps: ClassVar[Literal["first", "all", "none"]] = "first"
    takes_all: ClassVar[bool] = False
    in_unison: ClassVar[bool] = True

    def __init__(self, sources: Mapping[str, Source], target: str) -> None:
        super().__init__()
        if type(self).forward is Fusion.forward and type(self).stages is Fusion.stages:
            raise TypeError(f"{type(self).__name__} predicts nothing: define forward(self, first, features).")
        self.sources = dict(sources)
        self.target = target

    @property
    def reads(self) -> Collection[str]:
        """Platforms whose single networks are run; all by default. A model leaves out a network that nobody reads."""
        return list(self.sources)

    @property
    def refines(self) -> Collection[str]:
        """Platforms that the last stage predicts; the target by default."""
        return [self.target]

    def stages(self, x: Tensor, run: Run) -> Sequence[Mapping[str, Tensor]]:
        """All stages: what the single networks say of the patch, then what `forward` makes of it.

        Args:
            x: Source patches (B, C, n, n, n), standardised.
            run: Runs a platform's network.

        Returns:
            One dict, platform to prediction, per stage; a `Stage` where predictions have variances.
        """
        first = Stage()
        features = {}
        for platform in self.reads:
            prediction, features[platform] = run(platform, x)
            first.add(platform, prediction)
        return [first, *self.forward(first, features)]

    def forward(self, first: Stage, features: Features) -> Sequence[Mapping[str, Tensor]]:
        """The later stages.

        Args:
            first: Platform to the first-stage prediction (B, C, X, Y, Z).
            features: Platform to tap name to tensor (B, C, X, Y, Z).

        Returns:
            One dict, platform to prediction, per later stage; a `Stage` where predictions have variances.
        """
        raise NotImplementedError(f"{type(self).__name__} runs the networks itself: call its stages().")

    def advance(self, done: float) -> None:
        """Follow the training: `done` rises from 0 to 1. Called before every step; nothing to do by default."""

    def wiring(self) -> dict[str, str]:
        """Platform to a few words on how its features reach the target, for the wiring table."""
        return {}
