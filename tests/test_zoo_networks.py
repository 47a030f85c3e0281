"""What each network of the zoo promises beyond its size: taps, reach, shells, and the idea that it is named after."""

import numpy as np
import pytest
import torch

import harmonet as hn
from harmonet import sh
from harmonet.blocks.connection import count_parameters
from harmonet.blocks.orders import order_widths
from harmonet.blocks.upsample import SubPixelShuffle, interpolate_nodes
from harmonet.composer import compose
from harmonet.errors import NotFoundError, ShapeError
from harmonet.platforms import target_patch_size
from harmonet.plugins import network
from harmonet.taps import forward_with_taps, measure

# name -> options that make it small
SMALL = {
    "cnn_rish": {"width": 4},
    "cpm_plain": {"width": 8},
    "espcn": {"widths": (4, 6)},
    "espcn_shuffle": {"widths": (4, 6)},
    "fcsnet": {"widths": (4, 4, 4, 4)},
    "hned_plain": {"width": 4},
    "shnet": {"width": 6},
    "shresnet2017": {"width": 4},
}
FORMS = [*SMALL.items(), ("cnn_rish", {"width": 4, "mode": "rish"})]
NAMED = [name + "-rish" * ("mode" in options) for name, options in FORMS]

# name, options, default tap and its size at 28 channels, patch 11: at upsampling 1 and 2
TAPS = [
    ("cnn_rish", {}, "conv4", (64, 11), (64, 9)),
    ("cnn_rish", {"mode": "rish"}, "conv4", (64, 11), (64, 19)),
    ("cpm_plain", {}, "last", (128, 11), (128, 11)),
    ("espcn", {}, "conv1", (100, 11), (100, 9)),
    ("espcn_shuffle", {}, "conv1", (100, 11), (100, 11)),
    ("fcsnet", {}, "concat", (228, 11), (228, 11)),
    ("hned_plain", {}, "groups.2", (64, 11), (64, 11)),
    ("shnet", {}, "fc3", (150, 11), (150, 11)),
    ("shresnet2017", {}, "difference", (28, 11), (28, 11)),
]

# name -> edge of the receptive field, as its docstring states it
REACH = {"cnn_rish": 11, "cpm_plain": 23, "espcn": 5, "fcsnet": 9, "hned_plain": 13, "shnet": 1, "shresnet2017": 7}

# name, channels in -> millions of parameters, 28 channels out (section 10 of the specification, its figures)
MILLIONS = [("espcn", 28, "0.119"), ("diqt", 28, "0.895"), ("shresnet", 28, "2.93"), ("fcsnet", 29, "3.20")]


def small(name, channels, upsampling=1, **options):
    """A small network of that name."""
    torch.manual_seed(0)
    return hn.create_network(name, channels, channels, upsampling, **SMALL[name] | options)


def with_shells(name, shells):
    """The option `shells`, where the network has it."""
    return {"shells": shells} if "shells" in network(name).options() else {}


def statistics(channels):
    """Means and standard deviations of source and target channels, far from 0 and 1."""
    made = torch.Generator().manual_seed(1)
    return [torch.rand(channels, generator=made) + shift for shift in (0.5, 0.2, 0.7, 0.1)]


@pytest.mark.parametrize(("name", "channels", "millions"), MILLIONS)
def test_parameters_are_the_millions_of_the_specification(name, channels, millions):
    digits = len(millions.split(".")[1])
    assert f"{count_parameters(hn.create_network(name, channels, 28)) / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize(("name", "options"), FORMS, ids=NAMED)
@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("shells", [1, 2])
@pytest.mark.parametrize("order", [0, 2, 4, 6, 8])
def test_any_even_order_and_several_shells_give_the_target_patch(name, options, upsampling, shells, order):
    channels = shells * sh.n_coefficients(order)
    net = small(name, channels, upsampling, **options, **with_shells(name, shells)).eval()
    edge = target_patch_size(7, upsampling, network(name).alignment)
    with torch.no_grad():
        assert net(torch.randn(1, channels, 7, 7, 7)).shape == (1, channels, edge, edge, edge)


@pytest.mark.parametrize(("name", "options", "layer", "at_one", "at_two"), TAPS)
def test_the_default_tap_is_the_layer_before_the_output_with_the_size_stated(name, options, layer, at_one, at_two):
    assert next(iter(network(name).taps.values())) == layer
    for upsampling, (channels, edge) in ((1, at_one), (2, at_two)):
        net = hn.create_network(name, 28, 28, upsampling, **options)
        assert measure(net, {"features": layer}, 28, 11).features["features"] == (channels, edge, edge, edge)


