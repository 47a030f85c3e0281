"""Networks that know nothing of harmonet: made to fit on request, composed, trained a step and brought back."""

import pytest
import torch
from torch import nn

import harmonet as hn
from harmonet.blocks.adapted import Adapted, Fit
from harmonet.errors import NotFoundError, ShapeError
from harmonet.platforms import KINDS, target_patch_size
from harmonet.taps import tappable_layers

# Inner layers of strangers have edges that no two convolutions lead from to the target: 3, 6.
SMALL = {"diqt": {"layers": 1, "widths": (4, 6)}, "msp": {"resample": "trilinear"}}
MONAI = "needs MONAI, which the test environment does not have: install monai to run it"


class Block(nn.Module):
    """A residual block as torchvision writes it, its ReLU in place."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels_out)
        self.downsample = nn.Conv3d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return torch.relu_(out)


def resnet():
    """The layers of a small 3D ResNet up to where it would pool its voxels away; 3 channels in, 16 out, stride 4."""
    net = nn.Sequential()
    net.add_module("stem", nn.Conv3d(3, 8, 3, stride=2, padding=1))
    net.add_module("layer1", Block(8, 8, 1))
    net.add_module("layer2", Block(8, 16, 2))
    return net


class UNet(nn.Module):
    """Two levels with skips, which need an edge that is a multiple of 4; 1 channel in, 2 out."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 8, 3, padding=1)])
        self.bottom = nn.Conv3d(8, 8, 3, padding=1)
        self.up = nn.ModuleList([nn.ConvTranspose3d(8, 8, 2, 2), nn.ConvTranspose3d(16, 4, 2, 2)])
        self.last = nn.Conv3d(8, 2, 1)

    def forward(self, x):
        a = self.down[0](x)
        b = self.down[1](nn.functional.max_pool3d(a, 2))
        y = torch.cat([self.up[0](self.bottom(nn.functional.max_pool3d(b, 2))), b], dim=1)
        return self.last(torch.cat([self.up[1](y), a], dim=1))


def monai_unet():
    nets = pytest.importorskip("monai.networks.nets", reason=MONAI)
    return nets.UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2))


def monai_resnet():
    nets = pytest.importorskip("monai.networks.nets", reason=MONAI)
    whole = nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=2, feed_forward=False)
    body = nn.Sequential()
    for name in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2"):
        body.add_module(name, getattr(whole, name))
    return body


def composed(unet, resnet, taps, grow=1):
    torch.manual_seed(0)
    return hn.compose(
        {"a": hn.adapt(unet()), "b": hn.adapt(resnet(), upsampling=grow), "c": "diqt"},
        "msp",
        "c",
        upsampling={"b": grow},
        taps=taps,
        options=SMALL,
    )


STRANGERS = pytest.mark.parametrize(
    ("unet", "resnet", "taps"),
    [
        (UNet, resnet, {"a": "net.bottom", "b": "net.layer1"}),
        (monai_unet, monai_resnet, {"a": "net.model.1.submodule", "b": "net.layer1"}),
    ],
    ids=["plain", "monai"],
)


@STRANGERS
@pytest.mark.parametrize("grow", [1, 2])
def test_a_unet_and_a_resnet_compose_with_diqt_train_a_step_and_come_back(unet, resnet, taps, grow, tmp_path):
    model = composed(unet, resnet, taps, grow)
    x = torch.randn(2, 28, 11, 11, 11)
    model.fusion.alpha.fill_(0.5)
    first, second = model(x)
    edges = {"a": 11, "b": target_patch_size(11, grow), "c": 11}
    assert {p: tuple(y.shape) for p, y in first.items()} == {p: (2, 28, e, e, e) for p, e in edges.items()}
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        first, second = model(x)
        loss = second["c"].square().mean() + first["a"].square().mean() + first["b"].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(next(model.singles[p].net.parameters()).grad.abs().sum() > 0 for p in "ab")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = composed(unet, resnet, taps, grow)
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for old, new in zip(model.eval()(x), again.eval()(x), strict=True):
        assert all(torch.equal(old[p], new[p]) for p in old)


@pytest.mark.parametrize(
    ("net", "taken", "padded"), [(UNet, 1, 12), (resnet, 3, 12), (lambda: nn.Conv3d(28, 28, 3, padding=1), 28, 11)]
)
def test_channels_and_padding_are_measured(net, taken, padded):
    adapted = hn.adapt(net())
    assert (11 + adapted.before + adapted.after) == padded
    assert getattr(adapted.entry, "out_channels", 28) == taken


def test_a_network_that_fits_is_passed_through_bit_for_bit():
    net = nn.Conv3d(28, 28, 3, padding=1)
    x = torch.randn(2, 28, 11, 11, 11)
    assert torch.equal(hn.adapt(net)(x), net(x))


def test_what_was_padded_is_cropped_at_the_same_place():
    adapted = hn.adapt(nn.Conv3d(28, 28, 1), pad_to=8)
    assert (adapted.before, adapted.after) == (2, 3)
    x = torch.randn(1, 28, 11, 11, 11)
    assert torch.equal(adapted(x), adapted.net(x))


@pytest.mark.parametrize("upsampling", [1, 2])
def test_one_adapted_network_takes_patches_of_other_edges_as_if_it_were_measured_there(upsampling):
    net = UNet()
    adapted = hn.adapt(net, upsampling=upsampling, pad_to=4)
    for edge in (7, 9, 13):
        x = torch.randn(1, 28, edge, edge, edge)
        there = hn.adapt(net, patch_size=edge, upsampling=upsampling, pad_to=4)
        there.load_state_dict(adapted.state_dict())
        assert adapted(x).shape == (1, 28, *[target_patch_size(edge, upsampling)] * 3)
        assert torch.equal(adapted(x), there(x))


