"""A new subject in, a usable image out: what is written, for one subject and for many, and what is said of doubt."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from bench import listing, one_line

import harmonet as hn
from harmonet import sh
from harmonet.cli.predict import bytes_of
from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import Gradients, from_world, write_gradients
from harmonet.data.layout import open_dataset
from harmonet.data.represent import decoded
from harmonet.data.scan import read_scan
from harmonet.errors import DataError, HarmonetError, OutputError
from harmonet.inference import Filled
from harmonet.metrics.diffusion import tensor
from harmonet.metrics.image import Context, Image, Signal
from harmonet.platforms import Grid
from harmonet.runs.predict import Output, predict, predict_cohort, write_predictions
from harmonet.runs.predict.caution import disagreement, voices

NEAR, FINE = "prisma_st", "connectom_sa"
MRTRIX = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("sh2amp", "dwi2tensor", "tensor2metric")),
    reason="MRtrix3's sh2amp, dwi2tensor and tensor2metric are not on PATH (Debian's package mrtrix3)",
)


@pytest.fixture(scope="module")
def run(tiny_run):
    return hn.load(tiny_run)


@pytest.fixture(scope="module")
def acquisition(run, tiny_heads):
    return open_dataset(tiny_heads).acquisition(run.split.test[0], "ge_st")


@pytest.fixture(scope="module")
def scan(acquisition):
    return read_scan(acquisition)


@pytest.fixture(scope="module")
def predictions(run, scan):
    return predict(run, scan, [NEAR, FINE])


def turned(scan, codes, folder):
    """The scan in files of another storage order, with a table for that order."""
    turn = nib.orientations.axcodes2ornt(tuple(codes))
    image = nib.Nifti1Image(scan.signal, scan.grid.affine).as_reoriented(turn)
    mask = nib.Nifti1Image(scan.mask.astype(np.uint8), scan.grid.affine).as_reoriented(turn)
    folder.mkdir()
    files = [folder / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")]
    nib.save(image, files[0])
    nib.save(mask, files[3])
    write_gradients(files[1], files[2], scan.bvals, from_world(scan.directions, image.affine))
    return read_scan(Acquisition("new", "ge_st", *files))


def canonical(path):
    return nib.as_closest_canonical(nib.load(path)).get_fdata()


def sidecar(out, kind, platform=NEAR):
    return json.loads((out / f"new_space-{platform}_{kind}.json").read_text())


def tensors(run, mask):
    """Channels of the run's representation of tensors in random directions, 0 outside the mask."""
    rng, directions = np.random.default_rng(0), sh.spread(60)
    bvals, n = np.full(60, 1200.0), mask.sum()
    axis = rng.normal(size=(n, 3))
    cosine = axis / np.linalg.norm(axis, axis=1, keepdims=True) @ directions.T
    across, along = rng.uniform(5e-4, 7e-4, (n, 1)), rng.uniform(0, 8e-4, (n, 1))
    channels = np.zeros((*mask.shape, run.representation.channels), dtype=np.float32)
    encode = run.representation.encoder(bvals, directions)
    channels[mask] = encode(np.exp(-bvals * (across + along * cosine**2)).astype(np.float32))
    return channels


@pytest.fixture(scope="module", params=["RAS", "LAS", "PSR", "SRA"])  # determinants +, -, -, +
def readable(request, run, scan, tmp_path_factory):
    """A prediction in files, where it lies, and what harmonet's own metrics say of the voxels that all can read."""
    folder = tmp_path_factory.mktemp("readable")
    stored = turned(scan, request.param, folder / "in")
    predicted = predict(run, stored, [NEAR])
    # Few steps of training predict hardly any anisotropy. Tensors stand for what a better model says: programs weight
    # their fits otherwise, which makes no difference where the fit is good.
    own = replace(predicted[NEAR].volume, channels=tensors(run, predicted[NEAR].volume.mask))
    predicted[NEAR] = replace(predicted[NEAR], volume=own)
    write_predictions(run, stored, predicted, folder, "new")
    volume, table = own, run.gradients[NEAR]
    signal = decoded(run.representation, volume, table)
    # Where a value is clipped, or a b0 is 0, nobody can get back to the channels.
    mask = volume.mask & (signal.min(axis=-1) > 1e-3) & (signal.max(axis=-1) <= 1) & (predicted[NEAR].b0 > 50)
    assert mask.sum() > 500
    decode = run.representation.decoder(*table)
    context = Context(volume.grid.voxel_size, {}, Signal(decode, *table))
    return folder / f"new_space-{NEAR}", mask, tensor(Image(volume.channels, mask, context))


