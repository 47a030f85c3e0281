"""Whole volumes: every voxel is what its patch predicts, on every grid, however the volume is cut."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from heads import UPSAMPLING, make_head
from torch import nn

import harmonet as hn
from harmonet.data.volumes import window
from harmonet.errors import DataError, ShapeError
from harmonet.inference import CORE, Where, predict_stages
from harmonet.inference.reach import _Held, measure
from harmonet.inference.tiles import blocks, cores, near
from harmonet.platforms import Alignment, Grid

SMALL = {
    "diqt": {"layers": 1, "widths": (4, 6)},
    "shresnet": {"blocks": 1, "width": 4},
    "cnn_rish": {"width": 4},
    "espcn": {"widths": (4, 6)},
    "espcn_shuffle": {"widths": (4, 6)},
    "bayesian_espcn": {"widths": (4, 6), "passes": 2},
}
NOISELESS = partial(hn.create_network, "bayesian_espcn", in_channels=6, out_channels=6, widths=(4, 6), passes=0)
SHAPE = (9, 12, 11)
# Where a target's grid begins before the source's, on it, or after it.
ALIGNMENTS = {
    "node 1": Alignment(1, (0, 1, -1)),
    "node 2": Alignment(2, (1, 0, -3)),
    "cell 2": Alignment(2, (2, 0, -2), "cell"),
}


@pytest.fixture
def head():
    return make_head("a", seed=3)


def where_of(head):
    return {p: Where(v.grid, head.alignments[p]) for p, v in head.targets.items()}


def place(kind):
    """A target grid of another shape than the source's."""
    alignment = ALIGNMENTS[kind]
    x, y, z = (alignment.factor * n + 1 for n in SHAPE)
    return Where(Grid((x, y, z - 2), np.eye(4)), alignment)


def model_of(singles=None, fusion="msp", upsampling=None, patch_size=7):
    torch.manual_seed(0)
    singles = singles or {"near": "shresnet", "fine": "diqt"}
    singles = {p: NOISELESS() if name == "noiseless" else name for p, name in singles.items()}
    upsampling = {"fine": 2} if upsampling is None else upsampling
    model = hn.compose(singles, fusion, upsampling=upsampling, channels=6, patch_size=patch_size, options=SMALL).eval()
    for joined in model.fusions.values():
        joined.alpha.fill_(0.6)
    return model


