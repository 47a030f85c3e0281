import numpy as np
import pytest

from harmonet.data.phantom import SCALE, Anatomy, Tissue, anatomy, signal
from harmonet.errors import ShapeError

SHAPE = (39, 43, 35)
X, Y, Z = np.eye(3)


@pytest.fixture(scope="module")
def head():
    return anatomy(0, SHAPE)


def voxel(csf=0.0, gm=0.0, fibre=0.0, axis=X):
    """A head of one voxel, made of what is asked for."""
    orientations = np.broadcast_to(np.asarray(axis, dtype=np.float32) / np.linalg.norm(axis), (3, 1, 1, 1, 3))
    fibres = np.zeros((3, 1, 1, 1), dtype=np.float32)
    fibres[0] = fibre
    one = np.ones((1, 1, 1), dtype=np.float32)
    return Anatomy(csf * one, gm * one, fibres, orientations, 0.5 * one, one > 0, np.eye(4), Tissue())


def test_every_voxel_of_the_mask_is_full_and_every_other_is_empty(head):
    total = head.csf + head.gm + head.wm
    np.testing.assert_allclose(total[head.mask], 1, atol=1e-5)
    assert not total[~head.mask].any()
    assert min(head.csf.min(), head.gm.min(), head.fibres.min()) >= 0


def test_each_tissue_takes_a_part_that_a_brain_could_have(head):
    csf, gm, wm = (float(part[head.mask].mean()) for part in (head.csf, head.gm, head.wm))
    assert 0.08 < csf < 0.30
    assert 0.25 < gm < 0.60
    assert 0.25 < wm < 0.60


def test_the_same_seed_gives_the_same_head_and_another_seed_another(head):
    again, other = anatomy(0, SHAPE), anatomy(1, SHAPE)
    assert np.array_equal(again.csf, head.csf)
    assert again.tissue == head.tissue
    assert np.abs(other.wm - head.wm)[head.mask].mean() > 0.05
    assert other.tissue != head.tissue


def test_two_heads_share_their_plan_but_not_their_folds(head):
    other = anatomy(1, SHAPE)
    both = head.mask & other.mask
    assert 0.4 < np.corrcoef(head.wm[both], other.wm[both])[0, 1] < 0.9


@pytest.mark.parametrize(
    ("population", "axis", "least"), [(0, 0, 0.80), (1, 2, 0.75), (2, 1, 0.85)], ids=["across", "up", "along"]
)
def test_each_fibre_population_runs_the_way_of_its_bundle(head, population, axis, least):
    share = head.fibres[population]
    strong = share > 0.5
    assert strong.sum() > 50
    assert np.abs(head.orientations[population][..., axis])[strong].mean() > least


def test_fibre_axes_are_unit_vectors_everywhere(head):
    np.testing.assert_allclose(np.linalg.norm(head.orientations, axis=-1), 1, atol=1e-5)


def test_fibres_cross_in_many_voxels(head):
    second = np.sort(head.fibres, axis=0)[1]
    assert (second > 0.2).sum() > 0.1 * (head.wm > 0.8).sum()


def test_fibres_that_cross_the_midline_arch_upwards_on_both_sides(head):
    x, _, z = np.moveaxis(head.orientations[0], -1, 0)
    slope = z / np.where(np.abs(x) < 1e-6, 1e-6, x)
    middle = SHAPE[0] // 2
    assert slope[middle + 8, SHAPE[1] // 2].mean() > 0.1
    assert slope[middle - 8, SHAPE[1] // 2].mean() < -0.1


def test_free_water_decays_with_its_diffusivity_and_relaxes_with_its_t2():
    values = signal(voxel(csf=1), [0, 1000], [np.zeros(3), X], te=89)[0, 0, 0]
    assert values[0] == pytest.approx(SCALE * np.exp(-89 / 500), rel=1e-5)
    assert values[1] / values[0] == pytest.approx(np.exp(-3), rel=1e-5)


def test_a_fibre_along_1_1_0_is_told_from_its_mirror_image():
    diagonal, mirrored = (X + Y) / np.sqrt(2), (X - Y) / np.sqrt(2)
    along, across = signal(voxel(fibre=1, axis=diagonal), [1200, 1200], [diagonal, mirrored], te=89)[0, 0, 0]
    tissue = Tissue()
    inside, outside = np.exp(-89 / tissue.t2_intra), np.exp(-89 / tissue.t2_extra)
    half = SCALE * tissue.density_wm / 2
    assert along == pytest.approx(half * (inside + outside) * np.exp(-1.2 * 1.7), rel=1e-5)
    assert across == pytest.approx(half * (inside + outside * np.exp(-1.2 * 0.6)), rel=1e-5)


def test_the_sign_of_a_gradient_means_nothing(head):
    direction = np.array([0.6, -0.48, 0.64])
    both = signal(head, [1200, 1200], [direction, -direction], te=89)
    assert np.array_equal(both[..., 0], both[..., 1])


def test_a_shorter_echo_time_changes_white_matter_even_relative_to_its_b0():
    ratio = {}
    for te in (68, 89):
        b0, weighted = signal(voxel(fibre=1), [0, 1200], [np.zeros(3), Y], te=te)[0, 0, 0]
        ratio[te] = weighted / b0
    assert ratio[89] - ratio[68] > 0.01  # water inside axons relaxes more slowly, so its share grows


def test_a_field_on_the_b_values_acts_as_other_b_values_would(head):
    field = np.linspace(0.9, 1.1, SHAPE[0])[:, None, None] * np.ones(SHAPE)
    seen = signal(head, [1000], [X], 89, field)
    for index in (10, SHAPE[0] // 2, 30):
        expected = signal(head, [1000 * field[index, 0, 0]], [X], 89)
        np.testing.assert_allclose(seen[index], expected[index], rtol=1e-5)


def test_the_affine_keeps_the_middle_of_the_head_in_place_whatever_the_grid():
    middles = []
    for shape in (SHAPE, (31, 31, 31)):
        affine = anatomy(0, shape).affine
        middles.append(affine @ np.array([*(np.array(shape) - 1) / 2, 1]))
        np.testing.assert_allclose(affine[:3, :3], 1.2 * np.eye(3))
    np.testing.assert_allclose(*middles)


def test_too_few_voxels_for_a_head_are_refused():
    with pytest.raises(ShapeError, match="at least 24"):
        anatomy(0, (40, 23, 40))
