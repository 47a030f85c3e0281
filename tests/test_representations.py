"""The built-in representations: what comes in comes out, turned heads turn channels, deconvolution is dipy's."""

import json
from itertools import permutations, product

import numpy as np
import pytest

from harmonet import plugins, sh
from harmonet.errors import DataError, RecipeError, ShapeError
from harmonet.representations.csd import CSD, constraint, deconvolve
from harmonet.representations.intensity import Intensity
from harmonet.representations.response import response
from harmonet.representations.sh_sd import SHSD
from harmonet.representations.sh_signal import SHSignal

LEGACY = "ignore:The legacy .* basis:PendingDeprecationWarning"
OCTAHEDRAL = [np.eye(3)[list(p)] * s for p in permutations(range(3)) for s in product([1, -1], repeat=3)]
DIAGONAL = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
OF_ONE_SHELL = [SHSignal, SHSD, CSD]


def random_directions(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spread(n):
    """(n, 3) directions evenly over a hemisphere."""
    z = (np.arange(n) + 0.5) / n
    phi = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return np.column_stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z])


def table(n, b=1200):
    return np.full(n, float(b)), spread(n)


def fibres(directions, axes, b=1200):
    """(V, N) S / S0 of single fibres along `axes` (V, 3), with the default response."""
    cosine = np.atleast_2d(axes) @ directions.T
    return np.exp(-b * (0.3e-3 + 1.4e-3 * cosine**2))