def test_fa_md_and_direction_that_dipy_reads_from_the_dwi_are_those_of_our_metrics(readable):
    from dipy.core.gradients import gradient_table
    from dipy.io.gradients import read_bvals_bvecs
    from dipy.reconst.dti import TensorModel

    stem, mask, ours = readable
    image = nib.load(f"{stem}_dwi.nii.gz")
    bvals, bvecs = read_bvals_bvecs(f"{stem}_dwi.bval", f"{stem}_dwi.bvec")
    # The FSL convention, written out by hand: voxel axes, with x reversed where the determinant is positive.
    rotation = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    flip = np.diag([-np.sign(np.linalg.det(rotation)), 1, 1])
    table = gradient_table(bvals, bvecs=bvecs @ flip @ rotation.T)
    fit = TensorModel(table, fit_method="WLS").fit(canonical(f"{stem}_dwi.nii.gz")[mask])
    assert np.abs(fit.fa - ours.fa).max() < 1e-3
    assert np.abs(1e3 * fit.md - ours.md).max() < 1e-3
    clear = ours.fa > 0.3
    assert clear.sum() > 20
    assert np.abs(np.sum(fit.evecs[clear, :, 0] * ours.direction[clear], axis=1)).min() > 0.999


@MRTRIX
def test_fa_md_and_direction_that_mrtrix_reads_from_the_dwi_are_those_of_our_metrics(readable, tmp_path):
    stem, mask, ours = readable
    tables = ("-fslgrad", f"{stem}_dwi.bvec", f"{stem}_dwi.bval")
    fit = ("-ols", "-iter", "2")  # unweighted, then with the weights of that, as ours
    mrtrix("dwi2tensor", f"{stem}_dwi.nii.gz", tmp_path / "dt.nii", *fit, *tables, "-mask", f"{stem}_mask.nii.gz")
    maps = {name: tmp_path / f"{name}.nii" for name in ("fa", "adc", "vector")}
    options = [word for name, path in maps.items() for word in (f"-{name}", path)]
    mrtrix("tensor2metric", tmp_path / "dt.nii", *options, "-modulate", "none")
    fa, md, direction = (canonical(path)[mask] for path in maps.values())
    assert np.abs(fa - ours.fa).max() < 2e-3
    assert np.abs(1e3 * md - ours.md).max() < 2e-3
    clear = ours.fa > 0.3
    assert np.abs(np.sum(direction[clear] * ours.direction[clear], axis=1)).min() > 0.999


@MRTRIX
@pytest.mark.parametrize("codes", ["RAS", "PSR"])
def test_mrtrix_shows_coefficients_in_its_basis_as_the_signal_that_they_are(run, scan, codes, tmp_path):
    stored = turned(scan, codes, tmp_path / "in")
    predicted = predict(run, stored, [NEAR])
    volume, directions = predicted[NEAR].volume, sh.spread(40)
    expected = decoded(run.representation, volume, Gradients(np.full(40, 1200.0), directions))[volume.mask]
    np.savetxt(tmp_path / "directions.txt", directions)
    far = {}
    for basis in ("mrtrix3", "descoteaux07"):
        out = tmp_path / basis
        write_predictions(run, stored, predicted, out, "new", output=Output(basis=basis))
        mrtrix("sh2amp", out / f"new_space-{NEAR}_sh.nii.gz", tmp_path / "directions.txt", out / "amplitudes.nii")
        far[basis] = np.abs(canonical(out / "amplitudes.nii")[volume.mask] - expected).max()
    assert far["mrtrix3"] < 1e-5
    assert far["descoteaux07"] > 0.01
    told = sidecar(tmp_path / "mrtrix3", "sh")
    assert told["OrientationEncoding"]["SphericalHarmonicBasis"] == "MRtrix3"
    assert told["HarmonetBasis"] == {"name": "mrtrix3", "laplace_beltrami": 0.006}


