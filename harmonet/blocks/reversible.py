"""Reversible residual layers (Gomez et al. 2017, doi:10.48550/arXiv.1707.04585) as DIQT uses them."""

import torch
from torch import Tensor, nn

from harmonet.errors import ShapeError


def _residual(channels: int) -> nn.Sequential:
    """[BN, ReLU, conv k1] [BN, ReLU, conv k3 p1] [BN, ReLU, conv k1], all at the same width."""
    layers: list[nn.Module] = []
    for kernel in (1, 3, 1):
        layers += [
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, kernel, padding=kernel // 2),
        ]
    return nn.Sequential(*layers)


class ReversibleLayer(nn.Module):
    """Couples two halves of the channels so that the input follows from the output.

    y1 = x1 + F(x2), y2 = x2 + G(y1). Inverse: x2 = y2 - G(y1), x1 = y1 - F(x2).

    Args:
        channels: Even number of channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ShapeError(f"a reversible layer halves its channels, and {channels} is odd: use an even width.")
        self.f = _residual(channels // 2)
        self.g = _residual(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        x1, x2 = x.chunk(2, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gave `y` (in evaluation mode, up to rounding)."""
        y1, y2 = y.chunk(2, dim=1)
        x2 = y2 - self.g(y1)
        x1 = y1 - self.f(x2)
        return torch.cat([x1, x2], dim=1)


def reversible_stack(channels: int, layers: int) -> nn.Sequential:
    """`layers` reversible layers one after the other."""
    return nn.Sequential(*(ReversibleLayer(channels) for _ in range(layers)))
