"""The patch feed: the right place on every platform, reproducible order, statistics from training subjects."""

import gc
import tracemalloc
import weakref
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from heads import UPSAMPLING, make_head
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonet.data.patches import PatchFeed
from harmonet.data.splits import split_subjects
from harmonet.data.standardise import PerAcquisition, Standardisation, statistics
from harmonet.data.volumes import Head, Volume, bring_together, window
from harmonet.errors import DataError, NotFoundError, OutputError
from harmonet.platforms import Alignment, Grid

PLAIN = Standardisation(np.zeros(6), np.ones(6))


def feed(heads, per_subject=20, seed=0, patch_size=7, standard=PLAIN, **settings):
    standards = dict.fromkeys(("src", *UPSAMPLING), standard)
    return PatchFeed(heads, standards, "src", UPSAMPLING, patch_size, per_subject, seed, **settings)


def lacking(head, *platforms):
    """The head of a subject who was not scanned there."""
    return replace(head, targets={p: v for p, v in head.targets.items() if p not in platforms})


def same(one, other):
    """Whether two batches are equal, bit for bit."""
    pairs = [(one.source, other.source)]
    for part in ("targets", "inside", "present"):
        pairs += [(getattr(one, part)[p], getattr(other, part)[p]) for p in UPSAMPLING]
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


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


def test_a_platform_that_a_subject_lacks_is_absent_from_its_patches_only():
    whole = [make_head("a", 0), make_head("b", 1), make_head("c", 2)]
    heads = [whole[0], lacking(whole[1], "fine"), lacking(whole[2], "near")]
    rows = feed(heads).order(0)[:30]
    expected, batch = feed(whole).gather(rows), feed(heads).gather(rows)
    assert np.array_equal(batch.present["fine"], rows[:, 0] != 1)
    assert np.array_equal(batch.present["near"], rows[:, 0] != 2)
    assert np.array_equal(batch.source, expected.source)
    for p in UPSAMPLING:
        there = batch.present[p]
        assert 0 < there.sum() < len(there)
        assert np.array_equal(batch.targets[p][there], expected.targets[p][there])
        assert not batch.targets[p][~there].any()
        assert not batch.inside[p][~there].any()
        assert batch.inside[p][there].any()


def test_a_platform_that_nobody_has_is_absent_everywhere():
    batch = next(feed([lacking(make_head("a"), "fine")]).batches(0, 4))
    assert batch.targets["fine"].shape == (4, 11, 11, 11, 6)
    assert not batch.present["fine"].any()


def test_a_subject_without_any_target_is_refused():
    with pytest.raises(DataError, match="b has none of near, fine: leave the subject out"):
        feed([make_head("a"), lacking(make_head("b"), *UPSAMPLING)])
    with pytest.raises(DataError, match="found no head"):
        feed([])


def test_every_place_of_the_mask_is_drawn_where_no_number_is_given():
    head = make_head("a")
    order = feed([head], per_subject=None).order(0)
    assert sorted(map(tuple, order[:, 1:])) == sorted(map(tuple, np.argwhere(head.source.mask)))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_stride_keeps_the_places_at_its_multiples_from_the_masks_box(stride):
    head = make_head("a")
    inside = np.argwhere(head.source.mask)
    kept = inside[((inside - inside.min(axis=0)) % stride == 0).all(axis=1)]
    found = feed([head], per_subject=None, stride=stride).order(0)[:, 1:]
    assert sorted(map(tuple, found)) == sorted(map(tuple, kept))
    assert len(kept) < len(inside) or stride == 1


def test_shares_part_the_places_of_each_head_once_and_for_all():
    heads = [make_head("a", 0), make_head("b", 1)]

    def places(part, heads=heads, subject=0, epoch=0, seed=0):
        rows = feed(heads, per_subject=None, share=part, seed=seed).order(epoch)
        return {tuple(row[1:]) for row in rows[rows[:, 0] == subject]}

    inside = {tuple(place) for place in np.argwhere(heads[0].source.mask)}
    train, test = places((0.0, 0.9)), places((0.9, 1.0))
    assert train | test == inside
    assert not train & test
    assert len(train) == round(0.9 * len(inside))
    assert places((0.0, 0.9), epoch=7) == train
    assert places((0.0, 0.9), seed=1) != train
    assert places((0.0, 0.9), heads=heads[::-1], subject=1) == train  # whoever else is fed
    assert places((0.0, 0.9), heads=[replace(heads[0], subject="c")]) != train


