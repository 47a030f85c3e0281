"""A convolution and its ReLU, the commonest pair of layers; never in place, so that every pair can be tapped."""

from torch import nn

from harmonet.blocks.pointwise import Pointwise


def conv_relu(in_channels: int, out_channels: int, padding: int = 1) -> nn.Sequential:
    """A 3³ convolution and a ReLU; padding 1 keeps the size, 0 takes two voxels from each edge."""
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 3, padding=padding), nn.ReLU())


def pointwise_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1³ convolution and a ReLU."""
    return nn.Sequential(Pointwise(in_channels, out_channels), nn.ReLU())