@pytest.mark.parametrize(("name", "options"), FORMS, ids=NAMED)
@pytest.mark.parametrize("upsampling", [1, 2])
def test_the_loss_reaches_every_parameter_through_the_tap(name, options, upsampling):
    net = small(name, 15, upsampling, **options)
    prediction, features = forward_with_taps(net, network(name).taps, torch.randn(2, 15, 7, 7, 7))
    features["features"].retain_grad()
    prediction.square().mean().backward()
    assert features["features"].grad.abs().sum() > 0
    without = [path for path, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(("name", "options"), FORMS, ids=NAMED)
def test_in_evaluation_answers_repeat_and_do_not_depend_on_the_other_patches(name, options):
    net = small(name, 6, **options).eval()
    x = torch.randn(3, 6, 7, 7, 7)
    with torch.no_grad():
        together = net(x)
        assert torch.equal(net(x), together)
        torch.testing.assert_close(net(x[1:2]), together[1:2])


@pytest.mark.parametrize("name", REACH)
def test_the_receptive_field_is_the_one_stated(name):
    edge = max(REACH[name] + 2, 7)
    net = small(name, 6).eval()
    x = torch.randn(2, 6, edge, edge, edge).requires_grad_()
    net(x)[:, :, edge // 2, edge // 2, edge // 2].sum().backward()
    for axis in (2, 3, 4):
        seen = x.grad.abs().amax(dim=[d for d in range(5) if d != axis]).nonzero().flatten()
        assert int(seen[-1] - seen[0]) + 1 == REACH[name]
        assert int(seen[0] + seen[-1]) == edge - 1


@pytest.mark.parametrize(
    ("name", "upsampling"),
    [(name, 1) for name in SMALL] + [(name, 2) for name in SMALL if name != "espcn_shuffle"],  # cells join no nodes
)
def test_each_composes_with_the_others_in_msp(name, upsampling):
    other = "shnet" if name != "shnet" else "espcn"
    options = {n: SMALL[n] for n in (name, other)}
    model = compose(
        {"a": name, "b": other}, "msp", upsampling={"a": upsampling}, channels=6, patch_size=7, options=options
    )
    last = model(torch.randn(1, 6, 7, 7, 7))[-1]
    assert {platform: y.shape[-1] for platform, y in last.items()} == {"a": target_patch_size(7, upsampling), "b": 7}


def test_shells_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ShapeError, match="15 channels do not divide into 2 shells"):
        hn.create_network("shresnet2017", 15, 15, shells=2)
    with pytest.raises(ShapeError, match="7 channels is no even SH series"):
        hn.create_network("cnn_rish", 14, 14, mode="rish", shells=2)
    assert order_widths(30, 2) == [1, 5, 9, 1, 5, 9]


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shuffled_channels_come_back_and_those_of_a_voxel_stay_in_its_place(factor):
    shuffle = SubPixelShuffle(factor)
    x = torch.randn(2, 3 * factor**3, 2, 3, 4)
    y = shuffle(x)
    assert y.shape == (2, 3, 2 * factor, 3 * factor, 4 * factor)
    assert torch.equal(shuffle.inverse(y), x)
    inside = y[:, :, factor : 2 * factor, :factor, 2 * factor : 3 * factor]  # of voxel (1, 0, 2)
    assert torch.equal(inside.reshape(2, -1), x[:, :, 1, 0, 2])


def test_interpolated_nodes_lie_on_and_between_those_of_the_source():
    axis = torch.arange(7.0)
    x = (axis[:, None, None] + 10 * axis[:, None] + 100 * axis).expand(1, 2, 7, 7, 7)
    fine = interpolate_nodes(x)
    assert fine.shape == (1, 2, 11, 11, 11)
    assert torch.allclose(fine[:, :, 1::2, 1::2, 1::2], x[:, :, 1:-1, 1:-1, 1:-1])
    assert torch.allclose(fine[0, 0, 5, 6, 4], torch.tensor(3 + 35 + 250.0))


def test_espcn_starts_from_the_published_weights():
    torch.manual_seed(0)
    net = hn.create_network("espcn", 28, 28)
    for layer, fan_in in ((net.conv0[0], 28 * 27), (net.conv1[0], 50)):
        assert (layer.bias == 0.01).all()
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_at_upsampling_1_both_espcn_are_one_network():
    x = torch.randn(1, 6, 7, 7, 7)
    assert torch.equal(small("espcn", 6)(x), small("espcn_shuffle", 6)(x))


@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("shells", [1, 2])
def test_rish_turns_its_answer_as_the_input_is_turned_in_raw_units(upsampling, shells):
    channels = 15 * shells
    net = small("cnn_rish", channels, upsampling, mode="rish", shells=shells).double().eval()
    source_mean, source_std, target_mean, target_std = (v.double() for v in statistics(channels))
    net.set_statistics(source_mean, source_std, target_mean, target_std)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    one = torch.from_numpy(sh.rotation(turn, 4))
    matrix = torch.block_diag(*[one] * shells)

    def answer(raw):
        standardised = (raw.movedim(1, -1) - source_mean) / source_std
        return net(standardised.movedim(-1, 1)).movedim(1, -1) * target_std + target_mean

    raw = torch.randn(2, channels, 7, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        upright, turned = answer(raw), answer((raw.movedim(1, -1) @ matrix.T).movedim(-1, 1))
    assert not torch.allclose(upright, turned, rtol=0.1)
    torch.testing.assert_close(turned, upright @ matrix.T)


@pytest.mark.parametrize(("bias", "scale"), [(100.0, 10.0), (-100.0, 0.1), (2 * np.log(3), 3.0)])
def test_rish_scales_each_order_by_the_root_of_its_gain_within_limits(bias, scale):
    net = small("cnn_rish", 15, mode="rish")
    torch.nn.init.zeros_(net.conv5.weight)
    torch.nn.init.zeros_(net.conv5.bias)
    with torch.no_grad():
        net.conv5.bias[1] = bias  # order 2
    x = torch.randn(1, 15, 7, 7, 7)
    ratio = (net(x) / x)[0].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ratio, torch.tensor([1.0] + 5 * [scale] + 9 * [1.0]))


def test_rish_is_finite_where_there_is_no_signal_and_keeps_its_statistics_with_its_weights():
    net = small("cnn_rish", 6, mode="rish")
    net.set_statistics(*statistics(6))
    source_mean, source_std, target_mean, target_std = statistics(6)
    empty = (-source_mean / source_std).view(1, 6, 1, 1, 1).expand(1, 6, 7, 7, 7)
    answer = net(empty)
    torch.testing.assert_close(answer[0, :, 3, 3, 3], -target_mean / target_std)
    answer.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    fresh = small("cnn_rish", 6, mode="rish")
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.raw.target_std, target_std)


