"""From files to channels: the lean way gives what the plain one gives, whatever the storage order and type."""

import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from harmonet import sh
from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import from_world, write_gradients
from harmonet.data.nifti import write_nifti
from harmonet.data.numbers import Numbers
from harmonet.data.represent import decoded, represent
from harmonet.data.scan import CHUNK, read_scan
from harmonet.errors import DataError
from harmonet.representation import Representation
from harmonet.representations.sh_signal import SHSignal

SHAPE = (13, 11, 12)
AFFINE = np.array([[2.0, 0.1, 0, -11], [-0.1, 2.5, 0, 7], [0, 0, 3, 5], [0, 0, 0, 1]])
STORAGE = [((0, 1), (1, 1), (2, 1)), ((2, -1), (0, 1), (1, -1)), ((1, 1), (0, -1), (2, 1))]
KINDS = ["<f4", ">f4", "<f8", "<i2", ">u2", "u1", "<i8", "scaled <i2", "scaled <f4"]


def sphere(n):
    z = 1 - (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)


def table(n=20):
    """Two b0s among n directions at b = 1000 and one at b = 3000, which nobody asks for."""
    bvals = np.r_[0.0, np.full(n // 2, 1000.0), 5, np.full(n - n // 2, 1000.0), 3000]
    directions = np.zeros((len(bvals), 3))
    directions[bvals > 50] = sphere(n + 1)
    return bvals, directions


def acquire(folder, kind="<f4", orders=STORAGE[0], shape=SHAPE, directions=None):
    """A noisy head on disk in a storage order and number type; some of its voxels have no b0 to divide by."""
    rng = np.random.default_rng(0)
    bvals, spread = table()
    directions = spread if directions is None else directions
    decay = np.exp(-bvals * (2e-4 + 1.2e-3 * (spread @ [0.6, 0.8, 0]) ** 2))
    signal = rng.uniform(60, 200, size=shape)[..., None] * decay + rng.normal(scale=4, size=(*shape, len(bvals)))
    signal[5, 5, 5, bvals < 50] = 0
    mask = rng.random(shape) < 0.4
    mask[5, 5, 5] = True
    turn = np.array(orders, float)
    image = nib.Nifti1Image(np.clip(signal, 0, 250).round(), AFFINE).as_reoriented(turn)
    header = nib.Nifti1Header(endianness=">" if ">" in kind else "<")
    numbers = image.get_fdata().astype(kind.split()[-1])
    header.set_data_dtype(numbers.dtype)
    content = bytearray(nib.Nifti1Image(numbers, image.affine, header).to_bytes())
    if kind.startswith("scaled"):
        content[112:120] = np.array([0.37, 3], "<f4").tobytes()
    (folder / "dwi.nii").write_bytes(content)
    stored_mask = nib.Nifti1Image(mask.astype(np.uint8), AFFINE).as_reoriented(turn).get_fdata()
    write_nifti(folder / "mask.nii", stored_mask, image.affine)
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", bvals, from_world(directions, image.affine))
    return Acquisition("sub", "ge_st", *(folder / name for name in ("dwi.nii", "dwi.bval", "dwi.bvec", "mask.nii")))


def plain(acquisition, order):
    """Channels by the book: everything in float64, everything in canonical order, everything at once."""
    image = nib.as_closest_canonical(nib.load(acquisition.dwi))
    mask = nib.as_closest_canonical(nib.load(acquisition.mask)).get_fdata() > 0
    data = image.get_fdata()
    bvals, directions = table()
    b0 = data[..., bvals < 50].mean(axis=-1)
    usable = mask & (b0 > 0.01 * np.median(b0[mask]))
    chosen = bvals == 1000
    ratio = np.clip(data[..., chosen] / np.where(usable, b0, np.inf)[..., None], 0, 1)
    return ratio @ sh.fit_matrix(directions[chosen], order).T, mask, mask & ~usable


@pytest.mark.parametrize("orders", STORAGE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_those_of_the_plain_way_in_every_storage_order_and_type(tmp_path, kind, orders):
    acquisition = acquire(tmp_path, kind, orders)
    scan = read_scan(acquisition)
    volume = represent(scan, SHSignal([1000], 4), [1000])
    expected, mask, dark = plain(acquisition, 4)
    assert volume.channels.dtype == np.float32
    assert volume.channels.flags.c_contiguous
    np.testing.assert_allclose(volume.channels, expected, atol=1e-6)
    np.testing.assert_array_equal(volume.mask, mask)
    assert (volume.channels[~mask] == 0).all()
    np.testing.assert_array_equal(scan.dark(), dark)
    assert dark.sum() == ("scaled" not in kind)  # an intercept leaves no voxel without b0
    assert volume.gradients.bvals.tolist() == [1000] * 20
    data = nib.as_closest_canonical(nib.load(acquisition.dwi)).get_fdata()
    np.testing.assert_allclose(scan.signal, data, rtol=1e-6)
    np.testing.assert_allclose(scan.b0(), data[..., scan.bvals < 50].mean(axis=-1), rtol=1e-6)
    assert scan.normalised().shape == (*SHAPE, 21)


def test_channels_are_dipys(tmp_path):
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import sf_to_sh

    scan = read_scan(acquire(tmp_path))
    chosen = scan.bvals == 1000
    ratio = scan.normalised()[..., chosen[scan.is_dwi]]
    expected = sf_to_sh(
        ratio[scan.mask], Sphere(xyz=scan.directions[chosen]), sh_order_max=4, basis_type="descoteaux07",
        smooth=0.006, legacy=False,
    )  # fmt: skip
    found = represent(scan, SHSignal([1000], 4), [1000]).channels[scan.mask]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_in_memory_of_any_order_is_represented_as_the_file_is(tmp_path):
    scan = read_scan(acquire(tmp_path, "<f4", STORAGE[1]))
    expected = represent(scan, SHSignal([1000], 4), [1000]).channels
    wide = np.zeros((*SHAPE[:2], 2 * SHAPE[2], len(scan.bvals)))
    wide[:, :, ::2] = scan.signal
    for array in (np.ascontiguousarray(scan.signal), np.asfortranarray(scan.signal), wide[:, :, ::2]):
        other = replace(scan, numbers=Numbers(array))
        np.testing.assert_allclose(represent(other, SHSignal([1000], 4), [1000]).channels, expected, atol=1e-6)


def test_directions_in_a_plane_are_refused_for_the_scan_by_name(tmp_path):
    bvals, flat = table()
    angle = np.linspace(0, np.pi, 21, endpoint=False)
    flat[bvals > 50] = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    scan = read_scan(acquire(tmp_path, directions=flat))
    with pytest.raises(DataError, match=r"^sub ge_st: .*repeat or lie in a plane"):
        represent(scan, SHSignal([1000], 4), [1000])


def test_a_shell_that_was_not_measured_is_refused_with_those_that_were(tmp_path):
    scan = read_scan(acquire(tmp_path))
    with pytest.raises(DataError, match="no volumes at b = 2000 s/mm², found 1000, 3000"):
        represent(scan, SHSignal([2000], 4), [2000])


class AsItIs(Representation):
    """The one volume of a scalar image."""

    channels, uses_gradients = 1, False

    def encoder(self, bvals, directions):
        return lambda rows: rows

    decoder = encoder

    def groups(self):
        return {}

    def turn(self, rotation):
        return np.eye(1)

    def sidecar(self):
        return {}


@pytest.mark.parametrize("orders", STORAGE, ids=str)
def test_a_scalar_image_is_taken_as_it_is_inside_its_mask(tmp_path, orders):
    acquisition = acquire(tmp_path, "scaled <i2", orders)
    content = bytearray(acquisition.dwi.read_bytes())
    content[40:42] = (3).to_bytes(2, "little")
    acquisition.dwi.write_bytes(content[: 352 + 2 * np.prod(SHAPE)])
    scan = read_scan(replace(acquisition, bval=None, bvec=None))
    volume = represent(scan, AsItIs(), [])
    data = nib.as_closest_canonical(nib.load(acquisition.dwi)).get_fdata()
    np.testing.assert_allclose(volume.channels[..., 0], np.where(volume.mask, data, 0), rtol=1e-6)
    assert volume.gradients.bvals.tolist() == [0]


def test_what_is_decoded_is_the_smooth_signal(tmp_path):
    scan = read_scan(acquire(tmp_path))
    representation = SHSignal([1000], 4)
    volume = represent(scan, representation, [1000])
    signal = decoded(representation, volume, volume.gradients)
    assert signal.shape == (*SHAPE, 20)
    assert (signal[~scan.mask] == 0).all()
    rows = scan.normalised()[..., :20][scan.mask & ~scan.dark()]
    assert np.abs(signal[scan.mask & ~scan.dark()] - rows).mean() < 0.03


def test_neither_the_type_nor_the_order_of_the_whole_image_is_changed(tmp_path):
    shape = (60, 50, 40)
    acquisition = acquire(tmp_path, "<i2", STORAGE[1], shape)
    sh.fit_matrix(sphere(20), 4)  # what is imported takes memory, too
    tracemalloc.start()
    try:
        scan = read_scan(acquisition)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        volume = represent(scan, SHSignal([1000], 4), [1000])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    voxels = int(scan.mask.sum())
    assert voxels > 4 * CHUNK
    assert scan.numbers.stored.dtype == np.int16
    image = 2 * scan.numbers.stored.size
    assert read < image + 4e6
    assert peak - image - volume.channels.nbytes < max(5e6, 75 * voxels) < image
