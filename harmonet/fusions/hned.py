"""HNED: one network with side outputs, in the manner of holistically nested edge detection (Xie and Tu 2015)."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import ShapeError
from harmonet.fusion import Fusion, Run, Source, Stage
from harmonet.fusions.order import in_turn

DEEPEST = "features"  # the tap before a network's output, as cards name it


class HNED(Fusion):
    """The target's network alone, from whose inner layers the other platforms are predicted, and their weighted sum.

    y_k = C_k(z_k) for the other platforms k = 1 to K, with z_k tapped deeper and deeper in the target's network N_T,
    then y_T = w_0 N_T(x) + sum over k of w_k D_k(y_k). C_k and D_k are connection networks, to the grid of platform k
    and back to the target's; w are learned numbers that start at 1 / (K + 1). The first stage has N_T(x) and the sides,
    the last one the sum, so each prediction is supervised.

    Published (Xie and Tu 2015, doi:10.1109/ICCV.2015.164): one stream with side outputs at increasing depth, their sum
    by learned weights that start equal, and a loss on every side and on the sum. Blumberg et al. 2019 compare with
    such a network that predicts other platforms on the way, joined by stacks of two convolutions. Our choice: the
    order; one side for each other platform; that the target's own network is the stream and its output a term of the
    sum; D_k, since sides predict other platforms than the sum does.

    Taps are read in the order of the network's card or of the user's list, except that the one called `features`, which
    lies before the output, comes last. Where there are fewer taps than sides, later sides share the last.

    Args:
        sources: Platform to measured sizes, two platforms or more; taps of the target's network, one or more.
        target: The platform T.
        order: The platforms of the sides from shallow to deep, in which the target may stand too; by grid, coarse to
            fine, and by name where None.
        sides: Number of sides K, for the first platforms of the order; all where None.
        resample: "trilinear" interpolates where no two convolutions lead from the one grid to the other.

    Raises:
        ShapeError: There is one platform only, no tap, another number of sides than there are platforms for, or no
            two convolutions lead from the one grid to the other.
        NotFoundError: The order names other platforms than there are, or there is no such way to resample.
    """

    default_taps = "all"

    def __init__(
        self,
        sources: Mapping[str, Source],
        target: str,
        order: Sequence[str] | None = None,
        sides: int | None = None,
        resample: str | None = None,
    ) -> None:
        super().__init__(sources, target)
        others = in_turn("hned", sources, target, order)
        count = len(others) if sides is None else sides
        if not 1 <= count <= len(others):
            raise ShapeError(
                f"hned was asked for {count} sides on the way to {target}, where {len(others)} other platforms can be "
                f"predicted: ask for 1 to {len(others)}."
            )
        features, prediction = sources[target].features, sources[target].prediction
        taps = by_depth(features)
        if not taps:
            raise ShapeError(
                f"hned predicts other platforms from inner layers of the network of {target}, found no tap there: "
                "name a layer with --tap or taps=."
            )
        self.taps = {p: taps[min(k, len(taps) - 1)] for k, p in enumerate(others[:count])}
        self.sides, self.back = nn.ModuleDict(), nn.ModuleDict()
        for platform, tap in self.taps.items():
            size = sources[platform].prediction
            try:
                self.sides[platform] = ConnectionNet([features[tap]], size, resample=resample)
                self.back[platform] = ConnectionNet([size], prediction, resample=resample)
            except ShapeError as error:
                raise ShapeError(f"{target} with a side output for {platform}: {error}") from None
        self.weights = nn.Parameter(torch.full((count + 1,), 1 / (count + 1)))

    @property
    def reads(self) -> list[str]:
        """The target alone: the networks of the other platforms are not run."""
        return [self.target]

    def stages(self, x: Tensor, run: Run) -> Sequence[Stage]:
        """The target's network with its sides, then the weighted sum."""
        prediction, features = run(self.target, x)
        first = Stage()
        first.add(self.target, prediction)
        own, *shares = self.weights
        fused = own * first[self.target]
        for share, (platform, tap) in zip(shares, self.taps.items(), strict=True):
            first[platform] = self.sides[platform](features[tap])
            fused = fused + share * self.back[platform](first[platform])
        return [first, Stage({self.target: fused})]

    def wiring(self) -> dict[str, str]:
        """The sides, and how each returns to the target."""
        roads = (f"{tap} to {p} by {self.sides[p]}, back by {self.back[p]}" for p, tap in self.taps.items())
        return {self.target: "; ".join(roads)}


def by_depth(taps: Iterable[str]) -> list[str]:
    """Names of taps from shallow to deep: as they are listed, but the one before the output last.

    >>> by_depth(["features", "side1", "side2"])
    ['side1', 'side2', 'features']
    """
    return sorted(taps, key=lambda name: name == DEEPEST)