def volume():
    """Noise, and a mask that touches the border and has a part of its own."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[0:2, 4:6, 9:11] = mask[7, 2, 1] = True
    source = np.random.default_rng(0).normal(size=(*SHAPE, 6)).astype(np.float32)
    return source * mask[..., None], mask


def halo_of(reach):
    return None if reach.tiles is None else reach.tiles.halo


def by_patches(model, source, mask, where, patch_size, core):
    """The definition, one patch after another: stages of {platform: (volume, variance)}; NaN where nothing is said."""
    radius, half = patch_size // 2, core // 2
    found = []
    low, high = np.argwhere(mask).min(0) - 1, np.argwhere(mask).max(0) + 2
    for index in np.ndindex(*-(-(high - low) // core)):
        centre = low + core * np.array(index) + half
        low_corner = centre - half
        kept = [c for c in np.ndindex(core, core, core) if window(mask, low_corner + c - 1, low_corner + c + 2).any()]
        if not kept:
            continue
        patch = window(source, centre - radius, centre + radius + 1)
        with torch.no_grad():
            stages = model(torch.from_numpy(patch)[None].movedim(-1, 1))
        found = found or [{} for _ in stages]
        for out, stage in zip(found, stages, strict=True):
            for key, y in {**stage, **{(p, "variance"): v for p, v in stage.variances.items()}}.items():
                platform = key if isinstance(key, str) else key[0]
                grid, alignment = where[platform].grid, where[platform].alignment
                out.setdefault(key, np.zeros((*grid.shape, y.shape[1]), np.float32))
                corner = alignment.corner(centre, y.shape[-1])
                for c in kept:
                    for step in np.ndindex(*[alignment.factor] * 3):
                        t = alignment.first(low_corner + c) + step
                        if (t >= 0).all() and (t < grid.shape).all():
                            out[key][tuple(t)] = y[(0, slice(None), *(t - corner))].numpy()
    return found


def largest_difference(found, expected):
    """Of all stages and platforms, as a share of the rms; variances too."""
    assert len(found) == len(expected)
    largest = 0.0
    for stage, dense in zip(found, expected, strict=True):
        given = {**stage, **{(p, "variance"): v for p, v in stage.variances.items()}}
        assert set(given) == set(dense)
        for key, values in dense.items():
            rms = np.sqrt((values[values != 0] ** 2).mean())
            largest = max(largest, float(np.abs(given[key] - values).max() / rms))
    return largest


ONE = {"a": "node 1"}
CASES = [  # singles, kinds, patch size, halo
    ({"a": "espcn"}, ONE, 7, 2),
    ({"a": "cnn_rish"}, ONE, 11, 5),
    ({"a": "cnn_rish"}, ONE, 9, None),  # five layers see more than four voxels
    ({"a": "shresnet"}, ONE, 7, None),
    ({"a": "bayesian_espcn"}, ONE, 7, None),  # its noise has a place in the patch
    ({"a": "noiseless"}, ONE, 7, 2),
    ({"a": "espcn"}, {"a": "node 2"}, 11, 2),
    ({"a": "diqt"}, {"a": "node 2"}, 7, None),
    ({"a": "espcn_shuffle"}, {"a": "cell 2"}, 7, 2),
    ({"a": "espcn", "b": "espcn"}, {"a": "node 1", "b": "node 1"}, 7, 3),
    ({"a": "espcn", "b": "espcn"}, {"a": "node 1", "b": "node 2"}, 9, 3),
    ({"a": "shresnet", "b": "diqt"}, {"a": "node 1", "b": "node 2"}, 7, None),
]


@pytest.mark.parametrize(("singles", "kinds", "patch_size", "halo"), CASES)
def test_the_result_is_the_dense_definition(singles, kinds, patch_size, halo):
    where = {platform: place(kind) for platform, kind in kinds.items()}
    factors = {platform: where[platform].alignment.factor for platform in singles}
    model = model_of(singles, "msp" if len(singles) > 1 else None, factors, patch_size)
    source, mask = volume()
    assert halo_of(measure(model, where, 6, patch_size)) == halo
    found = predict_stages(model, source, mask, where, patch_size, core=1)
    expected = by_patches(model, source, mask, where, patch_size, core=1)
    assert largest_difference(found, expected) < 1e-5
    if halo is not None:
        assert largest_difference(predict_stages(model, source, mask, where, patch_size), expected) < 1e-5


def test_a_deeper_model_gives_the_cores_of_its_patches():
    model, where = model_of(), {"near": place("node 1"), "fine": place("node 2")}
    source, mask = volume()
    found = predict_stages(model, source, mask, where, 7)
    assert largest_difference(found, by_patches(model, source, mask, where, 7, CORE)) < 1e-5
    dense = predict_stages(model, source, mask, where, 7, core=1)
    assert not np.allclose(found[0]["near"], dense[0]["near"], atol=1e-3)
    found = predict_stages(model, source, mask, where, 7, core=3)
    assert largest_difference(found, by_patches(model, source, mask, where, 7, 3)) < 1e-5


class Pooling(nn.Module):
    """Depends on which voxels are pooled together, so on where a window begins."""

    def forward(self, x):
        return nn.functional.interpolate(nn.functional.max_pool3d(x, 2, ceil_mode=True), x.shape[2:])


class OverAll(nn.Module):
    """Depends on all of its window."""

    def forward(self, x):
        return x - x.mean((2, 3, 4), keepdim=True)


class OneSize(nn.Module):
    """Takes patches only."""

    def forward(self, x):
        assert x.shape[2:] == (7, 7, 7)
        return x


class Blind(nn.Module):
    """Hides NaN and sees four voxels far."""

    def forward(self, x):
        x = torch.nan_to_num(x)
        return x + sum(x.roll(step, 2) for step in (-4, 4))


@pytest.mark.parametrize("network", [Pooling, OverAll, OneSize, Blind])
def test_a_network_that_sees_more_than_its_patch_is_applied_to_patches(network):
    model = hn.compose({"a": network()}, channels=6, patch_size=7).eval()
    where = {"a": place("node 1")}
    source, mask = volume()
    assert measure(model, where, 6, 7).tiles is None
    found = predict_stages(model, source, mask, where, 7)
    assert largest_difference(found, by_patches(model, source, mask, where, 7, CORE)) < 1e-5


def test_a_network_that_copies_gives_the_volume_back(head):
    model = hn.compose({"near": nn.Identity()}, channels=6, patch_size=7)
    for options in ({}, {"core": 5}, {"core": 7, "stride": 3}):
        (stage,) = predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7, **options)
        assert np.array_equal(stage["near"][head.source.mask], head.source.channels[head.source.mask])


def test_cores_that_overlap_are_averaged_with_most_weight_in_their_middle():
    class Places(OneSize):
        def forward(self, x):
            return super().forward(x) * 0 + torch.arange(7.0)[:, None, None]

    model = hn.compose({"a": Places()}, channels=6, patch_size=7)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:7, 3, 3] = True  # voxels 0 to 7 are near: cores begin at 0, 2 and 4
    source = np.zeros((*SHAPE, 6), np.float32)
    where = {"a": Where(Grid(SHAPE, np.eye(4)), Alignment(1))}
    (stage,) = predict_stages(model, source, mask, where, 7, core=5, stride=2)
    # A core's voxels are 1 to 5 of its patch and weigh 1, 2, 3, 2, 1.
    expected = [1, 2, (3 * 3 + 1) / 4, (2 * 4 + 2 * 2) / 4, (5 + 3 * 3 + 1) / 5, (4 * 2 + 2 * 2) / 4, (5 + 9) / 4, 4]
    assert np.allclose(stage["a"][:8, 3, 3, 0], expected)


def test_the_finer_grid_is_filled_where_the_mask_is(head):
    class Ones(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 6, 11, 11, 11)

    model = hn.compose({"fine": Ones()}, upsampling={"fine": 2}, channels=6, patch_size=7)
    (stage,) = predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7)
    assert (stage["fine"][head.targets["fine"].mask] == 1).all()


def test_nothing_is_said_further_than_a_voxel_from_the_mask(head):
    mask = np.zeros_like(head.source.mask)
    mask[6, 6, 6] = mask[9, 9, 9] = True
    for model in (model_of(), model_of({"near": "espcn", "fine": "espcn"})):
        for stage in predict_stages(model, head.source.channels, mask, where_of(head), 7):
            for platform, factor in UPSAMPLING.items():
                said = (stage[platform] != 0).any(-1)
                assert said.sum() == 2 * (3 * factor) ** 3
                assert said[tuple([slice(5 * factor, 8 * factor)] * 3)].all()


def test_a_platform_without_a_place_is_left_out(head):
    where = {"near": where_of(head)["near"]}
    stages = predict_stages(model_of(), head.source.channels, head.source.mask, where, 7)
    assert [sorted(stage) for stage in stages] == [["near"], ["near"]]


def test_memory_changes_the_cut_but_not_the_result(head):
    source, mask = head.source.channels, head.source.mask
    for model in (model_of({"near": "espcn", "fine": "espcn"}), model_of()):
        results, steps = [], []
        for memory in (4 << 20, 2 << 30):
            calls, held = [], _Held() if memory == 4 << 20 else nullcontext()
            with held:
                results.append(
                    predict_stages(
                        model, source, mask, where_of(head), 7, lambda *at, calls=calls: calls.append(at), memory=memory
                    )
                )
            assert getattr(held, "peak", 0) <= memory
            assert calls[-1][0] == calls[-1][1]
            steps.append(len(calls))
        assert steps[0] > steps[1]
        for one, other in zip(*results, strict=True):
            for platform in UPSAMPLING:
                assert np.allclose(one[platform], other[platform], atol=1e-5)


def test_memory_that_holds_no_patch_is_refused(head):
    for model in (model_of(), model_of({"near": "espcn", "fine": "espcn"})):
        with pytest.raises(DataError, match=r"MiB for one patch, and 0\.1 MiB are allowed"):
            predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7, memory=100_000)


@pytest.mark.parametrize(("core", "stride"), [(4, None), (7, None), (5, 6), (5, 0), (-1, None)])
def test_a_core_or_stride_that_does_not_fit_the_patch_is_refused(head, core, stride):
    with pytest.raises(ShapeError, match="the core is odd and at most 5"):
        predict_stages(model_of(), head.source.channels, head.source.mask, where_of(head), 7, core=core, stride=stride)


def test_an_empty_mask_is_refused(head):
    with pytest.raises(DataError, match="found an empty one"):
        predict_stages(model_of(), head.source.channels, np.zeros((14, 15, 13), bool), where_of(head), 7)


def test_only_tiles_that_touch_the_mask_are_computed():
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[2:4, 2:4, 2:4] = mask[55:57, 55:57, 55:57] = True
    assert len(cores(near(mask), 5, 5, 3)) < 20
    assert sorted(tile.shape for tile in blocks(near(mask), 32, 3)) == [(10, 10, 10)] * 2
    seen = []

    class Watched(nn.Identity):
        def forward(self, x):
            seen.append(x.shape)
            return x

    model = hn.compose({"a": Watched()}, channels=6, patch_size=7)
    seen.clear()
    source = np.zeros((*mask.shape, 6), np.float32)
    predict_stages(model, source, mask, {"a": Where(Grid(mask.shape, np.eye(4)), Alignment(1))}, 7)
    assert tuple(seen[-1]) == (2, 6, 4, 4, 4)  # both tiles in one batch, without a halo


def test_batches_are_filled(head):
    seen = []

    class Watched(OneSize):
        def forward(self, x):
            y = super().forward(x)
            seen.append(len(x))
            return y

    model = hn.compose({"near": Watched()}, channels=6, patch_size=7)
    seen.clear()
    predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7, core=1)
    sizes = seen[1:]  # the first measures
    assert set(sizes[:-1]) == {24}
    assert sum(sizes) == near(head.source.mask).inside.sum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_the_same(head):
    for model in (model_of({"near": "espcn", "fine": "espcn"}), model_of()):
        source, mask, where = head.source.channels, head.source.mask, where_of(head)
        expected = predict_stages(model, source, mask, where, 7)
        halo = halo_of(measure(model, where, 6, 7))
        found = predict_stages(model.cuda(), source, mask, where, 7)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():
            assert halo_of(measure(model, where, 6, 7)) == halo
        for one, other in zip(expected, found, strict=True):
            for platform in UPSAMPLING:
                assert np.allclose(one[platform], other[platform], atol=1e-4)


def test_what_each_network_of_a_committee_says_is_kept_where_it_is_asked_for(head):
    torch.manual_seed(0)
    networks = {"near": ["shresnet", "diqt", "diqt"]}
    model = hn.compose(networks, "ensemble", channels=6, patch_size=7, options=SMALL)
    where, standardised = where_of(head), head.source.channels
    asked = predict_stages(model, standardised, head.source.mask, where, 7, members=True)
    plain = predict_stages(model, standardised, head.source.mask, where, 7)
    assert [stage.members for stage in plain] == [[], []]
    found = [member["near"] for member in asked[0].members]
    assert len(found) == 3
    assert np.array_equal(asked[-1]["near"], plain[-1]["near"])
    assert np.allclose(np.mean(found, axis=0), plain[-1]["near"], atol=1e-5)
    assert np.allclose(found[0], plain[0]["near"], atol=1e-5)
    assert not np.allclose(found[1], found[2], atol=1e-2)
    without = predict_stages(model, standardised, head.source.mask, {}, 7, members=True)
    assert [stage.members for stage in without] == [[{}, {}, {}], []]
