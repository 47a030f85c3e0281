"""The forest finds truths that were planted, keeps them, and puts them where they belong."""

import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from harmonet_iqt.blocks import blocks_of
from harmonet_iqt.forest import Forest, averaged
from harmonet_iqt.patches import features, framed
from safetensors.numpy import load, save

import harmonet as hn
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, RecipeError, ShapeError
from harmonet.platforms import Grid

GROUPS = {"l = 0": slice(0, 1), "l = 2": slice(1, 3)}
GRID = Grid((16, 15, 14), np.array([[2.4, 0, 0, -17.0], [0, 2.4, 0, 5.0], [0, 0, 2.4, 3.0], [0, 0, 0, 1]]))
MIDDLE = GRID.affine[:3, :3] @ ((np.array(GRID.shape) - 1) / 2) + GRID.affine[:3, 3]
MIX = np.array([[1, 0.2, 0], [0, 1, 0.3], [0.1, 0, 1]])


def world(grid):
    return np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def volume(channels, grid=GRID, radius=14.0):
    """Zero outside a ball of so many mm."""
    mask = np.linalg.norm(world(grid) - MIDDLE, axis=-1) < radius
    return Volume(np.where(mask[..., None], channels, 0).astype(np.float32), mask, grid)


def head(seed):
    """Channels without any likeness between neighbours."""
    return volume(np.random.default_rng(seed).normal(size=(*GRID.shape, 3)) + np.array([3, 0, 0]))


def linear(source):
    """A target that is linear in the patch: channels of the centre, mixed, and those of the neighbour below along y."""
    frame = framed(source, 2)
    x, y, z = np.argwhere(source.mask).T
    a, b, c = (np.argwhere(source.mask) - frame.origin).T
    channels = np.zeros((*GRID.shape, 3))
    channels[x, y, z] = frame.channels[a, b, c] @ MIX + 0.5 * frame.channels[a, b - 1, c] + 0.25
    return volume(channels)


def split_at(threshold):
    """A target that is the source, or minus twice the source where the energy of l = 0 is beyond the threshold."""

    def rule(source):
        energy = source.channels[..., :1] ** 2
        return volume(np.where(energy < threshold, source.channels, -2 * source.channels))

    return rule


def noise(source):
    return volume(np.random.default_rng(int(1e3 * source.channels.max())).normal(size=source.channels.shape))


def pairs(rule, seeds=(0, 1)):
    return [hn.Pair(f"s{seed}", head(seed), rule(head(seed))) for seed in seeds]


def trained(some, groups=GROUPS, **options):
    forest = Forest(groups, **{"trees": 2, "rate": 0.9} | options)
    forest.fit([forest.learn(pair) for pair in some])
    return forest


def relative_error(forest, source, truth):
    wanted = truth.channels[truth.mask]
    return np.sqrt(np.mean((forest.predict(source, truth.grid)[truth.mask] - wanted) ** 2) / wanted.var())


def test_it_is_found_through_its_installed_entry_point_and_imports_none_of_its_methods():
    assert [p.value for p in entry_points(group="harmonet") if p.dist.name == "harmonet-iqt"] == ["harmonet_iqt"]
    asked = (
        "import sys; from harmonet import plugins; found = {p.name: p for p in plugins.load()}['iqt'];"
        "print(*found.entries, found.problem, *sorted({'harmonet_iqt.forest', 'torch'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["iqt_forest", "modality_propagation", "None"]


def test_its_options_are_those_of_its_readme():
    from harmonet.plugins import method

    assert method("iqt_forest").options() == {
        "trees": 8,
        "radius": 1,
        "depth": 20,
        "samples": 8000,
        "rate": 0.5,
        "components": 64,
        "seed": 0,
    }


@pytest.mark.parametrize(("components", "seed"), [(64, 0), (1000, 0), (64, 1), (64, 2)])
def test_a_target_that_is_linear_in_the_patch_is_learned_without_a_split(components, seed):
    forest = trained(pairs(linear), components=components, seed=seed)
    assert (forest.state()["feature"] == -1).all()
    assert relative_error(forest, head(7), linear(head(7))) < 1e-4


@pytest.mark.parametrize("threshold", [6.0, 9.0, 12.0])
def test_a_target_that_changes_with_the_energy_of_order_0_is_split_there(threshold):
    some = pairs(split_at(threshold), seeds=range(4))
    forest = trained(some)
    state = forest.state()
    first = state["roots"]
    assert (state["feature"][first] == 0).all()  # the energy of l = 0 at the centre
    assert np.abs(state["threshold"][first] - threshold).max() < 0.15
    straight = trained(some, depth=0)
    there = head(9), split_at(threshold)(head(9))
    assert relative_error(straight, *there) > 0.4
    assert relative_error(forest, *there) < 0.2


def test_noise_is_not_split():
    state = trained(pairs(noise, seeds=range(4)), trees=4).state()
    assert (state["feature"] == -1).all()


def test_a_split_that_helps_a_strong_channel_is_not_refused_for_noise_in_weak_ones():
    def mostly_noise(source):
        drawn = np.random.default_rng(int(1e3 * source.channels.max())).normal(size=source.channels.shape)
        strong = np.where(source.channels[..., 0] ** 2 < 9, 1, -0.1) * source.channels[..., 1] + drawn[..., 0]
        return volume(np.concatenate([strong[..., None], 0.01 * drawn[..., 1:]], axis=-1))

    state = trained(pairs(mostly_noise, seeds=range(3)), rate=1.0).state()
    assert (state["feature"][state["roots"]] == 0).all()


def test_depth_limits_the_splits():
    def steps(source):
        energy = source.channels[..., :1] ** 2
        return volume(np.where((energy < 6) | (energy > 12), source.channels, -2 * source.channels))

    some = pairs(steps, seeds=range(5))
    found = [int((trained(some, trees=1, rate=1.0, depth=depth).state()["feature"] >= 0).sum()) for depth in (0, 1, 2)]
    assert found[0] == 0
    assert found[1] <= 1
    assert found[2] == 2


def test_what_was_learned_survives_safetensors_to_the_last_bit():
    forest = trained(pairs(split_at(9.0)))
    again = Forest(GROUPS)
    again.restore(load(save(forest.state())))
    assert {k: v.dtype for k, v in again.state().items()} == {k: v.dtype for k, v in forest.state().items()}
    assert np.array_equal(again.predict(head(5), GRID), forest.predict(head(5), GRID))


def test_the_seed_decides():
    one, two, other = (trained(pairs(split_at(9.0)), seed=seed).state() for seed in (3, 3, 4))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["weights"], other["weights"])


