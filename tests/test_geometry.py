"""Every voxel is a landmark: painted with its own place in the world, it is found at that place after every path."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from harmonet.data.axes import canonical_grid, to_canonical
from harmonet.data.patches import PatchFeed
from harmonet.data.resample import resample, seen
from harmonet.data.standardise import Standardisation
from harmonet.data.volumes import Volume, bring_together, window
from harmonet.errors import DataError
from harmonet.platforms import Grid, align, target_patch_size

NEAR = 2e-3  # mm: places are float32
PLAIN = dict.fromkeys(("src", "far"), Standardisation(np.zeros(3), np.ones(3)))
ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]

quick = settings(max_examples=96, deadline=None)
orders = st.sampled_from(ORDERS)
factors = st.sampled_from([1, 2])
kinds = st.sampled_from(["node", "cell"])
angles = st.tuples(*[st.floats(-20, 20)] * 3)
sizes = st.tuples(*[st.sampled_from([1.5, 2.0, 2.4])] * 3)
origins = st.tuples(*[st.floats(-80, 80)] * 3)
offsets = st.tuples(*[st.integers(-3, 3)] * 3)
seeds = st.integers(0, 999)


def turned(degrees):
    """Rotation about x, then y, then z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        out = step @ out
    return out


def grid(shape, size, degrees, origin):
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) * size
    affine[:3, 3] = origin
    return Grid(shape, affine)


def shifted(of, voxels, shape=None):
    """The grid that begins so many of its own voxels later."""
    step = np.eye(4)
    step[:3, 3] = voxels
    return Grid(shape or of.shape, of.affine @ step)


