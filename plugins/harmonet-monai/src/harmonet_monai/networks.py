"""Three of MONAI's networks, each in what makes it fit: padding, cropping, and a 1x1x1 convolution behind.

MONAI is imported when a network is built.
"""

from collections.abc import Sequence

from torch import nn

from harmonet.blocks.adapted import Adapted, Fit


def unet(
    in_channels: int,
    out_channels: int,
    upsampling: int = 1,
    channels: Sequence[int] = (32, 64, 128),
    res_units: int = 2,
    width: int = 32,
) -> Adapted:
    """MONAI's `UNet`, each level half as fine as the one above.

    Args:
        in_channels: Channels of the source patch.
        out_channels: Channels of the prediction.
        upsampling: 1 or 2.
        channels: Of each level.
        res_units: Convolutions in each residual unit.
        width: Channels that the tap `grid` gives.
    """
    from monai.networks.nets import UNet

    strides = [2] * (len(channels) - 1)
    net = UNet(3, in_channels, width, channels=channels, strides=strides, num_res_units=res_units)
    return _fitted(net, in_channels, width, out_channels, upsampling, 2 ** len(strides))


def segresnet(
    in_channels: int,
    out_channels: int,
    upsampling: int = 1,
    filters: int = 32,
    blocks_down: Sequence[int] = (1, 2, 2),
    width: int = 32,
) -> Adapted:
    """MONAI's `SegResNet`, with one block at each level on the way up.

    Args:
        in_channels: Channels of the source patch.
        out_channels: Channels of the prediction.
        upsampling: 1 or 2.
        filters: Channels of the finest level, a multiple of 8; each further one has twice as many.
        blocks_down: Blocks at each level on the way down.
        width: Channels that the tap `grid` gives.
    """
    from monai.networks.nets import SegResNet

    steps = len(blocks_down) - 1
    blocks_up = (1,) * steps
    net = SegResNet(3, filters, in_channels, width, blocks_down=tuple(blocks_down), blocks_up=blocks_up)
    return _fitted(net, in_channels, width, out_channels, upsampling, 2**steps)


def swinunetr(
    in_channels: int,
    out_channels: int,
    upsampling: int = 1,
    features: int = 12,
    window: int = 4,
    width: int = 32,
) -> Adapted:
    """MONAI's `SwinUNETR` with group normalisation in its decoder.

    Args:
        in_channels: Channels of the source patch.
        out_channels: Channels of the prediction.
        upsampling: 1 or 2.
        features: Channels of the finest level, a multiple of 12.
        window: Edge of a window of attention.
        width: Channels that the tap `grid` gives.
    """
    from monai.networks.nets import SwinUNETR

    groups = ("group", {"num_groups": 4})
    net = SwinUNETR(in_channels, width, feature_size=features, window_size=window, norm_name=groups)
    return _fitted(net, in_channels, width, out_channels, upsampling, 32)


def _fitted(net: nn.Module, in_channels: int, width: int, out_channels: int, upsampling: int, multiple: int) -> Adapted:
    return Adapted(net, Fit.kept(width, multiple), in_channels, in_channels, out_channels, upsampling, "node")
