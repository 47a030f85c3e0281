"""The example is found as a stranger's package is, joins the built-ins and learns."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

import harmonet as hn
from harmonet.testing import parametrize_with_checks

GRIDS = {"prisma_st": 1, "connectom_sa": 2}  # two target platforms of unlike resolution
SMALL = {"diqt": {"layers": 1}, "shresnet": {"width": 8}}


def batch(edge=11, count=1):
    return torch.randn((count, 28, edge, edge, edge), generator=torch.Generator().manual_seed(edge))


def composed(singles, fusion="weighted", target=None, **options):
    torch.manual_seed(0)
    return hn.compose(singles, fusion, target, upsampling=GRIDS, options=SMALL | options)


def loss(model):
    x, truth = batch(), {"prisma_st": batch(11), "connectom_sa": batch(19)}
    return sum(nn.functional.mse_loss(y, truth[p]) for stage in model(x) for p, y in stage.items())


@parametrize_with_checks(["tiny", "weighted"])
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)


def test_it_is_found_through_its_installed_entry_point():
    points = [p for p in entry_points(group="harmonet") if p.dist.name == "harmonet-example"]
    assert [(p.name, p.value) for p in points] == [("example", "harmonet_example")]
    assert "tiny" in hn.list_networks()
    assert "weighted" in hn.list_fusions()


def test_it_is_listed_with_its_package_without_importing_torch_or_its_own_code():
    asked = (
        "import sys; from harmonet import plugins; found = {p.name: p for p in plugins.load()}['example'];"
        "print(found.package, found.version, *found.entries, found.problem);"
        "print(*sorted({'torch', 'harmonet_example', 'harmonet_example.network'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["harmonet-example 0.1.0 tiny weighted None", "harmonet_example"]


@pytest.mark.parametrize(
    ("upsampling", "options", "patch", "target_patch"),
    [(1, {}, 11, 11), (2, {}, 11, 19), (1, {"width": 3}, 7, 7), (2, {"width": 3}, 7, 11)],
)
def test_tiny_gives_the_target_patch(upsampling, options, patch, target_patch):
    network = hn.create_network("tiny", in_channels=28, out_channels=28, upsampling=upsampling, **options)
    assert network(batch(patch)).shape == (1, 28, *[target_patch] * 3)


def test_tiny_has_as_many_parameters_as_its_card_says():
    from harmonet.plugins import network

    found = sum(p.numel() for p in hn.create_network("tiny").parameters())
    assert found == network("tiny").parameters == 28 * 27 * 16 + 16 + 16 * 27 * 28 + 28


@pytest.mark.parametrize(
    ("singles", "fusion"),
    [
        ({"prisma_st": "tiny", "connectom_sa": "diqt"}, "weighted"),
        ({"prisma_st": "shresnet", "connectom_sa": "tiny"}, "weighted"),
        ({"prisma_st": "diqt", "connectom_sa": "shresnet"}, "weighted"),
        ({"prisma_st": "tiny", "connectom_sa": "tiny"}, "msp"),
    ],
)
def test_it_joins_with_the_built_ins_on_both_grids(singles, fusion):
    first, refined = composed(singles, fusion)(batch())
    for stage in (first, refined):
        assert {platform: y.shape[2] for platform, y in stage.items()} == {"prisma_st": 11, "connectom_sa": 19}


def test_weighted_is_the_convex_sum_that_its_docstring_says():
    model = composed({"prisma_st": "tiny", "connectom_sa": "tiny"}, target="connectom_sa")
    fusion, x = model.fusion, batch()
    other = fusion.connections[0](model.singles["prisma_st"].body(x))
    first, refined = model(x)
    torch.testing.assert_close(refined["connectom_sa"], 0.9 * first["connectom_sa"] + 0.1 * other)


def test_weighted_begins_with_the_own_weight_that_was_asked_for_whatever_the_number_of_networks():
    singles = dict.fromkeys(["a", "b", "c", "d"], "tiny")
    model = hn.compose(singles, "weighted", "b", options={"weighted": {"own": 0.7}})
    weights = model.fusion.logits.detach().softmax(0)
    torch.testing.assert_close(weights, torch.tensor([0.7, 0.1, 0.1, 0.1]))


def test_weighted_reads_several_taps_of_one_network_and_names_that_torch_could_not_hold():
    singles, taps = {"prisma_st": "tiny", "connectom_sa": "tiny"}, {"prisma_st": ["body", "body.0"]}
    model = hn.compose(singles, "weighted", "connectom_sa", upsampling=GRIDS, taps=taps)
    assert model.fusion.taps == [("prisma_st", "body"), ("prisma_st", "body.0")]
    assert model.fusion.wiring() == {"prisma_st": "; ".join(["conv k3 s1 p0, deconv k3 s2 p0"] * 2)}
    assert model(batch())[1]["connectom_sa"].shape[2] == 19


def test_one_step_lowers_the_loss_and_its_gradient_reaches_every_parameter():
    model = composed({"prisma_st": "tiny", "connectom_sa": "diqt"})
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    before = loss(model)
    before.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    optimiser.step()
    assert loss(model) < before


def test_its_weights_survive_saving_and_loading(tmp_path):
    singles = {"prisma_st": "tiny", "connectom_sa": "tiny"}
    model = composed(singles)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(1)
    other = hn.compose(singles, "weighted", upsampling=GRIDS)
    assert not torch.equal(other(batch())[1]["prisma_st"], model(batch())[1]["prisma_st"])
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(batch())[1]["prisma_st"], model(batch())[1]["prisma_st"])


@pytest.mark.parametrize("own", [0, 1, -0.5, 1.5])
def test_an_own_weight_outside_0_and_1_is_refused(own):
    with pytest.raises(hn.HarmonetError, match=f"found {own}"):
        composed({"prisma_st": "tiny", "connectom_sa": "tiny"}, weighted={"own": own})


def test_one_platform_alone_is_refused():
    with pytest.raises(hn.HarmonetError, match="two platforms or more"):
        hn.compose({"prisma_st": "tiny"}, "weighted")
