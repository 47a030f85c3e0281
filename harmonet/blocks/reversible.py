"""Reversible residual layers (Gomez et al. 2017, doi:10.48550/arXiv.1707.04585) as DIQT uses them.

Within a stack the two halves of the channels travel apart, as a pair: joined once, at its end.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harmonet.blocks.pointwise import Pointwise

Halves = tuple[Tensor, Tensor]


def _residual(in_channels: int, out_channels: int) -> nn.Sequential:
    """[BN, ReLU, conv k1] [BN, ReLU, conv k3 p1] [BN, ReLU, conv k1], at the width that it gives."""
    return nn.Sequential(
        nn.BatchNorm3d(in_channels),
        nn.ReLU(),
        Pointwise(in_channels, out_channels),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(),
        nn.Conv3d(out_channels, out_channels, 3, padding=1),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(),
        Pointwise(out_channels, out_channels),
    )


class ReversibleLayer(nn.Module):
    """Couples two halves of the channels so that the input follows from the output.

    y1 = x1 + F(x2), y2 = x2 + G(y1). Inverse: x2 = y2 - G(y1), x1 = y1 - F(x2).

    Published with equal halves. An odd number of channels (15 of SH order 4) splits into unequal ones, and F and G
    lead from the one width to the other: our choice.

    Args:
        widths: Channels of the first and the second half, 1 or more each.
    """

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.f = _residual(second, first)
        self.g = _residual(first, second)

    def forward(self, halves: Halves) -> Halves:
        """Both (B, C/2, X, Y, Z) to the same sizes."""
        x1, x2 = halves
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def inverse(self, halves: Halves) -> Halves:
        """The halves that gave these (in evaluation mode, up to rounding)."""
        y1, y2 = halves
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


class ReversibleStack(nn.Sequential):
    """Reversible layers one after the other, at one width.

    A single channel has no halves: there a stack has no layers and gives what it was given (our choice).

    Args:
        channels: Channels in and out.
        layers: How many.
    """

    def __init__(self, channels: int, layers: int) -> None:
        widths = (channels - channels // 2, channels // 2)
        super().__init__(*(ReversibleLayer(widths) for _ in range(layers if channels > 1 else 0)))
        self.widths = widths

    def split(self, x: Tensor) -> Halves:
        """(B, C, X, Y, Z) to its halves, each in one piece of memory."""
        layout = torch.channels_last_3d if x.is_contiguous(memory_format=torch.channels_last_3d) else None
        first, second = torch.split(x, list(self.widths), dim=1)
        if layout is None:
            return first.contiguous(), second.contiguous()
        return first.contiguous(memory_format=layout), second.contiguous(memory_format=layout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        if not len(self):
            return x
        halves = self.split(x)
        for layer in self:
            halves = layer(halves)
        return torch.cat(halves, dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gave `y` (in evaluation mode, up to rounding)."""
        halves = self.split(y)
        for layer in self.backwards():
            halves = layer.inverse(halves)
        return torch.cat(halves, dim=1)

    def backwards(self) -> Iterator[ReversibleLayer]:
        """The layers from the last to the first."""
        for layer in reversed(list(self)):
            assert isinstance(layer, ReversibleLayer)
            yield layer
