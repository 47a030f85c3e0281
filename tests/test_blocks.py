"""Shared layers: connection networks from measured sizes, fast layers that compute what torch's do."""

import pytest
import torch
from torch import nn

from harmonet.blocks.connection import (
    ConnectionNet,
    count_parameters,
    fitting_edges,
    resample_about_centre,
    resolve,
)
from harmonet.blocks.pointwise import Pointwise, channels_last
from harmonet.errors import ShapeError

# features and predictions of an 11-voxel patch: those that the reference lists, then cells
COMBINATIONS = [(11, 11), (9, 11), (11, 19), (9, 19), (19, 11), (19, 19)]
COMBINATIONS += [(11, 22), (9, 22), (22, 11), (22, 22), (20, 22)]
UNLIKE = [(3, 11, "trilinear"), (6, 19, "trilinear"), (22, 19, "trilinear"), (6, 22, "trilinear")]
every_combination = pytest.mark.parametrize(("size", "target"), COMBINATIONS)


def cube(channels, edge):
    return (channels, edge, edge, edge)


def noise(*size):
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(len(size)), dtype=torch.float64)


@every_combination
def test_a_connection_leads_from_the_features_to_the_prediction(size, target):
    net = ConnectionNet(cube(6, size), cube(4, target))
    assert net(torch.zeros(1, *cube(6, size))).shape == (1, *cube(4, target))


