"""The smallest sensible network: two 3D convolutions with a ReLU between them."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """Two convolutions, 3x3x3.

    At upsampling 1 both are padded, so the patch keeps its n voxels. At upsampling 2 the first is valid and the second
    transposed with stride 2: n -> n - 2 -> 2n - 3, which leaves the central voxel in the centre.

    Args:
        in_channels: Channels of the source patch.
        out_channels: Channels of the prediction.
        upsampling: 1 or 2.
        width: Channels between the two convolutions.

    >>> import torch
    >>> Tiny(28, 28, upsampling=2)(torch.zeros(1, 28, 11, 11, 11)).shape
    torch.Size([1, 28, 19, 19, 19])
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: int = 1, width: int = 16) -> None:
        super().__init__()
        padding = 1 if upsampling == 1 else 0
        self.body = nn.Sequential(nn.Conv3d(in_channels, width, 3, padding=padding), nn.ReLU())
        self.head: nn.Module
        if upsampling == 1:
            self.head = nn.Conv3d(width, out_channels, 3, padding=1)
        else:
            self.head = nn.ConvTranspose3d(width, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        prediction: Tensor = self.head(self.body(x))
        return prediction
