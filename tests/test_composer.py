"""Composition: equation (1) exactly, first stages untouched, wrong wiring refused."""

import pytest
import safetensors.torch
import torch
from torch import nn

import harmonet as hn
from harmonet.blocks.connection import count_parameters
from harmonet.model import wiring
from harmonet.errors import NotFoundError, ShapeError
from harmonet.taps import forward_with_taps

SMALL = {"diqt": {"layers": 1, "widths": (4, 6)}, "shresnet": {"blocks": 1, "width": 4}}
NAMES = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
UP = {"connectom_sa": 2}


def small(target=None, fusion="msp", **settings):
    torch.manual_seed(0)
    return hn.compose(NAMES, fusion, target, upsampling=UP, options=SMALL, **settings)


@pytest.fixture
def x():
    return torch.randn(2, 28, 11, 11, 11, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("target", list(NAMES))
def test_at_alpha_0_the_second_stage_is_the_single_network_bit_for_bit(target, x):
    model = small(target).eval()
    first, second = model(x)
    assert torch.equal(second[target], first[target])


@pytest.mark.parametrize("target", list(NAMES))
def test_at_alpha_1_the_second_stage_is_the_plain_mean(target, x):
    model = small(target).eval()
    model.fusion.alpha.fill_(1)
    first, second = model(x)
    others = _connection_outputs(model, x)
    assert torch.allclose(second[target], (first[target] + sum(others)) / 3, atol=1e-6)


def test_the_weights_are_those_of_equation_1(x):
    # P = 4: own weight 1 - a (P - 2) / (P - 1), others a / (P - 1)
    for alpha, own, other in ((0.0, 1.0, 0.0), (0.5, 2 / 3, 1 / 6), (1.0, 1 / 3, 1 / 3)):
        model = small("prisma_st").double().eval()
        model.fusion.alpha.fill_(alpha)
        first, second = model(x.double())
        expected = own * first["prisma_st"] + other * sum(_connection_outputs(model, x.double()))
        assert torch.allclose(second["prisma_st"], expected, atol=1e-12)


def test_equation_1_is_affine_in_alpha(x):
    model = small("connectom_sa").double().eval()
    results = []
    for alpha in (0.0, 0.3, 1.0):
        model.fusion.alpha.fill_(alpha)
        results.append(model(x.double())[1]["connectom_sa"])
    assert torch.allclose(results[1], 0.7 * results[0] + 0.3 * results[2], atol=1e-12)


def test_identical_predictions_in_give_the_same_out():
    model = small("prisma_st").double()
    y = torch.randn(1, 28, 11, 11, 11, dtype=torch.float64)
    for platform in model.fusion.connections:
        model.fusion.connections[platform] = Constant(y)
    features = {p: {"features": torch.zeros(1)} for p in NAMES}
    for alpha in (0.0, 0.4, 1.0):
        model.fusion.alpha.fill_(alpha)
        (stage,) = model.fusion({"prisma_st": y}, features)
        assert torch.allclose(stage["prisma_st"], y, atol=1e-12)


def test_no_gradient_reaches_a_connection_at_alpha_0_and_some_does_above(x):
    model = small("connectom_sa")
    for alpha, reached in ((0.0, False), (0.2, True)):
        model.fusion.alpha.fill_(alpha)
        model.zero_grad()
        model(x)[1]["connectom_sa"].square().mean().backward()
        for parameter in model.fusion.connections.parameters():
            assert bool(parameter.grad.abs().sum() > 0) is reached
        # ... and through the connections the second stage also trains the other networks' trunks
        trunk = model.singles["prisma_st"].enter.weight.grad
        assert bool(trunk is not None and trunk.abs().sum() > 0) is reached


def test_first_stage_predictions_are_those_of_the_given_networks(x):
    torch.manual_seed(3)
    networks = {p: hn.create_network(n, 28, 28, UP.get(p, 1), **SMALL[n]).eval() for p, n in NAMES.items()}
    taps = {"prisma_st": "tail.3", "connectom_st": "tail.3", "connectom_sa": "rev2"}
    model = hn.compose(networks, "msp", upsampling=UP, taps=taps).eval()
    first = model(x)[0]
    for platform, network in networks.items():
        assert torch.equal(first[platform], network(x))


def test_several_targets_share_the_singles_and_run_them_once(x):
    model = small().eval()
    runs = []
    model.singles["prisma_st"].register_forward_hook(lambda *_: runs.append(1))
    stages = model(x)
    assert [sorted(stage) for stage in stages] == [sorted(NAMES), sorted(NAMES)]
    assert len(runs) == 1
    with pytest.raises(NotFoundError, match=r"3 fusions: use model.fusions\[platform\]"):
        _ = model.fusion


def test_alpha_is_saved_with_the_weights():
    model = small("prisma_st")
    model.fusion.alpha.fill_(0.7)
    state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    again = small("prisma_st")
    again.load_state_dict(state)
    assert float(again.fusion.alpha) == pytest.approx(0.7)


def test_alpha_rises_linearly_over_half_the_training_and_stays():
    model = small("prisma_st")
    alphas = []
    for done in (0.0, 0.25, 0.5, 0.8, 1.0):
        model.advance(done)
        alphas.append(float(model.fusion.alpha))
    assert alphas == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0])


