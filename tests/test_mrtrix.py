"""MRtrix3, where it is installed, reads the same files as we do and finds the same coefficients.

It has code, basis and b-vector rule of its own, so agreement speaks for all three of ours.
"""

import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest

from harmonet import sh
from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import B0_MAX, from_world, read_bvals, read_bvecs, to_world, write_gradients
from harmonet.data.scan import read_scan

pytestmark = pytest.mark.skipif(
    shutil.which("amp2sh") is None or shutil.which("sh2power") is None,
    reason="MRtrix3's amp2sh and sh2power are not on PATH (Debian's package mrtrix3)",
)

SHAPE = (3, 4, 2)
OBLIQUE = np.array([[-1.9, 0.3, 0.4, 12.0], [0.2, 2.0, -0.5, -30.0], [0.4, 0.4, 2.9, 7.0], [0, 0, 0, 1]])
AFFINES = {
    "det<0": OBLIQUE,
    "det>0": OBLIQUE @ np.diag([-1.0, 1, 1, 1]),
    "other axis order": OBLIQUE[:, [2, 0, 1, 3]],
}


def run(*command):
    done = subprocess.run([*map(str, command), "-quiet"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=AFFINES)
def scan_files(request, tmp_path):
    """A random DWI: 2 volumes at b = 0, 40 at b = 1200, with a fibre along (1, 1, 0) of the world in it."""
    rng = np.random.default_rng(11)
    affine = orthogonal(AFFINES[request.param])
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bvals = np.concatenate([[0.0], np.full(20, 1200.0), [5.0], np.full(20, 1200.0)])
    bvecs = np.zeros((42, 3))
    bvecs[bvals > B0_MAX] = from_world(directions, affine)
    fibre = np.exp(-1.2 * (0.3 + 0.7 * (directions @ [1, 1, 0]) ** 2))
    signal = np.ones((*SHAPE, 42))
    signal[..., bvals > B0_MAX] = fibre
    signal = (1000 * signal * rng.uniform(0.8, 1.2, size=signal.shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(signal, affine), tmp_path / "dwi.nii.gz")
    mask = np.ones(SHAPE, dtype=np.uint8)
    mask[0, 0, 0] = 0
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    write_gradients(tmp_path / "dwi.bval", tmp_path / "dwi.bvec", bvals, bvecs)
    return tmp_path


def orthogonal(affine):
    """The affine without shear, which NIfTI's quaternion (and so MRtrix3) cannot hold."""
    linear = affine[:3, :3]
    size = np.linalg.norm(linear, axis=0)
    left, _, right = np.linalg.svd(linear / size)
    return np.block([[left @ right * size, affine[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])


def canonical(path):
    return nib.as_closest_canonical(nib.load(path)).get_fdata()


def amp2sh(folder, order):
    """(X, Y, Z, C) MRtrix3's coefficients, in closest-canonical axes."""
    gradients = ("-fslgrad", folder / "dwi.bvec", folder / "dwi.bval")
    run("amp2sh", folder / "dwi.nii.gz", folder / "sh.nii", "-lmax", order, *gradients)
    return canonical(folder / "sh.nii")


def far(ours, theirs):
    """The greatest difference, relative to the greatest coefficient."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("order", [4, 6])
def test_our_fit_in_their_basis_is_amp2sh(scan_files, order):
    image = nib.load(scan_files / "dwi.nii.gz")
    bvals = read_bvals(scan_files / "dwi.bval")
    weighted = bvals > B0_MAX
    directions = to_world(read_bvecs(scan_files / "dwi.bvec", len(bvals)), image.affine)[weighted]
    fit = sh.fit_matrix(directions, order, 0.0)
    ours = sh.convert(canonical(scan_files / "dwi.nii.gz")[..., weighted] @ fit.T, sh.BASIS, "mrtrix3")
    theirs = amp2sh(scan_files, order)
    assert far(ours, theirs) < 1e-6
    for other in ("descoteaux07", "descoteaux07_legacy", "tournier07_legacy"):
        assert far(sh.convert(ours, "mrtrix3", other), theirs) > 0.01


def test_a_scan_as_the_package_reads_it_has_the_coefficients_of_amp2sh(scan_files):
    files = (scan_files / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"))
    scan = read_scan(Acquisition("sub-1", "scanner", *files))
    signal = scan.signal[..., scan.is_dwi].astype(np.float64)
    ours = signal @ sh.fit_matrix(scan.directions[scan.is_dwi], 6, 0.0).T
    assert far(sh.convert(ours, sh.BASIS, "mrtrix3"), amp2sh(scan_files, 6)) < 1e-6


def test_rish_is_4_pi_times_the_power_of_sh2power(scan_files):
    theirs = amp2sh(scan_files, 6)
    run("sh2power", scan_files / "sh.nii", scan_files / "power.nii", "-spectrum")
    ours = sh.rish(sh.convert(theirs, "mrtrix3", sh.BASIS))
    assert np.allclose(ours, 4 * np.pi * canonical(scan_files / "power.nii"), rtol=1e-5)  # a mean square, not a sum
