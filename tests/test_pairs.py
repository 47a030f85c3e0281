"""Every pair of built-in networks under every built-in fusion: it composes, learns and comes back from its weights.

Pairs are unordered: each fusion refines both platforms, so either network plays both parts, target and other, in one
composition. Of the four ways to give two platforms upsampling 1 or 2, a pair has the one that its place in the zoo
says, so that every network stands under every fusion at both of its upsamplings.
"""

from itertools import combinations_with_replacement

import pytest
import safetensors.torch
import torch

import harmonet as hn
from harmonet import plugins
from harmonet.blocks.committee import members_of
from harmonet.errors import ShapeError
from harmonet.registry import FUSIONS, NETWORKS
from harmonet.training.loss import loss_terms

SMALL = {
    "bayesian_espcn": {"widths": (4, 6), "passes": 2},
    "cnn_rish": {"width": 8},
    "cpm_plain": {"stages": 2, "width": 8},
    "diqt": {"layers": 1, "widths": (4, 6)},
    "espcn": {"widths": (4, 6)},
    "espcn_shuffle": {"widths": (4, 6)},
    "fcsnet": {"widths": (4, 4, 4, 4)},
    "hned_plain": {"width": 8},
    "shnet": {"width": 6},
    "shresnet": {"blocks": 1, "width": 4},
    "shresnet2017": {"width": 4},
}
CHANNELS, EDGE = 6, 7

# Fusion to the networks whose weights its answer for "a", and for "b", depends on: those of the pair by letter.
READS = {
    "cpm": ("ab", "ab"),
    "cross_stitch": ("ab", "ab"),
    "ensemble": ("ab",),  # both networks predict one platform
    "gated": ("ab", "ab"),
    "hard_sharing": ("a", "a"),  # the trunk, or "b" where that is the trunk
    "hned": ("a", "b"),
    "msp": ("ab", "ab"),
}
# Right refusals: at upsampling 2 espcn_shuffle predicts in the source's cells and every other network on its nodes, and
# these two fusions bring predictions of one platform to the grid of the other, which no convolution does there.
APART = "espcn_shuffle"
REFUSED = {
    "ensemble": r"networks of one platform give .* and .*: join networks that predict on one grid",
    "hned": r"no two convolutions lead from features of 1[14] x .* or ask for resample = \"trilinear\"",
}


def built_in(registry):
    plugins.load()
    return [name for name in registry.names() if registry.provider(name) == "harmonet"]


def cases():
    """(fusion, networks of a and b, upsampling of a and b), each pair once."""
    pairs = list(combinations_with_replacement(enumerate(built_in(NETWORKS)), 2))
    for fusion in built_in(FUSIONS):
        for (i, first), (j, second) in pairs:
            factors = (1 + (j + i // 2) % 2, 1 + (i + j // 2) % 2)
            if fusion == "ensemble":
                factors = (1 + (i + j) % 2,) * 2
            yield fusion, (first, second), factors


def refused(fusion, pair, factors):
    return fusion in REFUSED and factors == (2, 2) and pair.count(APART) == 1


CASES = [pytest.param(*case, id="-".join([case[0], *map("{}@{}".format, *case[1:])])) for case in cases()]
RIGHT = [case for case in CASES if not refused(*case.values)]
WRONG = [case for case in CASES if refused(*case.values)]


def composed(fusion, pair, factors, **options):
    first, second = pair
    singles = {"a": [first, second]} if fusion == "ensemble" else {"a": first, "b": second}
    if fusion == "hard_sharing":
        options["trunk"] = trunk_of(factors, pair)
    upsampling = {platform: factor for platform, factor in zip("ab", factors, strict=True) if platform in singles}
    settings = {"channels": CHANNELS, "patch_size": EDGE, "options": SMALL | {fusion: options}}
    return hn.compose(singles, fusion, upsampling=upsampling, **settings)


def trunk_of(factors, pair):
    """Either network in turn, so that each is the trunk of some."""
    names = built_in(NETWORKS)
    return "ab"[(names.index(pair[0]) + names.index(pair[1])) % 2]


def networks_of(model):
    """The two networks of a pair by letter, those that the model holds."""
    networks = dict(model.singles.items())
    members = members_of(next(iter(networks.values())))
    return networks if len(members) == 1 else dict(zip("ab", members, strict=True))


def stir(module):
    """Move every parameter a little, as training would: layers that start at zero let no gradient through."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def reached(y, networks):
    """Letters of the networks that have a parameter with a gradient of y."""
    found = ""
    for letter, network in networks.items():
        weights = list(network.parameters())
        gradients = torch.autograd.grad(y.square().sum(), weights, retain_graph=True, allow_unused=True)
        found += letter if any(g is not None and g.any() for g in gradients) else ""
    return found


@pytest.mark.parametrize(("fusion", "pair", "factors"), RIGHT)
def test_a_pair_composes_learns_and_comes_back(fusion, pair, factors):
    torch.manual_seed(0)
    model = composed(fusion, pair, factors)
    stir(model.fusions)
    model.train().advance(1.0)
    x = torch.randn(1, CHANNELS, EDGE, EDGE, EDGE)
    stages, networks = model(x), networks_of(model)

    reads = READS[fusion]
    if fusion == "hard_sharing":
        reads = (trunk_of(factors, pair),) * 2
    last = [stages[-1][platform] for platform in "ab"[: len(reads)]]
    assert tuple(reached(y, networks) for y in last) == reads
    assert "".join(networks) == "".join(sorted(set("".join(reads))))

    truth = {platform: torch.randn_like(y) for stage in stages for platform, y in stage.items()}
    inside = {platform: torch.ones_like(y[:, :1]) for platform, y in truth.items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = {letter: [p.detach().clone() for p in network.parameters()] for letter, network in networks.items()}
    terms = loss_terms(stages, truth, inside)
    assert {platform for _, platform in terms} == set("ab"[: len(reads)])
    sum(terms.values()).backward()
    optimiser.step()
    assert all(p.isfinite().all() for p in model.parameters())
    for letter, network in networks.items():
        assert not all(map(torch.equal, before[letter], network.parameters())), f"{letter} stood still"

    again = composed(fusion, pair, factors)
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    with torch.no_grad():
        old, new = model.eval()(x), again.eval()(x)
    assert [set(stage) for stage in old] == [set(stage) for stage in new]
    for here, there in zip(old, new, strict=True):
        assert all(torch.equal(y, there[platform]) for platform, y in here.items())


@pytest.mark.parametrize(("fusion", "pair", "factors"), WRONG)
def test_a_pair_whose_grids_do_not_meet_is_refused_and_the_way_out_that_is_named_helps(fusion, pair, factors):
    with pytest.raises(ShapeError, match=REFUSED[fusion]):
        composed(fusion, pair, factors)
    if fusion == "hned":
        assert set(composed(fusion, pair, factors, resample="trilinear")(torch.zeros(1, 6, 7, 7, 7))[-1]) == {"a", "b"}


def test_every_network_stands_under_every_fusion_at_both_upsamplings():
    seen = {(f, name, factor) for f, pair, factors in cases() for name, factor in zip(pair, factors, strict=True)}
    assert seen == {(f, name, factor) for f in built_in(FUSIONS) for name in built_in(NETWORKS) for factor in (1, 2)}
    assert set(SMALL) == set(built_in(NETWORKS))
    assert set(READS) == set(built_in(FUSIONS))