def test_cnn_rish_refuses_a_mode_that_it_has_not_and_channels_that_it_cannot_scale():
    with pytest.raises(NotFoundError, match=r"no mode 'rihs'\. Did you mean rish\?"):
        hn.create_network("cnn_rish", mode="rihs")
    with pytest.raises(ShapeError, match="cannot make 6 channels of 15"):
        hn.create_network("cnn_rish", 15, 6, mode="rish")
    assert hn.create_network("cnn_rish", 15, 6, width=4)(torch.zeros(1, 15, 7, 7, 7)).shape[1] == 6


def test_fcsnet_joins_its_input_and_drops_elements_in_training_only():
    net = small("fcsnet", 6)
    x = torch.randn(1, 6, 7, 7, 7)
    _, features = forward_with_taps(net, {"concat": "concat"}, x)
    assert torch.equal(features["concat"][:, -6:], x)
    dropped = [(layer(torch.ones(1, 4, 9, 9, 9)) == 0).float().mean() for layer in (net.hidden[0][2], net.hidden[3][2])]
    assert all(0.4 < share < 0.6 for share in dropped)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(small("fcsnet", 6, dropout=0.0)(x), small("fcsnet", 6).eval()(x))


@pytest.mark.parametrize(("upsampling", "touched"), [(1, [3]), (2, [4, 5, 6])])
def test_shnet_sees_one_voxel_and_between_voxels_their_neighbours(upsampling, touched):
    net = small("shnet", 6, upsampling).eval()
    x = torch.randn(1, 6, 7, 7, 7)
    y = x.clone()
    y[..., 3, 3, 3] += 1
    with torch.no_grad():
        changed = (net(y) - net(x))[0].abs().sum(0) > 1e-6
    assert changed.nonzero().unique().tolist() == touched
    assert int(changed.sum()) == len(touched) ** 3


def test_shresnet2017_has_a_unit_for_each_order_of_each_shell_and_subtracts_the_input():
    net = small("shresnet2017", 12, shells=2).eval()
    assert [unit[-1].out_channels for unit in net.units] == [1, 5, 1, 5]
    x = torch.randn(1, 12, 7, 7, 7)
    _, taps = forward_with_taps(net, {"difference": "difference", "join": "join", "skip": "skip"}, x)
    assert torch.equal(taps["difference"], taps["join"] - taps["skip"])
    assert (taps["join"] >= 0).all()
    assert (net(x) < 0).any()


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_each_stage_of_cpm_plain_takes_the_prediction_before_it(stages):
    net = small("cpm_plain", 6, stages=stages).eval()
    assert len(net.earlier) == stages - 1
    x = torch.randn(1, 6, 7, 7, 7)
    taps = {"trunk": "trunk"} | {str(i): f"earlier.{i}" for i in range(stages - 1)}
    prediction, seen = forward_with_taps(net, taps, x)
    before = [seen[str(stages - 2)]] if stages > 1 else []
    torch.testing.assert_close(net.output(net.last(torch.cat([seen["trunk"], *before], dim=1))), prediction)
    assert all(seen[str(i)].shape == x.shape for i in range(stages - 1))


def test_cpm_plain_refuses_to_have_no_stage():
    with pytest.raises(ShapeError, match="no prediction in 0 stages"):
        hn.create_network("cpm_plain", stages=0)


@pytest.mark.parametrize("upsampling", [1, 2])
def test_hned_plain_is_the_mean_of_its_sides_until_it_learns_their_weights(upsampling):
    net = small("hned_plain", 6, upsampling).eval()
    x = torch.randn(1, 6, 7, 7, 7)
    prediction, seen = forward_with_taps(net, {str(i): f"sides.{i}" for i in range(3)}, x)
    torch.testing.assert_close(prediction, (seen["0"] + seen["1"] + seen["2"]) / 3)
    with torch.no_grad():
        net.weights.copy_(torch.tensor([0.0, -2.0, 1.0]))
        torch.testing.assert_close(net(x), seen["2"] - 2 * seen["1"])
