"""Modality propagation finds what the library holds, where it lies, and lets neighbours agree."""

import numpy as np
import pytest
from harmonet_iqt.propagation import Propagation, averaged, boxed
from safetensors.numpy import load, save
from scipy.ndimage import gaussian_filter

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import RecipeError
from harmonet.platforms import Grid

GROUPS = {"l = 0": slice(0, 1), "l = 2": slice(1, 3)}
GRID = Grid((14, 13, 12), np.array([[2.4, 0, 0, -17.0], [0, 2.4, 0, 5.0], [0, 0, 2.4, 3.0], [0, 0, 0, 1]]))
MIDDLE = GRID.affine[:3, :3] @ ((np.array(GRID.shape) - 1) / 2) + GRID.affine[:3, 3]
SMALL = {"window": 1, "neighbours": 1, "iterations": 1}


def ball(grid, centre=MIDDLE, radius=11.0):
    world = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.linalg.norm(world - centre, axis=-1) < radius


def volume(seed, grid=GRID, smooth=0.0):
    mask, rng = ball(grid), np.random.default_rng(seed)
    channels = np.stack([gaussian_filter(rng.normal(size=grid.shape), smooth) for _ in range(3)], axis=-1)
    return Volume(np.where(mask[..., None], channels, 0).astype(np.float32), mask, grid)


def shifted(head, voxels):
    """The same head elsewhere in a larger field of view."""
    shape = tuple(n + 2 * v for n, v in zip(head.grid.shape, voxels, strict=True))
    around = [(v, v) for v in voxels]
    affine = head.grid.affine.copy()
    return Volume(np.pad(head.channels, [*around, (0, 0)]), np.pad(head.mask, around), Grid(shape, affine))


def trained(some, **options):
    method = Propagation(GROUPS, **SMALL | options)
    method.fit([method.learn(pair) for pair in some])
    return method


def error(method, source, truth):
    """Root of the mean squared error over that of the target itself."""
    found, wanted = method.predict(source, truth.grid)[truth.mask], truth.channels[truth.mask]
    return np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))


@pytest.mark.parametrize("grid", [GRID, GRID.refined(2), GRID.refined(2, "cell")], ids=["same", "node", "cell"])
@pytest.mark.parametrize("options", [{}, {"neighbours": 3, "iterations": 2}], ids=["one", "several"])
def test_a_head_that_the_library_holds_gets_its_own_target(grid, options):
    source, target = volume(0), volume(1, grid)
    method = trained([hn.Pair("other", volume(2), volume(3, grid)), hn.Pair("own", source, target)], **options)
    # Only blocks that lie whole in both masks are in the library, and patches at the edge hold others.
    inner = ball(grid, radius=5.0)
    found = method.predict(source, grid)
    assert np.abs(found - target.channels)[inner].max() < 3e-3  # 16 bits, of values up to 4


def test_the_library_is_laid_on_the_new_head_by_the_masks():
    source, target = volume(0), volume(1)
    there, truth = shifted(source, (3, 0, 2)), shifted(target, (3, 0, 2))
    assert error(trained([hn.Pair("own", source, target)], window=0), there, truth) < 1e-3


@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize(("window", "found"), [(0, False), (1, True)])
def test_a_head_that_lies_otherwise_is_found_only_inside_the_window(window, found, step):
    source, target = volume(0, smooth=0.5), volume(1)
    rolled = [Volume(np.roll(v.channels, step, axis=1), v.mask, v.grid) for v in (source, target)]
    method = trained([hn.Pair("own", *rolled)], window=window)
    inner = ball(GRID, radius=6.0)
    assert (np.abs(method.predict(source, GRID) - target.channels)[inner].max() < 3e-3) == found


def test_where_the_target_showed_nothing_the_nearest_place_is_taken():
    world = np.moveaxis(np.indices(GRID.shape), 0, -1) @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    less = ball(GRID, radius=8.0)
    target = Volume(np.where(less[..., None], world, 0).astype(np.float32), less, GRID)
    source = volume(0)
    found = trained([hn.Pair("own", source, target)]).predict(source, GRID)
    assert np.linalg.norm(found - world, axis=-1)[source.mask].max() < 10.0


def test_neighbours_are_averaged_and_the_nearer_weigh_more():
    best = np.array([[1.0, np.inf], [2.0, 3.0]], dtype=np.float32)
    blocks = [np.array([[10.0]], dtype=np.float32), np.array([[0.0], [20.0]], dtype=np.float32)]
    found = averaged(best, np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 0]]), blocks)
    near, far = np.exp(-1), np.exp(-2)
    np.testing.assert_allclose(found, [[(10 * near + 20 * far) / (near + far)], [0]], rtol=1e-6)


def test_later_iterations_choose_what_agrees_with_the_neighbours():
    """Where the source says nothing, one head's target is smooth and the others' are not: agreement finds it."""
    plain = Volume(np.where(ball(GRID)[..., None], np.float32(1), 0) * np.ones(3, np.float32), ball(GRID), GRID)

    def wobbly(seed):
        source = plain.channels + 1e-3 * np.random.default_rng(seed).normal(size=plain.channels.shape)
        return Volume(np.where(plain.mask[..., None], source, 0).astype(np.float32), plain.mask, GRID)

    two = [
        hn.Pair(f"s{n}", wobbly(n), Volume(plain.channels * level, plain.mask, GRID)) for n, level in ((1, 1), (2, 5))
    ]
    rough = [
        np.std(np.diff(trained(two, iterations=n).predict(wobbly(3), GRID)[6, 4:9, 4:9, 0], axis=0)) for n in (1, 3)
    ]
    assert rough[1] < 0.8 * rough[0]


def test_it_is_the_same_each_time_and_survives_safetensors_to_the_last_bit():
    some = [hn.Pair("a", volume(0), volume(1)), hn.Pair("b", volume(2), volume(3))]
    method, options = trained(some, neighbours=3), SMALL | {"neighbours": 3}
    again = Propagation(GROUPS, **options)
    again.restore(load(save(method.state())))
    assert {array.dtype.kind for array in method.state().values()} <= set("fiu")
    assert np.array_equal(again.predict(volume(4), GRID), method.predict(volume(4), GRID))


def test_the_library_is_in_16_bits_and_holds_values_that_16_bits_do_not():
    large = Volume(volume(0).channels * np.float32(1e6), volume(0).mask, GRID)
    method = trained([hn.Pair("own", large, large)])
    state = method.state()
    assert state["head 0 source"].dtype == state["head 0 target"].dtype == np.float16
    assert error(method, large, large) < 1e-3


def test_sums_over_boxes_keep_exact_zeros():
    values = np.zeros((8, 8, 8), dtype=np.float32)
    values[0, 0, 0] = 0.1
    found = boxed(values, 1)
    assert found[1, 1, 1] == values[0, 0, 0]
    assert not found[2:].any()
    assert boxed(np.ones((5, 5, 5), dtype=np.float32), 1)[2, 2, 2] == 27


@pytest.mark.parametrize("options", [{"radius": -1}, {"window": -1}, {"neighbours": 0}, {"iterations": 0}])
def test_options_that_cannot_be_are_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(RecipeError, match=f"needs {name} of . or more, found {value}"):
        Propagation(GROUPS, **options)
