import hashlib
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harmonet import sh
from harmonet.data.acquisition import Acquisition
from harmonet.data.degrade import Effect, coarser, degrade, one_shell, scanned, split_directions, white_matter
from harmonet.data.layout import open_dataset
from harmonet.data.numbers import Numbers
from harmonet.data.phantom import anatomy, signal
from harmonet.data.scan import read_scan
from harmonet.data.simulate import spread_directions
from harmonet.data.slabs import slabs_of
from harmonet.data.writing import Place
from harmonet.errors import DataError, NotFoundError, OutputError
from harmonet.platforms import align

PLATFORMS = ("ge_st", "prisma_st", "connectom_st", "connectom_sa")


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def acquisition(tmp_path_factory):
    """One head on disk, with an even size, two b = 0 volumes and anisotropic voxels, stored as LAS."""
    folder = tmp_path_factory.mktemp("real") / "head"
    head = anatomy(0, (33, 44, 31))
    directions = np.concatenate([np.zeros((2, 3)), spread_directions(24, 7)])
    bvals = np.r_[0, 0, np.full(24, 1000.0)]
    stretched = head.affine @ np.diag([1.0, 1.0, 1.25, 1.0])
    place = Place(folder, stretched, head.mask, bvals, directions, "LAS")
    place.write_tables(te=80)
    image = signal(head, bvals, directions, te=80)
    image += 5 * np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    place.write("dwi", np.abs(image))
    return Acquisition(
        "head", "real", *(folder / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz", "dwi.TE"))
    )


@pytest.fixture(scope="module")
def scan(acquisition):
    return read_scan(acquisition)


@pytest.fixture(scope="module")
def whole(acquisition, tmp_path_factory):
    out = tmp_path_factory.mktemp("degraded") / "heads"
    degrade(out, acquisition, seed=1)
    return out


def test_source_and_targets_share_no_volume(scan):
    source, target = split_directions(scan)
    assert (source.is_dwi.sum(), target.is_dwi.sum()) == (12, 12)
    assert ((~source.is_dwi).sum(), (~target.is_dwi).sum()) == (1, 1)
    for volume in np.moveaxis(source.signal, -1, 0):
        assert not any(np.array_equal(volume, other) for other in np.moveaxis(target.signal, -1, 0))


def test_both_halves_of_the_directions_are_well_spread(scan):
    halves = [half.directions[half.is_dwi] for half in split_directions(scan)]
    naive = scan.directions[scan.is_dwi][:12]
    for half in halves:
        assert sh.condition_number(half, 2) < min(3, sh.condition_number(naive, 2))
    together = {tuple(np.round(axis, 6)) for half in halves for axis in half}
    assert together == {tuple(np.round(axis, 6)) for axis in scan.directions[scan.is_dwi]}


def test_the_shell_nearest_to_the_presets_is_used(scan):
    bvals = scan.bvals.copy()
    bvals[2:14] = 3000
    chosen = one_shell(replace(scan, bvals=bvals), 1200)
    assert sorted(set(chosen.bvals)) == [0, 1000]
    assert chosen.signal.shape[3] == 14


def test_too_few_directions_to_share_are_refused(scan):
    bvals = scan.bvals.copy()
    bvals[2:15] = 3000
    with pytest.raises(DataError, match=r"takes 12; head real has 11 at b = 1000"):
        one_shell(replace(scan, bvals=bvals), 1200)


def blob(scan, centre):
    """The scan with a Gaussian of 5 voxels' width around a voxel in every volume."""
    places = np.meshgrid(*[np.arange(n) for n in scan.mask.shape], indexing="ij")
    distance = sum((place - at) ** 2 for place, at in zip(places, centre, strict=True))
    image = np.exp(-distance / (2 * 2.5**2)).astype(np.float32)
    return replace(scan, numbers=Numbers(np.repeat(image[..., None], len(scan.bvals), axis=3)))


def centre_of_mass(scan):
    image = scan.signal[..., 0]
    places = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), axis=-1)
    middle = (places * image[..., None]).sum(axis=(0, 1, 2)) / image.sum()
    return (scan.grid.affine @ np.append(middle, 1))[:3]


def test_a_coarse_image_lies_where_the_fine_one_does(scan):
    fine = blob(scan, (16, 21, 15))
    coarse = coarser(fine)
    assert coarse.mask.shape == (17, 22, 16)
    np.testing.assert_allclose(centre_of_mass(coarse), centre_of_mass(fine), atol=0.02)
    assert align(coarse.grid, fine.grid, 2).offset == (0, 0, 0)


def test_coarser_keeps_what_is_even_and_takes_away_what_alternates_in_plane(scan):
    stripes = np.where(np.arange(44) % 2, 2.0, 0.0).astype(np.float32)[None, :, None, None]
    image = np.broadcast_to(stripes, scan.signal.shape)
    np.testing.assert_allclose(coarser(replace(scan, numbers=Numbers(image))).signal, 1, atol=1e-5)


