"""From the source's grid to the target's: output layers, interpolation, and the sub-pixel shuffle.

Node-aligned predictions at upsampling 2 have 2n - 3 voxels on edge for a source patch of n: target voxel 2v - 1 lies
on source voxel v, so the central ones coincide. Cell-aligned ones split each source voxel.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from harmonet.blocks.pointwise import Pointwise


def output_layer(
    in_channels: int, out_channels: int, upsampling: int, kernel: int = 3, surplus: int = 0
) -> nn.Conv3d | nn.ConvTranspose3d:
    """The linear layer that gives a node-aligned prediction.

    At upsampling 1 a padded convolution, which keeps the size; at upsampling 2 a transposed convolution (k3, s2),
    after which `surplus` voxels are cut from each side: 0 where a valid convolution came before (n - 2 to 2n - 3),
    2 where every layer was padded (n to 2n - 3).

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        upsampling: 1 or 2.
        kernel: Edge of the kernel at upsampling 1, 1 or 3.
        surplus: 0 or 2.

    >>> import torch
    >>> output_layer(4, 1, 2, surplus=2)(torch.zeros(1, 4, 11, 11, 11)).shape
    torch.Size([1, 1, 19, 19, 19])
    """
    if upsampling == 2:
        return nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=surplus)
    if kernel == 1:
        return Pointwise(in_channels, out_channels)
    return nn.Conv3d(in_channels, out_channels, 3, padding=1)


def interpolate_nodes(x: Tensor) -> Tensor:
    """Trilinear interpolation of (B, C, n, n, n) to the node-aligned grid of half the voxel size, 2n - 3 on edge.

    >>> import torch
    >>> interpolate_nodes(torch.arange(4.0).expand(1, 1, 4, 4, 4))[0, 0, 0, 0]
    tensor([0.5000, 1.0000, 1.5000, 2.0000, 2.5000])
    """
    every = [2 * n - 1 for n in x.shape[2:]]
    fine = F.interpolate(x, size=every, mode="trilinear", align_corners=True)
    return fine[..., 1:-1, 1:-1, 1:-1]


class SubPixelShuffle(nn.Module):
    """Puts the channels of each voxel into the `factor`³ voxels that share its place: cell alignment.

    The 3D form of Shi et al. 2016, doi:10.48550/arXiv.1609.05158. Channels are ordered channel by channel, and
    within each along the first, second and third axis.

    Args:
        factor: Voxels along one edge that a voxel is split into.

    >>> import torch
    >>> SubPixelShuffle(2)(torch.arange(8.0).view(1, 8, 1, 1, 1)).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C r³, X, Y, Z) to (B, C, X r, Y r, Z r), r the factor."""
        r = self.factor
        batch, channels, *size = x.shape
        apart = x.reshape(batch, channels // r**3, r, r, r, *size)
        return apart.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // r**3, *(n * r for n in size))

    def inverse(self, y: Tensor) -> Tensor:
        """(B, C, X r, Y r, Z r) to (B, C r³, X, Y, Z): what `forward` made `y` of."""
        r = self.factor
        batch, channels, *size = y.shape
        i, j, k = (n // r for n in size)
        apart = y.reshape(batch, channels, i, r, j, r, k, r)
        return apart.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * r**3, i, j, k)