def noisy(directions, n, b=1200, seed=0):
    """(n, N) signals of two fibres and an isotropic part, with noise."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.1, 0.5, size=(2, n, 1))
    two = sum(s * fibres(directions, random_directions(n, seed + i), b) for i, s in enumerate(share, 1))
    rest = (1 - share.sum(axis=0)) * np.exp(-b * rng.uniform(0.5e-3, 2e-3, size=(n, 1)))
    return np.abs(two + rest + rng.normal(scale=0.05, size=two.shape))


# --- SH of the signal


def test_encoding_is_the_fit_of_each_row():
    signal = np.random.default_rng(3).uniform(size=(7, 30)).astype(np.float32)
    channels = SHSignal([1200], order=4).encoder(*table(30))(signal)
    assert channels.dtype == np.float32
    assert np.allclose(channels, signal @ sh.fit_matrix(spread(30), 4).T, atol=1e-6)


@pytest.mark.parametrize("order", [0, 2, 4, 6, 8])
def test_decoding_gives_the_signal_back(order):
    representation = SHSignal([1200], order=order, laplace_beltrami=0.0)
    coefficients = np.random.default_rng(4).normal(size=(8, sh.n_coefficients(order))).astype(np.float32)
    signal = representation.decoder(*table(60))(coefficients)
    assert np.allclose(representation.encoder(*table(60))(signal), coefficients, atol=1e-5)


def two_shells():
    """A table of b = 1200 and 3000 mixed, of 40 and 60 directions, b-values a little off."""
    order = np.random.default_rng(5).permutation(100)
    bvals = np.concatenate([np.full(40, 1195.0), np.full(60, 3010.0)])[order]
    return bvals, np.concatenate([spread(40), spread(60)])[order]


def test_two_shells_stand_one_after_the_other():
    representation = SHSignal([1200, 3000], order=4)
    bvals, directions = two_shells()
    signal = np.random.default_rng(6).uniform(size=(5, 100)).astype(np.float32)
    channels = representation.encoder(bvals, directions)(signal)
    assert representation.channels == 30
    assert channels.shape == (5, 30)
    for shell, columns in ((1195, slice(0, 15)), (3010, slice(15, 30))):
        rows = bvals == shell
        expected = SHSignal([shell], order=4).encoder(bvals[rows], directions[rows])(signal[:, rows])
        assert np.array_equal(channels[:, columns], expected)
    assert representation.groups() == {
        "b = 1200, l = 0": slice(0, 1),
        "b = 1200, l = 2": slice(1, 6),
        "b = 1200, l = 4": slice(6, 15),
        "b = 3000, l = 0": slice(15, 16),
        "b = 3000, l = 2": slice(16, 21),
        "b = 3000, l = 4": slice(21, 30),
    }


def test_two_shells_come_back():
    representation = SHSignal([1200, 3000], order=4, laplace_beltrami=0.0)
    coefficients = np.random.default_rng(7).normal(size=(5, 30)).astype(np.float32)
    signal = representation.decoder(*two_shells())(coefficients)
    assert np.allclose(representation.encoder(*two_shells())(signal), coefficients, atol=1e-5)


def test_a_volume_between_two_shells_belongs_to_the_nearest():
    bvals, directions = np.array([1200.0] * 20 + [1230.0] * 20 + [1280.0] * 20), np.tile(spread(20), (3, 1))
    coefficients = np.zeros((1, 12), dtype=np.float32)
    coefficients[0, [0, 6]] = np.sqrt(4 * np.pi) * np.array([1, 10])
    signal = SHSignal([1200, 1270], order=2).decoder(bvals, directions)(coefficients)
    assert np.allclose(signal[0], [1] * 40 + [10] * 20)


@pytest.mark.parametrize(
    ("bvals", "message"),
    [
        ([1200.0] * 40, "at b = 3000 s/mm² 0 directions cannot give SH order 4"),
        ([1200.0] * 40 + [3000.0] * 10, "at b = 3000 s/mm² 10 directions cannot give SH order 4 .* use order 2"),
    ],
)
def test_a_shell_that_is_missing_or_thin_is_named(bvals, message):
    with pytest.raises(DataError, match=message):
        SHSignal([1200, 3000], order=4).encoder(np.array(bvals), spread(len(bvals)))


def test_a_shell_without_volumes_is_refused_even_at_order_0():
    with pytest.raises(DataError, match="at b = 3000 s/mm² 0 directions cannot give SH order 0"):
        SHSignal([1200, 3000], order=0).encoder(*table(10))


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
def test_an_order_that_the_directions_cannot_carry_is_refused_with_one_that_they_can(kind):
    message = r"12 directions cannot give SH order 6 \(28 coefficients\): use order 2"
    with pytest.raises(DataError, match=message):
        kind([1200], order=6).encoder(*table(12))
    with pytest.raises(DataError, match=message):
        kind([1200], order=6).check_count(12)
    kind([1200], order=6).check_count(28)


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
def test_directions_that_repeat_are_refused(kind):
    bvals, vectors = table(15)
    with pytest.raises(DataError, match="repeat or lie in a plane: they determine 15 of 28"):
        kind([1200], order=6).encoder(np.tile(bvals, 2), np.concatenate([vectors, -vectors]))


def badly_spread():
    vectors = random_directions(30)
    return np.full(30, 1200.0), vectors


def test_badly_spread_directions_are_refused_without_a_penalty_and_taken_with_one():
    condition = sh.condition_number(badly_spread()[1], 6)
    assert condition > 100
    message = (
        rf"30 directions .* SH order 6 has condition number {condition:.0f} .*lower order, or laplace_beltrami 0.006"
    )
    with pytest.raises(DataError, match=message):
        SHSignal([1200], order=6, laplace_beltrami=0).encoder(*badly_spread())
    SHSignal([1200], order=6).encoder(*badly_spread())
    SHSignal([1200], order=4, laplace_beltrami=0).encoder(*badly_spread())


@pytest.mark.parametrize("kind", [SHSignal, SHSD])
@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "0.006", None])
def test_a_penalty_that_is_none_is_refused(kind, weight):
    with pytest.raises(RecipeError, match=r"laplace_beltrami=.* is no penalty: use 0 or more, such as 0\.006\.$"):
        kind([1200], laplace_beltrami=weight)


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
@pytest.mark.parametrize("order", [3, -2, 6.0])
def test_an_order_that_is_no_even_number_is_refused(kind, order):
    with pytest.raises(ShapeError, match=f"SH order {order} is not an even number"):
        kind([1200], order=order)


# --- turned heads


def along(kind, axis, order=6):
    """(C,) the channels of a fibre along `axis`, from the addition theorem."""
    towards = sh.basis_matrix(np.atleast_2d(axis), order)[0]
    return towards * response(1200, order, 1.7e-3, 0.3e-3) if kind is SHSignal else towards


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
def test_a_head_turned_by_any_octahedral_map_has_its_fibres_turned(kind):
    fibre = along(kind, DIAGONAL)
    assert np.abs(fibre - along(kind, [DIAGONAL[0], -DIAGONAL[1], 0])).max() > 0.05  # a flip of one axis is seen
    assert len(OCTAHEDRAL) == 48
    for turn in OCTAHEDRAL:
        assert np.allclose(kind([1200]).turn(turn) @ fibre, along(kind, turn @ DIAGONAL), atol=1e-12)


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
def test_a_head_turned_by_any_rotation_has_its_fibres_turned(kind):
    from scipy.spatial.transform import Rotation

    for turn in Rotation.from_quat(np.random.default_rng(1).normal(size=(5, 4))).as_matrix():
        turned = kind([1200]).turn(turn)
        assert np.allclose(turned @ along(kind, DIAGONAL), along(kind, turn @ DIAGONAL), atol=1e-12)
        assert np.allclose(turned @ turned.T, np.eye(28), atol=1e-12)


def test_each_shell_is_turned_for_itself():
    turn = OCTAHEDRAL[13]
    matrix, one = SHSignal([1200, 3000], order=4).turn(turn), SHSignal([1200], order=4).turn(turn)
    assert np.array_equal(matrix, np.kron(np.eye(2), one))


@pytest.mark.parametrize("kind", OF_ONE_SHELL)
def test_the_channels_of_a_turned_signal_are_the_turned_channels(kind):
    representation, (bvals, directions) = kind([1200]), table(90)
    turn = OCTAHEDRAL[21]
    channels = representation.encoder(bvals, directions)(fibres(directions, DIAGONAL).astype(np.float32))
    turned = representation.encoder(bvals, directions @ turn.T)(fibres(directions, DIAGONAL).astype(np.float32))
    assert np.allclose(channels @ representation.turn(turn).T, turned, atol=0.02 * np.abs(turned).max())
    assert not np.allclose(channels, turned, atol=0.2 * np.abs(turned).max())


# --- the response


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("b", [700, 1200, 3000])
def test_the_response_is_the_one_that_dipy_fits_to_many_directions(b):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.csdeconv import estimate_response
    from dipy.reconst.shm import forward_sdeconv_mat, sh_to_rh, sph_harm_ind_list

    many = spread(4000)
    gradients = gradient_table(np.full(4000, float(b)), bvecs=many)
    m, l = sph_harm_ind_list(8)
    signal = estimate_response(gradients, np.array([1.7e-3, 0.3e-3, 0.3e-3]), 1.0)
    coefficients = np.linalg.lstsq(sh.basis_matrix(many, 12), signal, rcond=None)[0][:45]  # 12: what is above 8 aliases
    expected = forward_sdeconv_mat(sh_to_rh(coefficients, m, l), l).diagonal()
    assert np.allclose(response(b, 8, 1.7e-3, 0.3e-3), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [SHSD, CSD])
@pytest.mark.parametrize(
    ("parallel", "perpendicular"),
    [(1.7, 0.3), (0.3e-3, 1.7e-3), (1e-3, 1e-3), (1.7e-3, -1e-4), (float("nan"), 0.3e-3), ("1.7e-3", 0.3e-3)],
)
def test_a_response_that_no_fibre_has_is_refused(kind, parallel, perpendicular):
    with pytest.raises(RecipeError, match=r"gives no response: use 0 <= perpendicular < parallel <= 0\.01"):
        kind([1200], parallel=parallel, perpendicular=perpendicular)


@pytest.mark.parametrize(("kind", "name"), [(SHSD, "sh_sd"), (CSD, "csd")])
@pytest.mark.parametrize(("shells", "found"), [([1200, 3000], "1200, 3000"), ([], "none")])
def test_deconvolution_refuses_several_shells(kind, name, shells, found):
    with pytest.raises(RecipeError, match=rf"^{name} reads one shell .* found {found} \(s/mm²\): choose one"):
        kind(shells)


# --- linear deconvolution


def standardised(channels):
    return (channels - channels.mean(axis=0)) / channels.std(axis=0)


def test_standardised_orientations_are_the_standardised_signal_up_to_sign():
    bvals, directions = table(60)
    signal = noisy(directions, 300).astype(np.float32)
    ours, theirs = (standardised(kind([1200]).encoder(bvals, directions)(signal)) for kind in (SHSD, SHSignal))
    signs = np.repeat([1, -1, 1, -1], [1, 5, 9, 13])
    assert np.allclose(ours, signs * theirs, atol=1e-4)


@pytest.mark.parametrize("kind", [SHSD, CSD])
def test_the_orientations_of_a_fibre_along_1_1_0_peak_there(kind):
    bvals, directions = table(60)
    channels = kind([1200]).encoder(bvals, directions)(fibres(directions, DIAGONAL).astype(np.float32))
    around = spread(20000)
    amplitudes = sh.basis_matrix(around, 6) @ channels[0]
    assert np.degrees(np.arccos(np.abs(around[amplitudes.argmax()] @ DIAGONAL))) < 2


def test_linear_deconvolution_inverts_dipys_forward_matrix():
    bvals, directions = table(60)
    signal = noisy(directions, 20)
    expected = np.linalg.lstsq(dipys_model(directions)._X, signal.T, rcond=None)[0].T
    ours = SHSD([1200], laplace_beltrami=0.0).encoder(bvals, directions)(signal.astype(np.float32))
    assert np.allclose(ours, sh.convert(expected, "descoteaux07_legacy", sh.BASIS), atol=1e-4)


def test_what_linear_deconvolution_took_away_comes_back():
    bvals, directions = table(60)
    signal = noisy(directions, 20).astype(np.float32)
    deconvolution, series = SHSD([1200]), SHSignal([1200])
    back = deconvolution.decoder(bvals, directions)(deconvolution.encoder(bvals, directions)(signal))
    smooth = series.decoder(bvals, directions)(series.encoder(bvals, directions)(signal))
    assert deconvolution.invertible
    assert np.allclose(back, smooth, atol=1e-6)


# --- constrained deconvolution


def dipys_model(directions, order=6, b=1200):
    """dipy's model with our response."""
    import warnings

    from dipy.core.gradients import gradient_table
    from dipy.reconst.csdeconv import AxSymShResponse, ConstrainedSphericalDeconvModel

    degrees = np.arange(0, order + 1, 2)
    by_l = response(b, order, 1.7e-3, 0.3e-3)[[s.start for s in sh.order_slices(order).values()]]
    zonal = by_l * np.sqrt((2 * degrees + 1) / (4 * np.pi))
    gradients = gradient_table(np.full(len(directions), float(b)), bvecs=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its legacy basis
        return ConstrainedSphericalDeconvModel(gradients, AxSymShResponse(1.0, zonal), sh_order_max=order)


@pytest.mark.parametrize(
    ("order", "n", "b"), [(0, 30, 1200), (2, 30, 1200), (4, 30, 1200), (6, 30, 1200), (6, 60, 3000), (8, 60, 1200)]
)
def test_constrained_deconvolution_is_dipys(order, n, b):
    directions = spread(n)
    signal = np.concatenate([noisy(directions, 320, b), fibres(directions, random_directions(5), b), np.zeros((1, n))])
    expected = dipys_model(directions, order, b).fit(signal).shm_coeff
    by_l = response(b, order, 1.7e-3, 0.3e-3)
    ours = deconvolve(signal, sh.basis_matrix(directions, order) * by_l, constraint(order, by_l[0]))
    assert np.allclose(ours, sh.convert(expected, "descoteaux07_legacy", sh.BASIS), rtol=0, atol=1e-10)


def test_coefficients_that_the_directions_leave_open_are_held_as_dipy_holds_them():
    from dipy.reconst.csdeconv import csdeconv

    directions, amplitudes = spread(30), constraint(6, 1.0)
    forward = sh.basis_matrix(directions, 6) * np.repeat([1.0, 1.0, 0.0, 0.0], [1, 5, 9, 13])
    signal = noisy(directions, 50)
    expected = [csdeconv(row, forward, amplitudes)[0] for row in signal]
    assert np.allclose(deconvolve(signal, forward, amplitudes), expected, rtol=1e-7, atol=1e-9)


def test_a_set_that_never_stays_ends_after_dipys_number_of_rounds(monkeypatch):
    import harmonet.representations.csd as module

    directions = spread(60)
    signal, by_l = noisy(directions, 40), response(1200, 6, 1.7e-3, 0.3e-3)
    forward, amplitudes = sh.basis_matrix(directions, 6) * by_l, constraint(6, by_l[0])
    settled = deconvolve(signal, forward, amplitudes)
    monkeypatch.setattr(module, "ROUNDS", 2)
    model = dipys_model(directions)
    model.convergence = 2
    with pytest.warns(UserWarning, match="failed to converge"):
        expected = model.fit(signal).shm_coeff
    stopped = deconvolve(signal, forward, amplitudes)
    assert not np.allclose(stopped, settled)
    assert np.allclose(stopped, sh.convert(expected, "descoteaux07_legacy", sh.BASIS), rtol=0, atol=1e-10)


def test_constrained_orientations_are_hardly_negative_where_linear_ones_are():
    bvals, directions = table(60)
    signal = noisy(directions, 100).astype(np.float32)
    around = sh.basis_matrix(spread(500), 6).T
    lowest = {kind: (kind([1200]).encoder(bvals, directions)(signal) @ around).min() for kind in (SHSD, CSD)}
    assert lowest[CSD] > 0.2 * lowest[SHSD]
    assert lowest[SHSD] < -0.2


def test_constrained_deconvolution_decodes_to_the_signal_that_its_orientations_explain():
    bvals, directions = table(60)
    representation, model = CSD([1200]), dipys_model(directions)
    signal = noisy(directions, 20)
    channels = representation.encoder(bvals, directions)(signal.astype(np.float32))
    assert channels.dtype == np.float32
    explained = model.fit(signal).shm_coeff @ model._X.T
    assert not representation.invertible
    assert np.allclose(representation.decoder(bvals, directions)(channels), explained, atol=1e-5)


# --- scalar images


def test_an_intensity_is_left_as_it_is():
    representation, rows = Intensity([1200]), np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32)
    one = np.zeros(1), np.zeros((1, 3))
    assert (representation.channels, representation.uses_gradients, representation.invertible) == (1, False, True)
    assert np.array_equal(representation.encoder(*one)(rows), rows)
    assert np.array_equal(representation.decoder(np.zeros(0), np.zeros((0, 3)))(rows), rows)
    assert representation.groups() == {"intensity": slice(0, 1)}
    assert np.array_equal(representation.turn(OCTAHEDRAL[7]), [[1.0]])


