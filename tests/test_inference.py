"""Whole volumes from patches: every voxel is the one that its patch predicts, on every grid."""

import numpy as np
import pytest
import torch
from heads import UPSAMPLING, make_head
from torch import nn

import harmonet as hn
from harmonet.data.volumes import window
from harmonet.inference import CORE, Where, predict_stages, tile_centres
from harmonet.platforms import Alignment

SMALL = {"diqt": {"layers": 1, "widths": (4, 6)}, "shresnet": {"blocks": 1, "width": 4}}


@pytest.fixture
def head():
    return make_head("a", seed=3)


def where_of(head):
    return {p: Where(v.grid, head.alignments[p]) for p, v in head.targets.items()}


def model_of(**settings):
    torch.manual_seed(0)
    return hn.compose(
        {"near": "shresnet", "fine": "diqt"},
        "msp",
        upsampling={"fine": 2},
        channels=6,
        patch_size=7,
        options=SMALL,
        **settings,
    )


def test_every_voxel_comes_from_the_core_of_the_patch_that_covers_it(head):
    model = model_of().eval()
    for fusion in model.fusions.values():
        fusion.alpha.fill_(0.6)
    source, mask = head.source.channels, head.source.mask
    stages = predict_stages(model, source, mask, where_of(head), 7)
    centres = tile_centres(mask)
    checked = 0
    for voxel in np.argwhere(mask)[::37]:
        (centre,) = [c for c in centres if (np.abs(c - voxel) <= CORE // 2).all()]  # exactly one
        patch = window(source, centre - 3, centre + 4)
        with torch.no_grad():
            dense = model(torch.from_numpy(patch)[None].movedim(-1, 1))
        for stage, expected in zip(stages, dense, strict=True):
            for platform, factor in UPSAMPLING.items():
                at = factor * (voxel - centre) + expected[platform].shape[-1] // 2
                value = expected[platform][0, :, at[0], at[1], at[2]].numpy()
                x, y, z = factor * voxel
                assert np.allclose(stage[platform][x, y, z], value, atol=1e-5)
                checked += 1
    assert checked > 40


def test_a_network_that_copies_gives_the_volume_back(head):
    model = hn.compose({"near": nn.Identity()}, channels=6, patch_size=7)
    (stage,) = predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7)
    assert np.array_equal(stage["near"][head.source.mask], head.source.channels[head.source.mask])


def test_the_finer_grid_is_filled_where_the_mask_is(head):
    class Ones(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 6, 11, 11, 11)

    model = hn.compose({"fine": Ones()}, upsampling={"fine": 2}, channels=6, patch_size=7)
    (stage,) = predict_stages(model, head.source.channels, head.source.mask, where_of(head), 7)
    assert (stage["fine"][head.targets["fine"].mask] == 1).all()


def test_a_mask_that_touches_the_border_is_covered():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[0:2, :, 8] = True
    model = hn.compose({"near": nn.Identity()}, channels=6, patch_size=7)
    source = np.random.default_rng(0).normal(size=(9, 9, 9, 6)).astype(np.float32)
    where = {"near": Where(make_head("a", shape=(9, 9, 9)).source.grid, Alignment(1))}
    (stage,) = predict_stages(model, source, mask, where, 7)
    assert np.array_equal(stage["near"][mask], source[mask])


def test_patches_whose_core_lies_outside_the_mask_are_not_computed():
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[2:4, 2:4, 2:4] = mask[55:57, 55:57, 55:57] = True
    assert len(tile_centres(mask)) < 20
