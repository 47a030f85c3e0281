"""Turned patches: as if the whole head had been turned, its signal with it."""

import numpy as np
import pytest
from heads import UPSAMPLING, make_head

from harmonet.data.augment import Augmentation, in_world, symmetries
from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import Standardisation, statistics
from harmonet.data.volumes import Volume, bring_together
from harmonet.errors import DataError, NotFoundError
from harmonet.platforms import Grid
from harmonet.representations.sh_signal import SHSignal

SH = SHSignal((1000.0,), order=4, laplace_beltrami=0.0)
PLACE = np.array([[0, 4, 5, 4]])


def directions(n=60):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def signal(places, towards):
    """(V, N) fibres that bend through space: degree 4 in the direction, so that order 4 holds it exactly."""
    x, y, z = (places - [3.0, -2.0, 5.0]).T / 10
    fibre = np.column_stack([1 + 0.3 * y, 0.5 * z - 0.4 * x, 0.2 + x * z])
    along = fibre @ towards.T
    return 0.6 + 0.1 * x[:, None] - 0.2 * along**2 + (0.05 + 0.02 * y[:, None]) * along**4


def shown(places):
    """Which places lie in the mask: none of the symmetries keeps it."""
    x, y, z = (places - [3.0, -2.0, 5.0]).T
    return (x + 0.3 * y < 3.7) & (z - 0.2 * x * y / 10 > -3.3)


