"""Metrics: known tensors, dipy's own fits, planted shifts, and the plain loops that fast paths stand for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from harmonet import sh
from harmonet.errors import DataError, NotFoundError, ShapeError
from harmonet.metrics.diffusion import direction_colour, fa, kurtosis, md, mk, principal_angle, tensor
from harmonet.metrics.image import Context, Image, Signal, channels, group, metric_of, shells_of, signals
from harmonet.metrics.levels import (
    at,
    border,
    inside,
    median_squared,
    normalised,
    regions,
    squared,
    squared_bias,
    variance,
    voxels,
    whole,
)
from harmonet.metrics.misalignment import best_shift, find_shift, interior, smooth, smoothed
from harmonet.metrics.patch_error import patch_mse
from harmonet.metrics.rish import rish
from harmonet.metrics.sh_error import sh_mse
from harmonet.metrics.structure import ssim
from harmonet.representations.sh_signal import SHSignal

VOXEL = (2.0, 2.0, 2.0)
DIRECTIONS = sh.spread(60)
PLAIN = Context(VOXEL, {"first": slice(0, 1), "rest": slice(1, 3)})


def ball(edge=14, radius=6.2):
    """(edge, edge, edge) mask that touches no side."""
    places = np.indices((edge,) * 3) - (edge - 1) / 2
    return (places**2).sum(axis=0) < radius**2


def texture(mask, k=1, seed=0, width=1.0):
    """(X, Y, Z, K) smooth random field above 0, 0 outside the mask."""
    noise = np.random.default_rng(seed).normal(size=(*mask.shape, k))
    field = gaussian_filter(noise, (width,) * 3 + (0,), mode="wrap")
    return (5 + field / field.std()) * mask[..., None]


def moved(values, steps):
    """The whole field moved by whole voxels along the axes, with its surroundings."""
    return np.roll(values, steps, axis=(0, 1, 2))


def rows_of(mask, values):
    out = np.zeros((*mask.shape, values.shape[1]))
    out[mask] = values
    return out


def signal_context(shells=(1200.0,), order=8, **changes):
    """A context with 60 directions on each shell, and the encoder that makes its channels."""
    representation = SHSignal(shells, order, 0.0)
    bvals, directions = np.repeat(shells, 60), np.tile(DIRECTIONS, (len(shells), 1))
    signal = Signal(representation.decoder(bvals, directions), bvals, directions)
    context = replace(Context(VOXEL, representation.groups(), signal), **changes)
    return context, representation.encoder(bvals, directions), bvals, directions


def axes(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fibres(directions, bvals, along, parallel=1.7e-3, across=0.3e-3):
    """(V, N) S / S0 of axially symmetric tensors along unit vectors (V, 3)."""
    cosine = along @ directions.T
    return np.exp(-bvals * (across + (parallel - across) * cosine**2)).astype(np.float32)


def fibre_image(along, noise=0.0, shells=(1200.0,), seed=0, **tensors):
    """An image of fibres in a small cube."""
    edge = round(len(along) ** (1 / 3))
    mask = np.ones((edge,) * 3, dtype=bool)
    context, encode, bvals, directions = signal_context(shells)
    measured = fibres(directions, bvals, along, **tensors)
    measured = measured + np.random.default_rng(seed).normal(0, noise, measured.shape).astype(np.float32)
    return Image(rows_of(mask, encode(measured)), mask, context)


# What a metric is


def test_an_image_refuses_what_does_not_fit_together():
    mask = ball()
    with pytest.raises(ShapeError, match="one grid"):
        Image(texture(mask)[..., 0], mask, PLAIN)
    with pytest.raises(ShapeError, match="another grid"):
        Image(texture(mask), mask, replace(PLAIN, labels=np.zeros((2, 2, 2), dtype=int)))
    with pytest.raises(ShapeError, match="no voxel"):
        Image(texture(mask), np.zeros_like(mask), PLAIN)


def test_images_of_different_masks_are_refused():
    mask = ball()
    with pytest.raises(ShapeError, match="one mask"):
        metric_of(channels, at(voxels, squared))(
            Image(texture(mask), mask, PLAIN), Image(texture(mask), ball(radius=5), PLAIN)
        )


def test_a_costly_part_of_an_image_is_made_once():
    image, calls = Image(texture(ball()), ball(), PLAIN), []
    for _ in range(2):
        image.once(calls.append)
    assert calls == [image]


def test_local_squared_errors_are_those_of_the_coefficients():
    mask = ball()
    prediction, truth = Image(texture(mask, 3, 1), mask, PLAIN), Image(texture(mask, 3, 2), mask, PLAIN)
    local = at(voxels, squared)
    assert metric_of(channels, local)(prediction, truth) == pytest.approx(
        sh_mse(prediction.channels, truth.channels, mask)
    )
    for name, where in PLAIN.groups.items():
        error = np.mean((prediction.channels[mask] - truth.channels[mask])[:, where] ** 2)
        assert metric_of(group(name), local)(prediction, truth) == pytest.approx(error)
    with pytest.raises(NotFoundError, match="Did you mean first"):
        group("frist")(truth)


SCALAR = [fa, md, direction_colour, mk, rish(0)]


@pytest.mark.parametrize("feature", SCALAR)
def test_a_scalar_image_has_no_diffusion_and_says_so(feature):
    image = Image(texture(ball()), ball(), PLAIN)
    assert metric_of(feature, at(voxels, squared))(image, image) is None
    assert principal_angle(image, image) is None


# Levels and errors


def test_the_levels_are_worked_out_by_hand():
    mask = np.array([[[True, True, True, True, False]]])
    context = replace(PLAIN, labels=np.array([[[1, 1, 7, 0, 7]]]))
    truth = np.array([2.0, 4.0, 1.0, 5.0, 100.0]).reshape(1, 1, 5, 1)
    prediction = np.array([1.0, 3.0, 3.0, 5.0, -100.0]).reshape(1, 1, 5, 1)
    found = {
        (level.__name__, error.__name__): at(level, error)(prediction, truth, mask, context)
        for level in (voxels, whole, regions)
        for error in (squared, normalised, median_squared)
    }
    assert found == pytest.approx(
        {
            ("voxels", "squared"): 6 / 4,
            ("voxels", "normalised"): (1 / 2 + 1 / 4 - 2 + 0) / 4,
            ("voxels", "median_squared"): 1.0,
            ("whole", "squared"): 0.0,
            ("whole", "normalised"): 0.0,
            ("whole", "median_squared"): 0.0,
            ("regions", "squared"): (1 + 4) / 2,
            ("regions", "normalised"): (1 / 3 - 2) / 2,
            ("regions", "median_squared"): 2.5,
        }
    )


def test_regional_means_are_those_of_a_loop_over_labels():
    mask, rng = ball(), np.random.default_rng(0)
    labels = rng.integers(0, 5, mask.shape) * 1000
    values = texture(mask, 3)
    plain = [values[mask & (labels == label)].mean(axis=0) for label in (1000, 2000, 3000, 4000)]
    np.testing.assert_allclose(regions(values, mask, replace(PLAIN, labels=labels)), plain, rtol=1e-12)


@pytest.mark.parametrize("labels", [None, np.zeros((14, 14, 14), dtype=int)])
def test_without_a_labelled_voxel_there_is_no_regional_error(labels):
    mask = ball()
    assert at(regions, squared)(texture(mask), texture(mask), mask, replace(PLAIN, labels=labels)) is None


def test_normalised_errors_leave_out_what_would_divide_by_nearly_nothing():
    truth = np.array([[1.0], [1.0], [1e-9], [0.0]])
    assert normalised(truth + 0.1, truth) == pytest.approx(-0.1)
    assert normalised(np.ones((2, 1)), np.zeros((2, 1))) is None


def test_bias_and_variance_add_to_the_squared_error_and_keep_apart():
    mask = ball()
    truth, noise = texture(mask, 2, 1)[mask], texture(mask, 2, 2)[mask]
    prediction = truth + noise - noise.mean(axis=0) + [0.5, -0.5]
    assert squared_bias(prediction, truth) == pytest.approx(0.25)
    assert variance(prediction, truth) == pytest.approx(np.mean(noise.var(axis=0)))
    assert squared_bias(prediction, truth) + variance(prediction, truth) == pytest.approx(squared(prediction, truth))


def test_the_global_squared_error_is_the_squared_bias_of_voxels():
    mask = ball()
    maps = texture(mask, 2, 1), texture(mask, 2, 2)
    assert at(whole, squared)(*maps, mask, PLAIN) == pytest.approx(at(voxels, squared_bias)(*maps, mask, PLAIN))


def test_border_and_inside_share_the_mask_between_them():
    mask = np.zeros((5, 9, 9), dtype=bool)
    mask[:, 1:8, 1:8] = True  # along the first axis the image ends where the mask does
    context = replace(PLAIN, voxel_size=(2.5, 2.0, 1.0))
    numbered = (np.arange(mask.size, dtype=float) + 1).reshape(*mask.shape, 1)
    outer, inner = border(3.0)(numbered, mask, context), inside(3.0)(numbered, mask, context)
    assert sorted([*outer[:, 0], *inner[:, 0]]) == sorted(numbered[mask][:, 0])
    deep = np.zeros_like(mask)
    deep[1:4, 2:7, 4:5] = True  # the second voxel of 2.5 and of 2 mm is deeper than 3 mm, the fourth of 1 mm
    assert sorted(inner[:, 0]) == sorted(numbered[deep][:, 0])


def test_an_error_at_the_border_is_seen_there_only():
    mask = ball()
    truth = texture(mask)
    prediction = truth + 3.0 * (mask & ~interior_mask(mask))[..., None]
    assert at(border(2.0), squared)(prediction, truth, mask, PLAIN) > 1
    assert at(inside(5.0), squared)(prediction, truth, mask, PLAIN) == 0
    assert at(inside(100.0), squared)(prediction, truth, mask, PLAIN) is None


def interior_mask(mask):
    from scipy.ndimage import binary_erosion

    return binary_erosion(mask)


# Diffusion


def test_a_known_fibre_gives_its_tensor():
    parallel, across = 1.7e-3, 0.3e-3
    image = fibre_image(np.tile([[1.0, 1.0, 0.0]] / np.sqrt(2), (8, 1)))
    mean = (parallel + 2 * across) / 3
    expected = np.sqrt(1.5 * ((parallel - mean) ** 2 + 2 * (across - mean) ** 2) / (parallel**2 + 2 * across**2))
    assert fa(image)[0, 0, 0, 0] == pytest.approx(expected, abs=2e-3)
    assert md(image)[0, 0, 0, 0] == pytest.approx(1e3 * mean, abs=2e-3)
    colour = direction_colour(image)[0, 0, 0]
    assert colour == pytest.approx(expected * np.array([0.5**0.5, 0.5**0.5, 0]), abs=3e-3)


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.6])  # the last gives signals over 1 and eigenvalues below 0
def test_the_tensors_are_those_of_dipy(noise):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    image = fibre_image(axes(125), noise)
    table = gradient_table(np.r_[0, np.full(60, 1200.0)], bvecs=np.r_[np.zeros((1, 3)), DIRECTIONS])
    theirs = TensorModel(table, fit_method="WLS").fit(np.c_[np.ones(125), np.clip(image.once(signals), 1e-3, 1)])
    ours = tensor(image)
    np.testing.assert_allclose(ours.fa, theirs.fa, atol=1e-8)
    np.testing.assert_allclose(ours.md, 1e3 * theirs.md, atol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(ours.direction * theirs.evecs[:, :, 0], axis=1)), 1, atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_kurtosis_is_that_of_dipy(noise):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dki import DiffusionKurtosisModel

    image = fibre_image(axes(64), noise, shells=(1200.0, 3000.0))
    bvals = np.r_[0, np.repeat([1200.0, 3000.0], 60)]
    table = gradient_table(bvals, bvecs=np.r_[np.zeros((1, 3)), DIRECTIONS, DIRECTIONS])
    data = np.c_[np.ones(64), np.clip(image.once(signals), 1e-3, 1)]
    theirs = DiffusionKurtosisModel(table, fit_method="WLS").fit(data).mk(min_kurtosis=0, max_kurtosis=3)
    np.testing.assert_allclose(mk(image)[image.mask][:, 0], theirs, atol=1e-6)


def test_two_kinds_of_water_have_the_kurtosis_that_they_have_by_hand():
    """Two isotropic diffusivities in equal parts: K = 3 var(D) / mean(D)², small enough for b² to be the last term."""
    mask = np.ones((2, 2, 2), dtype=bool)
    context, encode, bvals, _ = signal_context((200.0, 500.0))
    measured = (np.exp(-bvals * 0.6e-3) + np.exp(-bvals * 1.0e-3)) / 2
    image = Image(rows_of(mask, encode(np.tile(measured, (8, 1)).astype(np.float32))), mask, context)
    assert mk(image)[0, 0, 0, 0] == pytest.approx(3 * 0.2**2 / 0.8**2, abs=0.01)


def test_one_shell_has_no_kurtosis():
    image = fibre_image(axes(8))
    assert mk(image) is None
    assert kurtosis(image) is None


def test_the_tensor_reads_the_lowest_shell_only():
    one, two = fibre_image(axes(8)), fibre_image(axes(8), shells=(1200.0, 3000.0))
    np.testing.assert_allclose(fa(one), fa(two), atol=1e-6)


@pytest.mark.parametrize("turn", [0.0, 10.0, 80.0])
def test_the_angle_between_turned_fibres_is_the_turn(turn):
    along = np.tile([[1.0, 0.0, 0.0]], (8, 1))
    turned = np.tile([[np.cos(np.radians(turn)), np.sin(np.radians(turn)), 0.0]], (8, 1))
    assert principal_angle(fibre_image(-turned), fibre_image(along)) == pytest.approx(turn, abs=0.3)


def test_the_angle_is_measured_only_where_the_truth_has_a_direction():
    isotropic = fibre_image(axes(8), parallel=0.8e-3, across=0.75e-3)
    assert principal_angle(fibre_image(axes(8)), isotropic) is None
    along = axes(8)
    mixed = fibre_image(along)
    mixed.channels[0] = isotropic.channels[0]
    there = fibre_image(along)
    there.channels[0] = fibre_image(axes(8, seed=5)).channels[0]
    assert principal_angle(there, mixed) == pytest.approx(0, abs=0.3)


def test_too_few_directions_are_refused():
    context = signal_context(order=0)[0]
    few = DIRECTIONS[:5]
    signal = Signal(SHSignal((1200.0,), 0).decoder(np.full(5, 1200.0), few), np.full(5, 1200.0), few)
    mask = np.ones((1, 1, 1), dtype=bool)
    image = Image(np.ones((1, 1, 1, 1)), mask, replace(context, signal=signal))
    with pytest.raises(DataError, match=r"the 5 directions .* determine 6 of 7"):
        fa(image)


def test_rish_is_the_energy_of_the_coefficients_of_each_order():
    image = fibre_image(axes(27), noise=0.02)
    energies = sh.rish(image.channels)
    for place, l in enumerate((0, 2, 4, 6, 8)):
        np.testing.assert_allclose(rish(l)(image)[..., 0], energies[..., place], rtol=1e-4, atol=1e-9)
    assert rish(10)(image) is None
    assert rish(0, shell=1)(image) is None


def test_rish_reads_the_shell_that_it_was_asked_for():
    image = fibre_image(axes(8), shells=(3000.0, 1200.0))
    low, high = rish(0)(image), rish(0, shell=1)(image)
    np.testing.assert_allclose(high[..., 0], image.channels[..., 0] ** 2, rtol=1e-5)
    assert (low > high).all()


def test_rish_is_the_same_in_a_turned_head():
    turned = axes(8) @ np.linalg.qr(axes(3, seed=3))[0]
    for l in (0, 2, 4):
        np.testing.assert_allclose(rish(l)(fibre_image(axes(8))), rish(l)(fibre_image(turned)), rtol=0.02)


def test_shells_are_found_lowest_first():
    bvals = np.array([3000.0, 1195, 2990, 1205, 1200])
    found = shells_of(Signal(lambda rows: rows, bvals, np.zeros((5, 3))))
    assert [rows.tolist() for rows in found] == [[1, 3, 4], [0, 2]]


# Misalignment, on planted shifts


@pytest.mark.parametrize("planted", [(1, 0, 0), (0, -1, 0), (0, 0, 1), (1, -1, 1)])
def test_a_planted_shift_is_found_and_forgiven(planted):
    mask = ball()
    whole_head = texture(np.ones_like(mask), 2)
    truth, prediction = whole_head * mask[..., None], moved(whole_head, planted) * mask[..., None]
    plain = at(interior(1), squared)(prediction, truth, mask, PLAIN)
    found = find_shift(prediction, truth, mask, 1)
    assert plain > 0.2
    assert found.error < 1e-20
    assert found.shift == planted
    assert best_shift(1)(prediction, truth, mask, PLAIN) == found.error


def test_a_shift_beyond_the_reach_is_not_forgiven():
    mask = ball()
    whole_head = texture(np.ones_like(mask))
    prediction = moved(whole_head, (2, 0, 0)) * mask[..., None]
    assert best_shift(1)(prediction, whole_head, mask, PLAIN) > 0.2
    assert best_shift(2)(prediction, whole_head, mask, PLAIN) < 1e-20


def test_the_best_of_all_shifts_is_that_of_a_plain_loop():
    mask = ball(10, 4.2)
    prediction, truth = texture(mask, 2, 1), texture(mask, 2, 2)
    kept = at(interior(1), squared)
    plain = min(
        kept(moved(prediction, (-x, -y, -z)), truth, mask, PLAIN)
        for x in (-1, 0, 1)
        for y in (-1, 0, 1)
        for z in (-1, 0, 1)
    )
    assert best_shift(1)(prediction, truth, mask, PLAIN) == pytest.approx(plain, rel=1e-12)


UNSHIFTED = {
    "blurred": lambda values: gaussian_filter(values, (1, 1, 1, 0), mode="wrap"),
    "too bright": lambda values: 1.2 * values,
    "noisy": lambda values: values + np.random.default_rng(9).normal(0, 0.5, values.shape),
}


@pytest.mark.parametrize("wrong", UNSHIFTED)
def test_a_wrong_prediction_that_is_not_shifted_gains_nothing_from_shifts(wrong):
    mask = ball()
    whole_head = texture(np.ones_like(mask))
    truth, prediction = whole_head * mask[..., None], UNSHIFTED[wrong](whole_head) * mask[..., None]
    assert find_shift(prediction, truth, mask, 1) == (
        at(interior(1), squared)(prediction, truth, mask, PLAIN),
        (0, 0, 0),
    )


def test_a_sharp_prediction_that_is_shifted_beats_a_blurred_one_once_shifts_are_forgiven():
    mask = ball()
    whole_head = texture(np.ones_like(mask))
    truth = whole_head * mask[..., None]
    sharp, blurred = moved(whole_head, (1, 1, 0)) * mask[..., None], UNSHIFTED["blurred"](whole_head) * mask[..., None]
    plain, forgiving = at(interior(1), squared), best_shift(1)
    assert plain(sharp, truth, mask, PLAIN) > plain(blurred, truth, mask, PLAIN)
    assert forgiving(sharp, truth, mask, PLAIN) < forgiving(blurred, truth, mask, PLAIN)


def test_equal_shifts_give_the_smallest():
    mask = ball()
    assert find_shift(texture(mask) * 0, texture(mask) * 0, mask, 1) == (0.0, (0, 0, 0))


def test_a_mask_too_small_to_shift_has_no_best_shift():
    mask = np.ones((2, 5, 5), dtype=bool)
    assert best_shift(1)(texture(mask), texture(mask), mask, PLAIN) is None
    assert at(interior(1), squared)(texture(mask), texture(mask), mask, PLAIN) is None


def test_smoothing_forgives_a_shift_of_part_of_a_voxel():
    mask = ball(20, 9)
    whole_head = texture(np.ones_like(mask), width=1.5)
    prediction = shift(whole_head, (0.5, 0, 0, 0), order=3, mode="grid-wrap") * mask[..., None]
    truth = whole_head * mask[..., None]
    plain = at(voxels, squared)(prediction, truth, mask, PLAIN)
    errors = [at(smoothed(sigma), squared)(prediction, truth, mask, PLAIN) for sigma in (1.0, 4.0, 8.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.25 * plain


def test_smoothing_forgives_no_prediction_that_is_wrong_throughout():
    mask = ball()
    truth = texture(mask)
    plain = at(voxels, squared)(1.2 * truth, truth, mask, PLAIN)
    assert at(smoothed(4.0), squared)(1.2 * truth, truth, mask, PLAIN) > 0.9 * plain


def test_after_smoothing_the_truth_is_still_better_than_its_blurred_self():
    mask = ball()
    truth = texture(mask)
    errors = [
        at(smoothed(2.0), squared)(smooth(truth, mask, np.full(3, width)), truth, mask, PLAIN)
        for width in (1e-3, 0.5, 1.0, 2.0)
    ]
    assert errors[0] < 1e-20
    assert errors == sorted(errors)


def test_smoothing_is_in_mm_and_reads_no_voxel_outside_the_mask():
    mask = ball()
    dirty = texture(mask) + 1e6 * ~mask[..., None]
    level = smoothed(3.0)
    np.testing.assert_allclose(level(dirty, mask, PLAIN), level(texture(mask), mask, PLAIN))
    fine = replace(PLAIN, voxel_size=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(smoothed(1.5)(dirty, mask, fine), level(dirty, mask, PLAIN))
    np.testing.assert_allclose(level(np.ones_like(dirty), mask, PLAIN), 1)


def test_regional_means_forgive_a_shift_and_no_wrong_gain():
    mask = ball()
    whole_head = texture(np.ones_like(mask))
    truth = whole_head * mask[..., None]
    halves = replace(PLAIN, labels=1 + (np.indices(mask.shape)[0] > 6).astype(int))
    shifted, brighter = moved(whole_head, (0, 1, 0)) * mask[..., None], 1.2 * truth
    for prediction, low, high in ((shifted, 0.0, 0.05), (brighter, 0.9, 1.1)):
        plain = at(voxels, squared)(prediction, truth, mask, halves)
        assert low <= at(regions, squared)(prediction, truth, mask, halves) / plain <= high


# Structure and patches


def test_structural_similarity_is_one_for_equal_maps_and_falls_with_blur_and_noise():
    mask = ball()
    truth = texture(mask)
    blurred = [ssim(smooth(truth, mask, np.full(3, width)), truth, mask, PLAIN) for width in (1e-3, 0.7, 1.5)]
    assert blurred[0] == pytest.approx(1)
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[2] < 0.8
    assert ssim(truth + 0.5 * texture(mask, seed=1, width=0.1), truth, mask, PLAIN) < 0.95
    assert ssim(truth, np.ones_like(truth), mask, PLAIN) is None


def test_structural_similarity_is_that_of_a_plain_loop():
    mask = ball(9, 3.6)
    prediction, truth = texture(mask, seed=1)[..., 0], texture(mask, seed=2)[..., 0]
    extent = np.ptp(truth[mask])
    places = np.argwhere(mask)
    found = []
    for place in places:
        weights = np.exp(-0.5 * ((places - place) ** 2 / 1.5**2).sum(axis=1))
        weights *= (np.abs(places - place) <= 6).all(axis=1)  # the filter ends at 4 sigma
        p, t = prediction[mask], truth[mask]
        mean_p, mean_t = np.average(p, weights=weights), np.average(t, weights=weights)
        cross = np.average((p - mean_p) * (t - mean_t), weights=weights)
        spread = np.average((p - mean_p) ** 2, weights=weights) + np.average((t - mean_t) ** 2, weights=weights)
        c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
        found.append((2 * mean_p * mean_t + c1) / (mean_p**2 + mean_t**2 + c1) * (2 * cross + c2) / (spread + c2))
    assert ssim(prediction[..., None], truth[..., None], mask, PLAIN) == pytest.approx(np.mean(found), rel=1e-9)


@pytest.mark.parametrize("patch_size", [1, 3, 11])
def test_patch_errors_are_those_of_each_patch_cut_out(patch_size):
    mask = ball(12, 5.2)
    prediction, truth = texture(mask, 3, 1), texture(mask, 3, 2)
    prediction[~mask] = 1e3  # what lies outside the mask counts for nothing
    half = patch_size // 2
    plain = []
    for place in np.argwhere(mask):
        cut = tuple(slice(max(0, x - half), x + half + 1) for x in place)
        plain.append(sh_mse(prediction[cut], truth[cut], mask[cut]))
    np.testing.assert_allclose(patch_mse(prediction, truth, mask, patch_size), plain, rtol=1e-9)
