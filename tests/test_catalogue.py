"""Listing and showing: what is registered, measured as it is, and the zoo page that says the same."""

import json
from pathlib import Path

import pytest
import torch
from bench import one_line
from torch import nn

from harmonet.anatomy import anatomy, count_flops, receptive_field
from harmonet.errors import NotFoundError, ShapeError
from harmonet.fusion import Gaussian

ZOO = Path(__file__).resolve().parents[1] / "docs" / "reference" / "zoo.md"


def in_json(ended):
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def conv(*kernel, channels=1, **words):
    return nn.Conv3d(channels, channels, kernel, padding=[k // 2 for k in kernel], **words)


class Minus(nn.Module):
    """What the layers give, less what they read."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) - x


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3, 4), keepdim=True)


class Hiding(nn.Module):
    def forward(self, x):
        return x.nan_to_num()


class Uncertain(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = conv(3, 3, 3)

    def forward(self, x):
        return Gaussian(self.mean(x), self.mean(x).exp())


def dead():
    """A convolution whose output no ReLU lets through."""
    layer = conv(3, 3, 3)
    nn.init.constant_(layer.weight, -1.0)
    nn.init.constant_(layer.bias, -1.0)
    return layer


def silent():
    layer = conv(3, 3, 3)
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.parametrize(
    ("network", "upsampling", "expected"),
    [
        (conv(1, 1, 1), 1, (1, 1, 1)),
        (conv(3, 3, 3), 1, (3, 3, 3)),
        (conv(1, 3, 5), 1, (1, 3, 5)),
        (nn.Conv3d(1, 1, 3), 1, (3, 3, 3)),
        (nn.Conv3d(1, 1, 3, padding=4, dilation=4), 1, (9, 9, 9)),
        (nn.Conv3d(1, 1, 3, padding=1, padding_mode="reflect"), 1, (3, 3, 3)),
        (nn.Sequential(dead(), nn.ReLU(), dead()), 1, (5, 5, 5)),
        (silent(), 1, (3, 3, 3)),
        (Minus(conv(3, 3, 3), nn.BatchNorm3d(1), conv(5, 5, 5)), 1, (7, 7, 7)),
        (nn.Sequential(*(conv(3, 3, 3) for _ in range(20))), 1, (41, 41, 41)),
        (Mean(), 1, (None, None, None)),
        (Uncertain(), 1, (3, 3, 3)),
        (nn.ConvTranspose3d(1, 1, 3, stride=2, padding=2), 2, (1, 1, 1)),
        (nn.Sequential(nn.Conv3d(1, 1, 3), nn.ConvTranspose3d(1, 1, 3, stride=2)), 2, (3, 3, 3)),
        (nn.Sequential(conv(3, 3, 3), nn.Upsample(scale_factor=2), conv(3, 3, 3)), 2, (4, 4, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_receptive_field_is_that_of_the_layers_whatever_the_weights(network, upsampling, expected):
    assert receptive_field(network, 1, upsampling) == expected


def test_a_network_that_hides_nan_is_refused_and_not_given_a_wrong_receptive_field():
    with pytest.raises(ShapeError, match="Hiding hides NaN"):
        receptive_field(Hiding(), 1, 1)


def test_flops_count_a_multiplication_and_an_addition_for_each_weight_and_voxel():
    network = nn.Sequential(conv(3, 3, 3, channels=4), nn.ReLU(), conv(1, 1, 1, channels=4))
    assert count_flops(network, 4, 5) == 2 * 5**3 * (4 * 4 * 27 + 4 * 4)


def test_anatomy_has_every_layer_with_its_parameters_and_the_size_of_those_that_can_be_tapped():
    network = nn.Sequential(nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU(inplace=True)), nn.ModuleList([nn.Identity()])[0])
    found = anatomy(network, {"features": "0"}, 2, 5, 1)
    assert [(x.path, x.kind, x.parameters, x.size) for x in found.layers] == [
        ("0", "Sequential", 165, (3, 3, 3, 3)),
        ("0.0", "Conv3d", 165, None),  # overwritten by the ReLU
        ("0.1", "ReLU", 0, (3, 3, 3, 3)),
        ("1", "Identity", 0, (3, 3, 3, 3)),
    ]
    assert (found.prediction, found.parameters) == ((3, 3, 3, 3), 165)
    assert found.features == {"features": (3, 3, 3, 3)}


def test_measuring_leaves_the_module_and_the_random_state_as_they_were():
    network = Minus(conv(3, 3, 3), nn.BatchNorm3d(1), nn.Dropout(0.5))
    network.layers[2].eval()
    modes = [layer.training for layer in network.modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    anatomy(network, {}, 1, 5, 1)
    assert [layer.training for layer in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_tap_that_is_not_there_and_a_patch_that_does_not_fit_are_refused():
    with pytest.raises(NotFoundError, match="no layer 'tail'"):
        anatomy(conv(3, 3, 3), {"features": "tail"}, 1, 5, 1)
    with pytest.raises(ShapeError, match="cannot be measured on a patch of 1 channels and 1 voxels"):
        anatomy(nn.Conv3d(1, 1, 3), {}, 1, 1, 1)


def test_networks_are_listed_with_package_paper_upsampling_parameters_and_summary(invoke):
    (row,) = in_json(invoke("list", "networks", "d?qt", "--json"))
    assert {key: row[key] for key in ("name", "from", "upsampling", "parameters")} == {
        "name": "diqt",
        "from": "harmonet",
        "upsampling": [1, 2],
        "parameters": 895_458,
    }
    assert row["summary"]
    assert "arXiv.1808.05577" in row["paper"]
    table = invoke("list", "networks", "d?qt").out
    for word in ("upsampling", "parameters", "1, 2", "895,458"):
        assert word in table


@pytest.mark.parametrize("pattern", ["exam*", "harmonet-ex*"])
def test_plugins_are_listed_by_a_pattern_of_their_name_or_their_package(pattern, invoke):
    (row,) = in_json(invoke("list", "plugins", pattern, "--json"))
    assert (row["plugin"], row["package"]) == ("example", "harmonet-example")


def test_a_network_is_shown_with_what_its_layers_give(invoke):
    card = in_json(invoke("show", "tiny", "--json"))
    assert card["parameters"] == 24_236
    assert card["FLOPs per patch"] == 2 * 11**3 * 27 * 16 * 28 * 2
    assert card["receptive field"] == [5, 5, 5]
    assert card["taps"] == {"features": "body"}
    assert card["tap sizes"] == {"features": [16, 11, 11, 11]}
    assert [(row["layer"], row["class"], row["tap"], row["parameters"]) for row in card["layers"]] == [
        ("body", "Sequential", "default", 12_112),
        ("body.0", "Conv3d", "yes", 12_112),
        ("body.1", "ReLU", "yes", 0),
        ("head", "Conv3d", "yes", 12_124),
    ]
    table = invoke("show", "tiny").out
    for words in ("features: body", "features: 16 x 11 x 11 x 11", "5 voxels on edge", "24,236", "64,399,104"):
        assert words in table
    assert "\n   body.0 " in table  # inner layers are indented
    assert "\n body " in table


def test_a_network_is_shown_for_the_channels_patch_upsampling_and_options_that_are_asked_for(invoke):
    words = ["--channels", 6, "--patch-size", 7, "--upsampling", 2, "--option", "width=8"]
    card = in_json(invoke("show", "tiny", *words, "--json"))
    assert card["options"] == {"width": 8}
    assert card["prediction"] == [6, 11, 11, 11]
    assert card["tap sizes"] == {"features": [8, 5, 5, 5]}
    assert card["parameters"] == 2 * 6 * 27 * 8 + 8 + 6
    assert card["receptive field"] == [3, 3, 3]


def test_a_fusion_is_shown_between_networks_without_what_is_theirs(invoke):
    card = in_json(invoke("show", "msp", "--json"))
    connection = 100 * 27 * 100 + 100 + 100 * 27 * 28 + 28
    assert card["parameters"] == 2 * connection
    assert set(card["wiring"]) == {"prisma_st", "connectom_st"}
    # valid, then transposed: as many products for each of the 9³ voxels between
    assert card["FLOPs per patch"] == 2 * 2 * 9**3 * (100 * 27 * 100 + 100 * 27 * 28)
    narrow = in_json(invoke("show", "msp", "--option", "hidden=4", "--json"))
    assert narrow["parameters"] == 2 * (100 * 27 * 4 + 4 + 4 * 27 * 28 + 28)


@pytest.mark.parametrize(
    ("words", "channels", "groups", "invertible"),
    [
        (["sh_signal"], 28, {"l = 0": 1, "l = 2": 5, "l = 4": 9, "l = 6": 13}, True),
        (["sh_signal", "--option", "order=2"], 6, {"l = 0": 1, "l = 2": 5}, True),
        (["csd", "--option", "order=2"], 6, {"l = 0": 1, "l = 2": 5}, False),
        (["intensity"], 1, {"intensity": 1}, True),
    ],
)
def test_a_representation_is_shown_with_its_channels(words, channels, groups, invertible, invoke):
    card = in_json(invoke("show", *words, "--json"))
    assert (card["channels"], card["groups"], card["invertible"]) == (channels, groups, invertible)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tiny", "--option", "widht=3"], "tiny has no option 'widht'. Did you mean width?"),
        (["tiny", "--option", "width"], "--option 'width' is not understood: write KEY=VALUE"),
        (["tiny", "--option", "width=wide"], "tiny cannot be built with width='wide'"),
        (["tiny", "--patch-size", 1, "--upsampling", 2], "Tiny cannot be measured on a patch of 28 channels and 1"),
        (["shresnet", "--channels", 3], "3 channels is no even SH series"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(words, told, invoke):
    assert told in one_line(invoke("show", *words))


@pytest.mark.slow
def test_the_zoo_page_is_what_the_cards_and_their_networks_say_now():
    from harmonet.report.zoo import page

    message = "refresh it: python -m harmonet.report.zoo > docs/reference/zoo.md"
    now = page()
    old = ZOO.read_text(encoding="utf-8")
    assert old.splitlines() == now.splitlines(), message
    assert old == now, message