def test_samples_limit_what_a_subject_teaches():
    lesson = Forest(GROUPS, samples=50).learn(pairs(linear)[0])
    assert [lesson[name].shape for name in ("x", "y", "features")] == [(50, 81), (50, 3), (50, 5)]


def test_trees_weigh_as_much_as_the_inverse_of_what_their_leaves_leave():
    rng = np.random.default_rng(0)
    maps, roots = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 2, 2))
    information = roots @ roots.transpose(0, 2, 1) + np.eye(2)
    x = rng.normal(size=4)
    wanted = np.linalg.inv(information.sum(axis=0)) @ sum(i @ (x @ m) for i, m in zip(information, maps, strict=True))
    np.testing.assert_allclose(x @ averaged(maps, information), wanted)


def test_every_voxel_has_the_weighted_mean_of_the_leaves_it_reaches():
    forest, source = trained(pairs(split_at(9.0), seeds=range(4)), trees=3), head(6)
    state, frame = forest.state(), framed(source, 2)
    assert len(state["weights"]) > 3
    predicted = forest.predict(source, GRID)
    table = features(frame, GROUPS, 1)
    for place in np.argwhere(source.mask)[::97]:
        x, y, z = voxel = place - frame.origin
        told, information = np.zeros(3), np.zeros((3, 3))
        for node in state["roots"]:
            while state["feature"][node] >= 0:
                below = table[x, y, z, state["feature"][node]] < state["threshold"][node]
                node = state["below" if below else "above"][node]
            leaf = state["leaf"][node]
            weights, sure = state["weights"][leaf], state["information"][leaf]
            told += sure @ (weights[0] + frame.patches(voxel[None], 1)[0] @ weights[1:])
            information += sure
        np.testing.assert_allclose(predicted[tuple(place)], np.linalg.solve(information, told), rtol=1e-4, atol=1e-5)


def test_features_are_energies_at_the_centre_their_means_and_the_spread_of_the_first():
    frame = framed(head(2), 2)
    x, y, z = 8, 7, 6
    patch = frame.patches(np.array([[x, y, z]]), 1).reshape(27, 3).astype(float)
    first, second = patch[:, 0] ** 2, (patch[:, 1:] ** 2).sum(axis=1)
    wanted = [first[13], second[13], first.mean(), second.mean(), first.std()]
    np.testing.assert_allclose(features(frame, GROUPS, 1)[x, y, z], wanted, rtol=1e-6)


def test_a_patch_at_the_edge_of_the_mask_is_completed_with_the_nearest_voxels():
    frame = framed(head(2), 2)
    x = int(np.flatnonzero(frame.mask[:, 8, 7])[0])
    assert not frame.mask[x - 1, 8, 7]
    patch = frame.patches(np.array([[x, 8, 7]]), 1).reshape(3, 3, 3, 3)
    assert np.array_equal(patch[0, 1, 1], patch[1, 1, 1])
    assert np.array_equal(patch[1, 1, 1], frame.channels[x, 8, 7])


FINE = {
    "node": GRID.refined(2),
    "cell": GRID.refined(2, "cell"),
}


