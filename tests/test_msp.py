"""MSP: equation (1) exactly, on every combination of grids, of several taps, targets and stages."""

from functools import reduce
from operator import add

import catalogue
import pytest
import safetensors.torch
import torch
from torch import nn

import harmonet as hn
from harmonet.blocks.connection import count_parameters
from harmonet.errors import NotFoundError, ShapeError
from harmonet.fusions.msp import MSP
from harmonet.losses.masked import masked_mse
from harmonet.registry import ConnectionEntry
from harmonet.taps import forward_with_taps

CHANNELS, PATCH = 3, 11
COARSE, FINE, BOTH = {"coarse": "1"}, {"fine": "3"}, {"coarse": "1", "fine": "3"}
# target; taps of the three platforms, of which c alone is at upsampling 2: features of 11, of 9 and 19 voxels
CASES = {
    "same size": ("a", {"a": COARSE, "b": COARSE}),
    "up": ("c", {"a": COARSE, "b": COARSE, "c": COARSE}),
    "down": ("a", {"a": COARSE, "b": COARSE, "c": FINE}),
    "several taps": ("b", {"a": {"two": "3", "one": "1"}, "b": COARSE, "c": BOTH}),
    "several taps up": ("c", {"a": {"one": "1", "two": "3"}, "b": COARSE, "c": COARSE}),
    "several targets": (None, {"a": COARSE, "b": COARSE, "c": BOTH}),
}
every_case = pytest.mark.parametrize(
    ("case", "stages"), [(case, stages) for case in CASES for stages in (2, 3)], ids=lambda value: str(value)
)


def single(upsampling):
    """Layers 1 and 3 give features, at upsampling 2 of the shrunk source grid and of the fine one."""
    middle = nn.ConvTranspose3d(4, 5, 3, stride=2) if upsampling == 2 else nn.Conv3d(4, 5, 3, padding=1)
    first = nn.Conv3d(CHANNELS, 4, 3, padding=int(upsampling == 1))
    return nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), nn.Conv3d(5, CHANNELS, 1))


def composed(case, **options):
    torch.manual_seed(0)
    target, taps = CASES[case]
    networks = {"a": single(1), "b": single(1), "c": single(2)}
    if case == "same size":
        del networks["c"]
        networks["d"], taps = single(1), {**taps, "d": COARSE}
    settings = {"channels": CHANNELS, "patch_size": PATCH, "taps": taps, "options": {"msp": options}}
    upsampling = {"c": 2} if "c" in networks else {}
    return hn.compose(networks, "msp", target, upsampling=upsampling, **settings).double()


def patch():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(1, CHANNELS, PATCH, PATCH, PATCH, generator=draws, dtype=torch.float64)


def others(model, x, target, stages):
    """What each connection network of a target says in the last of `stages`, apart from the model's own forward."""
    nets = model.fusions[target].connections[len(stages) - 2]
    seen = [stages[-2][target]] if len(stages) > 2 else []
    outputs = []
    for platform, net in nets.items():
        _, features = forward_with_taps(model.singles[platform], model.taps[platform], x)
        outputs.append(net(*features.values(), *seen))
    return outputs


def set_alpha(model, alpha):
    for fusion in model.fusions.values():
        fusion.alpha.fill_(alpha)


@every_case
def test_at_alpha_0_every_later_stage_is_the_single_network_bit_for_bit(case, stages):
    model, x = composed(case, stages=stages).float(), patch().float()
    found = model(x)
    assert len(found) == stages
    for target in model.fusions:
        alone = model.singles[target](x)
        assert all(torch.equal(stage[target], alone) for stage in found)


@every_case
def test_at_alpha_1_a_later_stage_is_the_plain_mean(case, stages):
    model, x = composed(case, stages=stages), patch()
    set_alpha(model, 1)
    found = model(x)
    for target in model.fusions:
        for last in range(2, stages + 1):
            terms = [found[last - 2][target], *others(model, x, target, found[:last])]
            assert len(terms) == 3
            assert torch.allclose(found[last - 1][target], reduce(add, terms) / 3, atol=1e-12)


@every_case
def test_the_weights_are_those_of_equation_1(case, stages):
    model, x = composed(case, stages=stages), patch()
    for alpha, own, other in ((0.0, 1.0, 0.0), (0.5, 2 / 3, 1 / 6), (1.0, 1 / 3, 1 / 3)):
        set_alpha(model, alpha)
        found = model(x)
        for target in model.fusions:
            expected = own * found[-2][target] + other * reduce(add, others(model, x, target, found))
            assert torch.allclose(found[-1][target], expected, atol=1e-12)