def test_an_image_of_several_volumes_has_no_one_intensity():
    with pytest.raises(DataError, match="an image of 30 volumes has no one intensity: use a scalar image"):
        Intensity().encoder(*table(30))


# --- cards and sidecars


@pytest.mark.parametrize(
    ("name", "channels", "suffix", "measure"),
    [
        ("sh_signal", 28, "sh", "SH coefficients of S/S0"),
        ("sh_sd", 28, "sh", "SH coefficients of fibre orientations"),
        ("csd", 28, "sh", "SH coefficients of fibre orientations"),
        ("intensity", 1, "intensity", "intensity"),
    ],
)
def test_every_card_builds_what_it_says(name, channels, suffix, measure):
    entry = plugins.representation(name)
    built = entry.load()((1200.0,), **entry.options())
    assert (built.channels, built.suffix, built.measure) == (channels, suffix, measure)
    stops = [s.stop for s in built.groups().values()]
    assert stops == sorted(stops)
    assert stops[-1] == channels
    assert ("no way back" in entry.summary) == (not built.invertible)
    json.dumps(built.sidecar(), allow_nan=False)


def test_the_sidecar_names_basis_and_degree():
    sidecar = SHSignal([1200], order=4).sidecar()
    assert sidecar["OrientationEncoding"]["SphericalHarmonicDegree"] == 4
    assert sidecar["OrientationEncoding"]["SphericalHarmonicBasis"] == "descoteaux07"
    assert sidecar["HarmonetBasis"] == {"name": "descoteaux07", "legacy": False, "laplace_beltrami": 0.006}


@pytest.mark.parametrize("kind", [SHSD, CSD])
def test_the_sidecar_of_a_deconvolution_gives_its_response(kind):
    sidecar = kind([1200]).sidecar()
    assert sidecar["ResponseFunction"] == {"Type": "eigen", "Coefficients": [1.7e-3, 0.3e-3, 0.3e-3, 1.0]}
    assert sidecar["Shells"] == [1200]
    assert sidecar["HarmonetBasis"]["name"] == "descoteaux07"
    assert ("non-negative" in sidecar["ModelDescription"]) == (kind is CSD)