def test_the_layer_grid_has_the_channels_of_the_network_on_the_grid_of_the_target():
    adapted = hn.adapt(UNet(), channels=6, out_channels=15, upsampling=2)
    assert tappable_layers(adapted, 6, 11)["grid"] == (2, 19, 19, 19)
    assert adapted(torch.randn(1, 6, 11, 11, 11)).shape == (1, 15, 19, 19, 19)


@pytest.mark.parametrize(("upsampling", "multiple"), [(1, 1), (1, 4), (2, 4)])
def test_a_network_whose_fit_is_known_lies_where_it_would_be_measured(upsampling, multiple):
    net, x = nn.Conv3d(28, 28, 3, padding=1), torch.randn(1, 28, 11, 11, 11)
    known = Adapted(net, Fit.kept(28, multiple), 28, 28, 28, upsampling, "node")
    assert torch.equal(known(x), hn.adapt(net, upsampling=upsampling, pad_to=multiple)(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("upsampling", "step"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_ramp_lies_on_the_target_grid_where_it_lay_on_the_patch(kind, upsampling, step):
    """A pool of k³ voxels gives the mean over them, so that a ramp of coordinates shows where each voxel lies."""
    torch.manual_seed(0)
    net = nn.Sequential(Same(1), nn.AvgPool3d(step))
    adapted = hn.adapt(net, channels=1, patch_size=13, upsampling=upsampling, kind=kind, pad_to=step)
    ramp = torch.arange(100.0, 113.0).view(1, 1, -1, 1, 1).expand(1, 1, 13, 13, 13).clone()
    found = adapted(ramp)[0, 0, :, 6, 6]
    edge = target_patch_size(13, upsampling, kind)
    expected = 106 + (torch.arange(edge) - (edge - 1) / 2) / upsampling
    inner = slice(edge // 4, -edge // 4)  # away from the padding and from what lies beyond the last voxel
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)


class Same(nn.Conv3d):
    """A convolution that changes nothing."""

    def __init__(self, channels):
        super().__init__(channels, channels, 1, bias=False)
        nn.init.dirac_(self.weight)


class Pooled(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.conv, self.keep = nn.Conv3d(1, 2, 3, padding=1), keep

    def forward(self, x):
        y = nn.functional.adaptive_avg_pool3d(self.conv(x), 1)
        return y if self.keep else y.flatten(1)


@pytest.mark.parametrize(
    ("net", "settings", "words"),
    [
        (Pooled(keep=False), {}, r"gives \(2,\) from a patch, not a volume"),
        (Pooled(keep=True), {}, "has no grid; give a part of it that ends before it pools"),
        (nn.Conv3d(1, 2, 3), {}, r"gives \(9, 9, 9\) voxels from 11³, which do not span them, nor .* 1 to 32 help"),
        (UNet(), {"pad_to": 3}, r"cannot take 45³ voxels .* padded to a multiple of 3 help"),
        (nn.Conv2d(1, 1, 1), {}, "runs no 3D convolution to read its channels from: pass in_channels"),
        (UNet(), {"in_channels": 5}, r"cannot take 11³ voxels \(.*to have 1 channels, but got 5"),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused_with_what_was_found(net, settings, words):
    with pytest.raises(ShapeError, match=words):
        hn.adapt(net, **settings)


def test_without_adapting_a_misfit_is_refused_with_both_sizes():
    with pytest.raises(ShapeError, match=r"a: UNet cannot take a patch of 28 @ 11³ .* 1 channels.*hn\.adapt"):
        hn.compose({"a": UNet(), "b": "diqt", "c": "diqt"}, options=SMALL)
    strided = nn.Conv3d(28, 28, 3, stride=2, padding=1)
    with pytest.raises(ShapeError, match=r"28 @ 6³ from a patch of 11 voxels.* needs 28 @ 11³ .*hn\.adapt"):
        hn.compose({"a": strided, "b": "diqt", "c": "diqt"}, options=SMALL)


def test_a_layer_that_an_in_place_relu_overwrites_is_refused_and_the_one_after_it_serves():
    members = {"a": hn.adapt(resnet()), "b": "diqt", "c": "diqt"}
    with pytest.raises(
        ShapeError, match=r"'net\.layer1\.bn1' of Adapted is overwritten in place.*tap that later layer"
    ):
        hn.compose(members, "msp", "c", taps={"a": "net.layer1.bn1"}, options=SMALL)
    model = hn.compose(members, "msp", "c", taps={"a": "net.layer1.relu"}, options=SMALL)
    assert model.sizes["a"].features["net.layer1.relu"] == (8, 6, 6, 6)


def test_a_stranger_without_a_tap_is_answered_with_its_layers():
    with pytest.raises(NotFoundError, match=r"a: Adapted has no default tap: .*Layers: .*net\.down\.0"):
        hn.compose({"a": hn.adapt(UNet()), "b": "diqt", "c": "diqt"}, "msp", "c", options=SMALL)


def test_the_own_weights_and_modes_of_a_stranger_are_left_as_they_were():
    net = resnet()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    adapted = hn.adapt(net)
    assert isinstance(adapted, Adapted)
    assert adapted.net is net
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(name.startswith("along") for name in adapted.state_dict())