@every_case
def test_equation_1_is_affine_in_alpha(case, stages):
    """Each stage in what the one before has said; that one itself moves with alpha, but for the first."""
    model, x = composed(case, stages=stages), patch()
    for target, fusion in model.fusions.items():
        first, features = {}, {}
        for platform, network in model.singles.items():
            first[platform], features[platform] = forward_with_taps(network, model.taps[platform], x)
        results = []
        for alpha in (0.0, 0.3, 1.0):
            fusion.alpha.fill_(alpha)
            results.append(fusion(first, features)[0][target])
        assert torch.allclose(results[1], 0.7 * results[0] + 0.3 * results[2], atol=1e-12)
        assert not torch.allclose(results[1], results[0])


@every_case
def test_identical_predictions_in_give_the_same_out_and_each_loss_term_vanishes(case, stages):
    model = composed(case, stages=stages)
    truth = {p: torch.randn(1, *s.prediction, dtype=torch.float64) for p, s in model.sizes.items()}
    features = {p: {tap: torch.zeros(1) for tap in s.features} for p, s in model.sizes.items()}
    for target, fusion in model.fusions.items():
        for nets in fusion.connections:
            for platform in nets:
                nets[platform] = Constant(truth[target])
    for alpha in (0.0, 0.4, 1.0):
        set_alpha(model, alpha)
        terms = []
        for target, fusion in model.fusions.items():
            for stage in (truth, *fusion(truth, features)):
                inside = torch.ones_like(truth[target][:, :1])
                terms.append(masked_mse(stage[target], truth[target], inside))
                assert torch.allclose(stage[target], truth[target], atol=1e-12)
        assert len(terms) == stages * len(model.fusions)
        assert max(terms) < 1e-24


@every_case
def test_gradient_reaches_connections_and_trunks_from_later_stages_alone_above_alpha_0(case, stages):
    model, x = composed(case, stages=stages), patch()
    for alpha, reached in ((0.0, False), (0.2, True)):
        set_alpha(model, alpha)
        for number in range(1, stages):
            for target, fusion in model.fusions.items():
                model.zero_grad()
                model(x)[number][target].square().mean().backward()
                for parameter in fusion.connections[number - 1].parameters():
                    assert touched(parameter) is reached
                assert not any(touched(p) for nets in fusion.connections[number:] for p in nets.parameters())
                for platform, network in model.singles.items():  # the tapped trunk of every network, and the own one
                    assert touched(network[0].weight) is (reached or platform == target)


def touched(parameter):
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


@every_case
def test_alpha_is_saved_with_the_weights(case, stages):
    model, x = composed(case, stages=stages), patch()
    set_alpha(model, 0.7)
    state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    again = composed(case, stages=stages)
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(state)
    assert all(float(fusion.alpha) == 0.7 for fusion in again.fusions.values())
    for expected, found in zip(model(x), again(x), strict=True):
        assert all(torch.equal(expected[p], found[p]) for p in expected)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_several_targets_share_the_singles_which_run_once_and_have_a_connection_for_each_other(stages):
    model, x = composed("several targets", stages=stages), patch()
    runs = []
    for platform, network in model.singles.items():
        network.register_forward_hook(lambda *_, platform=platform: runs.append(platform))
    found = model(x)
    assert [sorted(stage) for stage in found] == [["a", "b", "c"]] * stages
    assert sorted(runs) == ["a", "b", "c"]
    for target, fusion in model.fusions.items():
        assert [sorted(nets) for nets in fusion.connections] == [sorted({"a", "b", "c"} - {target})] * (stages - 1)


def test_each_stage_has_connections_of_its_own_that_read_the_previous_prediction():
    model, x = composed("up", stages=3), patch()
    set_alpha(model, 1)
    before = model(x)
    with torch.no_grad():
        for parameter in model.fusion.connections[1].parameters():
            parameter.zero_()  # N = 0: the third stage is a third of the second
    _, second, third = model(x)
    assert torch.equal(second["c"], before[1]["c"])
    assert torch.allclose(third["c"], second["c"] / 3, atol=1e-12)


SCHEDULES = [
    ({}, [0.0, 0.5, 1.0, 1.0, 1.0]),
    ({"start": 0.25, "ramp": 0.5}, [0.0, 0.0, 0.5, 1.0, 1.0]),
    ({"start": 0.5, "ramp": 0.0}, [0.0, 0.0, 1.0, 1.0, 1.0]),
    ({"ramp": 1.0, "final": 0.8}, [0.0, 0.2, 0.4, 0.6, 0.8]),
    ({"schedule": "cosine", "ramp": 1.0}, [0.0, 0.5 - 0.125**0.5, 0.5, 0.5 + 0.125**0.5, 1.0]),
    ({"schedule": "cosine", "start": 0.5, "ramp": 0.5, "final": 0.5}, [0.0, 0.0, 0.0, 0.25, 0.5]),
    ({"schedule": "fixed"}, [1.0] * 5),
    ({"schedule": "fixed", "final": 0.3}, [0.3] * 5),
    ({"final": 0}, [0.0] * 5),
]


