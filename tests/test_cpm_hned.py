"""CPM and HNED over registered networks: what sees what, what stays as it was at first, and what is refused."""

import pytest
import safetensors.torch
import torch
from torch import nn

import harmonet as hn
from harmonet import plugins
from harmonet.blocks.connection import ConnectionNet
from harmonet.errors import NotFoundError, ShapeError
from harmonet.fusion import Source
from harmonet.fusions.cpm import CPM
from harmonet.fusions.hned import HNED
from harmonet.model import answers
from harmonet.taps import forward_with_taps, tappable_layers

SMALL = {
    "bayesian_espcn": {"widths": (4, 6), "passes": 2},
    "cnn_rish": {"width": 4},
    "cpm_plain": {"width": 8},
    "diqt": {"layers": 1, "widths": (4, 6)},
    "espcn": {"widths": (4, 6)},
    "espcn_shuffle": {"widths": (4, 6)},
    "fcsnet": {"widths": (4, 4, 4, 4)},
    "hned_plain": {"width": 4},
    "shnet": {"width": 6},
    "shresnet": {"blocks": 2, "width": 4},
    "shresnet2017": {"width": 4},
}
NAMES = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
CELLS = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "espcn_shuffle"}
UP = {"connectom_sa": 2}
EDGES = {"prisma_st": 11, "connectom_st": 11, "connectom_sa": 19}
ST, SA = Source((6, 11, 11, 11), {"features": (8, 11, 11, 11)}), Source((6, 19, 19, 19), {"features": (8, 9, 9, 9)})


def small(fusion, target=None, names=NAMES, taps=None, **options):
    torch.manual_seed(0)
    return hn.compose(names, fusion, target, upsampling=UP, taps=taps, options=SMALL | {fusion: options})


def stages_of(model, x):
    """The stages of a model's only fusion, before they are laid beside those of others."""
    return model.fusion.stages(x, lambda p, patch: forward_with_taps(model.singles[p], model.taps[p], patch))


def stir(module):
    """Move every parameter, as training would."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))


def untouched(module):
    """Names of parameters that got no gradient, or one of zeros."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.fixture
def x():
    return torch.randn(2, 28, 11, 11, 11, generator=torch.Generator().manual_seed(1))


# --- CPM


@pytest.mark.parametrize(
    ("target", "chain"),
    [
        ("prisma_st", ["connectom_st", "connectom_sa", "prisma_st"]),
        ("connectom_st", ["prisma_st", "connectom_sa", "connectom_st"]),
        ("connectom_sa", ["connectom_st", "prisma_st", "connectom_sa"]),
    ],
)
@pytest.mark.parametrize(("names", "fine"), [(NAMES, 19), (CELLS, 22)], ids=["nodes", "cells"])
def test_cpm_predicts_one_platform_after_the_other_coarse_ones_first_and_the_target_last(target, chain, names, fine, x):
    stages = stages_of(small("cpm", target, names), x)
    assert [list(stage) for stage in stages] == [[platform] for platform in chain]
    for platform, prediction in answers(stages).items():
        edge = fine if platform == "connectom_sa" else 11
        assert prediction.shape == (2, 28, edge, edge, edge)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("target", ["connectom_sa", None])
@pytest.mark.parametrize("names", [NAMES, CELLS], ids=["nodes", "cells"])
def test_at_first_cpm_predicts_what_each_network_says_alone_bit_for_bit(names, target, dense, x):
    model = small("cpm", target, names, dense=dense).eval()
    with torch.no_grad():
        predictions = [(platform, y) for stage in model(x) for platform, y in stage.items()]
        assert len(predictions) >= len(names)
        for platform, y in predictions:
            assert torch.equal(y, model.singles[platform](x))