def cut(grid, low):
    """The grid without its first voxels."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid(tuple(int(n) for n in np.array(grid.shape) - low), affine)


@pytest.mark.parametrize(("grid", "middle"), [(GRID, 0.0), (FINE["node"], 0.6), (FINE["cell"], 0.0)])
def test_a_block_lies_on_its_source_voxel(grid, middle):
    _, voxels, blocks = blocks_of(volume(world(GRID)), volume(world(grid), grid))
    centres = blocks.reshape(len(blocks), -1, 3).mean(axis=1)
    np.testing.assert_allclose(centres - world(GRID)[tuple(voxels.T)], middle, atol=1e-4)


@pytest.mark.parametrize("kind", ["node", "cell"])
def test_half_voxels_are_predicted_at_their_own_places(kind):
    """Channels are places in mm: a block that is laid half a voxel off shows at once."""
    fine = FINE[kind]
    train = [hn.Pair("a", volume(world(GRID)), volume(world(cut(fine, (2, 4, 0))), cut(fine, (2, 4, 0))))]
    forest = trained(train, rate=1.0)
    assert forest.state()["layout"].tolist() == [2, ["node", "cell"].index(kind)]
    for target in (fine, cut(fine, (1, 3, 2)), GRID.refined(2, "cell" if kind == "node" else "node")):
        inner = np.linalg.norm(world(target) - MIDDLE, axis=-1) < 10
        found = forest.predict(volume(world(GRID)), target)
        assert np.abs(found - world(target))[inner].max() < 0.02


def test_all_target_voxels_of_a_mask_are_predicted_and_none_far_away():
    for target in (GRID, *FINE.values()):
        forest = trained([hn.Pair("a", volume(world(GRID)), volume(world(target), target))], rate=1.0)
        found = forest.predict(volume(world(GRID)), target).any(axis=-1)
        apart = np.linalg.norm(world(target) - MIDDLE, axis=-1)
        assert found.shape == target.shape
        assert found[apart < 14.0].all()
        assert not found[apart > 14.0 + 2.4 * 2 * 3**0.5].any()


def test_a_target_that_does_not_nest_is_learned_and_predicted_where_it_is():
    shifted = Grid(GRID.shape, GRID.affine.copy())
    shifted.affine[:3, 3] += 0.9
    forest = trained([hn.Pair("a", volume(world(GRID)), volume(world(shifted), shifted, 20.0))], rate=1.0)
    inner = np.linalg.norm(world(shifted) - MIDDLE, axis=-1) < 10
    found = forest.predict(volume(world(GRID)), shifted)
    assert np.abs(found - world(shifted))[inner].max() < 0.05


def test_a_scalar_image_has_one_group():
    some = [hn.Pair(f"s{s}", volume(head(s).channels[..., :1]), volume(head(s).channels[..., :1] * 3)) for s in (0, 1)]
    forest = trained(some, groups={})
    there = volume(head(4).channels[..., :1])
    np.testing.assert_allclose(forest.predict(there, GRID)[there.mask], 3 * there.channels[there.mask], atol=1e-3)


def test_a_channel_that_does_not_vary_does_no_harm():
    def dull(source):
        return Volume(source.channels * [1, 1, 0], source.mask, source.grid)

    some = [hn.Pair(f"s{s}", dull(head(s)), dull(head(s))) for s in (0, 1)]
    found = trained(some).predict(dull(head(3)), GRID)
    np.testing.assert_allclose(found[head(3).mask], dull(head(3)).channels[head(3).mask], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trees": 0}, "trees of 1 or more, found 0"),
        ({"depth": -1}, "depth of 0 or more"),
        ({"components": 0}, "components of 1 or more"),
        ({"rate": 0.0}, "rate above 0"),
        ({"rate": 1.5}, "found 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(RecipeError, match=said):
        Forest(GROUPS, **options)


def test_too_few_patches_are_refused_with_what_helps():
    with pytest.raises(DataError, match="needs 85 patches per tree for 82 regressors and 3 outputs, found 84: raise"):
        trained(pairs(linear), samples=42, rate=1.0)
    trained(pairs(linear), samples=43, rate=1.0)


def test_the_order_of_the_subjects_does_not_matter():
    one, two = (trained(some).state() for some in (pairs(linear), pairs(linear)[::-1]))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_subjects_that_lie_otherwise_are_refused():
    forest = Forest(GROUPS)
    lessons = [
        forest.learn(hn.Pair(kind, volume(world(GRID)), volume(world(fine), fine))) for kind, fine in FINE.items()
    ]
    with pytest.raises(DataError, match="found cell-aligned at ratio 2, node-aligned at ratio 2"):
        forest.fit(lessons)


def test_another_ratio_than_in_training_is_refused():
    with pytest.raises(ShapeError, match="trained at upsampling 1, found 2"):
        trained(pairs(linear)).predict(head(0), FINE["node"])