@pytest.mark.parametrize(("options", "expected"), SCHEDULES)
def test_alpha_follows_its_schedule_and_has_the_first_value_before_the_training(options, expected):
    model = composed("several targets", **options)
    alphas = [[float(fusion.alpha) for fusion in model.fusions.values()]]
    for done in (0.0, 0.25, 0.5, 0.75, 1.0):
        model.advance(done)
        alphas.append([float(fusion.alpha) for fusion in model.fusions.values()])
    assert alphas == [pytest.approx([value] * 3) for value in (expected[0], *expected)]


def test_the_control_with_final_alpha_0_never_trains_its_connections():
    model, x = composed("same size", final=0.0), patch()
    model.advance(1.0)
    model(x)[1]["a"].square().mean().backward()
    assert not any(touched(parameter) for parameter in model.fusion.parameters())


@pytest.mark.parametrize("target", ["prisma_st", "connectom_st", "connectom_sa"])
def test_the_three_msps_of_table_1_have_7_44_million_parameters(target):
    networks = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
    model = hn.compose(networks, "msp", target, upsampling={"connectom_sa": 2})
    assert count_parameters(model) == 2 * 2_927_876 + 895_458 + 2 * 345_728
    assert count_parameters(model) / 1e6 == pytest.approx(7.44, abs=0.01)


WIRINGS = [
    ("up", {}, {"a": "conv k3 s1 p0, deconv k3 s2 p0", "b": "conv k3 s1 p0, deconv k3 s2 p0"}),
    (
        "several taps",
        {},
        {
            "a": "conv k3 s1 p1 + conv k3 s1 p1, conv k3 s1 p1",
            "c": "conv k3 s1 p2 + conv k3 s2 p2, conv k3 s1 p1",
        },
    ),
    (
        "same size",
        {"stages": 4},
        dict.fromkeys("bd", "conv k3 s1 p1, conv k3 s1 p1; then 2 x (conv k3 s1 p1 + conv k3 s1 p1, conv k3 s1 p1)"),
    ),
]


@pytest.mark.parametrize(("case", "options", "words"), WIRINGS)
def test_the_wiring_names_the_convolutions(case, options, words):
    assert composed(case, **options).fusion.wiring() == words


def test_a_size_that_does_not_fit_is_refused_with_the_pair_and_interpolated_when_asked_for():
    pools = [nn.Conv3d(CHANNELS, 4, 1), nn.MaxPool3d(3), nn.ReLU(), nn.Upsample(size=PATCH), nn.Conv3d(4, CHANNELS, 1)]
    networks = {"a": single(1), "b": nn.Sequential(*pools), "c": single(1)}
    settings = {"channels": CHANNELS, "taps": {"a": "1", "b": "2", "c": "1"}}
    with pytest.raises(ShapeError, match=r"b to a: .* 3 x 3 x 3 voxels .* 11 x 11 x 11: .*5, 7, 9, 11, 19, 22.*trilin"):
        hn.compose(networks, "msp", "a", **settings)
    model = hn.compose(networks, "msp", "a", options={"msp": {"resample": "trilinear"}}, **settings).double()
    set_alpha(model, 0.5)
    model(patch())[1]["a"].square().mean().backward()
    assert touched(networks["b"][0].weight)
    assert model.fusion.wiring()["b"] == "conv k3 s1 p1, trilinear, conv k3 s1 p1"


