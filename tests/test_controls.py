"""The control fusions: what they compute and train, against plain formulas; stored, trained, or refused."""

import pytest
import safetensors.torch
import torch
from test_composer import NAMES, SMALL, UP
from test_reading import TRAINING, one_target, quiet
from torch import nn

import harmonet as hn
from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.errors import NotFoundError, ShapeError
from harmonet.platforms import preset
from harmonet.recipe import parse
from harmonet.runs.train import train
from harmonet.stages import Gaussian
from harmonet.taps import forward_with_taps

CONTROLS = ("ensemble", "hard_sharing", "cross_stitch", "gated")
SAME = {"prisma_st": "diqt", "connectom_st": "shresnet"}
GRIDS = {"same size": SAME, "mixed grids": NAMES}
EDGE = {"prisma_st": 11, "connectom_st": 11, "connectom_sa": 19}


def small(fusion, singles, target=None, seed=0, channels=6, **options):
    """A composition of small networks, upsampled for connectom_sa."""
    torch.manual_seed(seed)
    return hn.compose(
        singles,
        fusion,
        target,
        upsampling={p: f for p, f in UP.items() if p in singles},
        channels=channels,
        options={**SMALL, fusion: options},
    )


def tapped(model, platform, x):
    """What the network of a platform says, and its one tapped feature, apart from the model's own pass."""
    prediction, features = forward_with_taps(model.singles[platform], model.taps[platform], x)
    return prediction, features["features"]


def reached(module):
    """Whether a gradient came to some parameter."""
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def descend(prediction):
    prediction.square().mean().backward()


@pytest.fixture
def x():
    return torch.randn(2, 6, 11, 11, 11, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(GRIDS))
def singles(request):
    return GRIDS[request.param]


@pytest.mark.parametrize("name", CONTROLS)
def test_weights_come_back_from_safetensors(name, singles, x):
    model, other = (small(name, singles, seed=seed).eval() for seed in (0, 1))
    before = other(x)[-1]
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    expected, found = model(x)[-1], other(x)[-1]
    for platform in singles:
        assert torch.equal(found[platform], expected[platform])
        assert not torch.equal(found[platform], before[platform])


@pytest.mark.parametrize("name", CONTROLS)
def test_all_targets_are_predicted_and_no_network_runs_twice(name, singles, x):
    model = small(name, singles).eval()
    runs = dict.fromkeys(model.singles, 0)
    for platform, network in model.singles.items():
        network.register_forward_hook(lambda *_, p=platform: runs.update({p: runs[p] + 1}))
    last = model(x)[-1]
    assert {p: tuple(y.shape) for p, y in last.items()} == {p: (2, 6, EDGE[p], EDGE[p], EDGE[p]) for p in singles}
    assert set(runs.values()) == {1}


@pytest.mark.parametrize(
    ("name", "fusions", "run"),
    [("ensemble", 3, 3), ("hard_sharing", 1, 1), ("cross_stitch", 1, 3), ("gated", 3, 3)],
)
def test_a_fusion_that_predicts_all_is_built_once_and_unread_networks_are_left_out(name, fusions, run):
    model = small(name, NAMES)
    assert (len(model.fusions), len(model.singles)) == (fusions, run)


def test_an_ensemble_is_the_mean_of_its_members(x):
    model = small("ensemble", {"prisma_st": ["diqt@1", "diqt@2", "shresnet"], "connectom_sa": ["diqt", "shresnet"]})
    first, last = model.eval()(x)
    for platform, committee in model.singles.items():
        said = [network(x) for network in committee.members]
        assert torch.allclose(last[platform], sum(said) / len(said), atol=1e-6)
        assert torch.equal(first[platform], said[0])
        assert not torch.allclose(said[0], said[1], atol=1e-3)


def test_an_ensemble_of_one_is_that_one_and_knows_no_other_platform(x):
    model = small("ensemble", SAME, "prisma_st").eval()
    assert list(model.singles) == ["prisma_st"]
    assert torch.equal(model(x)[-1]["prisma_st"], model.singles["prisma_st"](x))


def test_a_gradient_reaches_every_member_of_an_ensemble(x):
    model = small("ensemble", {"prisma_st": ["diqt@1", "diqt@2"]})
    descend(model(x)[-1]["prisma_st"])
    assert all(reached(member) for member in model.singles["prisma_st"].members)


