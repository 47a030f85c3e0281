import hashlib
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from harmonet import sh
from harmonet.data.layout import describe, open_dataset
from harmonet.data.phantom import anatomy, signal
from harmonet.data.scan import read_scan, truth_scan
from harmonet.data.simulate import (
    ANATOMY,
    PRESETS,
    add_rician,
    gradient_field,
    gradient_table,
    receive_field,
    simulate,
    spread_directions,
)
from harmonet.errors import DataError, NotFoundError, OutputError
from harmonet.platforms import align, preset

SHAPE = (18, 19, 17)
FINE = (35, 37, 33)
PLATFORMS = [platform.name for platform, _ in PRESETS["cdmri2017"]]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "heads"
    simulate(out, subjects=2, seed=3, shape=SHAPE)
    return out


@pytest.fixture(scope="module")
def scans(heads):
    dataset = open_dataset(heads)
    return {name: read_scan(dataset.acquisition("sim01", name)) for name in PLATFORMS}


@pytest.fixture(scope="module")
def truths(heads):
    dataset = open_dataset(heads)
    return {name: truth_scan(dataset.acquisition("sim01", name)) for name in PLATFORMS}


def coefficients(scan, order=4):
    fit = sh.fit_matrix(scan.directions[scan.is_dwi], order)
    return scan.normalised() @ fit.T


def test_every_platform_on_disk_is_the_one_that_the_preset_names(scans):
    task = preset("cdmri2017")
    for platform in (task.source, *task.targets):
        found = describe([scans[platform.name]])
        assert found == platform


def test_the_data_set_says_that_it_is_simulated_and_how(heads):
    dataset = open_dataset(heads)
    assert dataset.simulated
    assert dataset.label == "simulated travelling heads (synthetic)"
    assert dataset.subjects == ("sim01", "sim02")
    facts = json.loads((heads / "dataset.json").read_text())
    assert (facts["kind"], facts["seed"], facts["preset"]) == ("synthetic", 3, "cdmri2017")
    assert facts["effects"]["ge_st"]["snr"] == 18


