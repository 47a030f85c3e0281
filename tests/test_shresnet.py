"""SHResNet: what the fast form computes is what the plain one does; final ReLU, projection, several shells."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from harmonet import sh
from harmonet.blocks.connection import count_parameters
from harmonet.composer import compose
from harmonet.errors import ShapeError
from harmonet.networks.shresnet import SHResNet, project, shresnet

SMALL = {"blocks": 2, "width": 5}


def plainly(net, x, orders):
    """Section by section as the paper draws it, from the weights of `net`; `orders` are slices of channels."""

    def conv(layer, x):
        return F.conv3d(x.contiguous(), layer.weight, layer.bias, padding=1)

    a = y = conv(net.enter, x)
    for block in net.blocks:
        units = [F.relu(conv(unit[0], y[:, order])) for unit, order in zip(block.units, orders, strict=True)]
        units = [F.relu(conv(unit[2], z)) for unit, z in zip(block.units, units, strict=True)]
        y = torch.cat([conv(unit[4], z) for unit, z in zip(block.units, units, strict=True)], dim=1) - y
    y = conv(net.leave, y) - a
    y = F.relu(conv(net.tail[2], F.relu(conv(net.tail[0], y))))
    if net.head.stride == (2, 2, 2):
        return F.conv_transpose3d(y, net.head.weight, net.head.bias, stride=2, padding=2)
    return conv(net.head, y)


def orders_of(channels, shells=1):
    per_shell = channels // shells
    inside = sh.order_slices(sh.order_of(per_shell)).values()
    return [slice(i * per_shell + s.start, i * per_shell + s.stop) for i in range(shells) for s in inside]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize(("channels", "shells", "width"), [(28, 1, 100), (6, 1, 5), (12, 2, 5), (30, 2, 5)])
def test_outputs_and_gradients_are_those_of_the_plain_form(channels, shells, width, upsampling, layout):
    torch.manual_seed(0)
    net = shresnet(channels, channels, upsampling, blocks=2, width=width, shells=shells)
    x = torch.randn(2, channels, 5, 5, 5)
    results = []
    for form in (net, lambda x: plainly(net, x, orders_of(channels, shells))):
        given = x.to(memory_format=layout if form is net else torch.contiguous_format).requires_grad_()
        y = form(given)
        net.zero_grad()
        y.square().mean().backward()
        results.append([y, given.grad, *(p.grad for p in net.parameters())])
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_published_form_has_the_published_number_of_parameters():
    assert count_parameters(shresnet(28, 28)) == count_parameters(shresnet(28, 28, 2)) == 2_927_876
    assert count_parameters(shresnet(28, 28, rish_projection=True, final_relu=True)) == 2_927_876


def test_the_state_dict_has_the_names_of_the_published_parts_alone():
    names = {name.split(".")[0] for name in shresnet(28, 28).state_dict()}
    assert names == {"enter", "blocks", "leave", "tail", "head"}


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_blocks_are_as_many_as_asked_for(blocks):
    assert len(shresnet(6, 6, blocks=blocks, width=5).blocks) == blocks


@pytest.mark.parametrize("upsampling", [1, 2])
def test_the_final_relu_cuts_the_linear_output_and_nothing_else(upsampling):
    linear, drawn = (shresnet(6, 6, upsampling, **SMALL, final_relu=drawn) for drawn in (False, True))
    drawn.load_state_dict(linear.state_dict())
    x = torch.randn(1, 6, 5, 5, 5)
    assert linear(x).min() < 0
    assert torch.equal(drawn(x), linear(x).clamp(min=0))


def test_a_unit_of_one_shell_sees_no_other_shell():
    block = shresnet(12, 12, **SMALL, shells=2).blocks[0]
    assert block.sizes == [1, 5, 1, 5]
    x = torch.randn(1, 12, 5, 5, 5)
    y = x.clone()
    y[:, 7:] += 1  # order 2 of the second shell
    difference = (block(y) - block(x))[0].abs().amax(dim=(1, 2, 3))
    assert (difference[7:] > 0).all()
    assert (difference[:7] == 0).all()


@pytest.mark.parametrize(("channels", "shells"), [(28, 3), (28, 0), (30, 1), (14, 2)])
def test_channels_that_are_no_series_for_each_shell_are_refused(channels, shells):
    with pytest.raises(ShapeError, match="channels"):
        shresnet(channels, channels, shells=shells)


def projected(shells=1):
    """A network that projects, its plain twin, and the statistics that both were trained with."""
    torch.manual_seed(0)
    channels = 6 * shells
    net = shresnet(channels, channels, **SMALL, rish_projection=True, shells=shells).eval()
    twin = shresnet(channels, channels, **SMALL, shells=shells).eval()
    statistics = [torch.randn(channels), torch.rand(channels) + 0.5, torch.randn(channels), torch.rand(channels) + 0.5]
    net.set_statistics(*statistics)
    twin.load_state_dict({name: values for name, values in net.state_dict().items() if not name.startswith("raw.")})
    return net, twin, [part.view(1, -1, 1, 1, 1) for part in statistics]


@pytest.mark.parametrize("shells", [1, 2])
def test_projection_takes_the_energy_from_the_network_and_the_orientation_from_the_input(shells):
    net, twin, (source_mean, source_std, target_mean, target_std) = projected(shells)
    x = torch.randn(2, 6 * shells, 5, 5, 5)
    found = net(x) * target_std + target_mean
    raw = x * source_std + source_mean
    predicted = twin(x) * target_std + target_mean
    for order in orders_of(6 * shells, shells):
        energy = found[:, order].square().sum(1)
        assert torch.allclose(energy, predicted[:, order].square().sum(1), atol=1e-5)
        assert torch.allclose(F.cosine_similarity(found[:, order], raw[:, order], dim=1), torch.ones(()), atol=1e-5)


def test_projection_is_that_of_the_equation():
    raw, predicted = torch.randn(1, 6, 2, 2, 2).double(), torch.randn(1, 6, 2, 2, 2).double()
    expected = raw.clone()
    for order in (slice(0, 1), slice(1, 6)):
        before, after = (values[:, order].square().sum(1, keepdim=True) for values in (raw, predicted))
        expected[:, order] *= after.sqrt() / before.sqrt()
    assert torch.allclose(project(raw, predicted, [1, 5]), expected, atol=1e-12)


def test_an_order_without_signal_stays_empty():
    raw = torch.zeros(1, 6, 2, 2, 2)
    raw[:, 0] = -2
    found = project(raw, torch.full_like(raw, 3.0), [1, 5])
    assert torch.equal(found[:, 0], torch.full((1, 2, 2, 2), -3.0))
    assert torch.equal(found[:, 1:], torch.zeros(1, 5, 2, 2, 2))


def test_projection_leaves_training_as_it_was():
    net, twin, _ = projected()
    x = torch.randn(1, 6, 5, 5, 5)
    assert torch.equal(net.train()(x), twin.train()(x))
    assert not torch.allclose(net.eval()(x), twin(x), atol=1e-3)


def test_only_a_network_that_projects_asks_for_statistics():
    assert not hasattr(shresnet(6, 6, **SMALL), "set_statistics")
    assert type(shresnet(6, 6, **SMALL)) is SHResNet


def test_statistics_are_saved_with_the_weights():
    net, _, _ = projected()
    other = shresnet(6, 6, **SMALL, rish_projection=True).eval()
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 6, 5, 5, 5)
    for again in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(x), net(x))


def test_projection_is_refused_where_the_grids_or_channels_differ():
    with pytest.raises(ShapeError, match="rish_projection was asked for at upsampling 2"):
        shresnet(6, 6, 2, rish_projection=True)
    with pytest.raises(ShapeError, match="from 6 to 15 channels"):
        shresnet(6, 15, rish_projection=True)


def test_a_network_that_projects_can_be_composed():
    net, twin, _ = projected()
    model = compose({"a": net, "b": twin}, "msp", "b", channels=6, patch_size=7, taps={"a": "tail.3", "b": "tail.3"})
    stages = model(torch.randn(1, 6, 7, 7, 7))
    assert [sorted(stage) for stage in stages] == [["a", "b"], ["b"]]
