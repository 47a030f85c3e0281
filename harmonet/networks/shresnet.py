"""SHResNet: residual blocks with a functional unit for each SH order (Koppers et al. 2018)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harmonet.blocks.orders import order_widths
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.raw_units import RawUnits
from harmonet.errors import ShapeError


class FunctionalUnit(nn.Sequential):
    """Conv, ReLU, conv, ReLU, conv (k3, padded) on the coefficients of one order."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv3d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, channels, 3, padding=1),
        )


class ResidualBlock(nn.Module):
    """Splits by SH order, applies a unit to each, joins, and subtracts the input.

    One convolution of all orders in groups would need equal inputs, and is no faster than the separate ones.

    Args:
        sizes: Channels of each unit, in turn.
        width: Kernels of each unit.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.units = nn.ModuleList(FunctionalUnit(size, width) for size in self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([unit(part) for unit, part in zip(self.units, parts, strict=True)], dim=1) - x


class SHResNet(nn.Module):
    """Spherical harmonic residual network.

    Conv (= a), residual blocks, conv, minus a, then a tail of two convolutions with ReLU and the output.

    Published (doi:10.48550/arXiv.1808.01595, figure 1): the topology, 100 kernels, two blocks. Our choice: SH order 6,
    a padded output convolution (the paper predicts the centre voxel of a 3³ patch), linear output (the figure draws a
    ReLU, which signed coefficients cannot pass), units and outer convolutions that emit as many channels as they take
    (the figure prints 100), units per order and shell, a transposed convolution (k3, s2, p2) at upsampling 2,
    PyTorch's initial weights (He-normal ones made the first loss so large that the ReLUs died at a learning rate of
    1e-3).

    Args:
        in_channels: Coefficients of an even SH series, shell after shell.
        out_channels: Output channels.
        upsampling: 1 or 2.
        blocks: Residual blocks, n.
        width: Kernels of the units and of the tail.
        final_relu: End in the ReLU that the figure draws.
        shells: Shells in the input.

    Raises:
        ShapeError: The channels are no even SH series for each shell.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upsampling: int = 1,
        blocks: int = 2,
        width: int = 100,
        final_relu: bool = False,
        shells: int = 1,
    ) -> None:
        super().__init__()
        sizes = order_widths(in_channels, shells)
        self.enter = nn.Conv3d(in_channels, in_channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(sizes, width) for _ in range(blocks)))
        self.leave = nn.Conv3d(in_channels, in_channels, 3, padding=1)
        self.tail = nn.Sequential(
            nn.Conv3d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.head: nn.Module
        if upsampling == 1:
            self.head = nn.Conv3d(width, out_channels, 3, padding=1)
        else:
            self.head = nn.ConvTranspose3d(width, out_channels, 3, stride=2, padding=2)
        self.final = nn.ReLU() if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        a = self.enter(channels_last(x))
        prediction: Tensor = self.final(self.head(self.tail(self.leave(self.blocks(a)) - a)))
        return prediction


class ProjectedSHResNet(SHResNet):
    """SHResNet whose predictions, in evaluation, keep the orientation of the input: equation 1 of the paper.

    Raw units are needed for that, from `set_statistics`. Training and taps are those of `SHResNet`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, upsampling: int = 1, *, shells: int, **options: Any
    ) -> None:
        if upsampling != 1:
            raise ShapeError(
                f"rish_projection was asked for at upsampling {upsampling}, where the input has no coefficients at the "
                "voxels of the output to take the orientation from: set rish_projection = false."
            )
        if in_channels != out_channels:
            raise ShapeError(
                f"rish_projection was asked for from {in_channels} to {out_channels} channels, but it takes the "
                "orientation of each output channel from its input channel: use as many out as in."
            )
        super().__init__(in_channels, out_channels, shells=shells, **options)
        self.sizes = order_widths(in_channels, shells)
        self.raw = RawUnits(in_channels)

    def set_statistics(self, source_mean: Tensor, source_std: Tensor, target_mean: Tensor, target_std: Tensor) -> None:
        """Takes what the channels of input and output were standardised with, each (C,)."""
        self.raw.set(source_mean, source_std, target_mean, target_std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n, n) to the same size."""
        prediction = super().forward(x)
        if self.training:
            return prediction
        each = (1, -1, 1, 1, 1)
        predicted = prediction * self.raw.target_std.view(each) + self.raw.target_mean.view(each)
        return self.raw.standardise_target(project(self.raw.of_source(x), predicted, self.sizes))


def project(coefficients: Tensor, energies_of: Tensor, sizes: Sequence[int]) -> Tensor:
    """`coefficients`, each order scaled to the energy that it has in `energies_of`; an empty order stays empty.

    Args:
        coefficients, energies_of: (B, C, X, Y, Z), raw.
        sizes: Channels of each order, in turn.
    """
    scaled = []
    for part, other in zip(*(torch.split(x, list(sizes), dim=1) for x in (coefficients, energies_of)), strict=True):
        length = torch.linalg.vector_norm(part, dim=1, keepdim=True)
        wanted = torch.linalg.vector_norm(other, dim=1, keepdim=True)
        scaled.append(torch.where(length > 0, part / length, 0) * wanted)
    return torch.cat(scaled, dim=1)


def shresnet(
    in_channels: int,
    out_channels: int,
    upsampling: int = 1,
    blocks: int = 2,
    width: int = 100,
    final_relu: bool = False,
    rish_projection: bool = False,
    shells: int = 1,
) -> SHResNet:
    """An SHResNet, with `rish_projection` one that keeps the input's orientation in evaluation (same grid only)."""
    kind = ProjectedSHResNet if rish_projection else SHResNet
    return kind(in_channels, out_channels, upsampling, blocks=blocks, width=width, final_relu=final_relu, shells=shells)