@pytest.mark.parametrize("share", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
def test_a_share_that_is_no_part_is_refused(share):
    with pytest.raises(DataError, match="use a rising pair within 0 to 1"):
        feed([make_head("a")], share=share)


def test_settings_that_leave_no_place_are_refused():
    with pytest.raises(DataError, match=r"a has no place left at stride 1 in the share from 0 to 0\.0001"):
        feed([make_head("a")], share=(0.0, 0.0001))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 9), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_batches_and_any_of_them_can_be_resumed(batch_size, ranks, epoch, start):
    patches = small_feed()
    order = patches.order(epoch)
    shares = [list(patches.batches(epoch, batch_size, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {patches.steps(batch_size, ranks)}
    seen = 0
    for step in zip(*shares, strict=True):
        sizes = {len(batch.source) for batch in step}
        assert len(sizes) == 1  # a mean over ranks weighs every patch alike
        count = ranks * sizes.pop()
        assert count
        union = patches.gather(order[seen : seen + count])
        assert np.array_equal(np.concatenate([batch.source for batch in step]), union.source)
        assert np.array_equal(np.concatenate([batch.inside["fine"] for batch in step]), union.inside["fine"])
        assert count == min(batch_size * ranks, (len(order) - seen) // ranks * ranks)
        seen += count
    assert 0 <= len(order) - seen < ranks
    resumed = list(patches.batches(epoch, batch_size, start, rank=ranks - 1, ranks=ranks))
    assert len(resumed) == max(0, patches.steps(batch_size, ranks) - start)
    assert all(same(a, b) for a, b in zip(resumed, shares[-1][start:], strict=True))


@cache
def small_feed():
    return feed([make_head("a", 0), make_head("b", 1)], per_subject=13)


def test_a_store_or_a_device_gives_the_same_batches(tmp_path):
    first = make_head("a", 0)
    middle = np.zeros_like(first.source.mask)
    middle[6:9, 6:9, 6:9] = True  # the targets' masks reach beyond what its patches do
    first = replace(first, source=replace(first.source, mask=middle))
    heads = [first, lacking(make_head("b", 1), "near"), make_head("c", 2)]
    standard = Standardisation(np.linspace(-0.5, 0.5, 6), np.linspace(0.5, 2, 6))
    memory = feed(heads, standard=standard)
    for other in (
        feed(heads, standard=standard, store=tmp_path / "cuts"),
        feed(heads, standard=standard, device="cpu"),
    ):
        for one, two in zip(memory.batches(1, 7), other.batches(1, 7), strict=True):
            assert same(one, two)
    assert len(list((tmp_path / "cuts").iterdir())) == 2 * (3 + 2 + 3)  # channels and masks, and nothing half-written


def test_a_batch_on_a_device_is_channels_last_and_of_its_own_memory():
    patches = feed([make_head("a")], device="cpu")
    rows = patches.order(0)[:3]
    batch = patches.gather(rows)
    batch.source.zero_()
    assert patches.gather(rows).source.any()
    assert batch.targets["fine"].is_contiguous()


def test_the_cuts_of_a_second_feed_do_not_reach_into_the_first(tmp_path):
    heads = [make_head("a")]
    first = feed(heads, store=tmp_path)
    before = next(first.batches(0, 5))
    feed(heads, store=tmp_path, standard=Standardisation(np.ones(6), np.ones(6)))
    assert same(before, next(first.batches(0, 5)))


def test_a_store_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        feed([make_head("a")], store=tmp_path / "file")


def test_a_store_and_a_device_at_once_are_refused(tmp_path):
    with pytest.raises(DataError, match="give a store or a device"):
        feed([make_head("a")], store=tmp_path, device="cpu")


def test_heads_larger_than_memory_are_fed_from_files(tmp_path):
    """Volumes are mapped from files and cut into files: what is held at any time is a slab and a batch."""
    shape = (64, 56, 60)
    channels = np.lib.format.open_memmap(tmp_path / "volume.npy", "w+", np.float32, (*shape, 28))  # 24 MB
    channels[:] = np.random.default_rng(0).normal(size=28)
    mask = np.zeros(shape, dtype=bool)
    mask[6:-6, 6:-6, 6:-6] = True
    volume = Volume(channels, mask, Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])))
    heads = [Head(name, volume, {"near": volume}, {"near": Alignment(1)}) for name in ("a", "b")]
    standards = dict.fromkeys(("src", "near"), Standardisation(np.zeros(28), np.ones(28)))
    tracemalloc.start()
    patches = PatchFeed(heads, standards, "src", {"near": 1}, 11, 100, 0, store=tmp_path / "cuts")
    batches = sum(len(batch.source) for batch in patches.batches(0, 12))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batches == 200
    stored = sum(path.stat().st_size for path in (tmp_path / "cuts").iterdir())
    assert stored > 80 << 20
    assert peak < 32 << 20


def test_a_feed_lets_the_volumes_go():
    head = make_head("a")
    volumes = [weakref.ref(volume.channels) for volume in (head.source, *head.targets.values())]
    patches = feed([head], augment="flips", turn=lambda _: np.eye(6))
    del head
    gc.collect()
    assert all(volume() is None for volume in volumes)
    assert next(patches.batches(0, 2)).source.any()


def test_the_source_can_be_standardised_by_each_image_itself():
    heads = [make_head("a", 0), make_head("b", 1)]
    standards = {"src": PerAcquisition("src"), "near": PLAIN, "fine": PLAIN}
    patches = PatchFeed(heads, standards, "src", UPSAMPLING, 7, 20, 0)
    rows = patches.order(0)[:6]
    for place, patch in zip(rows, patches.gather(rows).source, strict=True):
        volume = heads[place[0]].source
        channels = statistics([volume], "src").apply(volume)
        assert np.array_equal(patch, window(channels, place[1:] - 3, place[1:] + 4))


def test_heads_that_lie_differently_are_not_fed_together():
    node, grid = make_head("a"), make_head("a").source.grid.refined(2, "cell")
    cells = Volume(np.ones((*grid.shape, 6), dtype=np.float32), np.ones(grid.shape, dtype=bool), grid)
    targets = {"near": node.targets["near"], "fine": cells}
    cell = bring_together("b", node.source, targets, UPSAMPLING, {"fine": "cell"})
    assert next(feed([cell]).batches(0, 2)).targets["fine"].shape[1:4] == (14, 14, 14)
    with pytest.raises(DataError, match="fine is node-aligned in some heads and cell-aligned in others"):
        feed([node, cell])


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
