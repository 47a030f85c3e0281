"""Shared layers: connection networks from measured sizes, fast layers that compute what torch's do."""

import pytest
import torch
from torch import nn

from harmonet.blocks.connection import ConnectionNet, count_parameters, resolve
from harmonet.blocks.pointwise import Pointwise, channels_last
from harmonet.errors import ShapeError

# features and predictions of an 11-voxel patch, as the reference lists them
COMBINATIONS = [(11, 11), (9, 11), (11, 19), (9, 19), (19, 11), (19, 19)]


@pytest.mark.parametrize(("size", "target"), COMBINATIONS)
def test_a_connection_leads_from_the_features_to_the_prediction(size, target):
    net = ConnectionNet((6, size, size, size), (4, target, target, target))
    assert net(torch.zeros(1, 6, size, size, size)).shape == (1, 4, target, target, target)


@pytest.mark.parametrize(("size", "target"), COMBINATIONS)
def test_a_connection_keeps_the_centre_in_the_centre(size, target):
    net = ConnectionNet((1, size, size, size), (1, target, target, target))
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    impulse = torch.zeros(1, 1, size, size, size)
    impulse[0, 0, size // 2, size // 2, size // 2] = 1
    with torch.no_grad():
        y = net(impulse)[0, 0]
    # The answer to a central impulse is symmetric about the central output voxel, and not empty.
    assert y[target // 2, target // 2, target // 2] > 0
    for axis in range(3):
        assert torch.allclose(y, y.flip(axis), atol=1e-6)


def test_the_published_width_has_the_published_number_of_parameters():
    assert count_parameters(ConnectionNet((100, 11, 11, 11), (28, 11, 11, 11))) == 345_728


@pytest.mark.parametrize(("size", "target"), [(11, 12), (3, 11), (11, 30)])
def test_a_size_that_two_convolutions_cannot_reach_is_refused_with_both_sizes(size, target):
    assert resolve(size, target) is None
    with pytest.raises(ShapeError, match=rf"{size} x {size} x {size} .* {target} x {target} x {target}"):
        ConnectionNet((4, size, size, size), (4, target, target, target))


def test_features_that_are_no_cube_are_refused():
    with pytest.raises(ShapeError, match="11 x 11 x 9"):
        ConnectionNet((4, 11, 11, 9), (4, 11, 11, 11))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("channels", [(1, 5), (6, 1), (28, 50)])
def test_a_pointwise_convolution_is_that_of_torch(channels, layout):
    torch.manual_seed(0)
    plain, fast = nn.Conv3d(*channels, 1), Pointwise(*channels)
    fast.load_state_dict(plain.state_dict())
    results = []
    for module in (plain, fast):
        x = torch.linspace(-2, 2, 3 * channels[0] * 60).view(3, channels[0], 3, 4, 5).to(memory_format=layout)
        y = module(x.requires_grad_())
        y.square().mean().backward()
        results.append([y, x.grad, module.weight.grad, module.bias.grad])
    for expected, found in zip(*results, strict=True):
        assert expected.shape == found.shape
        assert torch.allclose(expected, found, atol=1e-5)


def test_channels_last_changes_the_layout_alone():
    x = torch.randn(2, 5, 3, 4, 6)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride(1) == 1
    assert channels_last(y) is y
