"""SHResNet: residual blocks with a functional unit for each SH order (Koppers et al. 2018)."""

import torch
from torch import Tensor, nn

from harmonet import sh


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
    """Splits by SH order, applies a unit to each, joins, and subtracts the input."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        slices = sh.order_slices(sh.order_of(channels)).values()
        self.sizes = [s.stop - s.start for s in slices]
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
    (the figure prints 100), a transposed convolution (k3, s2, p2) at upsampling 2, PyTorch's initial weights
    (He-normal ones made the first loss so large that the ReLUs died at a learning rate of 1e-3).

    Args:
        in_channels: Coefficients of an even SH series.
        out_channels: Output channels.
        upsampling: 1 or 2.
        blocks: Residual blocks, n.
        width: Kernels of the units and of the tail.
    """

    def __init__(
        self, in_channels: int, out_channels: int, upsampling: int = 1, blocks: int = 2, width: int = 100
    ) -> None:
        super().__init__()
        self.enter = nn.Conv3d(in_channels, in_channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(in_channels, width) for _ in range(blocks)))
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

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        a = self.enter(x)
        prediction: Tensor = self.head(self.tail(self.leave(self.blocks(a)) - a))
        return prediction