@pytest.mark.parametrize(("dense", "seen"), [(False, {"b": ["a"], "c": ["b"]}), (True, {"b": ["a"], "c": ["a", "b"]})])
def test_a_link_sees_the_prediction_before_it_or_all_of_them_with_dense(dense, seen):
    torch.manual_seed(0)
    fusion = CPM({"a": ST, "b": SA, "c": ST}, "c", order=["a", "b"], dense=dense)
    stir(fusion)
    x = torch.randn(1, 6, 11, 11, 11)
    given = {p: torch.randn(1, *fusion.sources[p].prediction, requires_grad=True) for p in "abc"}
    patches = {}

    def run(platform, patch):
        patches[platform] = patch
        return given[platform], {}

    fusion.stages(x, run)
    assert patches["a"] is x
    for platform, expected in seen.items():
        slopes = torch.autograd.grad(patches[platform].sum(), list(given.values()), allow_unused=True)
        found = [p for p, slope in zip(given, slopes, strict=True) if slope is not None and slope.any()]
        assert found == expected


def test_the_voxel_of_a_fine_prediction_that_returns_lies_where_it_was():
    for edge, place in ((19, 9), (22, slice(10, 12))):
        fusion = CPM({"a": Source((1, edge, edge, edge), {}), "b": Source((1, 11, 11, 11), {})}, "b")
        nn.init.ones_(fusion.back["a"].weight)
        y = torch.zeros(1, 1, edge, edge, edge)
        y[..., place, place, place] = 1  # on the central voxel of the source
        back = fusion.back["a"](y)
        assert (back[0, 0] == back.max()).nonzero().tolist() == [[5, 5, 5]]
        for axis in (2, 3, 4):
            assert torch.equal(back, back.flip(axis))


@pytest.mark.parametrize("fusion", ["cpm", "hned"])
@pytest.mark.parametrize("target", ["prisma_st", None])
def test_every_prediction_carries_a_gradient_and_together_they_reach_every_parameter(fusion, target, x):
    model = small(fusion, target).train()
    stir(model.fusions)
    predictions = [y for stage in model(x) for y in stage.values()]
    for y in predictions:
        assert y.requires_grad
    sum(y.square().mean() for y in predictions).backward()
    assert untouched(model) == []


def test_the_last_loss_of_cpm_trains_the_networks_before_and_their_links(x):
    model = small("cpm", "prisma_st")
    stir(model.fusions)
    stages_of(model, x)[-1]["prisma_st"].square().mean().backward()
    assert untouched(model) == []


@pytest.mark.parametrize("order", [["prisma_st", "connectom_sa"], ["prisma_st", "connectom_st", "connectom_sa"]])
def test_the_order_is_the_users_and_the_target_last_wherever_it_stands(order, x):
    model = small("cpm", "connectom_st", order=order)
    assert [list(stage) for stage in stages_of(model, x)] == [["prisma_st"], ["connectom_sa"], ["connectom_st"]]
    sides = small("hned", "connectom_st", order=order[::-1]).fusion.sides
    assert list(sides) == ["connectom_sa", "prisma_st"]


def test_several_chains_share_the_networks_and_each_target_is_answered_by_its_own(x):
    model = small("cpm").eval()
    stir(model.fusions)
    runs = []
    for network in model.singles.values():
        network.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        stages = model(x)
        # of three chains of three, two begin with connectom_st, which reads the patch itself and is run once for both
        assert len(runs) == 8
        for target in NAMES:
            own = model.fusions[target].stages(x, lambda p, patch: (model.singles[p](patch), {}))
            assert torch.equal(answers(stages)[target], own[-1][target])
            for stage in own:  # nothing of a chain is lost on the way
                for platform, y in stage.items():
                    assert any(platform in s and torch.equal(s[platform], y) for s in stages)
    assert sorted(stages[-1]) == sorted(NAMES)


# --- HNED


@pytest.mark.parametrize("target", list(NAMES))
@pytest.mark.parametrize(("names", "fine"), [(NAMES, 19), (CELLS, 22)], ids=["nodes", "cells"])
def test_hned_runs_the_targets_network_alone_and_predicts_every_platform_from_it(target, names, fine, x):
    model = small("hned", target, names).eval()
    assert list(model.singles) == [target]
    with torch.no_grad():
        first, last = model(x)
        assert torch.equal(first[target], model.singles[target](x))
    assert sorted(first) == sorted(names)
    assert list(last) == [target]
    for platform, y in [*first.items(), *last.items()]:
        edge = fine if platform == "connectom_sa" else 11
        assert y.shape == (2, 28, edge, edge, edge)


