"""Shared layers: connection networks from measured sizes, reversible layers that invert."""

import pytest
import torch

from harmonet.blocks.connection import ConnectionNet, count_parameters, resolve
from harmonet.blocks.reversible import ReversibleLayer, reversible_stack
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


@pytest.mark.parametrize("channels", [6, 7, 28])
def test_a_reversible_layer_can_be_inverted(channels):
    torch.manual_seed(0)
    layer = ReversibleLayer(channels).double().eval()
    x = torch.randn(2, channels, 5, 5, 5, dtype=torch.float64)
    y = layer(x)
    assert not torch.allclose(y, x)
    assert torch.allclose(layer.inverse(y), x, atol=1e-12)


def test_a_stack_keeps_its_width():
    assert reversible_stack(7, 2)(torch.zeros(1, 7, 5, 5, 5)).shape == (1, 7, 5, 5, 5)
