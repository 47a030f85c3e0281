"""Composition: first stages untouched, networks run once, wrong wiring refused."""

import pytest
import torch
from torch import nn

import harmonet as hn
from harmonet.errors import NotFoundError, ShapeError

SMALL = {"diqt": {"layers": 1, "widths": (4, 6)}, "shresnet": {"blocks": 1, "width": 4}}
NAMES = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
UP = {"connectom_sa": 2}


def small(target=None, fusion="msp", **settings):
    torch.manual_seed(0)
    return hn.compose(NAMES, fusion, target, upsampling=UP, options=SMALL, **settings)


@pytest.fixture
def x():
    return torch.randn(2, 28, 11, 11, 11, generator=torch.Generator().manual_seed(1))


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


@pytest.mark.parametrize("fusion", ["msp", "gated", "cross_stitch"])
def test_a_feature_that_no_connection_can_read_is_refused_with_layers_that_can_be(fusion):
    layers = [nn.Conv3d(28, 5, 1, stride=3), nn.Upsample(size=11), *(nn.ReLU() for _ in range(6)), nn.Conv3d(5, 28, 1)]
    singles = {"a": "diqt", "b": nn.Sequential(*layers)}
    with pytest.raises(ShapeError, match="no two convolutions lead") as caught:
        hn.compose(singles, fusion, "a", taps={"b": "0"}, options=SMALL)
    named = [word.strip(",.").removeprefix("b=") for word in str(caught.value).split() if word.startswith("b=")]
    assert named == ["4", "5", "6", "7", "8"]  # five of the eight, the last
    for name in named:
        hn.compose(singles, fusion, "a", taps={"b": name}, options=SMALL)