def volume(grid, turn, about):
    """The head after it was turned as a whole: what is seen at x along u was at turn' x along turn' u."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    places = (index @ grid.affine[:3, :3].T + grid.affine[:3, 3] - about) @ turn + about
    encode = SH.encoder(np.full(60, 1000.0), directions())
    channels = encode(signal(places, directions() @ turn).astype(np.float32))
    mask = shown(places)
    channels[~mask] = 0
    return Volume(channels.reshape(*grid.shape, -1), mask.reshape(grid.shape), grid)


def oblique(size):
    a, b = np.deg2rad([17, -23])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * size
    affine[:3, 3] = [3.0, -2.0, 5.0] - affine[:3, :3] @ [4, 4, 4]
    return Grid((9, 10, 9), affine)


def head(grid, kind, turn, about):
    grids = {"near": grid, "fine": grid.refined(2, kind)}
    volumes = {name: volume(at, turn, about) for name, at in grids.items()}
    return bring_together("a", volume(grid, turn, about), volumes, UPSAMPLING, {"fine": kind})


def feed(heads, standard, **settings):
    return PatchFeed(heads, standard, "src", UPSAMPLING, 7, None, 3, **settings)


@pytest.mark.parametrize(
    ("size", "augment", "kind", "number"),
    [((2, 2, 2), "octahedral", "node", 48), ((2, 2, 3), "octahedral", "cell", 16), ((1.5, 2, 3), "flips", "node", 8)],
)
def test_a_turned_patch_is_the_patch_of_the_turned_head(size, augment, kind, number):
    grid = oblique(size)
    about = grid.affine[:3, :3] @ PLACE[0, 1:] + grid.affine[:3, 3]
    straight = head(grid, kind, np.eye(3), about)
    standard = {"src": statistics([straight.source], "src")}
    standard |= {p: statistics([straight.targets[p]], p) for p in UPSAMPLING}
    patches = feed([straight], standard, augment=augment, turn=SH.turn)
    wrong = feed([straight], standard, augment=augment, turn=lambda _: np.eye(15))
    group = symmetries(augment, grid.voxel_size)
    draws = Augmentation(augment, SH.turn, 3, [grid], {})
    epochs = {int(draws.draw(PLACE, epoch)[0]): epoch for epoch in range(600)}
    assert len(epochs) == len(group) == number
    misled = 0
    for element in range(0, number, 3):
        turn = in_world(group[element], grid)
        expected = feed([head(grid, kind, turn, about)], standard).gather(PLACE)
        found = patches.gather(PLACE, epochs[element])
        assert np.allclose(found.source, expected.source, atol=2e-4)
        assert 0.1 < (found.source[..., 0] == 0).mean() < 0.9  # the mask cuts through the patch
        for p in UPSAMPLING:
            assert np.array_equal(found.inside[p], expected.inside[p])
            assert np.allclose(found.targets[p], expected.targets[p], atol=2e-4)
        misled += not np.allclose(wrong.gather(PLACE, epochs[element]).source, expected.source, atol=0.05)
    assert misled > 0.5 * len(range(0, number, 3))  # the channels' part is seen, but for the identity's like


@pytest.mark.parametrize("augment", ["flips", "octahedral"])
def test_symmetries_are_a_group_of_maps_that_begins_with_the_identity(augment):
    group = symmetries(augment, (2, 2, 2))
    known = {element.tobytes() for element in group}
    assert np.array_equal(group[0], np.eye(3))
    assert len(known) == len(group)
    assert all((a @ b).tobytes() in known for a in group for b in group)


def test_only_axes_with_voxels_of_one_size_are_exchanged():
    for element in symmetries("octahedral", (2.0, 3.0, 2.0005)):
        assert abs(element[1, 1]) == 1
    assert len(symmetries("octahedral", (2.0, 3.0, 2.0005))) == 16


def turning(heads, **settings):
    """Any linear map of the channels will do here."""
    plain = dict.fromkeys(("src", *UPSAMPLING), Standardisation(np.full(6, 0.5), np.full(6, 2.0)))
    return feed(heads, plain, augment="octahedral", turn=lambda rotation: np.kron(np.eye(2), rotation), **settings)


def test_the_turn_of_a_place_depends_on_nothing_but_seed_epoch_and_place():
    heads = [make_head("a", 0), make_head("b", 1)]
    patches = turning(heads)
    rows = patches.order(0)[:40]
    whole = patches.gather(rows, 4)
    for i in (0, 17, 39):
        alone = patches.gather(rows[i : i + 1], 4)
        assert np.allclose(alone.source[0], whole.source[i], atol=1e-6)
        assert np.allclose(alone.targets["fine"][0], whole.targets["fine"][i], atol=1e-6)
    assert not np.allclose(patches.gather(rows, 5).source, whole.source, atol=1e-2)
    draws = [
        Augmentation("octahedral", lambda r: r, seed, [h.source.grid for h in heads], {}).draw(rows, epoch)
        for seed, epoch in ((3, 4), (3, 4), (4, 4), (3, 5))
    ]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[3])


def test_every_symmetry_is_drawn_about_as_often_as_any_other():
    grid = make_head("a").source.grid
    rows = np.column_stack([np.zeros(1000, dtype=int), np.argwhere(np.ones((10, 10, 10)))])
    counts = np.bincount(Augmentation("octahedral", lambda r: r, 0, [grid], {}).draw(rows, 2), minlength=48)
    assert counts.min() > 5  # 20.8 expected, deviation 4.5
    assert counts.max() < 40


def test_a_turned_patch_holds_the_voxels_it_had_and_zeros_outside_the_mask():
    heads = [make_head("a", 0)]
    rows = turning(heads).order(0)[:30]
    found = turning(heads).gather(rows, 1)
    for platform, there in found.inside.items():
        assert not found.targets[platform][~there].any()
    plain = feed(heads, dict.fromkeys(("src", *UPSAMPLING), Standardisation(np.zeros(6), np.ones(6)))).gather(rows)
    for platform, there in plain.inside.items():
        assert np.array_equal(there.sum(axis=(1, 2, 3)), found.inside[platform].sum(axis=(1, 2, 3)))


def test_a_device_turns_as_memory_does():
    heads = [make_head("a", 0), make_head("b", 1)]
    rows = turning(heads).order(0)[:9]
    memory, device = turning(heads).gather(rows, 2), turning(heads, device="cpu").gather(rows, 2)
    assert np.allclose(device.source.numpy(), memory.source, atol=1e-6)
    for p in UPSAMPLING:
        assert np.allclose(device.targets[p].numpy(), memory.targets[p], atol=1e-6)
        assert np.array_equal(device.inside[p].numpy(), memory.inside[p])


def test_what_cannot_be_turned_is_refused():
    with pytest.raises(NotFoundError, match="Did you mean octahedral"):
        symmetries("octahedra", (2, 2, 2))
    with pytest.raises(DataError, match="augmentation 'flips' needs the representation's turn"):
        feed([make_head("a")], {}, augment="flips")