def test_slices_are_averaged_along_the_axis_in_which_they_were_stored(scan):
    # Half the Nyquist frequency: a slice profile halves it, k-space is cut there.
    wave = np.broadcast_to(1 + np.cos(np.pi / 2 * np.arange(31, dtype=np.float32))[:, None], scan.signal.shape)
    axial = coarser(replace(scan, numbers=Numbers(wave))).signal[8, 10, 4:12, 0]
    np.testing.assert_allclose(np.abs(axial - 1), 0.5, atol=1e-5)
    turned = replace(scan.stored, affine=scan.stored.affine[:, [1, 2, 0, 3]])
    sagittal = coarser(replace(scan, stored=turned, numbers=Numbers(wave))).signal[8, 10, 4:12, 0]
    assert np.abs(sagittal - 1).max() < 0.25


def test_a_scanner_without_effects_changes_nothing(scan):
    same = scanned(scan, Effect(None, bias=0.0), np.random.default_rng(0))
    np.testing.assert_allclose(same.signal, scan.signal, rtol=1e-5)


def test_orders_are_scaled_by_about_what_was_asked(scan):
    changed = scanned(scan, Effect(None, orders=(1.05, 0.93, 0.85), bias=0.0), np.random.default_rng(0))
    fit = sh.fit_matrix(scan.directions[scan.is_dwi], 4, laplace_beltrami=0.0)
    before, after = (one.signal[..., one.is_dwi][one.mask] @ fit.T for one in (scan, changed))
    for (l, part), (least, most) in zip(
        sh.order_slices(4).items(), [(1.02, 1.08), (0.88, 0.98), (0.75, 0.97)], strict=True
    ):
        ratio = (before[:, part] * after[:, part]).sum() / (before[:, part] ** 2).sum()
        assert least < ratio < most, f"l = {l}"
    np.testing.assert_array_equal(changed.b0(), scan.b0())


def test_a_smaller_b_value_is_a_power_of_the_signal(scan):
    changed = scanned(scan, Effect(None, b_error=0.9, bias=0.0), np.random.default_rng(0))
    usable = scan.mask & (scan.normalised().mean(axis=-1) < 0.9) & (scan.normalised().min(axis=-1) > 0.05)
    power = np.log(changed.normalised()[usable]) / np.log(scan.normalised()[usable])
    assert np.median(power) == pytest.approx(0.9, abs=0.05)
    assert power.std() > 0.003  # smooth in space, not one number
    assert power.max() < 1


def test_white_matter_is_found_where_the_phantom_has_it(scan):
    assert anatomy(0, (33, 44, 31)).wm[white_matter(scan)].mean() > 0.8


def test_noise_has_the_asked_ratio_to_the_b0_of_white_matter(scan):
    noisy = scanned(scan, Effect(10, bias=0.0), np.random.default_rng(0))
    added = (noisy.signal - scan.signal)[..., ~scan.is_dwi][scan.mask]
    level = np.median(scan.b0()[anatomy(0, (33, 44, 31)).wm > 0.9])
    assert added.std() == pytest.approx(level / 10, rel=0.1)


def test_slabs_keep_their_distance_and_patches_do_not_meet():
    mask = np.zeros((30, 60, 20), dtype=bool)
    mask[2:28, 4:56, 1:19] = True
    pieces = slabs_of(mask, 3, gap=11)
    assert {piece.axis for piece in pieces} == {1}
    for one, other in pairwise(pieces):
        assert other.core[0] - one.core[1] == 11
        assert other.context[0] >= one.context[1]
        assert one.context[1] - one.core[1] == 5
    assert pieces[0].core[0] == 4
    assert pieces[-1].core[1] <= 56


def test_more_slabs_than_fit_are_refused_with_how_many_do():
    mask = np.ones((30, 52, 20), dtype=bool)
    with pytest.raises(DataError, match="at most 3"):
        slabs_of(mask, 4, gap=11)
    assert len(slabs_of(mask, 3, gap=11)) == 3


def test_what_is_written_is_a_data_set_whose_grids_nest(whole, scan):
    dataset = open_dataset(whole)
    assert dataset.subjects == ("head01",)
    scans = {name: read_scan(dataset.acquisition("head01", name)) for name in PLATFORMS}
    source = scans["ge_st"]
    assert source.grid.voxel_size == pytest.approx((2.4, 2.4, 3.0))
    for name in PLATFORMS[1:]:
        assert align(source.grid, scans[name].grid, 2 if name == "connectom_sa" else 1).offset == (0, 0, 0)
    finest = scans["connectom_sa"]
    assert finest.grid.shape == (33, 43, 31)
    assert align(finest.grid, scan.grid, 1).offset == (0, 0, 0)
    np.testing.assert_array_equal(finest.mask, scan.mask[:, :43])
    assert {scan.te for scan in scans.values()} == {80}


