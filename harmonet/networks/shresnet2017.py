"""SHResNet of 2017: one functional unit for each SH order, minus the input (Tax et al. 2019)."""

import torch
from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu, pointwise_relu
from harmonet.blocks.orders import order_widths
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.upsample import output_layer


class SHResNet2017(nn.Module):
    """Spherical harmonic residual network as entered in the 2017 challenge, the forerunner of `shresnet`.

    A unit for each order: two 3³ convolutions with ReLU, batch normalisation, a third convolution. Their joined
    output through a fully connected layer with ReLU, minus the input through another, then a last one. Fully
    connected layers are 1³ convolutions. Receptive field 7³.

    Published (Tax et al. 2019, doi:10.1016/j.neuroimage.2019.01.077): the layers, 100 kernels, SH order 4. Our
    choice: any even order, units for each shell, a padded third convolution (the published one is valid and leaves
    the centre of a 3³ patch), a linear last layer (the published ReLU cannot give signed coefficients), at
    upsampling 2 a transposed convolution (k3, s2, n -> 2n - 3) in its place.

    Args:
        in_channels: An even SH series for each shell.
        out_channels: Output channels.
        upsampling: 1 or 2.
        width: Kernels of the units.
        shells: Shells among the input channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, upsampling: int = 1, width: int = 100, shells: int = 1
    ) -> None:
        super().__init__()
        self.sizes = order_widths(in_channels, shells)
        self.units = nn.ModuleList(_unit(size, width) for size in self.sizes)
        self.join = pointwise_relu(in_channels, in_channels)
        self.skip = pointwise_relu(in_channels, in_channels)
        self.difference = nn.Identity()  # a name for the tap
        self.output = output_layer(in_channels, out_channels, upsampling, kernel=1, surplus=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        x = channels_last(x)
        parts = torch.split(x, self.sizes, dim=1)
        orders = torch.cat([unit(part) for unit, part in zip(self.units, parts, strict=True)], dim=1)
        prediction: Tensor = self.output(self.difference(self.join(orders) - self.skip(x)))
        return prediction


def _unit(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_relu(channels, width),
        *conv_relu(width, width),
        nn.BatchNorm3d(width),
        nn.Conv3d(width, channels, 3, padding=1),
    )