def mrtrix(*command):
    done = subprocess.run([*map(str, command), "-quiet"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_headers_are_exact_for_every_file(readable):
    stem, *_ = readable
    source = nib.load(stem.parent / "in" / "dwi.nii.gz")
    for kind in ("sh", "dwi", "mask"):
        image = nib.load(f"{stem}_{kind}.nii.gz")
        header = image.header
        assert np.array_equal(image.affine, source.affine)
        assert np.allclose(header.get_qform(), image.affine, atol=1e-5)
        assert codes_of(image) == codes_of(source)
        assert header.get_xyzt_units()[0] == "mm"
        assert np.allclose(header.get_zooms()[:3], 2.4)
        assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        assert image.get_data_dtype() == (np.uint8 if kind == "mask" else np.float32)


def codes_of(image):
    """Of qform and sform."""
    return int(image.header["qform_code"]), int(image.header["sform_code"])


@pytest.mark.parametrize("codes", [(1, 1), (2, 2), (4, 1), (0, 2), (1, 0)])
def test_what_space_the_inputs_affine_leads_to_is_said_of_the_prediction_too(
    run, acquisition, predictions, codes, tmp_path
):
    source = nib.load(acquisition.dwi)
    source.set_sform(source.affine, codes[1])
    source.set_qform(source.affine, codes[0])
    nib.save(source, tmp_path / "dwi.nii.gz")
    scan = read_scan(replace(acquisition, dwi=tmp_path / "dwi.nii.gz"))
    write_predictions(run, scan, predictions, tmp_path / "out", "new")
    for platform, inner in ((NEAR, np.eye(4)), (FINE, np.diag([0.5, 0.5, 0.5, 1]))):
        for kind in ("sh", "dwi", "mask"):
            image = nib.load(tmp_path / "out" / f"new_space-{platform}_{kind}.nii.gz")
            assert codes_of(image) == codes
            assert np.allclose(image.affine, source.affine @ inner, atol=1e-6)
            assert codes[1] == 0 or np.array_equal(image.affine, source.affine @ inner)


def test_a_grid_that_is_given_says_what_space_its_affine_leads_to(run, scan, tmp_path):
    grid = nib.Nifti1Image(np.zeros(scan.mask.shape, np.int16), scan.grid.affine)
    grid.set_sform(scan.grid.affine, 4)
    nib.save(grid, tmp_path / "grid.nii.gz")
    predicted = predict(run, scan, [NEAR], onto=tmp_path / "grid.nii.gz")
    write_predictions(run, scan, predicted, tmp_path, "new")
    assert codes_of(nib.load(tmp_path / f"new_space-{NEAR}_sh.nii.gz")) == codes_of(grid) == (0, 4)


def test_directions_are_the_targets_the_inputs_or_those_that_are_given(run, scan, predictions, tmp_path):
    near, affine = {NEAR: predictions[NEAR]}, predictions[NEAR].stored.affine
    table = Gradients(np.array([1200.0, 5, 1190, 1210]), np.array([[0, 1, 0], [0, 0, 0], [0, 0.6, 0.8], [1.0, 0, 0]]))
    given = (tmp_path / "a.bval", tmp_path / "a.bvec")
    write_gradients(*given, table.bvals, from_world(table.directions, affine))
    read = {}
    for directions in ("target", "input", given):
        out = tmp_path / f"out{len(read)}"
        write_predictions(run, scan, near, out, "new", output=Output(directions=directions))
        files = [out / f"new_space-{NEAR}_{kind}" for kind in ("dwi.nii.gz", "dwi.bval", "dwi.bvec")]
        read[len(read)] = nib.load(files[0]).shape[3], np.loadtxt(files[1]), np.loadtxt(files[2])
    assert np.allclose(read[0][1], np.r_[0, run.gradients[NEAR].bvals])
    assert np.allclose(read[1][1], np.r_[0, scan.bvals[scan.is_dwi]])
    assert np.allclose(read[1][2][:, 1:].T, from_world(scan.directions[scan.is_dwi], affine), atol=1e-9)
    assert [n for n, *_ in read.values()] == [31, 31, 4]
    assert np.array_equal(read[2][1], np.loadtxt(given[0]))
    assert np.array_equal(read[2][2], np.loadtxt(given[1]))
    assert sidecar(out, "dwi")["Directions"]["Files"][0]["File"] == "a.bval"
    weighted = [0, 2, 3]
    volume = predictions[NEAR].volume
    dwi = canonical(out / f"new_space-{NEAR}_dwi.nii.gz")[volume.mask]
    expected = decoded(run.representation, volume, Gradients(table.bvals[weighted], table.directions[weighted]))
    expected = np.clip(expected[volume.mask], 0, 1) * dwi[:, 1:2]  # the b = 0 row stays where it was
    assert np.allclose(dwi[:, weighted], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"directions": "both"}, "'both' is none: use target, input or BVAL,BVEC"),
        (
            {"directions": ("3000.bval", "3000.bvec")},
            r"asks for b = 3000 s/mm² in volume 1, the model predicts b = 1200",
        ),
        ({"b0": "no.nii.gz"}, "no.nii.gz does not exist"),
        ({"basis": "tournier07"}, "'tournier07' is none that is written: use descoteaux07 or mrtrix3"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(run, tmp_path, options, why):
    from harmonet.runs.predict.output import check_output

    write_gradients(tmp_path / "3000.bval", tmp_path / "3000.bvec", [0.0, 3000], [[0, 0, 0], [1, 0, 0]])
    options = {
        key: tuple(tmp_path / v for v in value) if isinstance(value, tuple) else value for key, value in options.items()
    }
    with pytest.raises(DataError, match=why):
        check_output(run, Output(**options))


def test_a_basis_is_refused_for_channels_that_are_no_series(run):
    from harmonet.representations.intensity import Intensity
    from harmonet.representations.sh_signal import SHSignal
    from harmonet.runs.predict.output import sidecar_in

    for representation in (Intensity(), SHSignal([1000, 2000], 2)):
        assert sidecar_in(representation, "descoteaux07") == representation.sidecar()
        with pytest.raises(DataError, match="is for images of one SH series"):
            sidecar_in(representation, "mrtrix3")


def test_the_b0_is_the_inputs_or_none_or_one_that_is_given(run, scan, predictions, tmp_path):
    near = {NEAR: predictions[NEAR]}
    mask, signal = predictions[NEAR].volume.mask, {}
    ramp = np.arange(60.0)[:, None, None] + np.zeros((60, 60, 60))  # on a finer grid, a straight line in x
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = scan.grid.affine[:3, 3] + [50, -5, -5]
    nib.save(nib.Nifti1Image(ramp.astype(np.float32), affine), tmp_path / "b0.nii.gz")
    for b0 in ("input", "one", tmp_path / "b0.nii.gz"):
        out = tmp_path / f"out{len(signal)}"
        write_predictions(run, scan, near, out, "new", output=Output(b0=b0))
        signal[len(signal)] = canonical(out / f"new_space-{NEAR}_dwi.nii.gz")
        assert (signal[len(signal) - 1][~mask] == 0).all()
    assert np.allclose(signal[0][mask, 0], scan.b0()[mask])
    assert (signal[1][mask, 0] == 1).all()
    assert np.allclose(signal[0][mask], signal[1][mask] * scan.b0()[mask][:, None], rtol=1e-5)
    x = scan.grid.affine[0, 0] * np.argwhere(mask)[:, 0] + scan.grid.affine[0, 3]
    assert np.allclose(signal[2][mask, 0], affine[0, 3] - x, atol=1e-3)
    assert sidecar(out, "dwi")["B0"]["File"] == "b0.nii.gz"
    nib.save(nib.Nifti1Image(ramp[:20].astype(np.float32), affine), tmp_path / "part.nii.gz")
    with pytest.raises(DataError, match=r"part.nii.gz shows [0-9.]+% of the predicted brain"):
        write_predictions(run, scan, near, tmp_path / "out3", "new", output=Output(b0=tmp_path / "part.nii.gz"))
    assert not (tmp_path / "out3").exists()


def test_only_signal_outside_physics_is_changed_and_it_is_counted(run, scan, predictions, tmp_path):
    volume = predictions[NEAR].volume
    channels = volume.channels.copy()
    places = np.argwhere(volume.mask)
    negative, bright = tuple(places[0]), tuple(places[1])
    flat = np.sqrt(4 * np.pi)  # the first coefficient of a signal that is 1 everywhere
    channels[negative], channels[bright] = 0, 0
    channels[negative][0], channels[bright][0] = -0.5 * flat, 1.5 * flat
    spoilt = replace(predictions[NEAR], volume=replace(volume, channels=channels))
    before = decoded(run.representation, spoilt.volume, run.gradients[NEAR])
    write_predictions(run, scan, {NEAR: spoilt}, tmp_path / "out", "new", output=Output(b0="one"))
    told = sidecar(tmp_path / "out", "dwi")["Clipped"]
    assert told == {"Below0": int((before < 0).sum()), "AboveB0": int((before > 1).sum())}
    assert min(told.values()) >= len(run.gradients[NEAR].bvals)
    dwi = canonical(tmp_path / "out" / f"new_space-{NEAR}_dwi.nii.gz")[..., 1:]
    assert (dwi[negative] == 0).all()
    assert (dwi[bright] == 1).all()
    fine = volume.mask[..., None] & (before >= 0) & (before <= 1)
    assert np.array_equal(dwi[fine], before[fine])
    assert np.array_equal(canonical(tmp_path / "out" / f"new_space-{NEAR}_sh.nii.gz"), channels)


def test_a_grid_that_is_given_gives_its_own_geometry_and_the_same_values_in_the_world(run, scan, predictions, tmp_path):
    """The same voxels in another storage order, so that nothing is interpolated, and one voxel more on a side."""
    turn = nib.orientations.axcodes2ornt(tuple("PSR"))
    grid = nib.Nifti1Image(np.zeros(scan.mask.shape, np.int16), scan.grid.affine).as_reoriented(turn)
    nib.save(grid, tmp_path / "grid.nii.gz")
    predicted = predict(run, scan, [NEAR], onto=tmp_path / "grid.nii.gz")
    for out, what in ((tmp_path / "a", {NEAR: predictions[NEAR]}), (tmp_path / "b", predicted)):
        write_predictions(run, scan, what, out, "new", output=Output(caution=True))
    written = nib.load(tmp_path / "b" / f"new_space-{NEAR}_dwi.nii.gz")
    assert written.shape[:3] == grid.shape
    assert np.array_equal(written.affine, nib.load(tmp_path / "grid.nii.gz").affine)
    for kind in ("sh", "dwi", "mask", "disagreement", "distance"):
        ours, plain = (canonical(tmp_path / folder / f"new_space-{NEAR}_{kind}.nii.gz") for folder in "ba")
        assert np.allclose(ours, plain, atol=1e-4 * np.abs(plain).max()), kind
    tables = [np.loadtxt(tmp_path / folder / f"new_space-{NEAR}_dwi.bvec") for folder in "ab"]
    assert not np.allclose(*tables)
    assert sidecar(tmp_path / "b", "sh")["Grid"]["File"] == "grid.nii.gz"


def test_an_oblique_finer_grid_lies_where_the_brain_is(run, scan, predictions, tmp_path):
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", [20, -10, 15], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 2.0])
    middle = scan.grid.affine @ np.r_[(np.array(scan.mask.shape) - 1) / 2, 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ [15, 15, 15]
    nib.save(nib.Nifti1Image(np.zeros((31, 31, 31), np.uint8), affine), tmp_path / "grid.nii.gz")
    moved = predict(run, scan, [NEAR], onto=tmp_path / "grid.nii.gz")[NEAR]
    near = predictions[NEAR]
    assert moved.volume.notes == near.volume.notes
    volumes = [p.volume.mask.sum() * np.prod(p.volume.grid.voxel_size) for p in (moved, near)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)
    centres = [(p.volume.grid.affine @ np.r_[np.argwhere(p.volume.mask).mean(axis=0), 1])[:3] for p in (moved, near)]
    assert np.abs(centres[0] - centres[1]).max() < 0.2
    means = [p.volume.channels[p.volume.mask].mean(axis=0)[0] for p in (moved, near)]
    assert means[0] == pytest.approx(means[1], rel=0.02)
    bright = [p.b0[p.volume.mask].mean() for p in (moved, near)]
    assert bright[0] == pytest.approx(bright[1], rel=0.03)


def test_a_grid_elsewhere_is_refused_and_one_of_half_the_brain_is_told(run, scan, tmp_path):
    affine = scan.grid.affine.copy()
    affine[0, 3] += 20
    nib.save(nib.Nifti1Image(np.zeros(scan.mask.shape, np.uint8), affine), tmp_path / "half.nii.gz")
    notes = predict(run, scan, [NEAR], onto=tmp_path / "half.nii.gz")[NEAR].volume.notes
    assert "half.nii.gz holds" in notes[0]
    affine[0, 3] += 400
    nib.save(nib.Nifti1Image(np.zeros(scan.mask.shape, np.uint8), affine), tmp_path / "far.nii.gz")
    with pytest.raises(DataError, match=r"far.nii.gz holds no voxel of the brain"):
        predict(run, scan, [NEAR], onto=tmp_path / "far.nii.gz")


def test_a_failure_while_writing_leaves_no_file_at_all(run, scan, predictions, tmp_path):
    spoilt = predictions[FINE].volume.channels.copy()
    spoilt[10, 10, 10, 0] = np.nan
    volume = replace(predictions[FINE].volume, channels=spoilt)
    both = {NEAR: predictions[NEAR], FINE: replace(predictions[FINE], volume=volume)}
    with pytest.raises(OutputError, match="NaN"):
        write_predictions(run, scan, both, tmp_path / "out", "new")
    assert list(tmp_path.iterdir()) == []


def test_disagreement_is_the_sample_deviation_over_the_stages_that_speak():
    rng = np.random.default_rng(0)
    stages = [{"a": rng.normal(size=(3, 4, 2, 5)).astype(np.float32)} for _ in range(3)] + [{"b": np.zeros(1)}]
    mask = rng.random((3, 4, 2)) > 0.3
    found = disagreement(voices(stages, "a"), mask)
    said = np.stack([stage["a"] for stage in stages[:3]])
    expected = np.sqrt(((said - said.mean(axis=0)) ** 2).sum(axis=0).mean(axis=-1) / 2) * mask
    assert np.allclose(found, expected, atol=1e-6)
    assert disagreement(voices(stages, "b"), mask) is None


def test_disagreement_is_that_of_the_networks_of_a_platform_where_it_has_several():
    rng = np.random.default_rng(0)
    said = [{"a": rng.normal(size=(3, 4, 2, 5)).astype(np.float32)} for _ in range(3)]
    first, last = Filled(), Filled()
    first.members = said
    for stage in (first, last):
        stage["a"] = said[0]["a"]
    assert all(heard is member["a"] for heard, member in zip(voices([first, last], "a"), said, strict=True))
    first.members = []
    assert all(heard is said[0]["a"] for heard in voices([first, last], "a"))


def test_caution_maps_are_about_one_for_a_head_like_the_others_and_grow_where_it_is_not(run, scan):
    odd = scan.signal.copy()
    odd[:8, ..., scan.is_dwi] *= np.random.default_rng(0).uniform(0.2, 1, odd[:8, ..., scan.is_dwi].shape)
    plain, spoilt = (
        predict(run, given, [NEAR])[NEAR] for given in (scan, replace(scan, numbers=replace(scan.numbers, stored=odd)))
    )
    assert set(plain.caution) == {"disagreement", "distance"}
    left = plain.volume.mask & (np.arange(16) < 8)[:, None, None]
    right = plain.volume.mask & ~left
    before, after = plain.caution["distance"], spoilt.caution["distance"]
    assert 0.7 < before[plain.volume.mask].mean() < 1.3
    assert after[left].mean() > 1.3 * before[left].mean()
    assert np.array_equal(after[right], before[right])
    assert (before[~plain.volume.mask] == 0).all()
    assert plain.volume.notes == ()
    assert "other intensities than the training subjects" in spoilt.volume.notes[0]


def shifted(scan, by):
    return replace(scan, bvals=np.where(scan.is_dwi, scan.bvals + by, scan.bvals))


def thinned(scan, most):
    kept = np.flatnonzero(~scan.is_dwi | (np.cumsum(scan.is_dwi) <= most))
    numbers = replace(scan.numbers, stored=scan.numbers.stored[..., kept])
    return replace(scan, numbers=numbers, bvals=scan.bvals[kept], directions=scan.directions[kept])


def stretched(scan, by):
    grids = [Grid(grid.shape, grid.affine @ np.diag([by, by, by, 1])) for grid in (scan.grid, scan.stored)]
    return replace(scan, grid=grids[0], stored=grids[1])


@pytest.mark.parametrize(
    ("change", "by", "said"),
    [
        (shifted, 15, None),
        (shifted, 30, "was measured at b = 1230 s/mm², the model has seen 1200"),
        (thinned, 24, "has 24 directions, the model has seen 30: expect more noise"),
        (stretched, 1.005, None),
        (stretched, 1.05, r"has voxels of 2.52 x 2.52 x 2.52 mm, the model has seen 2.4 x 2.4 x 2.4 mm"),
    ],
)
def test_what_the_model_has_not_seen_is_told(run, scan, change, by, said):
    notes = predict(run, change(scan, by), [NEAR])[NEAR].volume.notes
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


@pytest.mark.parametrize(
    ("change", "by", "why"),
    [
        (shifted, 300, "has no volumes at b = 1200 s/mm², found 1500"),
        (thinned, 12, r"12 directions cannot give SH order 4 \(15 coefficients\): use order 2"),
        (thinned, 0, "has no diffusion-weighted volume"),
        (stretched, 1.2, "voxels of 2.88 x 2.88 x 2.88 mm, the recipe says 2.4"),
    ],
)
def test_what_makes_no_sense_is_refused(run, scan, change, by, why):
    with pytest.raises(DataError, match=why):
        predict(run, change(scan, by), [NEAR])


@pytest.mark.parametrize(("text", "expected"), [("4G", 4 << 30), ("1.5k", 1536), ("512MiB", 512 << 20), ("100", 100)])
def test_sizes_are_read_as_people_write_them(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["4 apples", "", "-1G", "0", "G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(HarmonetError, match="write 4G, 512M"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--out", "x"], "give --dwi or --data"),
        (["--out", "x", "--dwi", "a.nii"], "give --mask FILE, or --mask auto"),
        (["--out", "x", "--dwi", "a.nii", "--mask", "auto", "--part", "1/2"], "--part does not go with --dwi"),
        (["--out", "x", "--data", "d", "--name", "n"], "--name does not go with --data"),
        (["--out", "x", "--data", "d", "--mask", "m.nii"], "--mask m.nii is one subject's"),
        (["--out", "x", "--data", "d", "--b0", "b.nii"], "--b0 b.nii is one subject's"),
        (["--out", "x", "--data", "d", "--memory", "much"], "--memory 'much' is not understood"),
    ],
)
def test_options_that_do_not_go_together_are_refused(invoke, words, why):
    assert why in one_line(invoke("predict", "no-run", *words))


@pytest.fixture
def cohort(bench):
    """Words of a command that predicts one platform of all three subjects."""
    return ["predict", bench.run, "--data", bench.heads, "--out", bench.root / "out", "--target", NEAR]


def test_a_cohort_goes_on_past_a_bad_subject_and_later_where_it_stopped(bench, cohort, invoke):
    bad = bench.heads / "sim02" / "ge" / "st" / "dwi.nii.gz"
    whole = bad.read_bytes()
    bench.cut(bad)
    first = invoke(*cohort)
    assert first.status == 1
    assert "sim02 failed: " in first.err
    assert "is truncated" in first.err
    assert "give the same command again" in first.err.splitlines()[-1]
    out = bench.root / "out"
    assert sorted(path.name for path in out.iterdir()) == ["dataset_description.json", "sub-sim01", "sub-sim03"]
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "harmonet")
    assert (out / description["SourceDatasets"][0]["URL"]).resolve() == bench.heads.resolve()
    before = listing(out)
    bench.replace(bad, whole)
    second = invoke(*cohort)
    assert (second.status, "1 subjects predicted, 2 finished before, 0 failed" in second.err) == (0, True), second.err
    assert before.items() <= listing(out).items()
    folder = out / "sub-sim02" / "ses-ge_st" / "dwi"
    stem = f"sub-sim02_ses-ge_st_space-{NEAR}"
    kinds = ("sh.nii.gz", "sh.json", "dwi.nii.gz", "dwi.bval", "dwi.bvec", "dwi.json", "mask.nii.gz")
    assert {path.name for path in folder.iterdir()} == {f"{stem}_{kind}" for kind in kinds} | {"harmonet.json"}
    assert "who trained the model" in second.err


