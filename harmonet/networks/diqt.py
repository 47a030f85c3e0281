"""DIQT: an ESPCN with reversible layers before each convolution (Blumberg et al. 2018)."""

from torch import Tensor, nn

from harmonet.blocks.pointwise import Pointwise, channels_last
from harmonet.blocks.recompute import RecomputingStack
from harmonet.blocks.reversible import ReversibleStack


class DIQT(nn.Module):
    """Deeper image quality transfer, 3D-ESPCN-RN-N, for SH patches.

    A stack of N reversible layers stands before each of the three convolutions, at that convolution's input width.
    At upsampling 2 the first convolution is valid and the last is a transposed one (k3, s2): 11 -> 9 -> 9 -> 19.
    At upsampling 1 all convolutions are padded.

    Published: the stacks, their content, the widths 50 and 100, N = 4 (the authors' code,
    doi:10.48550/arXiv.1808.05577). Our choice: SH channels in place of the diffusion tensor's, padding at
    upsampling 1, the transposed convolution in place of the shuffle (Blumberg et al. 2019 say only "deconvolution"),
    no reversible layers on a single channel, which has no halves.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        layers: Reversible layers per stack, N.
        widths: Channels after the first and second convolution.
        recompute: Recompute what the stacks held from their outputs in the backward pass, as published: equal
            gradients, memory that does not grow with N, and up to a third more time. Not by default: half a
            gigabyte is enough for 12 patches at N = 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upsampling: int = 1,
        layers: int = 4,
        widths: tuple[int, int] = (50, 100),
        recompute: bool = False,
    ) -> None:
        super().__init__()
        first, second = widths
        padding = 1 if upsampling == 1 else 0
        stack = RecomputingStack if recompute else ReversibleStack
        self.rev0 = stack(in_channels, layers)
        self.conv0 = nn.Sequential(nn.Conv3d(in_channels, first, 3, padding=padding), nn.ReLU())
        self.rev1 = stack(first, layers)
        self.conv1 = nn.Sequential(Pointwise(first, second), nn.ReLU())
        self.rev2 = stack(second, layers)
        self.conv2: nn.Module
        if upsampling == 1:
            self.conv2 = nn.Conv3d(second, out_channels, 3, padding=1)
        else:
            self.conv2 = nn.ConvTranspose3d(second, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        x = self.conv0(self.rev0(channels_last(x)))
        x = self.conv1(self.rev1(x))
        prediction: Tensor = self.conv2(self.rev2(x))
        return prediction