def test_the_fused_prediction_is_the_weighted_sum_with_equal_weights_at_first(x):
    model = small("hned", "connectom_sa").eval()
    fusion = model.fusion
    assert fusion.weights.tolist() == pytest.approx([1 / 3] * 3)
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([0.5, 2.0, -1.0]))
        _, z = forward_with_taps(model.singles["connectom_sa"], {"a": "rev0", "b": "rev1"}, x)
        first, last = model(x)
        assert torch.equal(first["connectom_st"], fusion.sides["connectom_st"](z["a"]))
        assert torch.equal(first["prisma_st"], fusion.sides["prisma_st"](z["b"]))
        led = {p: fusion.back[p](first[p]) for p in ("connectom_st", "prisma_st")}
        expected = 0.5 * first["connectom_sa"] + 2 * led["connectom_st"] - led["prisma_st"]
    torch.testing.assert_close(last["connectom_sa"], expected)


@pytest.mark.parametrize(
    ("taps", "sides", "expected"),
    [
        (None, None, ["side1", "side2"]),
        (None, 1, ["side1"]),
        (["rev1", "rev0"], None, ["rev1", "rev0"]),
        ("conv0", None, ["conv0", "conv0"]),
        (["features", "side2"], None, ["side2", "features"]),
        ("features", None, ["features", "features"]),
    ],
)
def test_sides_read_taps_from_shallow_to_deep_and_share_the_last(taps, sides, expected):
    asked = None if taps is None else {"connectom_sa": taps}
    options = {} if sides is None else {"sides": sides}
    fusion = small("hned", "connectom_sa", taps=asked, **options).fusion
    assert list(fusion.taps.values()) == expected
    assert len(fusion.weights) == len(expected) + 1


def test_a_side_alone_trains_the_layers_before_its_tap_and_none_behind(x):
    model = small("hned", "connectom_sa", order=["prisma_st", "connectom_st"])
    model(x)[0]["prisma_st"].square().mean().backward()
    network = model.singles["connectom_sa"]
    assert untouched(network.rev0) == []
    assert set(untouched(network.rev1)) == {name for name, _ in network.rev1.named_parameters()}


def test_several_targets_have_a_stream_each(x):
    stages = small("hned")(x)
    assert sorted(stages[-1]) == sorted(NAMES)
    assert sum(len(stage) for stage in stages[:-1]) == len(NAMES) ** 2


NETWORKS = sorted(SMALL)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("upsampling", [1, 2])
def test_every_built_in_network_has_two_taps_for_sides_that_lead_to_every_grid(name, upsampling):
    card = plugins.network(name).taps
    assert list(card) == ["features", "side1", "side2"]
    assert len({card["side1"], card["side2"]}) == 2
    found = tappable_layers(hn.create_network(name, 28, 28, upsampling, **SMALL[name]), 28, 11)
    for layer in card.values():
        for edge in (11, 19, 22):
            ConnectionNet([found[layer]], (28, edge, edge, edge))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_built_in_network_can_be_the_stream_of_hned(name, x):
    names = {"a": name, "b": "diqt", "c": "shnet"}
    model = hn.compose(names, "hned", "a", upsampling={"b": 2}, options=SMALL)
    assert [sorted(stage) for stage in model(x)] == [["a", "b", "c"], ["a"]]


# --- both


@pytest.mark.parametrize("fusion", ["cpm", "hned"])
def test_variances_stay_with_the_predictions_that_have_them(fusion, x):
    names = {"a": "shnet", "b": "bayesian_espcn"}
    (variances,) = [s.variances for s in hn.compose(names, fusion, "b", options=SMALL)(x) if s.variances]
    assert list(variances) == ["b"]
    assert variances["b"].shape == x.shape