def test_machines_share_a_cohort_and_one_subject_can_be_named(bench, cohort, invoke):
    out = bench.root / "out"
    assert invoke(*cohort, "--part", "2/2").status == 0
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-sim02"]
    assert invoke(*cohort, "--subject", "sim03").status == 0
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-sim02", "sub-sim03"]
    assert "Did you mean sim03" in invoke(*cohort, "--subject", "sim04").err.splitlines()[-1]


def test_a_finished_subject_is_replaced_only_when_forced_and_never_silently_kept_when_it_changed(bench, cohort, invoke):
    cohort = [*cohort, "--subject", "sim03"]
    assert invoke(*cohort).status == 0
    folder = bench.root / "out" / "sub-sim03" / "ses-ge_st" / "dwi"
    before = listing(folder)
    other = one_line(invoke(*cohort, "--basis", "mrtrix3"))
    assert "was predicted with another Basis: add --force" in other
    assert listing(folder) == before
    assert invoke(*cohort, "--basis", "mrtrix3", "--force").status == 0
    written = folder / f"sub-sim03_ses-ge_st_space-{NEAR}_sh.json"
    written.write_text("{}")
    changed = invoke(*cohort, "--basis", "mrtrix3")
    assert (changed.status, "was changed or removed since it was written" in changed.err) == (1, True)
    (folder / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is no prediction" in invoke(*cohort, "--force").err.splitlines()[-1]
    assert (folder / "notes.txt").exists()


def test_other_peoples_data_sets_are_not_written_into(bench, cohort, invoke):
    description = bench.file("out/dataset_description.json", '{"Name": "raw", "BIDSVersion": "1.8.0"}')
    assert "is a data set that harmonet predict did not write" in one_line(invoke(*cohort))
    assert "raw" in description.read_text()
    inside = [*cohort[:4], "--out", bench.heads / "derivatives"]
    assert "which is only read" in one_line(invoke(*inside))


def test_an_interrupted_cohort_leaves_whole_subjects_only(run, tiny_heads, tmp_path):
    def stop(_, done, __, words):
        if done == 1 and "%" in words:
            raise KeyboardInterrupt

    dataset, out = open_dataset(tiny_heads), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_cohort(run, dataset, dataset.subjects, out, [NEAR], watch=stop)
    assert {path.name for path in out.rglob("harmonet.json")} == {"harmonet.json"}
    assert sorted(path.name for path in out.rglob("sub-*") if path.is_dir()) == ["sub-sim01"]
    left = out / "sub-sim02" / "ses-ge_st" / f".dwi.{os.getpid() + 1}.partial"  # as a killed process would leave it
    left.mkdir(parents=True)
    tally = predict_cohort(run, dataset, dataset.subjects, out, [NEAR])
    assert (tally.before, tally.done, tally.failed) == (["sim01"], ["sim02", "sim03"], {})
    assert not left.exists()