class Sure(nn.Module):
    """A network with a variance; real enough to be trained."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_variance = nn.Conv3d(6, 6, 1), nn.Conv3d(6, 6, 1)

    def forward(self, x):
        return Gaussian(self.mean(x), self.log_variance(x).exp())


def test_the_variance_of_an_ensemble_is_that_of_the_mixture(x):
    members = [Sure(), Sure(), Sure()]
    (last,) = hn.compose({"a": members}, "ensemble", channels=6)(x)[1:]
    draws = torch.Generator().manual_seed(2)
    said = [member(x[:1, :, :1, :1, :1]) for member in members]
    drawn = torch.stack([torch.randn(200_000, 6, generator=draws) for _ in said])
    drawn = drawn * torch.stack([s.variance.flatten() for s in said])[:, None].sqrt()
    drawn = (drawn + torch.stack([s.mean.flatten() for s in said])[:, None]).flatten(0, 1)
    at = (0, slice(None), 0, 0, 0)
    assert torch.allclose(last["a"][at], drawn.mean(0), atol=0.02)
    assert torch.allclose(last.variances["a"][at], drawn.var(0), rtol=0.02)


def test_an_ensemble_of_which_not_all_know_a_variance_has_none(x):
    sure, plain = Sure(), nn.Conv3d(6, 6, 1)
    first, last = hn.compose({"a": [sure, plain]}, "ensemble", channels=6)(x)
    assert torch.allclose(last["a"], (sure(x).mean + plain(x)) / 2, atol=1e-6)
    assert (list(first.variances), list(last.variances)) == (["a"], [])


def test_hard_sharing_gives_each_platform_a_head_on_one_trunk(singles, x):
    model = small("hard_sharing", singles, trunk="connectom_st").eval()
    first, last = model(x)
    own, shared = tapped(model, "connectom_st", x)
    assert torch.equal(first["connectom_st"], own)
    for platform in singles:
        assert torch.equal(last[platform], model.fusion.heads[platform](shared))


def test_the_trunk_is_the_first_on_the_coarsest_grid_unless_named():
    turned = {"connectom_sa": "diqt", "connectom_st": "shresnet", "prisma_st": "diqt"}
    assert list(small("hard_sharing", turned).singles) == ["connectom_st"]
    assert list(small("hard_sharing", turned, trunk="connectom_sa").singles) == ["connectom_sa"]


def test_a_trunk_can_be_tapped_at_several_layers(x):
    taps = {"prisma_st": ["rev1", "rev2"]}
    model = hn.compose(SAME, "hard_sharing", channels=6, taps=taps, options=SMALL).eval()
    _, features = forward_with_taps(model.singles["prisma_st"], model.taps["prisma_st"], x)
    early, late = features["rev1"], features["rev2"]
    head, said = model.fusion.heads["connectom_st"], model(x)[-1]["connectom_st"]
    assert torch.equal(said, head(early, late))
    assert not torch.allclose(said, head(0 * early, late), atol=1e-3)


def test_one_platforms_error_trains_the_trunk_and_its_own_head_alone(x):
    model = small("hard_sharing", NAMES)
    descend(model(x)[-1]["connectom_sa"])
    assert reached(model.singles["prisma_st"])
    assert {p: reached(head) for p, head in model.fusion.heads.items()} == {p: p == "connectom_sa" for p in NAMES}


def test_a_cross_stitch_unit_mixes_features_by_a_weight_for_each_pair(singles, x):
    model = small("cross_stitch", singles).eval()
    fusion = model.fusion
    with torch.no_grad():
        fusion.weights.copy_(torch.randn(fusion.weights.shape))
    led = [fusion.leads[p](tapped(model, p, x)[1]) for p in singles]
    for row, platform in zip(fusion.weights, singles, strict=True):
        mixed = sum(weight * feature for weight, feature in zip(row, led, strict=True))
        assert torch.allclose(model(x)[-1][platform], fusion.heads[platform](mixed), atol=1e-5)


def test_own_features_weigh_most_at_first_and_weights_add_to_one():
    weights = small("cross_stitch", NAMES).fusion.weights
    assert torch.allclose(weights.diag(), torch.tensor(0.9))
    assert torch.allclose(weights.sum(1), torch.ones(3))


def test_features_of_the_common_size_are_mixed_as_they_are_and_others_led_there():
    kinds = {p: type(lead).__name__ for p, lead in small("cross_stitch", NAMES).fusion.leads.items()}
    assert kinds == {"prisma_st": "Identity", "connectom_st": "Identity", "connectom_sa": "ConnectionNet"}
    assert isinstance(small("cross_stitch", SAME).fusion.leads["connectom_st"], nn.Conv3d)


@pytest.mark.parametrize("names", [("diqt", "shresnet"), ("shresnet", "diqt"), ("espcn_shuffle", "diqt")])
def test_features_that_a_valid_convolution_has_shrunk_are_led_to_those_of_the_patch(names):
    singles = dict(zip("ab", names, strict=True))
    model = hn.compose(singles, "cross_stitch", upsampling={"a": 2, "b": 2}, channels=6, options=SMALL)
    sizes = {p: model.sizes[p].features["features"][1] for p in singles}
    assert set(sizes.values()) == {9, 11}
    led = {p: isinstance(lead, nn.Identity) for p, lead in model.fusion.leads.items()}
    assert led == {p: size == 11 for p, size in sizes.items()}


def test_features_of_a_finer_grid_are_led_to_the_coarser():
    fine = nn.Sequential(nn.Conv3d(6, 5, 3), nn.ConvTranspose3d(5, 4, 3, stride=2), nn.Conv3d(4, 6, 1))
    singles, taps = {"a": fine, "b": "shresnet"}, {"a": "1"}
    model = hn.compose(singles, "cross_stitch", upsampling={"a": 2}, channels=6, taps=taps, options=SMALL)
    assert isinstance(model.fusion.leads["b"], nn.Identity)
    assert str(model.fusion.leads["a"]) == "conv k3 s2 p2, conv k3 s1 p1"


def test_one_platforms_error_trains_every_network_through_its_row_of_the_unit(x):
    model = small("cross_stitch", NAMES)
    descend(model(x)[-1]["connectom_sa"])
    assert all(reached(network) for network in model.singles.values())
    assert model.fusion.weights.grad.any(1).tolist() == [False, False, True]
    assert {p: reached(head) for p, head in model.fusion.heads.items()} == {p: p == "connectom_sa" for p in NAMES}


@pytest.mark.parametrize("target", ["prisma_st", "connectom_sa"])
def test_a_gate_weighs_candidates_voxel_by_voxel(target, x):
    model = small("gated", NAMES, target).eval()
    weights, candidates = choice(model, target, x)
    assert torch.allclose(weights.sum(1), torch.ones(()), atol=1e-6)
    expected = sum(weights[:, i : i + 1] * candidate for i, candidate in enumerate(candidates))
    assert torch.allclose(model(x)[-1][target], expected, atol=1e-6)
    assert weights.std((2, 3, 4)).min() > 0


@pytest.mark.parametrize("target", list(NAMES))
def test_the_own_prediction_leads_at_first(target, x):
    model = small("gated", NAMES, target).eval()
    weights, _ = choice(model, target, x)
    assert weights[:, 0].min() > 0.85
    assert small("gated", NAMES, target, lead=0.0).fusion.lead.abs().max() == 0


def choice(model, target, x):
    """Weights (B, P, X, Y, Z) of the candidates, the own one first, by another road than the fusion's."""
    said = {p: tapped(model, p, x) for p in model.singles}
    others = [p for p in model.singles if p != target]
    candidates = [said[target][0], *(model.fusion.connections[p](said[p][1]) for p in others)]
    gate = model.fusion.gate(*(feature for _, feature in said.values()), *candidates)
    odds = torch.stack([gate[:, 0] + 4, *(gate[:, i + 1] for i in range(len(others)))], 1).exp()
    return odds / odds.sum(1, keepdim=True), candidates


