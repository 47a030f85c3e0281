"""SHNet: four fully connected layers on the coefficients of one voxel (Tax et al. 2019)."""

from torch import Tensor, nn

from harmonet.blocks.convolution import pointwise_relu
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.upsample import output_layer


class SHNet(nn.Module):
    """Voxelwise network, an entry of the 2017 challenge.

    Three times batch normalisation, a fully connected layer and ReLU, then batch normalisation and a linear layer:
    1³ convolutions. Receptive field 1³.

    Published (Tax et al. 2019, doi:10.1016/j.neuroimage.2019.01.077): the layers and the width 150. Our choice: at
    upsampling 2 a transposed convolution (k3, s2, n -> 2n - 3) in place of the linear layer: a target voxel on a
    source voxel follows from that voxel alone, one between them from its 2, 4 or 8 neighbours.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        width: Channels of the hidden layers.
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: int = 1, width: int = 150) -> None:
        super().__init__()
        self.fc1 = _layer(in_channels, width)
        self.fc2 = _layer(width, width)
        self.fc3 = _layer(width, width)
        self.norm = nn.BatchNorm3d(width)
        self.output = output_layer(width, out_channels, upsampling, kernel=1, surplus=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        prediction: Tensor = self.output(self.norm(self.fc3(self.fc2(self.fc1(channels_last(x))))))
        return prediction


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm3d(in_channels), *pointwise_relu(in_channels, out_channels))
