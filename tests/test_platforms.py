"""Platforms, grids and where one grid lies on another."""

from itertools import product

import numpy as np
import pytest

from harmonet.errors import DataError, NotFoundError, ShapeError
from harmonet.platforms import Alignment, Grid, Platform, align, preset, target_patch_size, upsampling_between


def grid(size, shape=(10, 12, 8), origin=(0.0, 0.0, 0.0)):
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


def platform(name, size):
    return Platform(name, (size, size, size), (1200.0,), 30)


def test_the_challenges_platforms_have_their_published_protocols():
    task = preset("cdmri2017")
    assert task.upsampling == {"prisma_st": 1, "connectom_st": 1, "connectom_sa": 2}
    assert task.target("connectom_sa").te == 68.0
    with pytest.raises(NotFoundError, match="Did you mean connectom_sa"):
        task.target("conectom_sa")
    with pytest.raises(NotFoundError, match="Did you mean cdmri2017"):
        preset("cdmri2018")


@pytest.mark.parametrize(
    ("ratio", "factor"), [(0.8, 1), (1.0, 1), (1.3, 1), (1.6, 2), (2.4 / 1.25, 2), (2.0, 2), (2.6, 2)]
)
def test_the_nearest_factor_is_taken(ratio, factor):
    assert upsampling_between(platform("a", 2.4), platform("b", 2.4 / ratio)) == factor


@pytest.mark.parametrize("ratio", [0.5, 0.7, 1.4, 2.7, 3.0])
def test_a_voxel_ratio_far_from_1_and_2_is_refused(ratio):
    with pytest.raises(ShapeError, match="voxel ratio near 1 or 2"):
        upsampling_between(platform("a", 2.4), platform("b", 2.4 / ratio))


@pytest.mark.parametrize(("size", "factor"), [((1.8, 1.8, 2.4), 1), ((1.2, 1.2, 1.8), 2)])
def test_voxels_that_are_no_cubes_may_be_a_third_off_on_an_axis(size, factor):
    assert upsampling_between(platform("a", 2.4), Platform("b", size, (1200.0,), 30)) == factor


def test_one_axis_of_a_wholly_different_ratio_is_refused():
    with pytest.raises(ShapeError, match="found 2 x 2 x 1:"):
        upsampling_between(platform("a", 2.4), Platform("b", (1.2, 1.2, 2.4), (1200.0,), 30))


def test_1_2_stored_as_float32_is_still_half_of_2_4():
    assert upsampling_between(platform("a", 2.4), platform("b", float(np.float32(1.2)))) == 2


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "x" * 65, "é"])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(DataError, match="not a plain name"):
        platform(name, 1.0)


@pytest.mark.parametrize("offset", [(0, 0, 0), (3, -2, 5)])
@pytest.mark.parametrize("factor", [1, 2])
def test_alignment_is_found_through_the_affines(offset, factor):
    source = grid(2.4, origin=(-30.0, 10.0, 5.0))
    fine = source.refined(factor)
    shifted = fine.affine.copy()
    shifted[:3, 3] -= np.asarray(offset) * 2.4 / factor  # the target begins earlier, so its indices are larger
    assert align(source, Grid(fine.shape, shifted), factor) == Alignment(factor, offset)


def test_a_refined_grid_keeps_the_voxel_centres():
    source = grid(2.4, origin=(7.0, 8.0, 9.0))
    fine = source.refined(2)
    for voxel in ([0, 0, 0], [9, 11, 7], [3, 4, 5]):
        place = source.affine @ [*voxel, 1]
        assert np.allclose(fine.affine @ [*(2 * np.asarray(voxel)), 1], place)
    assert fine.shape == (19, 23, 15)


def test_grids_that_share_the_corner_of_their_field_of_view_are_cell_aligned():
    source = grid(2.4)
    corner_aligned = grid(1.2, shape=(20, 24, 16), origin=(-0.6, -0.6, -0.6))
    assert align(source, corner_aligned, 2) == Alignment(2, (0, 0, 0), "cell")


def test_a_shift_that_is_neither_none_nor_half_a_voxel_is_refused_in_mm():
    with pytest.raises(ShapeError, match=r"shift of 0\.52 mm"):
        align(grid(2.4), grid(1.2, shape=(20, 24, 16), origin=(-0.3, -0.3, -0.3)), 2)