def test_the_error_of_a_gated_prediction_trains_gate_connections_and_every_network(x):
    model = small("gated", NAMES, "connectom_st")
    descend(model(x)[-1]["connectom_st"])
    assert all(reached(network) for network in model.singles.values())
    assert all(reached(part) for part in (model.fusion.gate, *model.fusion.connections.values()))


ALONE = {"prisma_st": "diqt"}
BOTH = {"taps": {"prisma_st": ["rev1", "rev2"]}}
REFUSED = [
    (ALONE, "hard_sharing", {}, ShapeError, "two platforms or more, found only prisma_st: train its network without"),
    (ALONE, "cross_stitch", {}, ShapeError, "two networks or more, found only that of prisma_st: train it without"),
    (ALONE, "gated", {}, ShapeError, "two platforms or more, found only prisma_st: train its network without"),
    (SAME, "hard_sharing", {"trunk": "prisma"}, NotFoundError, "no network for trunk='prisma'. Did you mean prisma_st"),
    (SAME, "cross_stitch", BOTH, ShapeError, "one tap of each network, found for prisma_st: rev1, rev2"),
]


@pytest.mark.parametrize(("singles", "fusion", "settings", "error", "words"), REFUSED)
def test_what_makes_no_sense_is_refused_with_a_sentence(singles, fusion, settings, error, words):
    taps = settings.get("taps", {})
    options = {**SMALL, fusion: {name: value for name, value in settings.items() if name != "taps"}}
    with pytest.raises(error, match=words):
        hn.compose(singles, fusion, channels=6, taps=taps, options=options)


def test_an_ensemble_of_seeds_is_trained_member_by_member_and_loads_as_their_mean(tiny_heads, tmp_path):
    task, options = one_target(preset("cdmri2017")), {"diqt": SMALL["diqt"]}
    recipe = recipe_of(task, {"prisma_st": ["diqt@1", "diqt@2"]}, fusion="ensemble", options=options, order=2)
    recipe = parse(recipe.model_dump(exclude_none=True) | {"training": TRAINING}, "of a test")
    train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet)
    run = hn.load(tmp_path / "run")
    patches = torch.randn(2, 6, 11, 11, 11, generator=torch.Generator().manual_seed(0))
    assert run.networks == {"prisma_st": "diqt@1+diqt@2"}
    alone = [hn.load(tmp_path / "run" / "singles" / f"prisma_st.{name}") for name in ("diqt@1", "diqt@2")]
    said = [member.model(patches)[-1]["prisma_st"] for member in alone]
    assert torch.allclose(run.model(patches)[-1]["prisma_st"], sum(said) / 2, atol=1e-6)
    assert not torch.allclose(said[0], said[1], atol=1e-3)
