"""Tables with an axis reversed or swapped are found, because fibres run on in the direction in which they point."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import from_world, read_bvals, read_bvecs, to_world, write_gradients
from harmonet.data.layout import open_dataset
from harmonet.data.nifti import write_nifti
from harmonet.data.numbers import Numbers
from harmonet.data.orientation import AS_GIVEN, MAPS, AxisMap, check_orientation, orientation, principal_directions
from harmonet.data.scan import read_scan
from harmonet.data.simulate import simulate, spread_directions

WRONG = [each for each in MAPS if each != AS_GIVEN]
STRAIGHT = np.eye(3)
OBLIQUE = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])  # about z, 16 degrees


def bundles(affine, shape, rings=9, radius=4.5):
    """Unit tangents (X, Y, Z, 3) in the world of rings tilted at random, 0 between them."""
    rng = np.random.default_rng(5)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    middle, extent = places.reshape(-1, 3).mean(axis=0), np.ptp(places.reshape(-1, 3), axis=0)
    tangents = np.zeros((*shape, 3))
    for _ in range(rings):
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        offset = places - (middle + rng.uniform(-0.2, 0.2, 3) * extent)
        height = offset @ normal
        outward = offset - height[..., None] * normal
        distance = np.linalg.norm(outward, axis=-1)
        inside = np.hypot(distance - rng.uniform(20, 35), height) < radius
        along = np.cross(normal, outward[inside] / distance[inside][:, None])
        tangents[inside] = along
    return tangents


def written(folder, codes="RAS", turn=STRAIGHT, spoil=AS_GIVEN, b=1000.0, seed=0):
    """The bundles scanned, with voxels of 2 x 2.2 x 3 mm, stored along `codes`, its table spoilt by a map."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (44, 42, 30)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 2.2, 3.0])
    affine[:3, 3] = (-40, -50, -30)
    tangents = bundles(affine, shape)
    bvals = np.array([0.0] + [b] * 20)
    directions = np.vstack([np.zeros(3), spread_directions(20, 1)])
    fibre = np.linalg.norm(tangents, axis=-1) > 0
    parallel = np.einsum("xyzi,ni->xyzn", tangents, directions) ** 2
    decay = np.where(fibre[..., None], 0.3e-3 + 1.4e-3 * parallel, 0.8e-3)
    signal = 1000 * np.exp(-bvals * decay)
    signal += np.random.default_rng(seed).normal(scale=20, size=signal.shape)
    mask = np.ones(shape, dtype=np.uint8)
    mask[:2] = 0

    turns = nib.orientations.ornt_transform(
        nib.io_orientation(np.diag([1, 1, 1, 1])), nib.orientations.axcodes2ornt(codes)
    )
    stored = affine @ nib.orientations.inv_ornt_aff(turns, shape)
    write_nifti(folder / "dwi.nii", nib.apply_orientation(signal, turns), stored)
    write_nifti(folder / "mask.nii", nib.apply_orientation(mask, turns), stored)
    bvecs = from_world(directions, stored) @ spoil.matrix.T
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", bvals, bvecs)
    names = ("dwi.nii", "dwi.bval", "dwi.bvec", "mask.nii")
    return Acquisition("A", "ge_st", *(folder / name for name in names))


@pytest.fixture(scope="module")
def fibres(tmp_path_factory):
    return read_scan(written(tmp_path_factory.mktemp("fibres"), "LPI", OBLIQUE))


def spoilt(scan, each):
    """The scan as if its table had been mapped on disk."""
    axes = to_world(np.eye(3), scan.stored.affine).T
    return replace(scan, directions=scan.directions @ (axes @ each.matrix @ axes.T).T)


def undoes(found, each):
    """Whether a map takes back another, but for the sign of the whole direction."""
    both = found.matrix @ each.matrix
    return np.array_equal(np.abs(both), np.eye(3)) and len(set(both.diagonal())) == 1


