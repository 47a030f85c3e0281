"""A small network in the manner of holistically nested edge detection: a fused prediction of every depth (Xie 2015)."""

import torch
from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.upsample import output_layer

GROUPS = 3  # as many as the benchmark has targets


class HNEDPlain(nn.Module):
    """Three groups of two convolutions, a side prediction after each, and their weighted sum.

    The single-task reading of Blumberg et al. 2019's HNED: all side outputs predict the same target, the fused
    prediction is the output, and only it is supervised. The multi-task network, whose sides predict one platform
    each, is the fusion of the same family; this one is a baseline that owes nothing to the other single networks.
    Receptive field 13³.

    Published (Xie and Tu 2015, doi:10.1109/ICCV.2015.164): groups of 3³ convolutions with ReLU, 1³ side outputs,
    fusion with a learnt weight for each side, all equal at first. Our choice: three groups of two with 64 channels and
    no pooling (patches are 11³); no loss on the sides; at upsampling 2 sides are transposed convolutions (k3, s2,
    n -> 2n - 3).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        width: Channels of the groups.
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: int = 1, width: int = 64) -> None:
        super().__init__()
        self.groups = nn.ModuleList(
            nn.Sequential(conv_relu(in_channels if not i else width, width), conv_relu(width, width))
            for i in range(GROUPS)
        )
        self.sides = nn.ModuleList(
            output_layer(width, out_channels, upsampling, kernel=1, surplus=2) for _ in range(GROUPS)
        )
        self.weights = nn.Parameter(torch.full((GROUPS,), 1 / GROUPS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        x = channels_last(x)
        sides = []
        for group, side in zip(self.groups, self.sides, strict=True):
            x = group(x)
            sides.append(side(x))
        return torch.einsum("s,sbcxyz->bcxyz", self.weights, torch.stack(sides))