def test_platforms_hold_the_same_head_with_the_same_directions_in_the_world(whole):
    dataset = open_dataset(whole)
    fits = {}
    for name in PLATFORMS[:3]:
        scan = read_scan(dataset.acquisition("head01", name))
        fit = sh.fit_matrix(scan.directions[scan.is_dwi], 2)
        fits[name] = (scan.normalised() @ fit.T)[scan.mask]
    for name in PLATFORMS[1:3]:
        for index in (1, 2, 4):  # m = -2, -1, 1: xy, yz and xz, which a mirrored axis would turn around
            assert np.corrcoef(fits["ge_st"][:, index], fits[name][:, index])[0, 1] > 0.6
        assert np.abs(fits["ge_st"] - fits[name]).mean() > 1e-3


def test_the_source_on_disk_shares_no_direction_with_a_target(whole):
    dataset = open_dataset(whole)
    source, *targets = (read_scan(dataset.acquisition("head01", name)) for name in PLATFORMS)
    for target in targets:
        cosine = np.abs(source.directions[source.is_dwi] @ target.directions[target.is_dwi].T)
        assert cosine.max() < 0.99


def test_the_data_set_says_what_it_is_and_that_there_is_no_truth(whole, acquisition):
    facts = json.loads((whole / "dataset.json").read_text())
    assert facts["simulated"] is True
    assert facts["pseudo_subjects"] is False
    assert (facts["kind"], facts["label"]) == ("degraded", "degraded from one real head")
    assert facts["truth"].startswith("none: ")
    assert facts["source_sha256"]["dwi.nii.gz"] == hashlib.sha256(acquisition.dwi.read_bytes()).hexdigest()
    assert not list(whole.rglob("truth.nii.gz"))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(whole, acquisition, tmp_path):
    degrade(tmp_path / "again", acquisition, seed=1)
    degrade(tmp_path / "other", read_scan(acquisition), seed=2)
    assert digests(tmp_path / "again") == digests(whole)
    one, other = digests(whole), digests(tmp_path / "other")
    assert all(one[name] != other[name] for name in one if name.endswith("dwi.nii.gz"))


def test_slabs_on_disk_are_pieces_of_the_whole_in_their_place(acquisition, whole, tmp_path):
    degrade(tmp_path / "heads", acquisition, seed=1, slabs=2, gap=5)
    dataset = open_dataset(tmp_path / "heads")
    assert dataset.subjects == ("slab01", "slab02")
    assert dataset.label == "degraded from one real head; slabs stand in for subjects"
    for name, factor in (("ge_st", 1), ("connectom_sa", 2)):
        entire = read_scan(open_dataset(whole).acquisition("head01", name))
        for subject in dataset.subjects:
            slab = read_scan(dataset.acquisition(subject, name))
            at = align(slab.grid, entire.grid, 1).offset
            assert at[0] == at[2] == 0
            part = (slice(None), slice(at[1], at[1] + slab.grid.shape[1]))
            np.testing.assert_array_equal(slab.signal, entire.signal[part])
            assert 0 < slab.mask.sum() < entire.mask[part].sum()
            source = read_scan(dataset.acquisition(subject, "ge_st"))
            assert align(source.grid, slab.grid, factor).offset == (0, 0, 0)


@pytest.mark.parametrize(
    ("asked", "error"),
    [({"slabs": 0}, DataError), ({"slabs": 9}, DataError), ({"gap": -1}, DataError), ({"preset": "x"}, NotFoundError)],
)
def test_impossible_requests_are_refused_before_anything_is_written(acquisition, tmp_path, asked, error):
    with pytest.raises(error):
        degrade(tmp_path / "heads", acquisition, **asked)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_input_is_refused_even_by_force(acquisition):
    folder = acquisition.dwi.parent
    before = digests(folder)
    with pytest.raises(OutputError, match="holds the input"):
        degrade(folder, acquisition, force=True)
    assert digests(folder) == before


REAL = Path(os.environ.get("HARMONET_REAL_DATA", "")) / "achieva_32dir"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("HARMONET_REAL_DATA") or not REAL.is_dir(), reason="HARMONET_REAL_DATA names no real data"
)
def test_a_real_head_becomes_three_slabs_on_four_platforms(tmp_path):
    files = [REAL / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")]
    acquisition = Acquisition("head", "real", *files)
    degrade(tmp_path / "heads", acquisition, slabs=3)
    dataset = open_dataset(tmp_path / "heads")
    assert dataset.subjects == ("slab01", "slab02", "slab03")
    scans = {name: read_scan(dataset.acquisition("slab02", name)) for name in PLATFORMS}
    assert scans["ge_st"].grid.voxel_size == pytest.approx((3.5, 3.5, 5.0))
    assert align(scans["ge_st"].grid, scans["connectom_sa"].grid, 2).offset == (0, 0, 0)
    mask = scans["ge_st"].mask
    means = {name: scan.normalised().mean(axis=-1) for name, scan in scans.items()}
    assert np.corrcoef(means["ge_st"][mask], means["prisma_st"][mask])[0, 1] > 0.85
    with pytest.raises(DataError, match="at most 3"):
        degrade(tmp_path / "more", acquisition, slabs=4)