def test_there_are_twenty_four_maps_and_no_two_are_one_but_for_the_sign():
    assert len(MAPS) == 24
    directions = np.array([0.2, 0.5, 0.8])
    turned = [each.matrix @ directions for each in MAPS]
    same = [(a, b) for a in range(24) for b in range(a) if abs(turned[a] @ turned[b]) > 0.999 * directions @ directions]
    assert same == []


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPI", "PSR", "ASL"])
@pytest.mark.parametrize("turn", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_a_right_table_is_fine_in_every_storage_order(tmp_path, codes, turn):
    found = orientation(read_scan(written(tmp_path, codes, turn)))
    assert (found.verdict, found.best, found.score) == ("fine", AS_GIVEN, found.given)
    assert found.voxels > 5000


@pytest.mark.parametrize("each", WRONG, ids=lambda each: each.formula)
def test_every_wrong_table_is_found_with_the_map_that_mends_it(fibres, each):
    found = orientation(spoilt(fibres, each))
    assert found.verdict == "wrong"
    assert undoes(found.best, each)
    assert found.score > 1.4 * found.given


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR"])
def test_the_remedy_is_told_in_the_axes_of_the_file_and_mends_it(tmp_path, codes):
    spoil = AxisMap((1, 2, 0), 2)
    acquisition = written(tmp_path, codes, OBLIQUE, spoil)
    found = orientation(read_scan(acquisition)).best
    assert undoes(found, spoil)
    bvals = read_bvals(acquisition.bval)
    write_gradients(acquisition.bval, acquisition.bvec, bvals, read_bvecs(acquisition.bvec, 21) @ found.matrix.T)
    assert check_orientation(read_scan(acquisition)) is None


def test_the_sentence_names_scan_fault_and_remedy(tmp_path):
    sentence = check_orientation(read_scan(written(tmp_path, spoil=AxisMap(reversed=0))))
    assert sentence.startswith(
        "A ge_st has b-vectors that do not follow the FSL convention of their image: x is reversed"
    )
    assert "replace each b-vector (x, y, z) by (-x, y, z)" in sentence


def test_a_formula_does_what_its_matrix_does():
    for each in MAPS:
        x, y, z = 2.0, 3.0, 5.0
        assert eval(each.formula, {"x": x, "y": y, "z": z}) == tuple(each.matrix @ (x, y, z))


@pytest.mark.parametrize(
    ("each", "words"),
    [
        (AS_GIVEN, "as given"),
        (AxisMap(reversed=1), "y is reversed"),
        (AxisMap((2, 1, 0)), "x and z are swapped"),
        (AxisMap((1, 0, 2), 2), "x and y are swapped, z is reversed"),
        (AxisMap((1, 2, 0)), "x, y and z are in another order"),
    ],
)
def test_a_map_is_told_in_words(each, words):
    assert str(each) == words


def test_directions_are_those_of_the_fibres(fibres):
    places, directions = principal_directions(fibres)
    tangents = bundles(fibres.grid.affine, fibres.grid.shape).reshape(-1, 3)[places]
    fibre = np.linalg.norm(tangents, axis=1) > 0
    assert fibre.mean() > 0.99
    assert np.median(np.abs((tangents * directions).sum(axis=1))[fibre]) > 0.995


@pytest.mark.parametrize("codes", ["RAS", "LPI"])
def test_of_a_few_voxels_nothing_is_said(tmp_path, codes):
    scan = read_scan(written(tmp_path, codes, spoil=AxisMap(reversed=0)))
    few = np.zeros_like(scan.mask)
    few[:12] = True
    small = replace(scan, mask=scan.mask & few)
    found = orientation(small)
    assert (found.verdict, found.best) == ("doubtful", AS_GIVEN)
    assert 0 < found.voxels < 3000
    assert check_orientation(small) is None


def test_noise_without_fibres_is_doubtful(fibres):
    signal = np.random.default_rng(0).uniform(300, 1000, fibres.numbers.stored.shape).astype(np.float32)
    signal[..., 0] = 1000
    found = orientation(replace(fibres, numbers=Numbers(signal)))
    assert found.voxels > 10_000
    assert found.verdict == "doubtful"


@pytest.mark.parametrize("b", [20.0, 0.0])
def test_without_diffusion_weighting_nothing_is_said(fibres, b):
    found = orientation(replace(fibres, bvals=np.full(21, b), directions=np.zeros((21, 3))))
    assert (found.verdict, found.voxels) == ("doubtful", 0)


def test_simulated_heads_give_no_false_alarm(tiny_heads):
    for acquisition in open_dataset(tiny_heads).acquisitions.values():
        assert check_orientation(read_scan(acquisition)) is None


@pytest.mark.slow
def test_larger_simulated_heads_give_no_false_alarm_either(tmp_path):
    simulate(tmp_path / "heads", subjects=1, seed=3)
    for acquisition in open_dataset(tmp_path / "heads").acquisitions.values():
        assert orientation(read_scan(acquisition)).verdict == "doubtful"


@pytest.mark.real
@pytest.mark.parametrize("head", ["achieva_32dir", "prisma_rescan/scan1", "prisma_rescan/scan2"])
def test_real_heads_are_fine_and_every_wrong_table_is_found(real_data, head):
    files = (real_data / head / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"))
    scan = read_scan(Acquisition("head", "real", *files))
    found = orientation(scan)
    assert (found.verdict, found.best) == ("fine", AS_GIVEN)
    for each in WRONG:
        found = orientation(spoilt(scan, each))
        assert (found.verdict, undoes(found.best, each)) == ("wrong", True)
        assert found.score > 1.2 * found.given