@pytest.mark.parametrize(("size", "target", "resample"), [*((*c, None) for c in COMBINATIONS), *UNLIKE])
def test_a_connection_keeps_the_centre_in_the_centre(size, target, resample):
    net = ConnectionNet(cube(1, size), cube(1, target), resample=resample)
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    impulse = torch.zeros(1, 1, size, size, size)
    middle = slice((size - 1) // 2, size // 2 + 1)  # one voxel, or the two beside the centre
    impulse[0, 0, middle, middle, middle] = 1
    with torch.no_grad():
        y = net(impulse)[0, 0]
    # The answer to a central impulse is symmetric about the centre of the prediction, and not empty there.
    assert y[target // 2, target // 2, target // 2] > 0
    for axis in range(3):
        assert torch.allclose(y, y.flip(axis), atol=1e-6)


def test_the_published_width_has_the_published_number_of_parameters():
    assert count_parameters(ConnectionNet(cube(100, 11), cube(28, 19))) == 345_728
    assert count_parameters(ConnectionNet([cube(100, 11)], cube(28, 11))) == 345_728


def test_one_tensor_goes_through_two_plain_convolutions():
    torch.manual_seed(0)
    net = ConnectionNet([cube(6, 11)], cube(4, 19)).double()
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(6, 6, 3), nn.ReLU(), nn.ConvTranspose3d(6, 4, 3, stride=2)).double()
    x = noise(*cube(6, 11))
    assert torch.equal(net(x), plain(x))


@pytest.mark.parametrize(("size", "target"), [(11, 11), (11, 19), (11, 22), (22, 11)])
def test_several_tensors_are_fused_as_one_convolution_over_their_concatenation_would(size, target):
    net = ConnectionNet([cube(6, size), cube(5, size), cube(2, size)], cube(4, target)).double()
    (junction,) = net.junctions
    joined = ConnectionNet(cube(13, size), cube(4, target), hidden=6).double()
    with torch.no_grad():
        joined.junctions[0].firsts[0].weight.copy_(torch.cat([conv.weight for conv in junction.firsts], 1))
        joined.junctions[0].firsts[0].bias.copy_(junction.firsts[0].bias)
    joined.junctions[0].second.load_state_dict(junction.second.state_dict())
    x = noise(*cube(13, size))
    assert torch.allclose(net(*x.split([6, 5, 2], dim=1)), joined(x), atol=1e-12)


FUSED = [
    ([9, 11, 19, 22], 11, "conv k3 s1 p2 + conv k3 s1 p1 + conv k3 s2 p2 + conv k4 s2 p1, conv k3 s1 p1"),
    ([9, 11], 22, "conv k3 s1 p2 + conv k3 s1 p1, deconv k4 s2 p1"),
    ([11, 9], 19, "conv k3 s1 p0 + conv k3 s1 p1, deconv k3 s2 p0"),
    ([11, 19, 9], 19, "conv k3 s1 p0 + conv k3 s1 p1, deconv k3 s2 p0; conv k3 s1 p1, conv k3 s1 p1"),
    ([22, 11, 20], 22, "conv k3 s1 p1 + conv k3 s1 p2, conv k3 s1 p1; conv k3 s1 p1, deconv k4 s2 p1"),
    ([6, 11, 19], 19, "conv k3 s1 p1, trilinear + conv k3 s1 p1, conv k3 s1 p1; conv k3 s1 p0, deconv k3 s2 p0"),
]


@pytest.mark.parametrize(("edges", "target", "words"), FUSED)
def test_tensors_of_unlike_grids_meet_on_one_grid_or_go_roads_of_their_own(edges, target, words):
    sizes = [cube(3 + number, edge) for number, edge in enumerate(edges)]
    net = ConnectionNet(sizes, cube(4, target), resample="trilinear").double()
    assert str(net) == words
    given = [noise(*size).requires_grad_() for size in sizes]
    y = net(*given)
    assert y.shape == (2, *cube(4, target))
    y.square().mean().backward()
    assert all(z.grad.abs().sum() > 0 for z in given)


def test_roads_of_their_own_are_summed():
    net = ConnectionNet([cube(3, 11), cube(4, 19)], cube(4, 19)).double()
    coarse, fine = noise(*cube(3, 11)), noise(*cube(4, 19))
    expected = net.junctions[0](coarse) + net.junctions[1](fine)
    assert torch.equal(net(coarse, fine), expected)


@pytest.mark.parametrize(("size", "target"), [(11, 12), (3, 11), (11, 30), (22, 19)])
def test_a_size_that_two_convolutions_cannot_reach_is_refused_with_both_sizes_and_those_that_fit(size, target):
    assert resolve(size, target) is None
    fitting = fitting_edges(target)
    assert target in fitting
    assert all(resolve(edge, target) for edge in fitting)
    words = rf"{size} x {size} x {size} .* {target} x {target} x {target}: .* {', '.join(map(str, fitting))} voxels"
    with pytest.raises(ShapeError, match=words):
        ConnectionNet(cube(4, size), cube(4, target))


def test_the_edges_that_fit_are_those_of_the_reference_and_of_cells():
    for target in {target for _, target in COMBINATIONS}:
        assert {size for size, other in COMBINATIONS if other == target} <= set(fitting_edges(target))


NO_CUBES = [
    ((4, 11, 11, 9), (4, 11, 11, 11), "features of 11 x 11 x 9"),
    ((4, 11, 11, 11), (4, 11, 9, 11), "a prediction of 11 x 9 x 11"),
    ((4,), (4, 11, 11, 11), "features of no voxels"),
]


@pytest.mark.parametrize(("features", "prediction", "words"), NO_CUBES)
@pytest.mark.parametrize("resample", [None, "trilinear"])
def test_what_is_no_cube_is_refused(features, prediction, words, resample):
    with pytest.raises(ShapeError, match=words):
        ConnectionNet([features], prediction, resample=resample)


# nodes: the outermost voxels lie on each other; cells: the outer faces do
LYING = [
    (6, 11, lambda j: j / 2),
    (3, 19, lambda j: j / 9),
    (22, 19, lambda j: j * 21 / 18),
    (6, 22, lambda j: min(max((j + 0.5) * 6 / 22 - 0.5, 0), 5)),
    (11, 12, lambda j: min(max((j + 0.5) * 11 / 12 - 0.5, 0), 10)),
]


@pytest.mark.parametrize(("size", "target", "place"), LYING)
def test_an_interpolated_voxel_shows_the_place_on_which_it_lies(size, target, place):
    ramp = torch.arange(size, dtype=torch.float64)
    volume = (ramp[:, None, None] * 10000 + ramp[:, None] * 100 + ramp).expand(1, 1, size, size, size)
    found = resample_about_centre(volume, target)[0, 0]
    places = torch.tensor([place(j) for j in range(target)], dtype=torch.float64)
    expected = places[:, None, None] * 10000 + places[:, None] * 100 + places
    assert torch.allclose(found, expected, atol=1e-8)
    assert float(places[0] + places[-1]) == pytest.approx(size - 1)  # centre on centre


def test_interpolation_is_between_the_convolutions_where_none_lead_and_only_there():
    net = ConnectionNet(cube(3, 6), cube(4, 11), resample="trilinear").double()
    (junction,) = net.junctions
    x = noise(*cube(3, 6))
    between = resample_about_centre(junction.firsts[0](x), 11)
    assert torch.equal(net(x), junction.second(torch.relu(between)))
    assert "trilinear" not in str(ConnectionNet(cube(3, 9), cube(4, 11), resample="trilinear"))


def test_a_larger_window_passes_through_convolutions_and_is_never_squeezed_by_interpolation():
    assert ConnectionNet(cube(3, 11), cube(4, 19))(torch.zeros(1, *cube(3, 15))).shape == (1, *cube(4, 27))
    net = ConnectionNet(cube(3, 6), cube(4, 11), resample="trilinear")
    with pytest.raises(ShapeError, match="interpolates features of 6 voxels on edge, found 8"):
        net(torch.zeros(1, *cube(3, 8)))


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
