"""A trained network between channels that were standardised otherwise than those it learned from."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from harmonet.stages import Gaussian, Members, Prediction

Statistics = tuple[Iterable[float], Iterable[float]]  # means and standard deviations of the channels


class Restandardised(nn.Module):
    """A network that learned with other means and deviations: its channels from ours in front, ours from its behind.

    Both maps are affine in each channel and exact. Outside a mask patches are 0, whatever the standardisation: a voxel
    whose channels are all exactly 0 lies outside and stays 0, so that the network sees there what it saw in training.
    A voxel inside whose channels are all exactly their means would be taken for one outside; with real numbers that
    does not happen. The maps are buffers, saved with the weights; until they are set they change nothing.

    Args:
        net: The trained network.
        channels: Channels in and out.

    >>> wrapped = Restandardised(nn.Identity(), 1)
    >>> wrapped.set_source(here=([1], [2]), there=([0], [1]))
    >>> wrapped(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)).flatten().tolist()
    [0.0, 3.0]
    """

    in_scale: Tensor
    in_shift: Tensor
    out_scale: Tensor
    out_shift: Tensor

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        for side in ("in", "out"):
            self.register_buffer(f"{side}_scale", torch.ones(channels, 1, 1, 1))
            self.register_buffer(f"{side}_shift", torch.zeros(channels, 1, 1, 1))

    def set_source(self, here: Statistics, there: Statistics) -> None:
        """Take the source's statistics in this model, and in the training that the network comes from (`there`)."""
        _fill(self.in_scale, self.in_shift, here, there)

    def set_target(self, here: Statistics, there: Statistics) -> None:
        """Take the target's statistics likewise."""
        _fill(self.out_scale, self.out_shift, there, here)

    def forward(self, x: Tensor) -> Prediction:
        """(B, C, X, Y, Z), 0 outside the mask, to what the network predicts, both standardised as this model's are."""
        inside = (x != 0).any(dim=1, keepdim=True)
        return self._back(self.net((x * self.in_scale + self.in_shift) * inside))

    def _back(self, prediction: Prediction) -> Prediction:
        if isinstance(prediction, Members):
            raise TypeError("each network of a committee is wrapped by itself")
        if isinstance(prediction, Gaussian):
            return Gaussian(prediction.mean * self.out_scale + self.out_shift, prediction.variance * self.out_scale**2)
        return prediction * self.out_scale + self.out_shift


def wrapped(net: nn.Module, channels: int, times: int) -> nn.Module:
    """The network with so many maps around it, all still to be set."""
    for _ in range(times):
        net = Restandardised(net, channels)
    return net


def times_wrapped(net: nn.Module) -> int:
    """How many maps are around a network: a run that holds a wrapped one can be a member of another.

    >>> times_wrapped(wrapped(nn.Identity(), 1, 2))
    2
    """
    times = 0
    while isinstance(net, Restandardised):
        net, times = net.net, times + 1
    return times


def _fill(scale: Tensor, shift: Tensor, given: Statistics, wanted: Statistics) -> None:
    """From channels standardised by `given` to those by `wanted`, worked out in float64."""
    mean, std = (torch.tensor(list(part), dtype=torch.float64) for part in given)
    wanted_mean, wanted_std = (torch.tensor(list(part), dtype=torch.float64) for part in wanted)
    scale.copy_((std / wanted_std).view_as(scale))
    shift.copy_(((mean - wanted_mean) / wanted_std).view_as(shift))
