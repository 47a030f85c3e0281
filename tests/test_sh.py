"""The SH convention: dipy's basis without the legacy signs, a fit that equals dipy's, exact ways to other bases."""

import numpy as np
import pytest

from harmonet import sh
from harmonet.errors import NotFoundError, ShapeError

ORDERS = [0, 2, 4, 6, 8]
LEGACY = "ignore:The legacy .* basis:PendingDeprecationWarning"


def directions(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("order", ORDERS)
def test_orders_and_numbers_of_coefficients_belong_together(order):
    n = sh.n_coefficients(order)
    assert sh.order_of(n) == order
    stops = [s.stop for s in sh.order_slices(order).values()]
    assert stops[-1] == n
    assert [s.stop - s.start for s in sh.order_slices(order).values()] == [2 * l + 1 for l in range(0, order + 1, 2)]


@pytest.mark.parametrize("bad", [1, 3, -2, 6.0])
def test_an_order_that_is_no_even_whole_number_is_refused(bad):
    with pytest.raises(ShapeError, match="not an even number"):
        sh.n_coefficients(bad)


@pytest.mark.parametrize("order", ORDERS)
def test_the_fit_equals_dipys(order):
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import sf_to_sh

    vectors = directions(60)
    signal = np.random.default_rng(1).uniform(size=(5, 60))
    ours = signal @ sh.fit_matrix(vectors, order, 0.006).T
    dipys = sf_to_sh(
        signal, Sphere(xyz=vectors), sh_order_max=order, basis_type="descoteaux07", legacy=False, smooth=0.006
    )
    assert np.allclose(ours, dipys, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("order", ORDERS)
def test_the_fit_equals_the_one_in_dipys_q_ball_model(order):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.shm import QballModel
    from scipy.special import eval_legendre

    vectors = directions(60)
    signal = np.random.default_rng(1).uniform(size=(5, 60))
    model = QballModel(gradient_table(np.full(60, 1200.0), bvecs=vectors), order, smooth=0.006, assume_normed=True)
    q_ball = sh.convert(model.fit(signal).shm_coeff, "descoteaux07_legacy", sh.BASIS)
    by_l = np.concatenate([np.full(2 * l + 1, eval_legendre(l, 0)) for l in range(0, order + 1, 2)])  # Funk-Radon
    assert np.allclose(signal @ sh.fit_matrix(vectors, order, 0.006).T * by_l, q_ball, rtol=0, atol=1e-12)


def test_a_signal_within_the_series_is_recovered_without_penalty():
    vectors = directions(60)
    coefficients = np.random.default_rng(2).normal(size=28)
    signal = sh.basis_matrix(vectors, 6) @ coefficients
    assert np.allclose(sh.fit_matrix(vectors, 6, 0.0) @ signal, coefficients, atol=1e-9)


def test_the_first_coefficient_is_the_mean_signal_times_root_4_pi():
    signal = np.full(30, 0.4452)
    assert (sh.fit_matrix(directions(30), 6) @ signal)[0] == pytest.approx(0.4452 * np.sqrt(4 * np.pi), rel=1e-6)


def test_a_fibre_along_1_1_0_is_told_from_one_along_1_minus_1_0():
    vectors = directions(400)

    def fit(fibre):
        fibre = np.asarray(fibre) / np.linalg.norm(fibre)
        return sh.fit_matrix(vectors, 6, 0.0) @ np.exp(-2.0 * (vectors @ fibre) ** 2)

    one, other = fit([1, 1, 0]), fit([1, -1, 0])
    assert np.abs(one - other).max() > 0.1
    assert np.allclose(sh.rish(one), sh.rish(other), atol=1e-2)  # energies cannot tell them apart


def test_rish_is_the_energy_of_each_order():
    coefficients = np.arange(28.0)
    expected = [np.sum(coefficients[s] ** 2) for s in (slice(0, 1), slice(1, 6), slice(6, 15), slice(15, 28))]
    assert np.allclose(sh.rish(coefficients), expected)


def dipys_basis(name, vectors, order):
    """(N, C) dipy's own functions."""
    from dipy.core.geometry import cart2sphere
    from dipy.reconst.shm import real_sh_descoteaux, real_sh_tournier

    _, theta, phi = cart2sphere(*vectors.T)
    function = real_sh_descoteaux if "descoteaux" in name else real_sh_tournier
    return function(order, theta, phi, legacy="legacy" in name)[0]


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("basis", sh.BASES)
def test_every_basis_is_dipys(basis, order):
    vectors = directions(50)
    assert np.allclose(sh.basis_matrix(vectors, order, basis), dipys_basis(basis, vectors, order), rtol=0, atol=1e-14)


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("target", sh.BASES)
@pytest.mark.parametrize("source", sh.BASES)
def test_converted_coefficients_are_those_of_the_same_function(source, target, order):
    vectors = directions(50)
    given = np.random.default_rng(5).normal(size=(2, 3, sh.n_coefficients(order)))
    converted = sh.convert(given, source, target)
    before, after = (dipys_basis(name, vectors, order) for name in (source, target))
    assert np.allclose(converted @ after.T, given @ before.T, rtol=0, atol=1e-13)
    assert np.allclose(sh.convert(converted, target, source), given, rtol=1e-15, atol=0)


def test_converting_keeps_single_precision_and_moves_the_signs_exactly():
    given = np.random.default_rng(6).normal(size=(4, 28)).astype(np.float32)
    converted = sh.convert(given, "descoteaux07", "mrtrix3")
    assert converted.dtype == np.float32
    assert np.array_equal(np.sort(np.abs(converted)), np.sort(np.abs(given)))
    assert np.array_equal(sh.convert(converted, "mrtrix3", "descoteaux07"), given)


def test_converting_agrees_with_dipys_own_converters():
    from dipy.reconst.shm import convert_sh_descoteaux_tournier, convert_sh_to_legacy

    given = np.random.default_rng(7).normal(size=(3, 45))
    legacy = convert_sh_to_legacy(given, "descoteaux07")
    assert np.array_equal(sh.convert(given, "descoteaux07", "descoteaux07_legacy"), legacy)
    assert np.array_equal(sh.convert(given, "descoteaux07", "tournier07"), convert_sh_descoteaux_tournier(legacy))


def test_energies_survive_every_orthonormal_basis_but_not_the_old_tournier():
    given = np.random.default_rng(8).normal(size=28)
    for basis in ("descoteaux07_legacy", "tournier07", "mrtrix3"):
        assert np.allclose(sh.rish(sh.convert(given, sh.BASIS, basis)), sh.rish(given))
    assert not np.allclose(sh.rish(sh.convert(given, sh.BASIS, "tournier07_legacy")), sh.rish(given))


@pytest.mark.parametrize("name", ["tournier", "mrtrix", None])
def test_an_unknown_basis_is_refused_with_the_nearest(name):
    with pytest.raises(NotFoundError, match=r"no SH basis .* Known: .*mrtrix3"):
        sh.convert(np.zeros(6), sh.BASIS, name)
    with pytest.raises(NotFoundError, match="no SH basis"):
        sh.basis_matrix(directions(3), 2, name)


@pytest.mark.parametrize(("basis", "name"), [("descoteaux07_legacy", "Descoteaux"), ("tournier07", "MRtrix3")])
def test_a_name_of_bep016_stands_for_its_formula(basis, name):
    from math import factorial

    from scipy.special import lpmv

    vectors = directions(40)
    theta, phi = np.arccos(vectors[:, 2]), np.arctan2(vectors[:, 1], vectors[:, 0])
    below, above = (np.real, np.imag) if name == "Descoteaux" else (np.imag, np.real)
    columns = []
    for l in (0, 2, 4):
        for m in range(-l, l + 1):
            k = abs(m)
            norm = np.sqrt((2 * l + 1) / (4 * np.pi) * factorial(l - k) / factorial(l + k) * (2 if m else 1))
            value = norm * lpmv(k, l, np.cos(theta)) * np.exp(1j * k * phi)
            columns.append(value.real if m == 0 else below(value) if m < 0 else above(value))
    assert sh.BEP016[basis] == name
    assert np.allclose(sh.basis_matrix(vectors, 4, basis), np.column_stack(columns), atol=1e-13)


def test_our_basis_has_no_name_in_bep016_and_takes_none():
    assert sh.orientation_encoding(6)["SphericalHarmonicBasis"] == "descoteaux07"


def test_a_rotation_of_coefficients_is_the_rotation_of_the_function():
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec([0.5, -1.1, 0.8]).as_matrix()
    vectors, coefficients = directions(40), np.random.default_rng(9).normal(size=28)
    turned = sh.rotation(turn, 6) @ coefficients
    assert np.allclose(
        sh.basis_matrix(vectors @ turn.T, 6) @ turned, sh.basis_matrix(vectors, 6) @ coefficients, atol=1e-11
    )


def test_few_and_badly_spread_directions_have_a_high_condition_number():
    good, bad = directions(400), directions(400) * [1, 1, 0.05]
    bad /= np.linalg.norm(bad, axis=1, keepdims=True)
    assert sh.condition_number(good, 6) < 3
    assert sh.condition_number(bad, 6) > sh.WORST_CONDITION
