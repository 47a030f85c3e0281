"""MONAI's networks as members: what they promise, beside diqt and shresnet, saved and loaded, equal to MONAI's own."""

from importlib.util import find_spec

import pytest
import torch
from harmonet_monai import harmonet_networks

import harmonet as hn
from harmonet.composer import build_network
from harmonet.testing import networks, parametrize_with_checks
from harmonet.testing.kit import checks_of

pytestmark = [
    pytest.mark.skipif(find_spec("monai") is None, reason="needs MONAI: install monai and einops to run it"),
    pytest.mark.filterwarnings("ignore"),  # MONAI's, of what it will change
]

CARDS = {entry.name: entry for entry in harmonet_networks()}
MONAI = ["monai_unet", "monai_segresnet", "monai_swinunetr"]
# Two levels: of three, the deepest has 2x2x2 voxels in the kit, where bfloat16 gradients of torch 2.13 can be NaN.
SMALL = {
    "monai_unet": {"channels": [8, 16], "res_units": 0, "width": 8},
    "monai_segresnet": {"filters": 8, "width": 8},
    "monai_swinunetr": {"width": 8},
}
QUICK = [networks.check_batch, networks.check_gradients, networks.check_state_dict, networks.check_repeatable]
GRIDS = {"a": 1, "b": 2, "c": 1}


def batch(edge=11, count=1):
    return torch.randn((count, 28, edge, edge, edge), generator=torch.Generator().manual_seed(edge))


def built(name, upsampling=1, seed=0, **options):
    torch.manual_seed(seed)
    return build_network(CARDS[name], 28, 28, upsampling, SMALL[name] | options)


@parametrize_with_checks([CARDS["monai_unet"], CARDS["monai_segresnet"]], SMALL)
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
def test_swinunetr_keeps_what_is_quick_to_check(check):
    assert check in checks_of(CARDS["monai_swinunetr"])
    check(CARDS["monai_swinunetr"])


@pytest.mark.parametrize("name", MONAI)
def test_a_card_states_the_number_of_parameters(name):
    network = build_network(CARDS[name], 28, 28, 1, {})
    assert sum(p.numel() for p in network.parameters()) == CARDS[name].parameters


@pytest.mark.parametrize(
    ("name", "upsampling", "edge", "padded", "given"),
    [
        ("monai_unet", 1, 11, 12, 11),
        ("monai_unet", 2, 11, 12, 19),
        ("monai_unet", 1, 7, 8, 7),
        ("monai_segresnet", 2, 13, 16, 23),
        ("monai_swinunetr", 2, 11, 32, 19),
    ],
)
def test_an_odd_patch_is_padded_and_cropped(name, upsampling, edge, padded, given):
    network, seen = built(name, upsampling).eval(), []
    network.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    assert network(batch(edge)).shape == (1, 28, *[given] * 3)
    assert seen == [padded]


@pytest.mark.parametrize("name", ["monai_unet", "monai_segresnet"])
@pytest.mark.parametrize("upsampling", [1, 2])
def test_it_lies_where_adapt_would_lay_it(name, upsampling):
    network = built(name, upsampling).eval()
    other = hn.adapt(network.net, upsampling=upsampling, pad_to=network.multiple).eval()
    other.exit = network.exit
    assert torch.equal(other(batch()), network(batch()))


@pytest.mark.parametrize("name", MONAI)
def test_its_weights_come_back_bit_for_bit(name, tmp_path):
    from safetensors.torch import load_file, save_file

    network, other = built(name), built(name, seed=1)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(other.eval()(batch()), network.eval()(batch()))


@pytest.mark.parametrize(
    ("name", "upsampling"), [("monai_unet", 1), ("monai_unet", 2), ("monai_segresnet", 1), ("monai_swinunetr", 2)]
)
def test_it_is_a_member_of_msp_beside_diqt_and_shresnet(name, upsampling):
    members = {"a": built(name, upsampling), "b": "diqt", "c": "shresnet"}
    options = {"diqt": {"layers": 1, "widths": (4, 6)}, "shresnet": {"blocks": 1, "width": 4}}
    model = hn.compose(members, "msp", upsampling=GRIDS | {"a": upsampling}, taps={"a": ["grid"]}, options=options)
    for fusion in model.fusions.values():
        fusion.alpha.fill_(0.5)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        loss = sum(y.square().mean() for stage in model(batch()) for y in stage.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert next(model.singles["a"].net.parameters()).grad.abs().sum() > 0


def test_a_class_of_monai_is_built_by_name():
    options = {
        "cls": "monai.networks.nets:BasicUNet",
        "allow": ["monai.networks"],
        "arguments": {"spatial_dims": 3, "features": [8, 8, 8, 8, 8, 8]},
    }
    network = build_network(CARDS["torch_module"], 28, 28, 2, options)
    assert type(network.net).__name__ == "BasicUNet"
    assert network(batch(count=2)).shape == (2, 28, 19, 19, 19)
