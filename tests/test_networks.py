"""The built-in single networks: published sizes, right grids, centred answers."""

import pytest
import torch

import harmonet as hn
from harmonet.blocks.connection import count_parameters
from harmonet.errors import NotFoundError, ShapeError
from harmonet.platforms import target_patch_size
from harmonet.plugins import network

SMALL = {
    "cnn_rish": {"width": 4},
    "cpm_plain": {"width": 8},
    "diqt": {"layers": 1, "widths": (4, 6)},
    "espcn": {"widths": (4, 6)},
    "espcn_shuffle": {"widths": (4, 6)},
    "fcsnet": {"widths": (4, 4, 4, 4)},
    "hned_plain": {"width": 4},
    "shnet": {"width": 6},
    "shresnet": {"blocks": 1, "width": 4},
    "shresnet2017": {"width": 4},
}

# name, upsampling, options -> parameters (computed from the published architecture, layer by layer)
COUNTS = [
    ("diqt", 1, {}, 895_458),
    ("diqt", 2, {}, 895_458),
    ("diqt", 1, {"layers": 0}, 118_578),
    ("shresnet", 1, {}, 2_927_876),
    ("shresnet", 2, {}, 2_927_876),
    ("espcn", 1, {}, 118_578),
    ("espcn", 2, {}, 118_578),
    ("espcn_shuffle", 1, {}, 118_578),
    ("espcn_shuffle", 2, {}, 647_974),
    ("cnn_rish", 1, {}, 428_828),
    ("cnn_rish", 2, {}, 428_828),
    ("cnn_rish", 1, {"mode": "rish"}, 345_860),
    ("cnn_rish", 2, {"mode": "rish"}, 345_860),
    ("fcsnet", 1, {}, 3_202_587),
    ("fcsnet", 2, {}, 3_368_571),
    ("shnet", 1, {}, 54_834),
    ("shnet", 2, {}, 164_034),
    ("shresnet2017", 1, {}, 1_235_264),
    ("shresnet2017", 2, {}, 1_255_648),
    ("cpm_plain", 1, {}, 2_681_140),
    ("cpm_plain", 2, {}, 2_774_324),
    ("hned_plain", 1, {}, 607_191),
    ("hned_plain", 2, {}, 746_967),
]


@pytest.mark.parametrize(("name", "upsampling", "options", "parameters"), COUNTS)
def test_parameter_counts_are_those_of_the_published_form(name, upsampling, options, parameters):
    assert count_parameters(hn.create_network(name, 28, 28, upsampling, **options)) == parameters


@pytest.mark.parametrize("name", SMALL)
def test_the_card_states_the_parameter_count_truly(name):
    assert network(name).parameters == count_parameters(hn.create_network(name))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("channels", [6, 15, 28, 45])
@pytest.mark.parametrize("patch_size", [7, 11])
def test_predictions_have_the_target_patch(name, upsampling, channels, patch_size):
    net = hn.create_network(name, channels, channels, upsampling, **SMALL[name])
    edge = target_patch_size(patch_size, upsampling, network(name).alignment)
    assert net(torch.zeros(2, channels, *3 * [patch_size])).shape == (2, channels, edge, edge, edge)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("upsampling", [1, 2])
def test_a_change_at_the_centre_of_the_patch_changes_the_answer_most_at_its_centre(name, upsampling):
    torch.manual_seed(0)
    net = hn.create_network(name, 6, 6, upsampling, **SMALL[name]).eval()
    x = torch.randn(1, 6, 11, 11, 11)
    changed = torch.zeros(net(x).shape[2:])
    with torch.no_grad():
        for channel in range(6):
            y = x.clone()
            y[0, channel, 5, 5, 5] += 1
            changed += (net(y) - net(x))[0].abs().sum(0)
    weight = changed / changed.sum()
    axis = torch.arange(len(weight), dtype=torch.float32)
    for others in ((1, 2), (0, 2), (0, 1)):
        centre = float((weight.sum(others) * axis).sum())
        # Random kernels are not symmetric, so the centre of mass lies near the middle, not on it; a network that
        # was off by one source voxel would lie a whole voxel (two at upsampling 2) away.
        assert abs(centre - (len(weight) - 1) / 2) < 0.45 * upsampling


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    net = hn.create_network(name, 28, 28, 1, **SMALL[name])
    net(torch.randn(2, 28, 7, 7, 7)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_shresnet_treats_each_order_apart_in_its_units():
    net = hn.create_network("shresnet", 28, 28, 1, blocks=1, width=4)
    assert net.blocks[0].sizes == [1, 5, 9, 13]
    x = torch.randn(1, 28, 7, 7, 7)
    y = x.clone()
    y[:, 6:15] += 1  # order 4
    difference = (net.blocks[0](y) - net.blocks[0](x))[0].abs().amax(dim=(1, 2, 3))
    assert (difference[6:15] > 0).all()
    assert (difference[:6] == 0).all()
    assert (difference[15:] == 0).all()


def test_shresnet_refuses_channels_that_are_no_even_series():
    with pytest.raises(ShapeError, match="29 channels is no even SH series"):
        hn.create_network("shresnet", 29, 29)


def test_unknown_networks_and_options_are_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match="Did you mean shresnet"):
        hn.create_network("shresnett")
    with pytest.raises(NotFoundError, match=r"diqt has no option 'layer'\. Did you mean layers"):
        hn.create_network("diqt", layer=2)