def test_another_process_with_one_thread_writes_the_same_bytes(heads, tmp_path):
    code = (
        "import sys, pathlib; from harmonet.data.simulate import simulate; "
        f"simulate(pathlib.Path(sys.argv[1]), subjects=2, seed=3, shape={SHAPE})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment)
    assert digests(tmp_path / "again") == digests(heads)


def test_fewer_subjects_are_the_first_of_more_and_another_seed_gives_other_heads(heads, tmp_path):
    simulate(tmp_path / "one", subjects=1, seed=3, shape=SHAPE)
    simulate(tmp_path / "other", subjects=1, seed=4, shape=SHAPE)
    assert digests(tmp_path / "one" / "sim01") == digests(heads / "sim01")
    one, other = digests(tmp_path / "one" / "sim01"), digests(tmp_path / "other" / "sim01")
    assert all(one[name] != other[name] for name in one if name.endswith(("dwi.nii.gz", "truth.nii.gz")))
    assert one["ge/st/dwi.bvec"] == other["ge/st/dwi.bvec"]


@pytest.mark.parametrize("name", PLATFORMS)
def test_grids_nest_voxel_centre_on_voxel_centre(scans, name):
    source, target = scans["ge_st"].grid, scans[name].grid
    factor = 2 if name == "connectom_sa" else 1
    assert align(source, target, factor).offset == (0, 0, 0)
    assert target.shape == (source.shape if factor == 1 else source.refined(2).shape)


def test_storage_orders_differ_and_both_signs_of_the_determinant_occur(scans):
    corners = {tuple(np.sign(np.diag(scan.stored.affine)[:3])) for scan in scans.values()}
    assert len(corners) == 3
    signs = {name: np.sign(np.linalg.det(scan.stored.affine)) for name, scan in scans.items()}
    assert signs == {"ge_st": 1, "prisma_st": -1, "connectom_st": 1, "connectom_sa": 1}


@pytest.mark.parametrize("name", ["prisma_st", "connectom_st"])
def test_directions_agree_between_platforms_of_either_storage_order(truths, name):
    source, target = coefficients(truths["ge_st"]), coefficients(truths[name])
    mask = truths["ge_st"].mask
    # Order 2 holds the signs: mirrored b-vectors leave RISH alone but spoil this.
    for m in range(1, 6):
        assert np.corrcoef(source[mask][:, m], target[mask][:, m])[0, 1] > 0.97


def test_each_platform_has_directions_of_its_own(scans):
    tables = [scan.directions[scan.is_dwi][:30] for scan in scans.values()]
    for i, one in enumerate(tables):
        for other in tables[i + 1 :]:
            assert np.abs(one @ other.T).max(axis=1).min() < 0.999


@pytest.mark.parametrize("index", range(4))
def test_noise_has_the_size_that_the_preset_asks_for(scans, truths, index):
    platform, acquire = PRESETS["cdmri2017"][index]
    scan, truth = scans[platform.name], truths[platform.name]
    step = round(platform.voxel_size[0] / 1.2)
    white = anatomy([3, 0, ANATOMY], FINE).wm[::step, ::step, ::step] > 0.8
    first = np.flatnonzero(~scan.is_dwi)
    sigma = (scan.signal - truth.signal)[white][:, first].std()
    level = np.median(truth.signal[white][:, first])
    assert level / sigma == pytest.approx(acquire.snr, rel=0.25)  # the receive field shifts the median


def deep_white(head, step):
    """Voxels so deep in white matter that little of a point-spread reaches beyond it."""
    return binary_erosion(head.wm > 0.95, iterations=2)[::step, ::step, ::step]


def test_the_truth_has_the_b_values_error_of_the_preset(truths):
    head, truth = anatomy([3, 0, ANATOMY], FINE), truths["ge_st"]
    seen = truth.normalised()[deep_white(head, 2)]
    apart = {}
    for error in (0.94, 0.97, 1.0):
        bvals = error * truth.bvals[truth.is_dwi]
        expected = signal(head, np.r_[0, bvals], np.r_[[np.zeros(3)], truth.directions[truth.is_dwi]], truth.te)
        expected = expected[::2, ::2, ::2][deep_white(head, 2)]
        apart[error] = np.abs(seen - expected[:, 1:] / expected[:, :1]).mean()
    assert len(seen) > 20
    assert min(apart, key=apart.get) == 0.97


def test_the_truth_has_the_gradient_non_linearity_of_the_preset(truths):
    head, truth = anatomy([3, 0, ANATOMY], FINE), truths["connectom_sa"]
    white = deep_white(head, 1)
    seen = truth.normalised()[white]
    apart = {}
    for size in (-0.03, 0.0, 0.03, 0.06):
        field = 1 + size * gradient_field(FINE)
        b0 = signal(head, [0], np.zeros((1, 3)), truth.te)[white]
        expected = signal(head, truth.bvals[truth.is_dwi], truth.directions[truth.is_dwi], truth.te, field)[white]
        apart[size] = np.abs(seen - expected / b0).mean()
    assert min(apart, key=apart.get) == 0.03


def test_air_holds_the_floor_of_rician_noise_and_the_truth_none(scans, truths):
    scan, truth = scans["connectom_st"], truths["connectom_st"]
    corner = scan.signal[0, 0, 0], truth.signal[0, 0, 0]
    assert corner[0].mean() > 0
    assert not corner[1].any()


def test_an_older_scanner_is_farther_from_the_truth_of_another_than_that_scanner_itself(scans, truths):
    mask = scans["ge_st"].mask
    truth = coefficients(truths["prisma_st"])[mask]
    ge, prisma = (coefficients(scans[name])[mask] for name in ("ge_st", "prisma_st"))
    assert np.mean((ge - truth) ** 2) > 2 * np.mean((prisma - truth) ** 2)
    # and more than noise lies between them: there is something to learn
    between = np.mean((coefficients(truths["ge_st"])[mask] - truth) ** 2)
    assert between > 0.5 * np.mean((prisma - truth) ** 2)


def test_the_echo_time_shows_after_division_by_b0(truths):
    mask = truths["connectom_st"].mask
    long, short = truths["connectom_st"], truths["connectom_sa"]
    assert (long.te, short.te) == (89, 68)
    mean_long = long.normalised().mean(axis=-1)[mask].mean()
    mean_short = short.normalised().mean(axis=-1)[::2, ::2, ::2][mask].mean()
    assert abs(mean_long - mean_short) > 0.005


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    def interrupt(what, done, total):
        assert (what, total) == ("simulating", 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "heads", subjects=1, shape=(16, 16, 16), progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(OutputError, match="not empty"):
            simulate(tmp_path, subjects=1, shape=(16, 16, 16), force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_force_replaces_an_older_simulation_only_once_the_new_one_is_complete(tmp_path):
    out = tmp_path / "heads"
    simulate(out, subjects=1, shape=(16, 16, 16))
    before = digests(out)
    with pytest.raises(OutputError, match="--force"):
        simulate(out, subjects=1, seed=1, shape=(16, 16, 16))

    def interrupt(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(out, subjects=1, seed=1, shape=(16, 16, 16), force=True, progress=interrupt)
    assert digests(out) == before
    simulate(out, subjects=1, seed=1, shape=(16, 16, 16), force=True)
    assert digests(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"subjects": 0}, DataError),
        ({"seed": -1}, DataError),
        ({"shape": (16, 16, 9)}, DataError),
        ({"preset": "cdmri2071"}, NotFoundError),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, asked, error):
    with pytest.raises(error):
        simulate(tmp_path / "heads", **asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "degrees", "condition"), [(30, 24, 30), (60, 16, 1.3)])
def test_directions_are_well_spread(n, degrees, condition):
    axes = spread_directions(n, 1)
    apart = np.degrees(np.arccos(np.clip(np.abs(axes @ axes.T) - np.eye(n), -1, 1)))
    assert apart.min() > degrees
    assert sh.condition_number(axes, 6) < condition


def test_b0_volumes_come_first_and_in_between():
    platform, acquire = PRESETS["cdmri2017"][3]
    bvals, directions = gradient_table(platform, acquire)
    assert np.flatnonzero(bvals == 0).tolist() == [0, 16, 32, 48]
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), bvals > 0, atol=1e-12)


