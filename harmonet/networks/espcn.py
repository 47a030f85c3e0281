"""3D-ESPCN: three convolutions, the last of which enlarges (Tanno et al. 2017)."""

from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu, pointwise_relu
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.upsample import SubPixelShuffle, output_layer


class ESPCN(nn.Module):
    """Efficient sub-pixel convolutional network in 3D, with the output layer that it is given.

    A 3³ convolution, a 1³ convolution, each with ReLU, and the output layer. Receptive field 5³.

    Published (Tanno et al. 2017, doi:10.1007/978-3-319-66182-7_70, and the authors' code): the layers, the widths 50
    and 100, initial weights of the hidden layers (He-normal, bias 0.01). Our choice: SH channels in place of the
    diffusion tensor's, padding where sizes say so, PyTorch's initial weights in the output layer.

    Args:
        in_channels: Input channels.
        widths: Channels after the first and second convolution.
        padding: Of the first convolution.
        output: The output layer.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int], padding: int, output: nn.Module) -> None:
        super().__init__()
        first, second = widths
        self.conv0 = conv_relu(in_channels, first, padding=padding)
        self.conv1 = pointwise_relu(first, second)
        self.output = output
        for parameter in (*self.conv0.parameters(), *self.conv1.parameters()):
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.constant_(parameter, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t as the output layer gives it."""
        prediction: Tensor = self.output(self.conv1(self.conv0(channels_last(x))))
        return prediction


def espcn(in_channels: int, out_channels: int, upsampling: int = 1, widths: tuple[int, int] = (50, 100)) -> ESPCN:
    """The node-aligned form, n to n, or to 2n - 3 at upsampling 2: 11 -> 9 -> 9 -> 19.

    The enlarging layer of the published deconvolution form has kernel 6; kernel 3, which keeps the central voxel
    central, is our choice.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        widths: Channels after the first and second convolution.
    """
    output = output_layer(widths[1], out_channels, upsampling)
    return ESPCN(in_channels, widths, 1 if upsampling == 1 else 0, output)


def espcn_shuffle(
    in_channels: int, out_channels: int, upsampling: int = 1, widths: tuple[int, int] = (50, 100)
) -> ESPCN:
    """The published form, cell-aligned: n to 2n at upsampling 2, where a shuffle follows the third convolution.

    The published convolutions are valid, 11 -> 9 -> 9 -> 7 -> 14; padding them, so that the whole patch is predicted,
    is our choice. At upsampling 1 there is nothing to shuffle and the network is that of `espcn`.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        widths: Channels after the first and second convolution.
    """
    if upsampling == 1:
        return espcn(in_channels, out_channels, 1, widths)
    last = nn.Conv3d(widths[1], out_channels * upsampling**3, 3, padding=1)
    return ESPCN(in_channels, widths, 1, nn.Sequential(last, SubPixelShuffle(upsampling)))
