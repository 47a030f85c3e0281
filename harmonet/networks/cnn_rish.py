"""CNN-RISH: five convolutions, on SH coefficients or on their energies (Cetin Karayumak et al. 2018)."""

from math import log

import torch
from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu
from harmonet.blocks.orders import order_widths
from harmonet.blocks.pointwise import channels_last
from harmonet.blocks.raw_units import RawUnits
from harmonet.blocks.upsample import interpolate_nodes, output_layer
from harmonet.errors import NotFoundError, ShapeError, nearest

LARGEST_SCALE = 10.0  # of a coefficient; the smallest is its inverse
FLOOR = 1e-6  # of an energy relative to its expectation: its logarithm stays finite where there is no signal


class PlainCNN(nn.Module):
    """Five 3³ convolutions from SH coefficients to SH coefficients.

    What Blumberg et al. 2019 may well have compared with, since all their networks map coefficients. At upsampling 2
    the first convolution is valid and the last a transposed one: 11 -> 9 -> 9 -> 19. Receptive field 11³.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        width: Channels of the hidden layers.
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: int = 1, width: int = 64) -> None:
        super().__init__()
        self.conv1 = conv_relu(in_channels, width, padding=1 if upsampling == 1 else 0)
        self.conv2 = conv_relu(width, width)
        self.conv3 = conv_relu(width, width)
        self.conv4 = conv_relu(width, width)
        self.conv5 = output_layer(width, out_channels, upsampling)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        prediction: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(channels_last(x))))))
        return prediction


class RISHScaling(nn.Module):
    """Five 3³ convolutions from the energy of each SH order to a scale of that order's coefficients.

    The energies (RISH, rotation-invariant SH features) do not change when the signal is rotated, and a scale per
    order keeps its orientation: rotate each voxel's input and the output is rotated likewise, in raw units. They are
    computed in raw units, since channels shifted by their means have energies that rotation does change; see
    `set_statistics`. The convolutions see the logarithm of each energy relative to its expectation over the source.
    At upsampling 2 coefficients are interpolated to the target's grid first.

    Args:
        channels: Channels in and out: an even SH series for each shell.
        upsampling: 1 or 2.
        width: Channels of the hidden layers.
        shells: Shells among the channels.
    """

    def __init__(self, channels: int, upsampling: int = 1, width: int = 64, shells: int = 1) -> None:
        super().__init__()
        self.sizes = order_widths(channels, shells)
        self.upsampling = upsampling
        self.raw = RawUnits(channels)
        self.conv1 = conv_relu(len(self.sizes), width)
        self.conv2 = conv_relu(width, width)
        self.conv3 = conv_relu(width, width)
        self.conv4 = conv_relu(width, width)
        self.conv5 = nn.Conv3d(width, len(self.sizes), 3, padding=1)

    def set_statistics(self, source_mean: Tensor, source_std: Tensor, target_mean: Tensor, target_std: Tensor) -> None:
        """Take the means and standard deviations of the channels, by which raw units are found."""
        self.raw.set(source_mean, source_std, target_mean, target_std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n, n) to (B, C, t, t, t), t = n or 2n - 3, both standardised."""
        coefficients = self.raw.of_source(x)
        if self.upsampling == 2:
            coefficients = interpolate_nodes(coefficients)
        expected = self._energy(self.raw.source_mean.square() + self.raw.source_std.square(), 0).view(1, -1, 1, 1, 1)
        relative = torch.log(self._energy(coefficients.square(), 1) / expected + FLOOR)
        gain = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(channels_last(relative))))))
        limit = 2 * log(LARGEST_SCALE)  # a gain is the logarithm of a ratio of energies, twice that of a scale
        scale = torch.exp(gain.clamp(-limit, limit) / 2)
        each = [
            part.expand(-1, size, -1, -1, -1) for part, size in zip(torch.split(scale, 1, 1), self.sizes, strict=True)
        ]
        return self.raw.standardise_target(coefficients * torch.cat(each, dim=1))

    def _energy(self, squares: Tensor, dim: int) -> Tensor:
        """The sum over each order's coefficients, which lie along `dim`."""
        return torch.stack([part.sum(dim) for part in torch.split(squares, self.sizes, dim)], dim)


def cnn_rish(
    in_channels: int, out_channels: int, upsampling: int = 1, mode: str = "plain", width: int = 64, shells: int = 1
) -> PlainCNN | RISHScaling:
    """A five-layer CNN in one of two modes, `plain` on coefficients or `rish` on energies.

    Published (Cetin Karayumak et al. 2018, doi:10.1007/978-3-030-00931-1_14): five layers, energies in and out, the
    scaling of coefficients by the square root of the ratio of energies. Our choice: kernels, 64 channels, ReLU, the
    logarithm, scales limited to 0.1 to 10, and the plain mode, default because the benchmark compares coefficients.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        mode: `plain` or `rish`.
        width: Channels of the hidden layers.
        shells: Shells among the channels, which the mode `rish` must know.

    Raises:
        NotFoundError: There is no such mode.
        ShapeError: Mode `rish` cannot scale these channels.
    """
    if mode == "plain":
        return PlainCNN(in_channels, out_channels, upsampling, width)
    if mode != "rish":
        raise NotFoundError(f"cnn_rish has no mode {mode!r}. {nearest(str(mode), ('plain', 'rish'))}")
    if in_channels != out_channels:
        raise ShapeError(
            f"cnn_rish in mode 'rish' scales the coefficients that come in, so it cannot make {out_channels} channels "
            f"of {in_channels}: use mode 'plain', or as many channels out as in."
        )
    return RISHScaling(in_channels, upsampling, width, shells)
