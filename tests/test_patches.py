"""The patch feed: the right place on every platform, reproducible order, statistics from training subjects."""

import numpy as np
import pytest
from heads import UPSAMPLING, make_head

from harmonet.data.patches import PatchFeed
from harmonet.data.splits import split_subjects
from harmonet.data.standardise import Standardisation, statistics
from harmonet.data.volumes import Volume, bring_together, window
from harmonet.errors import DataError, NotFoundError
from harmonet.platforms import Grid

PLAIN = Standardisation(np.zeros(6), np.ones(6))


def feed(heads, per_subject=20, seed=0, patch_size=7, standard=PLAIN):
    return PatchFeed(
        heads, dict.fromkeys(("src", *UPSAMPLING), standard), "src", UPSAMPLING, patch_size, per_subject, seed
    )


def test_each_batch_is_the_plain_cut_around_its_places():
    heads = [make_head("a", 0), make_head("b", 1)]
    patches = feed(heads)
    rows = patches.order(0)[:8]
    batch = patches.gather(rows)
    for i, (subject, x, y, z) in enumerate(rows):
        head = heads[subject]
        centre = np.array([x, y, z])
        assert np.array_equal(batch.source[i], window(head.source.channels, centre - 3, centre + 4))
        assert np.array_equal(batch.targets["near"][i], window(head.targets["near"].channels, centre - 3, centre + 4))
        fine = head.targets["fine"]
        low, high = 2 * centre - 5, 2 * centre + 6
        assert np.array_equal(batch.targets["fine"][i], window(fine.channels, low, high))
        assert np.array_equal(batch.inside["fine"][i], window(fine.mask, low, high))


def test_the_centre_of_every_target_patch_lies_at_the_world_place_of_the_source_voxel():
    """A landmark painted at one place is the centre of the patch on each platform, wherever its grid begins."""
    place = np.array([12.0, 16.0, 10.0])
    grids = {
        "src": Grid((14, 15, 13), np.diag([2.0, 2.0, 2.0, 1.0])),
        "near": Grid((20, 18, 17), np.array([[2, 0, 0, -6], [0, 2, 0, 4], [0, 0, 2, -2], [0, 0, 0, 1.0]])),
        "fine": Grid((30, 31, 29), np.array([[1, 0, 0, -1], [0, 1, 0, 0], [0, 0, 1, -3], [0, 0, 0, 1.0]])),
    }
    volumes = {}
    for name, grid in grids.items():
        channels = np.zeros((*grid.shape, 6), dtype=np.float32)
        x, y, z = np.rint(np.linalg.inv(grid.affine) @ [*place, 1]).astype(int)[:3]
        channels[x, y, z] = 1
        volumes[name] = Volume(channels, np.ones(grid.shape, dtype=bool), grid)
    head = bring_together("a", volumes.pop("src"), volumes, UPSAMPLING)
    voxel = np.rint(np.linalg.inv(grids["src"].affine) @ [*place, 1]).astype(int)[:3]
    batch = feed([head], per_subject=10**6).gather(np.array([[0, *voxel]]))
    for patches in (batch.source, *batch.targets.values()):
        assert np.argwhere(patches[0, ..., 0] == 1).tolist() == [[n // 2 for n in patches.shape[1:4]]]


def test_the_order_depends_on_seed_and_epoch_only():
    heads = [make_head("a", 0), make_head("b", 1)]
    assert np.array_equal(feed(heads).order(3), feed(heads).order(3))
    assert not np.array_equal(feed(heads).order(3), feed(heads).order(4))
    assert not np.array_equal(feed(heads).order(3), feed(heads, seed=1).order(3))


def test_every_place_is_in_the_mask_and_drawn_once_an_epoch():
    heads = [make_head("a", 0), make_head("b", 1)]
    order = feed(heads, per_subject=50).order(0)
    assert len(order) == len(feed(heads, per_subject=50)) == 100
    assert len({tuple(row) for row in order}) == 100
    assert all(heads[s].source.mask[x, y, z] for s, x, y, z in order)
    everything = feed(heads, per_subject=10**6)
    assert len(everything) == sum(int(head.source.mask.sum()) for head in heads)


def test_batches_cover_the_epoch():
    patches = feed([make_head("a")], per_subject=10)
    assert [len(batch.source) for batch in patches.batches(0, 4)] == [4, 4, 2]


def test_a_batch_is_channels_last_in_torchs_sense():
    import torch

    batch = feed([make_head("a")]).gather(np.array([[0, 6, 6, 6], [0, 7, 6, 6]]))
    x = torch.from_numpy(batch.source).movedim(-1, 1)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_empty_source_mask_is_refused():
    head = make_head("a")
    head.source.mask[:] = False
    with pytest.raises(DataError, match="source mask of a is empty"):
        feed([head])


def test_standardised_training_voxels_have_mean_0_and_deviation_1():
    volumes = [make_head(name, seed).source for name, seed in (("a", 0), ("b", 1))]
    standard = statistics(volumes, "src")
    inside = np.concatenate([standard.apply(volume)[volume.mask] for volume in volumes])
    assert np.allclose(inside.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(inside.std(axis=0), 1, atol=1e-5)


def test_standardising_is_undone_inside_the_mask_and_zero_outside():
    volume = make_head("a").targets["near"]
    standard = statistics([volume], "near")
    channels = standard.apply(volume)
    assert (channels[~volume.mask] == 0).all()
    assert np.allclose(standard.invert(channels)[volume.mask], volume.channels[volume.mask], atol=1e-5)


def test_a_constant_channel_is_refused_by_number_and_platform():
    volume = make_head("a").source
    volume.channels[..., 4][volume.mask] = 0.25
    with pytest.raises(DataError, match="channel 4 of ge_st is the same in every voxel"):
        statistics([volume], "ge_st")


@pytest.mark.parametrize("seed", range(5))
def test_no_subject_is_in_two_parts_and_none_is_lost(seed):
    names = [f"s{i}" for i in range(9)]
    split = split_subjects(names, 2, 3, seed)
    parts = [split.train, split.validation, split.test]
    assert [len(part) for part in parts] == [4, 2, 3]
    assert sorted(name for part in parts for name in part) == names
    assert split == split_subjects(list(reversed(names)), 2, 3, seed)


def test_splits_that_cannot_be_made_are_refused():
    with pytest.raises(DataError, match="do not leave at least one each"):
        split_subjects(["a", "b"], 1, 1, 0)
    with pytest.raises(DataError, match="a cannot be in validation and test at once"):
        split_subjects(["a", "b", "c"], ["a"], ["a"], 0)
    with pytest.raises(NotFoundError, match="no subject 'd'"):
        split_subjects(["a", "b", "c"], ["d"], ["a"], 0)
