"""The SH convention: dipy's basis without the legacy signs, a fit that equals dipy's, signs that are seen."""

import numpy as np
import pytest

from harmonet import sh
from harmonet.errors import DataError, ShapeError
from harmonet.representations.sh_signal import SHSignal


def directions(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("order", [0, 2, 4, 6, 8])
def test_orders_and_numbers_of_coefficients_belong_together(order):
    n = sh.n_coefficients(order)
    assert sh.order_of(n) == order
    stops = [s.stop for s in sh.order_slices(order).values()]
    assert stops[-1] == n
    assert [s.stop - s.start for s in sh.order_slices(order).values()] == [2 * l + 1 for l in range(0, order + 1, 2)]


@pytest.mark.parametrize("bad", [1, 3, -2])
def test_an_odd_or_negative_order_is_refused(bad):
    with pytest.raises(ShapeError, match="not an even number"):
        sh.n_coefficients(bad)


@pytest.mark.parametrize("order", [0, 2, 4, 6, 8])
def test_the_fit_equals_dipys(order):
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import sf_to_sh

    vectors = directions(60)
    signal = np.random.default_rng(1).uniform(size=(5, 60))
    ours = signal @ sh.fit_matrix(vectors, order, 0.006).T
    dipys = sf_to_sh(
        signal, Sphere(xyz=vectors), sh_order_max=order, basis_type="descoteaux07", legacy=False, smooth=0.006
    )
    assert np.allclose(ours, dipys, atol=1e-10)


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


def table(n, b=1200):
    return np.full(n, float(b)), directions(n)


def test_encoding_is_the_fit_of_each_row():
    signal = np.random.default_rng(3).uniform(size=(7, 30)).astype(np.float32)
    channels = SHSignal([1200], order=4).encoder(*table(30))(signal)
    assert channels.dtype == np.float32
    assert np.allclose(channels, signal @ sh.fit_matrix(directions(30), 4).T, atol=1e-6)


def test_decoding_gives_the_signal_back():
    representation = SHSignal([1200], order=6, laplace_beltrami=0.0)
    coefficients = np.random.default_rng(4).normal(size=(8, 28)).astype(np.float32)
    signal = representation.decoder(*table(60))(coefficients)
    assert np.allclose(representation.encoder(*table(60))(signal), coefficients, atol=1e-4)


def test_an_order_that_the_directions_cannot_carry_is_refused_with_one_that_they_can():
    with pytest.raises(DataError, match=r"12 directions cannot give SH order 6 \(28 coefficients\): use order 2"):
        SHSignal([1200], order=6).encoder(*table(12))


def test_directions_that_repeat_are_refused():
    bvals, vectors = table(15)
    with pytest.raises(DataError, match="determine 15 of 28"):
        SHSignal([1200], order=6).encoder(np.tile(bvals, 2), np.concatenate([vectors, -vectors]))


def test_the_sidecar_names_basis_and_degree():
    sidecar = SHSignal([1200], order=4).sidecar()
    assert sidecar["OrientationEncoding"]["SphericalHarmonicDegree"] == 4
    assert sidecar["HarmonetBasis"] == {"name": "descoteaux07", "legacy": False, "laplace_beltrami": 0.006}