def places(of):
    """(X, Y, Z, 3) where each voxel is in the world."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in of.shape], indexing="ij"), axis=-1)
    return index @ of.affine[:3, :3].T + of.affine[:3, 3]


def painted(of, order=ORDERS[0], hidden=None):
    """A volume of places: stored along other axes, with the affine that goes with them, and read again."""
    axes, signs = order
    mask = np.ones(of.shape, dtype=bool) if hidden is None else ~hidden
    turn = np.zeros((4, 4))  # from stored indices to those of the grid
    turn[3, 3] = 1
    for axis, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        turn[old, axis], turn[old, 3] = sign, 0 if sign > 0 else of.shape[old] - 1
    flips = tuple(slice(None, None, sign) for sign in signs)
    stored = Grid(tuple(of.shape[axis] for axis in axes), of.affine @ turn)
    channels = (places(of) * mask[..., None]).astype(np.float32)
    found = canonical_grid(stored)
    return Volume(
        to_canonical(channels.transpose(*axes, 3)[flips], stored),
        to_canonical(mask.transpose(axes)[flips], stored),
        found,
    )


@given(orders, orders, factors, kinds, angles, sizes, origins, offsets, seeds)
@quick
def test_each_voxel_of_each_patch_is_where_it_lies_around_the_source_voxel(
    stored, target_stored, factor, kind, degrees, size, origin, offset, seed
):
    rng = np.random.default_rng(seed)
    coarse = grid((9, 10, 8), size, degrees, origin)
    fine = shifted(coarse.refined(factor, kind), offset, tuple(int(n) for n in factor * rng.integers(9, 12, size=3)))
    source, target = painted(coarse, stored), painted(fine, target_stored, rng.random(fine.shape) < 0.2)
    head = bring_together("a", source, {"far": target}, {"far": factor}, {"far": kind})
    assert not [note for note in head.notes if "resampled" in note]
    assert head.alignments["far"].kind == (kind if factor == 2 else "node")
    feed = PatchFeed([head], PLAIN, "src", {"far": factor}, 7, None, 0)
    rows = feed.order(seed)[:4]
    batch = feed.gather(rows)
    for row, patch, far, inside in zip(rows, batch.source, batch.targets["far"], batch.inside["far"], strict=True):
        for array, there, ratio in ((patch, patch.any(axis=-1), 1), (far, inside, factor)):
            # Said without the alignment: the patch's centre is the source voxel's, its voxels are `ratio` times finer.
            away = np.argwhere(there) - (np.array(array.shape[:3]) - 1) / 2
            expected = (row[1:] + away / ratio) @ source.grid.affine[:3, :3].T + source.grid.affine[:3, 3]
            assert np.abs(array[there] - expected).max(initial=0) < NEAR
        assert inside.shape[0] == target_patch_size(7, factor, kind)
        assert not far[~inside].any()


@given(orders, factors, kinds, angles, sizes, origins, offsets)
@quick
def test_a_target_voxel_that_the_alignment_names_lies_on_or_in_its_source_voxel(
    stored, factor, kind, degrees, size, origin, offset
):
    coarse = painted(grid((9, 10, 8), size, degrees, origin), stored).grid
    fine = shifted(coarse.refined(factor, kind), offset)
    alignment = align(coarse, fine, factor)
    voxel = np.array([4, 3, 5])
    children = alignment.first(voxel) + np.array(list(product(range(factor if kind == "cell" else 1), repeat=3)))
    centre = (children @ fine.affine[:3, :3].T + fine.affine[:3, 3]).mean(axis=0)
    assert np.abs(centre - (coarse.affine[:3, :3] @ voxel + coarse.affine[:3, 3])).max() < 1e-6


@given(
    orders,
    orders,
    factors,
    kinds,
    angles,
    st.tuples(*[st.floats(-8, 8)] * 3),
    sizes,
    st.floats(0.85, 1.15),
    origins,
    st.tuples(*[st.floats(-1, 1)] * 3),
    seeds,
)
@quick
def test_a_target_on_any_grid_is_resampled_to_where_its_voxels_were(
    stored, target_stored, factor, kind, degrees, more, size, ratio, origin, offset, seed
):
    rng = np.random.default_rng(seed)
    coarse = grid((9, 10, 8), size, degrees, origin)
    other = grid((8 * factor, 9 * factor, 8 * factor), np.array(size) * ratio / factor, np.add(degrees, more), origin)
    other = shifted(other, offset)
    source = painted(coarse, stored)
    target = painted(other, target_stored, rng.random(other.shape) < 0.03)
    found = bring_together("a", source, {"far": target}, {"far": factor}, {"far": kind}).targets["far"]
    onto = source.grid.refined(factor, kind)
    assert np.allclose(found.grid.affine, onto.affine) or found is target  # by chance they nest
    at = (places(found.grid) - target.grid.affine[:3, 3]) @ np.linalg.inv(target.grid.affine[:3, :3]).T
    whole = map_coordinates(target.mask.astype(float), np.moveaxis(at, -1, 0), order=1, mode="grid-constant")
    assert found.mask[whole > 0.5 + 1e-4].all()
    assert not found.mask[whole < 0.5 - 1e-4].any()
    clear = whole > 1 - 1e-6  # a linear field comes through linear interpolation as it is
    assert np.abs(found.channels[clear] - places(found.grid)[clear]).max(initial=0) < NEAR
    beside = np.abs(found.channels - places(found.grid))[found.mask].max(axis=-1, initial=0)
    assert beside.max(initial=0) <= 1.01 * np.linalg.norm(target.grid.voxel_size)  # pulled to neighbours in the mask
    assert not found.channels[~found.mask].any()


@given(st.tuples(*[st.integers(-4, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
@quick
def test_a_window_holds_its_part_of_the_array_and_zeros(low, shape):
    volume = painted(grid((6, 5, 7), (2.0, 2.4, 1.5), (5, 10, -7), (3.0, 40.0, -20.0)))
    cut = window(volume.channels, np.array(low), np.array(low) + shape)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) + low
    there = ((index >= 0) & (index < volume.grid.shape)).all(axis=-1)
    expected = index @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3]
    assert np.abs(cut[there] - expected[there]).max(initial=0) < NEAR
    assert not cut[~there].any()


COARSE = grid((12, 12, 12), (2.4, 2.4, 2.4), (0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("target", "factor", "kind", "words"),
    [
        (grid((24,) * 3, (1.25,) * 3, (0, 0, 0), (0, 0, 0)), 2, "node", "from 1.25 mm to the node-aligned 1.2 mm grid"),
        (grid((24,) * 3, (1.25,) * 3, (0, 0, 0), (0, 0, 0)), 2, "node", "(voxel ratio 1.92)"),
        (grid((24,) * 3, (1.5, 1.5, 1.2), (0, 0, 0), (0, 0, 0)), 2, "node", "from 1.5 x 1.5 x 1.2 mm"),
        (grid((24,) * 3, (1.5, 1.5, 1.2), (0, 0, 0), (0, 0, 0)), 2, "node", "(voxel ratio 1.6 x 1.6 x 2)"),
        (COARSE.refined(2, "cell"), 2, "node", "(it was cell-aligned)"),
        (COARSE.refined(2), 2, "cell", "to the cell-aligned 1.2 mm grid of the source (it was node-aligned)"),
        (shifted(COARSE, (0.25, 0, 0)), 1, "node", "(centres 0.60 mm apart)"),
        (grid((12,) * 3, (2.4,) * 3, (0, 0, 6), (0, 0, 0)), 1, "node", "(axes 6.0° apart)"),
    ],
)
def test_what_does_not_nest_is_resampled_and_said(target, factor, kind, words):
    head = bring_together("sub-03", painted(COARSE), {"far": painted(target)}, {"far": factor}, {"far": kind})
    (note,) = [note for note in head.notes if "resampled" in note]
    assert note.startswith("sub-03 far: resampled from ")
    assert words in note
    assert head.targets["far"].grid.same_as(COARSE.refined(factor, kind))
    assert head.alignments["far"].kind == (kind if factor == 2 else "node")


def test_what_nests_is_taken_as_it_is():
    target = painted(shifted(COARSE.refined(2), (-2, -3, 0), (26, 27, 23)))
    head = bring_together("a", painted(COARSE), {"far": target}, {"far": 2})
    assert head.targets["far"] is target
    assert head.notes == ()


def test_what_reading_said_stays_with_the_head():
    def noted(words):
        volume = painted(COARSE)
        return Volume(volume.channels, volume.mask, volume.grid, notes=(words,))

    assert bring_together("a", noted("one"), {"far": noted("two")}, {"far": 1}).notes == ("one", "two")


def test_a_target_that_shows_only_a_part_of_the_head_gets_a_note():
    half = painted(Grid((6, 12, 12), COARSE.affine))
    assert bring_together("a", painted(COARSE), {"far": half}, {"far": 1}).notes == (
        "a far: its field of view holds 50% of the source's mask",
    )


def test_a_target_that_shows_nothing_of_the_head_is_refused():
    away = painted(shifted(COARSE, (40, 0, 0)))
    with pytest.raises(DataError, match="a far: its field of view holds no voxel of the source's mask"):
        bring_together("a", painted(COARSE), {"far": away}, {"far": 1})


def test_a_resampled_target_whose_mask_lies_elsewhere_is_refused():
    hidden = np.ones((40, 40, 40), dtype=bool)
    hidden[-4:] = False  # in the field of view, but beyond the source's
    target = painted(shifted(Grid((40, 40, 40), COARSE.affine), (-0.5, 0, 0)), hidden=hidden)
    with pytest.raises(DataError, match="its mask shows nothing in the source's field of view"):
        bring_together("a", painted(COARSE), {"far": target}, {"far": 1})


def test_voxels_outside_the_mask_have_no_say_even_where_they_hold_something():
    volume = painted(COARSE, hidden=np.arange(12 * 12 * 12).reshape(12, 12, 12) % 12 == 6)
    spoilt = np.where(volume.mask[..., None], volume.channels, np.float32(1e6))
    clean = resample(volume.channels, volume.mask, COARSE, shifted(COARSE, (0, 0, 0.3)))
    dirty = resample(spoilt, volume.mask, COARSE, shifted(COARSE, (0, 0, 0.3)))
    assert np.array_equal(clean[0], dirty[0])
    assert clean[1].any()


def test_a_voxel_is_kept_where_half_of_its_weight_lies_in_the_mask():
    hidden = np.zeros((12, 12, 12), dtype=bool)
    hidden[6:] = True
    for shift, last in ((0.4, 5), (0.5, 5), (0.6, 4)):  # voxel v comes from v + shift
        volume = painted(COARSE, hidden=hidden)
        _, mask = resample(volume.channels, volume.mask, COARSE, shifted(COARSE, (shift, 0, 0)))
        assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == list(range(last + 1))


def test_resampling_does_not_depend_on_the_chunk(monkeypatch):
    volume = painted(COARSE, hidden=np.random.default_rng(0).random((12, 12, 12)) < 0.2)
    onto = grid((15, 13, 14), (1.9, 2.1, 2.0), (4, -6, 9), (1, 2, 0))
    whole = resample(volume.channels, volume.mask, COARSE, onto)
    share = seen(volume.mask, COARSE, onto)
    monkeypatch.setattr("harmonet.data.resample.CHUNK", 101)
    parts = resample(volume.channels, volume.mask, COARSE, onto)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert seen(volume.mask, COARSE, onto) == share
    assert 0 < share < 1
