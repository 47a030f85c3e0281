"""Reversible residual layers (Gomez et al. 2017, doi:10.48550/arXiv.1707.04585) as DIQT uses them."""

import torch
from torch import Tensor, nn


def _residual(in_channels: int, out_channels: int) -> nn.Sequential:
    """[BN, ReLU, conv k1] [BN, ReLU, conv k3 p1] [BN, ReLU, conv k1], at the width that it gives."""
    layers: list[nn.Module] = []
    for kernel, width in ((1, in_channels), (3, out_channels), (1, out_channels)):
        layers += [nn.BatchNorm3d(width), nn.ReLU(), nn.Conv3d(width, out_channels, kernel, padding=kernel // 2)]
    return nn.Sequential(*layers)


class ReversibleLayer(nn.Module):
    """Couples two halves of the channels so that the input follows from the output.

    y1 = x1 + F(x2), y2 = x2 + G(y1). Inverse: x2 = y2 - G(y1), x1 = y1 - F(x2).

    Published with equal halves. An odd number of channels (15 of SH order 4) splits into unequal ones, and F and G
    lead from the one width to the other: our choice.

    Args:
        channels: Channels in and out, 2 or more.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widths = [channels - channels // 2, channels // 2]
        first, second = self.widths
        self.f = _residual(second, first)
        self.g = _residual(first, second)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        x1, x2 = torch.split(x, self.widths, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gave `y` (in evaluation mode, up to rounding)."""
        y1, y2 = torch.split(y, self.widths, dim=1)
        x2 = y2 - self.g(y1)
        x1 = y1 - self.f(x2)
        return torch.cat([x1, x2], dim=1)


def reversible_stack(channels: int, layers: int) -> nn.Sequential:
    """`layers` reversible layers one after the other; none where a single channel has no halves (our choice)."""
    if channels == 1:
        return nn.Sequential()
    return nn.Sequential(*(ReversibleLayer(channels) for _ in range(layers)))