def test_rician_noise_has_the_mean_and_spread_of_theory():
    image = np.zeros((40, 40, 40, 2), dtype=np.float32)
    image[..., 1] = 1000
    add_rician(image, 10, np.random.default_rng(0))
    assert image[..., 0].mean() == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.01)
    assert image[..., 1].std() == pytest.approx(10, rel=0.02)


def test_fields_are_smooth_and_within_their_bounds():
    field = receive_field(np.random.default_rng(0), (30, 30, 30), 0.1)
    assert field.min() > 0
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.1
    assert np.abs(gradient_field((9, 9, 9))).max() == 1


def test_platforms_of_the_null_control_see_heads_of_their_own(tmp_path):
    """The source is the same as ever; inside both masks a target tells no more of it than another subject would."""
    alike = {}
    for kind in ("cdmri2017", "unrelated"):
        simulate(tmp_path / kind, subjects=1, seed=3, preset=kind, shape=(16, 17, 16))
        mean, inside = {}, True
        for name in ("ge/st", "prisma/st"):
            folder = tmp_path / kind / "sim01" / name
            image, mask = (nib.as_closest_canonical(nib.load(folder / f"{f}.nii.gz")) for f in ("truth", "mask"))
            mean[name] = image.get_fdata().mean(axis=-1)
            inside = inside & (mask.get_fdata() > 0)
        alike[kind] = np.corrcoef(*(values[inside] for values in mean.values()))[0, 1]
    assert alike["cdmri2017"] > alike["unrelated"] + 0.1  # both see a rim of fluid around the brain
    assert "share nothing" in json.loads((tmp_path / "unrelated" / "dataset.json").read_text())["label"]