class OneConv(nn.Module):
    """A stranger's connection network, for features of the prediction's grid."""

    def __init__(self, features, prediction, kernel=1):
        super().__init__()
        self.conv = nn.Conv3d(sum(size[0] for size in features), prediction[0], kernel, padding=kernel // 2)

    def forward(self, *z):
        return self.conv(torch.cat(z, 1))


class OneChannel(OneConv):
    def forward(self, *z):
        return super().forward(*z)[:, :1]


@pytest.fixture(autouse=True)
def strangers(monkeypatch):
    """Both are registered for as long as a test runs."""
    for build in (OneConv, OneChannel):
        card = ConnectionEntry(name=build.__name__.lower(), build=build, summary="a stranger's")
        monkeypatch.setitem(catalogue.REGISTRY, ("harmonet", "connection", card.name), card)


@pytest.mark.parametrize("stages", [2, 3])
def test_another_connection_network_is_taken_by_its_registered_name(stages):
    options = {"connection": "oneconv", "connection_options": {"kernel": 5}, "stages": stages}
    model = composed("same size", **options)
    assert all(net.conv.kernel_size == (5, 5, 5) for nets in model.fusion.connections for net in nets.values())
    assert len(model(patch())) == stages
    assert "oneconv" in model.fusion.wiring()["b"]
    with pytest.raises(NotFoundError, match="oneconv has no option 'resample'"):
        composed("same size", connection="oneconv", resample="trilinear")


def test_a_connection_of_the_wrong_size_is_refused_and_not_broadcast():
    with pytest.raises(ShapeError, match=r"onechannel from b to a gives 1 x 11 x 11 x 11, .* 3 x 11 x 11 x 11"):
        composed("same size", connection="onechannel")


def test_a_fusion_built_by_hand_knows_the_built_in_connection(monkeypatch):
    monkeypatch.delitem(catalogue.REGISTRY, ("harmonet", "connection", "two_convs"))  # as if no plugins were loaded
    source = hn.Source((4, 11, 11, 11), {"features": (4, 11, 11, 11)})
    assert MSP({"a": source, "b": source}, "a").wiring() == {"b": "conv k3 s1 p1, conv k3 s1 p1"}


REFUSED = [
    ({"stages": 1}, ShapeError, "asked for 1 stages"),
    ({"schedule": "cosin"}, NotFoundError, "no schedule 'cosin'. Did you mean cosine"),
    ({"final": 1.5}, ShapeError, "final = 1.5: use a number from 0 to 1"),
    ({"start": -0.1}, ShapeError, "start = -0.1"),
    ({"ramp": 25}, ShapeError, "ramp = 25"),
    ({"connection": "two_conv"}, NotFoundError, "Did you mean two_convs"),
    ({"connection_options": {"hiden": 3}}, NotFoundError, "two_convs has no option 'hiden'"),
    ({"resample": "linear"}, NotFoundError, "no resample 'linear'"),
    ({"hiden": 3}, NotFoundError, "msp has no option 'hiden'"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_options_that_cannot_be_are_refused_with_a_sentence(options, error, words):
    with pytest.raises(error, match=words):
        composed("same size", **options)


def test_one_platform_alone_and_a_network_without_a_tap_are_refused():
    with pytest.raises(ShapeError, match="needs two target platforms or more"):
        hn.compose({"a": "diqt"}, "msp", options={"diqt": {"layers": 1}})
    with pytest.raises(ShapeError, match="found no tap of b"):
        hn.compose({"a": single(1), "b": single(1)}, "msp", "a", channels=CHANNELS, taps={"a": "1", "b": []})


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *_):
        return self.value


@every_case
def test_learned_weights_begin_as_the_mean(case, stages):
    """The same networks, and at first the same predictions; at alpha 0 still the single network bit for bit."""
    mean, learned = (composed(case, stages=stages, weights=weights) for weights in ("mean", "learned"))
    learned.load_state_dict(mean.state_dict(), strict=False)
    for alpha in (0.0, 0.4, 1.0):
        set_alpha(mean, alpha)
        set_alpha(learned, alpha)
        for stage, other in zip(mean(patch()), learned(patch()), strict=True):
            for platform in stage:
                assert torch.allclose(stage[platform], other[platform], atol=1e-12)
    set_alpha(learned, 0.0)
    found = learned(patch())
    target = next(iter(learned.fusions))
    assert torch.equal(found[-1][target], found[0][target])


def test_learned_weights_favour_the_prediction_that_is_right():
    """Each channel has its own; whatever they are they add to 1, and a step of training moves them."""
    model = composed("same size", weights="learned")
    set_alpha(model, 1.0)
    fusion = model.fusions["a"]
    with torch.no_grad():
        fusion.logits[0, 0, 1] = 50.0  # the own prediction, channel 1
    stages = model(patch())
    assert torch.allclose(stages[-1]["a"][:, 1], stages[0]["a"][:, 1])
    assert not torch.allclose(stages[-1]["a"][:, 0], stages[0]["a"][:, 0])
    stages[-1]["a"].square().mean().backward()
    assert fusion.logits.grad[0, :, 0].abs().max() > 0
    assert fusion.logits.grad.sum(1).abs().max() < 1e-9


def test_weights_that_are_none_are_refused():
    with pytest.raises(NotFoundError, match="msp has no weights 'median'"):
        composed("same size", weights="median")