@pytest.mark.parametrize("fusion", ["cpm", "hned"])
def test_weights_return_from_a_file_with_the_same_predictions(fusion, x, tmp_path):
    model, fresh = small(fusion).eval(), small(fusion).eval()
    stir(model)
    safetensors.torch.save_model(model, tmp_path / "weights.safetensors")
    safetensors.torch.load_model(fresh, tmp_path / "weights.safetensors")
    with torch.no_grad():
        for stage, other in zip(model(x), fresh(x), strict=True):
            assert all(torch.equal(stage[p], other[p]) for p in stage)


@pytest.mark.parametrize("fusion", ["cpm", "hned"])
def test_the_wiring_says_what_sees_what(fusion):
    words = small(fusion, "prisma_st").fusion.wiring()
    if fusion == "cpm":
        assert words["connectom_st"] == "first in the chain"
        assert words["connectom_sa"].startswith("after connectom_st: conv k3 s1 p1, conv")
        assert words["prisma_st"].startswith("after connectom_sa (conv k3 s2): conv k3 s1 p1, conv")
    else:
        assert list(words) == ["prisma_st"]
        assert words["prisma_st"].startswith("side1 to connectom_st by conv k3 s1 p1, conv k3 s1 p1, back by conv")
        assert "side2 to connectom_sa by conv k3 s1 p0, deconv k3 s2 p0, back by conv k3 s2 p2" in words["prisma_st"]


NO_TAP = Source((6, 11, 11, 11), {})
CELL = Source((6, 22, 22, 22), {})


@pytest.mark.parametrize(
    ("build", "sources", "options", "error", "words"),
    [
        (CPM, {"a": ST}, {}, ShapeError, "found only a: add a platform, or train that network without a fusion"),
        (HNED, {"a": ST}, {}, ShapeError, "found only a: add a platform, or train that network without a fusion"),
        (
            CPM,
            {"a": ST, "b": ST, "c": ST},
            {"order": ["b"]},
            NotFoundError,
            "order b, but goes through b, c on the way",
        ),
        (CPM, {"a": ST, "b": ST}, {"order": []}, NotFoundError, "the order of nothing, but goes through b"),
        (CPM, {"a": ST, "b": ST}, {"order": ["b", "b"]}, NotFoundError, "order b, b, but goes through b"),
        (HNED, {"a": ST, "b": ST}, {"order": ["z"]}, NotFoundError, "order z, but goes through b on the way to a"),
        (HNED, {"a": ST, "b": ST}, {"sides": 0}, ShapeError, "asked for 0 sides on the way to a, where 1 other"),
        (HNED, {"a": ST, "b": ST}, {"sides": 2}, ShapeError, "asked for 2 sides on the way to a, where 1 other"),
        (HNED, {"a": NO_TAP, "b": ST}, {}, ShapeError, "network of a, found no tap there: name a layer"),
        (HNED, {"a": SA, "b": CELL}, {}, ShapeError, "a with a side output for b: no two convolutions lead from"),
        (CPM, {"a": SA, "b": CELL}, {}, ShapeError, "none leads b from 22 to 19 voxels on edge: add a platform"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(build, sources, options, error, words):
    with pytest.raises(error, match=words):
        build(sources, "a", **options)


def test_grids_between_which_no_convolutions_lead_are_resampled_when_asked(x):
    names, up = {"a": "diqt", "b": "espcn_shuffle"}, {"a": 2, "b": 2}
    options = SMALL | {"hned": {"resample": "trilinear"}}
    stages = hn.compose(names, "hned", "a", upsampling=up, options=options)(x)
    assert {p: y.shape[2] for p, y in stages[0].items()} == {"a": 19, "b": 22}


def test_cpm_refuses_predictions_that_do_not_come_back_to_the_patch():
    fusion = CPM({"a": SA, "b": SA}, "a")
    with pytest.raises(ShapeError, match="b comes back with 19 voxels on edge, but patches have 11"):
        fusion.stages(torch.zeros(1, 6, 11, 11, 11), lambda p, _: (torch.zeros(1, *SA.prediction), {}))