def test_the_ramp_can_begin_later_and_be_a_step():
    for options, expected in (
        ({"start": 0.2, "ramp": 0.4}, [0.0, 0.0, 0.5, 1.0]),
        ({"start": 0.4, "ramp": 0.0}, [0.0, 0.0, 1.0, 1.0]),
    ):
        model = hn.compose(NAMES, "msp", "prisma_st", upsampling=UP, options={**SMALL, "msp": options})
        alphas = []
        for done in (0.0, 0.2, 0.4, 0.9):
            model.advance(done)
            alphas.append(float(model.fusion.alpha))
        assert alphas == pytest.approx(expected)


def test_the_published_composition_has_the_published_size():
    model = hn.compose(NAMES, "msp", "connectom_sa", upsampling=UP)
    assert count_parameters(model) == 2 * 2_927_876 + 895_458 + 2 * 345_728


def test_the_wiring_table_says_what_was_measured():
    model = small("connectom_sa")
    wires = {wire.platform: wire for wire in wiring(model, NAMES)}
    assert wires["prisma_st"].taps == {"features": "tail.3"}
    assert wires["prisma_st"].features == {"features": (4, 11, 11, 11)}
    assert wires["prisma_st"].connections == {"connectom_sa": "conv k3 s1 p0, deconv k3 s2 p0"}
    assert wires["connectom_sa"].prediction == (28, 19, 19, 19)
    assert wires["connectom_sa"].connections == {}


def test_any_layer_of_any_module_can_be_tapped(x):
    body = nn.Sequential(nn.Conv3d(28, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 28, 1))
    model = hn.compose(
        {"prisma_st": body, "connectom_st": "shresnet"}, "msp", "connectom_st", taps={"prisma_st": "1"}, options=SMALL
    )
    assert model(x)[1]["connectom_st"].shape == (2, 28, 11, 11, 11)


def test_a_fusion_class_can_be_given_in_place_of_a_name(x):
    class Halves(hn.Fusion):
        def __init__(self, sources, target, share=0.5):
            super().__init__(sources, target)
            self.share = share

        def forward(self, first, features):
            return [{self.target: self.share * first[self.target]}]

    model = hn.compose({"a": "diqt"}, Halves, "a", options={**SMALL, "fusion": {"share": 0.25}}).eval()
    first, second = model(x)
    assert torch.equal(second["a"], 0.25 * first["a"])


def test_singles_alone_are_a_model_of_one_stage(x):
    model = hn.compose({"a": "diqt"}, options=SMALL)
    assert [sorted(stage) for stage in model(x)] == [["a"]]


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


class WrongGrid(hn.Fusion):
    def forward(self, first, features):
        return [{self.target: first[self.target][..., 1:]}]


class Stranger(hn.Fusion):
    def forward(self, first, features):
        return [{"elsewhere": first[self.target]}]


REFUSED = [
    ({"singles": {"a": "diqt"}, "fusion": "msp"}, ShapeError, "needs two target platforms or more"),
    ({"singles": {"a": "diqtt"}}, NotFoundError, "Did you mean diqt"),
    ({"singles": {"a": "diqt", "b": "diqt"}, "fusion": "mps"}, NotFoundError, "Did you mean msp"),
    (
        {"singles": {"a": "diqt", "b": "diqt"}, "fusion": "msp", "target": "c"},
        NotFoundError,
        "target 'c' has no single",
    ),
    ({"singles": {"a": "diqt"}, "upsampling": {"b": 2}}, NotFoundError, "upsampling names the platform 'b'"),
    ({"singles": {"a": "diqt"}, "upsampling": {"a": 3}}, ShapeError, "built for upsampling 1 or 2, not 3"),
    ({"singles": {"a": "diqt"}, "patch_size": 10}, ShapeError, "patch size 10"),
    ({"singles": {"a": nn.Conv3d(28, 28, 3)}}, ShapeError, r"28 @ 9³ from a patch of 11 voxels.*28 @ 11³"),
    ({"singles": {"a": nn.Conv3d(28, 7, 1)}}, ShapeError, "7 @ 11³"),
    ({"singles": {"a": nn.Conv3d(28, 28, 1), "b": "diqt"}, "fusion": "msp"}, NotFoundError, "has no default tap"),
    ({"singles": {"a": "diqt", "b": "diqt"}, "fusion": "msp", "taps": {"a": "rev9"}}, NotFoundError, "no layer 'rev9'"),
    (
        {"singles": {"a": "diqt", "b": "diqt"}, "fusion": "msp", "taps": {"a": ["rev1", "rev2"]}},
        ShapeError,
        "msp reads one tap of each other network, found for a: rev1, rev2",
    ),
    ({"singles": {"a": "diqt"}, "options": {"diqt": {"depth": 2}}}, NotFoundError, "diqt has no option 'depth'"),
    ({"singles": {"train": "diqt"}}, NotFoundError, "name of a torch function"),
    ({"singles": {"a": "diqt"}, "fusion": WrongGrid}, ShapeError, "stage 1 gives"),
    ({"singles": {"a": "diqt"}, "fusion": Stranger}, NotFoundError, "stage 1 predicts 'elsewhere'"),
]


@pytest.mark.parametrize(("settings", "error", "words"), REFUSED)
def test_a_composition_that_cannot_work_is_refused_with_a_sentence(settings, error, words):
    options = {**SMALL, **settings.pop("options", {})} if "options" in settings else SMALL
    with pytest.raises(error, match=words):
        hn.compose(**{"fusion": None, **settings}, options=options)


def _connection_outputs(model, x):
    """What each connection network says, computed apart from the model's own forward pass."""
    outputs = []
    for platform, net in model.fusion.connections.items():
        _, features = forward_with_taps(model.singles[platform], model.taps[platform], x)
        outputs.append(net(features["features"]))
    return outputs
