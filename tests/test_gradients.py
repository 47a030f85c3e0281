"""Gradient tables: read strictly, and brought to world axes with the right signs."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from harmonet.data.gradients import (
    MAX_TABLE,
    check_gradients,
    distinct_directions,
    from_world,
    read_bvals,
    read_bvecs,
    shells,
    to_world,
    write_gradients,
)
from harmonet.errors import DataError, OutputError

DIAGONAL = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)


def storage_orders():
    """The 48 ways to store one brain: affines whose axes are permuted and flipped world axes."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3)[:, order] * signs) * (2.0, 2.5, 3.0)
        yield pytest.param(affine, id="".join(("RAS", "LPI")[s < 0][o] for o, s in zip(order, signs, strict=True)))


def fsl_table(direction, affine):
    """What FSL writes for a world direction, from its definition: along voxel axes, x reversed if det > 0."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = np.array([axes[:, i] @ direction for i in range(3)])
    if np.linalg.det(affine[:3, :3]) > 0:
        along[0] = -along[0]
    return along[None]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ["0 1200 1200\n", "0\t1200\t1200", "0\n1200\n1200\n\n", "\ufeff0 1200 1.2e3 \n", " 0  1200\r\n1200\r\n"]
)
def test_b_values_may_lie_on_one_line_or_many(tmp_path, text):
    assert read_bvals(write(tmp_path / "b", text)).tolist() == [0, 1200, 1200]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0, 1200", "'0,' on line 1"),
        ("bval\n0\n1200", "'bval' on line 1"),
        ("0 1200\n1_200", "'1_200' on line 2"),  # Python reads 1200
        ("0 1\u0662\u0660\u0660", "on line 1"),  # and here, in Arabic digits, too
        ("0 nan", "b-value nan for volume 1"),
        ("0 inf", "b-value inf for volume 1"),
        ("0 1200 -1200", "b-value -1200 for volume 2"),
        ("0 1.2 1.2", "look like ms/µm²"),
        ("  \n", "no numbers"),
        ("", "empty"),
        ("<html><body>", "web page"),
        ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_unusable_b_values_are_refused_by_name(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as error:
        read_bvals(write(tmp_path / "my.bval", text))
    assert "my.bval" in str(error.value)


def test_a_file_far_too_large_for_a_table_is_not_read(tmp_path):
    with (tmp_path / "my.bval").open("wb") as file:
        file.write(b"0 1200 ")
        file.truncate(MAX_TABLE + 1)
    with pytest.raises(DataError, match=r"my\.bval has more than 16 MB"):
        read_bvals(tmp_path / "my.bval")


def test_a_missing_table_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"my\.bval does not exist"):
        read_bvals(tmp_path / "my.bval")


def test_b_vectors_may_lie_in_three_rows_or_three_columns(tmp_path):
    rows = read_bvecs(write(tmp_path / "r", "0 1 0 0\n0 0 1 0\n0 0 0 1\n"), 4)
    columns = read_bvecs(write(tmp_path / "c", "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"), 4)
    assert rows.tolist() == columns.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_three_by_three_is_read_as_fsl_writes_it(tmp_path):
    assert read_bvecs(write(tmp_path / "v", "0 1 0\n0 0 1\n0 0 0\n"), 3).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("text", "n", "words"),
    [
        ("0 1\n0 0\n0 0\n", 3, "2 b-vectors for 3 b-values"),
        ("0 0 0\n1 0 0\n0 1 0\n0 0 1\n", 5, "4 b-vectors for 5 b-values"),
        ("0 1\n0 0\n", 2, "2 lines of 2 numbers"),
        ("0 1\n0 0\n0\n", 2, "1 to 2 numbers"),
        ("x y z\n0 0 0\n", 1, "'x' on line 1"),
    ],
)
def test_tables_of_another_shape_are_refused_with_both_counts(tmp_path, text, n, words):
    with pytest.raises(DataError, match=words):
        read_bvecs(write(tmp_path / "v", text), n)


def test_lengths_within_one_percent_are_mended_and_b0_rows_emptied():
    bvals = np.array([0, 5, 1200, 1200])
    bvecs = np.array([[np.nan] * 3, [0.3, 0, 0], [1.005, 0, 0], [0, 0.6, 0.8]])
    cleaned = check_gradients(bvals, bvecs, Path("v"))
    np.testing.assert_allclose(cleaned, [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]], atol=1e-15)


@pytest.mark.parametrize("bad", [[0, 0, 0], [np.nan, 0, 1], [0.98, 0, 0], [0, 2, 0], [np.inf, 0, 0]])
def test_a_weighted_volume_without_a_unit_vector_is_refused_with_its_number(bad):
    bvecs = np.array([[0, 0, 0], [1.0, 0, 0], bad])
    with pytest.raises(DataError, match=r"table\.bvec .* volume 2"):
        check_gradients(np.array([0.0, 1200, 1200]), bvecs, Path("table.bvec"))


@pytest.mark.parametrize("affine", list(storage_orders()))
def test_a_fibre_has_one_world_direction_in_every_storage_order(affine):
    np.testing.assert_allclose(to_world(fsl_table(DIAGONAL, affine), affine), DIAGONAL[None], atol=1e-12)


@pytest.mark.parametrize(
    ("zooms", "table"),
    [
        ((2, 2, 2), (-1, 1, 0)),  # RAS, det > 0: x reversed
        ((-2, 2, 2), (-1, 1, 0)),  # LAS, as FSL would have it: x runs to the left
        ((-2, -2, 2), (1, -1, 0)),  # LPS, det > 0: x runs to the left and is reversed
        ((2, -2, 2), (1, -1, 0)),  # RPS, det < 0
    ],
)
def test_the_sign_of_x_follows_fsl(zooms, table):
    world = to_world(np.array([table]) / np.sqrt(2), np.diag([*zooms, 1.0]))
    np.testing.assert_allclose(world, DIAGONAL[None], atol=1e-12)


@st.composite
def affines(draw):
    number = st.floats(-1, 1, width=32)
    rotation = Rotation.from_rotvec([3 * draw(number) for _ in range(3)]).as_matrix()
    zooms = [draw(st.floats(0.5, 4)) * draw(st.sampled_from([-1, 1])) for _ in range(3)]
    affine = np.eye(4)
    shear = np.eye(3)
    shear[0, 1] = 0.2 * draw(number)
    affine[:3, :3] = rotation @ shear @ np.diag(zooms)
    return affine


@settings(deadline=None)
@given(affines())
def test_world_and_table_undo_each_other_and_keep_angles(affine):
    directions = np.array([DIAGONAL, [0, 0.6, 0.8], [0, 0, 0], [-1, 0, 0]])
    np.testing.assert_allclose(to_world(from_world(directions, affine), affine), directions, atol=1e-12)
    world = to_world(directions, affine)
    np.testing.assert_allclose(world @ world.T, directions @ directions.T, atol=1e-12)


@settings(deadline=None)
@given(affines())
def test_an_oblique_grid_turns_the_table_as_it_turns_the_voxels(affine):
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    world = to_world(np.array([[0.0, 0.0, 1.0]]), affine)[0]
    assert world @ axes[:, 2] > 0.98  # exact without shear, at most a few degrees with it


@pytest.mark.parametrize(
    ("bvals", "expected"),
    [
        ([0, 1200, 1200], (1200,)),
        ([0, 50, 995, 1000, 1005, 2990, 3010], (1000, 3000)),
        ([5000, 0, 3000, 1200], (1200, 3000, 5000)),
        ([0, 0], ()),
    ],
)
def test_shells_are_told_apart_and_rounded(bvals, expected):
    assert shells(np.array(bvals, dtype=float)) == expected


def test_opposite_directions_count_once():
    assert distinct_directions(np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=float)) == 2
    assert distinct_directions(np.zeros((4, 3))) == 0


def test_a_written_table_reads_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(7, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.array([0, 1200, 1200.5, 3000, 3000, 700, 5])
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", bvals, bvecs)
    np.testing.assert_array_equal(read_bvals(tmp_path / "a.bval"), bvals)
    np.testing.assert_allclose(read_bvecs(tmp_path / "a.bvec", 7), bvecs, atol=1e-10)
    assert len((tmp_path / "a.bvec").read_text().splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bval", "a.bvec"]


@pytest.mark.parametrize("bvecs", [np.zeros((2, 3)), np.full((3, 3), np.nan), np.zeros((3, 2))])
def test_what_is_no_table_is_not_written(tmp_path, bvecs):
    with pytest.raises(OutputError):
        write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", np.zeros(3), bvecs)
    assert not list(tmp_path.iterdir())
