"""FCSNet: four wide convolutions with dropout, and the input joined to the last (Tax et al. 2019)."""

import torch
from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.upsample import output_layer


class FCSNet(nn.Module):
    """The entry of University College London to the 2017 challenge, for SH patches.

    Four 3³ convolutions, each with ReLU and dropout; the input is joined to what they give, and a 1³ convolution
    leads to the output. Receptive field 9³.

    Published (Tax et al. 2019, doi:10.1016/j.neuroimage.2019.01.077): the layers, the widths 75, 150, 300 and 200,
    dropout 0.5, the joined input. The published form is valid, 11³ to 3³, and its input had a further channel, b = 0.
    Our choice: all convolutions padded, so that 11³ gives 11³ and the tap has the size of the patch; ReLU; dropout of
    single elements; at upsampling 2 a transposed convolution (k3, s2, n -> 2n - 3) as output layer.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        widths: Channels after each of the four convolutions.
        dropout: Probability that an element is set to zero in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upsampling: int = 1,
        widths: tuple[int, int, int, int] = (75, 150, 300, 200),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers = [
            nn.Sequential(*conv_relu(wide, wider), nn.Dropout(dropout))
            for wide, wider in zip((in_channels, *widths), widths, strict=False)
        ]
        self.hidden = nn.Sequential(*layers)
        self.concat = nn.Identity()  # a name for the tap
        self.output = output_layer(widths[-1] + in_channels, out_channels, upsampling, kernel=1, surplus=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        x = channels_last(x)
        prediction: Tensor = self.output(self.concat(torch.cat([self.hidden(x), x], dim=1)))
        return prediction