@pytest.mark.parametrize(
    ("kind", "edge", "corner"), [("node", 19, 1), ("node", 11, 5), ("cell", 14, 4), ("cell", 6, 8), ("cell", 22, 0)]
)
def test_a_target_patch_is_centred_on_its_source_voxel(kind, edge, corner):
    alignment = Alignment(2, (0, 0, 0), kind)
    assert alignment.corner(np.array([5, 5, 5]), edge).tolist() == [corner] * 3
    centre = 10 if kind == "node" else 10.5  # in target indices: where source voxel 5 has its centre
    assert corner + (edge - 1) / 2 == centre


@pytest.mark.parametrize(("kind", "edge"), [("node", 14), ("cell", 19), ("cell", 12)])
def test_a_patch_that_cannot_be_centred_is_refused(kind, edge):
    with pytest.raises(ShapeError, match="cannot be centred"):
        Alignment(2, (0, 0, 0), kind).corner(np.array([5, 5, 5]), edge)


def rotated(of, degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Grid(of.shape, turn @ of.affine)


def test_rotated_grids_are_refused():
    with pytest.raises(ShapeError, match=r"parallel axes, found axes 10\.0° apart"):
        align(grid(2.4), rotated(grid(2.4), 10), 1)


def test_a_rounding_of_the_header_is_judged_in_the_middle_of_the_volume():
    source = grid(2.4, shape=(101, 101, 61))
    rounded = grid(2.4 * 1.004, shape=(101, 101, 61), origin=(-0.48, -0.48, -0.288))  # the middles coincide
    assert align(source, rounded, 1) == Alignment(1)
    with pytest.raises(ShapeError, match="drift"):
        align(source, grid(2.4 * 1.01, shape=(101, 101, 61), origin=(-1.2, -1.2, -0.72)), 1)


def test_the_cosines_of_a_grid_are_orthogonal_whatever_its_voxels():
    affine = rotated(grid(1.0), 25).affine @ np.diag([1.0, 2.0, 3.0, 1.0])
    turn = rotated(grid(1.0), 25).affine[:3, :3]
    assert np.allclose(Grid((4, 4, 4), affine).cosines, turn)
    affine[0, 1] += 1e-3  # a shear
    sheared = Grid((4, 4, 4), affine).cosines
    assert np.allclose(sheared @ sheared.T, np.eye(3))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_cell_aligned_grid_keeps_the_field_of_view(factor):
    source = grid(2.4, origin=(7.0, 8.0, 9.0))
    cells = source.refined(factor, "cell")
    for corner in product((-0.5, 1.0), repeat=3):  # of the field of view: half a voxel beyond the outer centres
        ends = [[c if c < 0 else n - 0.5 for c, n in zip(corner, g.shape, strict=True)] for g in (source, cells)]
        assert np.allclose(source.affine @ [*ends[0], 1], cells.affine @ [*ends[1], 1])
    assert align(source, cells, factor).kind == ("cell" if factor == 2 else "node")


def test_a_wrong_ratio_is_refused_even_where_it_is_nearly_right():
    with pytest.raises(ShapeError, match="voxel ratio of 2"):
        align(grid(2.4, shape=(90, 90, 60)), grid(1.25, shape=(180, 180, 120)), 2)


@pytest.mark.parametrize(
    ("factor", "kind", "edge"), [(1, "node", 11), (1, "cell", 11), (2, "node", 19), (2, "cell", 22)]
)
def test_the_target_patch_of_each_kind_can_be_centred(factor, kind, edge):
    assert target_patch_size(11, factor, kind) == edge
    centre = np.array([9, 9, 9])
    assert (Alignment(factor, kind=kind).corner(centre, edge) >= 0).all()


@pytest.mark.parametrize(
    ("bad", "factor", "words"), [(10, 1, "no centre"), (5, 1, "too small"), (11, 3, "upsampling 3")]
)
def test_patch_sizes_without_a_centre_are_refused(bad, factor, words):
    with pytest.raises(ShapeError, match=words):
        target_patch_size(bad, factor)
