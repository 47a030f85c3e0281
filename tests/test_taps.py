"""Reading inner layers: what is read is what the layer gave, and what cannot be read truly is refused."""

import pickle

import pytest
import torch
from torch import nn

from harmonet.errors import NotFoundError, ShapeError
from harmonet.taps import forward_with_taps, layer_names, measure, tappable_layers


class Deep(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(inplace=inplace), nn.Conv3d(4, 2, 1))
        self.unused = nn.Conv3d(1, 1, 1)
        self.twice = nn.Conv3d(2, 2, 1)
        self.pair = Pair()

    def forward(self, x):
        y, _ = self.pair(self.twice(self.twice(self.body(x))))
        return y


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.fixture
def x():
    return torch.randn(2, 2, 5, 5, 5)


def test_a_tap_gives_the_layer_output_and_leaves_the_prediction_alone(x):
    net = Deep()
    prediction, features = forward_with_taps(net, {"z": "body.1"}, x)
    assert torch.equal(prediction, net(x))
    assert torch.equal(features["z"], net.body[1](net.body[0](x)))


def test_a_tap_carries_the_gradient(x):
    net = Deep()
    _, features = forward_with_taps(net, {"z": "body.1"}, x)
    features["z"].sum().backward()
    assert net.body[0].weight.grad.abs().sum() > 0


def test_an_unknown_layer_is_answered_with_the_nearest(x):
    with pytest.raises(NotFoundError, match=r"Deep has no layer 'bodi\.1'. Did you mean body\.1\?"):
        forward_with_taps(Deep(), {"z": "bodi.1"}, x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("unused", "does not run"),
        ("twice", "runs 2 times"),
        ("pair", "gives a tuple, not a tensor"),
    ],
)
def test_a_layer_that_cannot_be_read_truly_is_refused(x, layer, words):
    with pytest.raises(ShapeError, match=words):
        forward_with_taps(Deep(), {"z": layer}, x)


def test_a_layer_overwritten_in_place_is_refused_and_the_one_after_it_is_not(x):
    net = Deep(inplace=True)
    with pytest.raises(ShapeError, match="overwritten in place"):
        forward_with_taps(net, {"z": "body.0"}, x)
    _, features = forward_with_taps(net, {"z": "body.1"}, x)
    assert features["z"].min() == 0


def test_in_place_layers_are_also_found_without_gradients(x):
    with torch.no_grad(), pytest.raises(ShapeError, match="overwritten in place"):
        forward_with_taps(Deep(inplace=True), {"z": "body.0"}, x)


def test_taps_can_be_read_in_inference_mode(x):
    with torch.inference_mode():
        _, features = forward_with_taps(Deep(), {"z": "body.1"}, x)
    assert features["z"].shape == (2, 4, 3, 3, 3)


def test_no_hook_stays_behind_even_after_an_error(x):
    net = Deep()
    with pytest.raises(ShapeError):
        forward_with_taps(net, {"a": "body.1", "b": "unused"}, x)
    assert all(not layer._forward_hooks for layer in net.modules())
    pickle.loads(pickle.dumps(net))


def test_two_names_may_read_one_layer(x):
    _, features = forward_with_taps(Deep(), {"a": "body.1", "b": "body.1"}, x)
    assert torch.equal(features["a"], features["b"])


def test_measuring_changes_neither_modes_nor_statistics_nor_the_random_state():
    net = nn.Sequential(nn.BatchNorm3d(2), nn.Dropout3d(0.5), nn.Conv3d(2, 3, 3))
    net.train()
    net[0].eval()  # a frozen layer inside a training network
    before = torch.random.get_rng_state(), net[0].running_mean.clone()
    measured = measure(net, {"z": "1"}, 2, 7)
    assert measured.prediction == (3, 5, 5, 5)
    assert measured.features == {"z": (2, 7, 7, 7)}
    assert (net.training, net[0].training, net[1].training) == (True, False, True)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.equal(net[0].running_mean, before[1])


def test_tappable_layers_are_those_that_run_once_and_give_an_image():
    assert set(tappable_layers(Deep(), 2, 5)) == {"body", "body.0", "body.1", "body.2"}
    assert "unused" in layer_names(Deep())
