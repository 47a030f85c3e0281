"""CPM: platforms predicted one after the other, in the manner of convolutional pose machines (Wei et al. 2016)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harmonet.blocks.connection import ConnectionNet, Size, resolve
from harmonet.errors import ShapeError
from harmonet.fusion import Fusion, Run, Source, Stage
from harmonet.fusions.order import in_turn


class CPM(Fusion):
    """A chain of single networks, the target's last, each of which sees what the one before it predicted.

    y_1 = N_1(x), then y_s = N_s(u_s) with u_s = x + C_s([x, R(y_(s-1))]), where N_s is the network of platform s in the
    chain, C_s two convolutions and R a strided convolution to the source's grid, or nothing for a prediction that lies
    on it. The last layer of C_s starts at zero: at first u_s is x, and every network predicts what it did alone. Each
    platform is a stage of its own, so each prediction is supervised.

    Published (Wei et al. 2016, doi:10.1109/CVPR.2016.511): a sequence of networks, each of which sees the image and the
    prediction before it, and a loss on every prediction. Blumberg et al. 2019 compare with such a network that
    predicts other platforms on the way, joined by stacks of two convolutions, with strided ones where grids differ.
    Our choice: the order; that links change the input patch, so that any network can stand in the chain; their width,
    kernels and start at zero; R; that R alone is shared by all links that read its prediction (with `dense`).

    The networks are shared by the chains of several targets. Only the first of a chain reads the patch itself; every
    other is run once for each chain.

    Args:
        sources: Platform to measured sizes, two platforms or more.
        target: The platform T, last in the chain.
        order: The platforms before the target, which may stand anywhere in it; by grid, coarse to fine, and by name
            where None.
        dense: Whether a network sees all predictions before it, and not the last one only.
        width: Channels between the two convolutions of a link.

    Raises:
        ShapeError: There is one platform only, or a prediction cannot be led to the source's grid.
        NotFoundError: The order names other platforms than there are.
    """

    default_taps = "none"

    def __init__(
        self,
        sources: Mapping[str, Source],
        target: str,
        order: Sequence[str] | None = None,
        dense: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__(sources, target)
        before = in_turn("cpm", sources, target, order)
        self.chain = [*before, target]
        self.seen = {p: before[0 if dense else i : i + 1] for i, p in enumerate(self.chain[1:])}
        coarsest = min((source.prediction for source in sources.values()), key=lambda size: size[1:])
        grid = sources[target].patch or coarsest
        self.back = nn.ModuleDict({p: _to_grid(p, sources[p].prediction, grid) for p in before})
        self.links = nn.ModuleDict({p: _link(grid, len(seen), width) for p, seen in self.seen.items()})

    def stages(self, x: Tensor, run: Run) -> Sequence[Stage]:
        """One stage for each platform of the chain, the target's last."""
        stages: list[Stage] = []
        predicted: dict[str, Tensor] = {}  # on the source's grid
        for platform in self.chain:
            patch = x
            if platform in self.links:
                seen = torch.cat([x, *(predicted[p] for p in self.seen[platform])], dim=1)
                patch = x + self.links[platform](seen)
            stage = Stage()
            stage.add(platform, run(platform, patch)[0])
            stages.append(stage)
            if platform in self.back:
                predicted[platform] = self._on_grid_of(x, platform, stage[platform])
        return stages

    def _on_grid_of(self, x: Tensor, platform: str, prediction: Tensor) -> Tensor:
        """The prediction (B, C, t, t, t) as (B, C, n, n, n), n that of x."""
        back: Tensor = self.back[platform](prediction)
        if back.shape[2:] != x.shape[2:]:
            raise ShapeError(
                f"cpm takes the coarsest platform's grid for the source's, so that {platform} comes back with "
                f"{back.shape[2]} voxels on edge, but patches have {x.shape[2]}: add a platform at upsampling 1."
            )
        return back

    def wiring(self) -> dict[str, str]:
        """What each network of the chain sees."""
        words = {self.chain[0]: "first in the chain"}
        for platform, seen in self.seen.items():
            led = [f"{p} ({self._strided(p)})" if self._strided(p) else p for p in seen]
            words[platform] = f"after {', '.join(led)}: {self.links[platform]}"
        return words

    def _strided(self, platform: str) -> str:
        back = self.back[platform]
        return f"conv k{back.kernel_size[0]} s{back.stride[0]}" if isinstance(back, nn.Conv3d) else ""


def _to_grid(platform: str, prediction: Size, grid: Size) -> nn.Module:
    """What leads a prediction to the source's grid, centre to centre: one strided convolution, or nothing."""
    if prediction[1:] == grid[1:]:
        return nn.Identity()
    steps = resolve(prediction[1], grid[1])
    if steps is None or steps[0].stride == 1:
        raise ShapeError(
            f"cpm leads predictions to the coarsest platform's grid by a strided convolution, but none leads "
            f"{platform} from {prediction[1]} to {grid[1]} voxels on edge: add a platform at upsampling 1."
        )
    return steps[0].layer(prediction[0], grid[0])


def _link(grid: Size, predictions: int, width: int) -> ConnectionNet:
    """Two convolutions from the patch and predictions on its grid to a change of the patch, none at first."""
    channels, *edges = grid
    link = ConnectionNet([(channels * (1 + predictions), *edges)], grid, width)
    last = [layer for layer in link.modules() if isinstance(layer, nn.Conv3d)][-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return link
