"""A scan: files that fit each other become one set of arrays, whatever their storage order."""

import os
import re
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from harmonet.data.acquisition import Acquisition
from harmonet.data.axes import from_canonical
from harmonet.data.gradients import from_world, write_gradients
from harmonet.data.nifti import write_nifti
from harmonet.data.protocol import read_protocol
from harmonet.data.scan import read_scan, truth_scan
from harmonet.errors import DataError

FIBRE = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
SHAPE = (4, 5, 6)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2.5, 0, 7], [0, 0, 3, 5], [0, 0, 0, 1]])
REAL = Path(os.environ.get("HARMONET_REAL_DATA", "nowhere"))


def sphere(n):
    """(n, 3) well-spread directions on the upper half (a Fibonacci lattice)."""
    z = 1 - (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)


def phantom(n=12):
    """Signals of a fibre along (1, 1, 0), brighter at voxel (1, 2, 3): RAS arrays."""
    bvals = np.array([0.0, 5.0, *[1000.0] * n])
    directions = np.vstack([np.zeros((2, 3)), sphere(n)])
    signal = np.exp(-bvals * (2e-4 + 1.5e-3 * (directions @ FIBRE) ** 2))
    s0 = np.full(SHAPE, 100.0)
    s0[1, 2, 3] = 400
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 1:4, 1:5] = True
    return s0[..., None] * signal, bvals, directions, mask


def write_acquisition(folder, orders=((0, 1), (1, 1), (2, 1)), **changes):
    """The phantom on disk, stored in another axis order, with some files' content replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    signal, bvals, directions, mask = phantom()
    there = nib.Nifti1Image(signal, AFFINE).as_reoriented(np.array(orders, float))
    affine = there.affine
    stored_mask = nib.Nifti1Image(mask.astype(np.uint8), AFFINE).as_reoriented(np.array(orders, float)).get_fdata()
    content = {"dwi": there.get_fdata(), "mask": stored_mask.astype(bool), "mask_affine": affine} | changes
    write_nifti(folder / "dwi.nii.gz", np.nan_to_num(content["dwi"]), affine)
    write_nifti(folder / "mask.nii.gz", content["mask"], content["mask_affine"])
    bvals, directions = content.get("bvals", bvals), content.get("directions", directions)
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", bvals, from_world(directions, affine))
    paths = {key: folder / name for key, name in (("te", "dwi.TE"), ("tr", "dwi.TR")) if key in content}
    for key, path in paths.items():
        path.write_text(content[key])
    return Acquisition(
        "sub-01",
        "ge_st",
        folder / "dwi.nii.gz",
        folder / "dwi.bval",
        folder / "dwi.bvec",
        folder / "mask.nii.gz",
        **paths,
    )


def principal_direction(scan, voxel):
    """Main axis of a tensor fitted by least squares to the logarithm of the signal."""
    g, b = scan.directions[scan.is_dwi], scan.bvals[scan.is_dwi]
    design = -b[:, None] * np.stack([g[:, i] * g[:, j] * (1 + (i != j)) for i in range(3) for j in range(i, 3)], 1)
    xx, xy, xz, yy, yz, zz = np.linalg.lstsq(design, np.log(scan.normalised()[voxel]), rcond=None)[0]
    return np.linalg.eigh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])[1][:, -1]


ORDERS = [
    tuple(zip(axes, signs, strict=True)) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_every_storage_order_gives_the_same_scan_in_the_same_world(tmp_path, orders):
    scan = read_scan(write_acquisition(tmp_path, orders))
    signal, _, directions, mask = phantom()
    np.testing.assert_array_equal(scan.signal, signal.astype(np.float32))
    np.testing.assert_array_equal(scan.mask, mask)
    np.testing.assert_allclose(scan.directions, directions, atol=1e-6)
    np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-5)
    assert scan.grid.shape == SHAPE
    assert abs(principal_direction(scan, (1, 2, 3)) @ FIBRE) > 0.9999
    stored = nib.load(tmp_path / "dwi.nii.gz")
    np.testing.assert_array_equal(from_canonical(scan.signal, scan.stored), stored.get_fdata())
    b0 = from_canonical(scan.b0(), scan.stored)
    np.testing.assert_array_equal(b0, stored.get_fdata()[..., :2].mean(-1, dtype=np.float32))
    np.testing.assert_array_equal(scan.stored.affine, stored.affine)
    assert scan.stored.shape == stored.shape[:3]
    assert scan.warnings == ()


def test_a_table_with_x_the_wrong_way_round_is_seen_in_the_fibre(tmp_path):
    mirrored = phantom()[2] * [-1, 1, 1]
    scan = read_scan(write_acquisition(tmp_path, directions=mirrored))
    assert abs(principal_direction(scan, (1, 2, 3)) @ FIBRE) < 0.01


def test_the_signal_is_divided_by_the_mean_b0_inside_the_mask_only(tmp_path):
    scan = read_scan(write_acquisition(tmp_path))
    signal, bvals, _, mask = phantom()
    ratio = scan.normalised()
    assert ratio.dtype == np.float32
    assert ratio.shape == (*SHAPE, 12)
    expected = signal[..., bvals > 50] / signal[..., :2].mean(-1, keepdims=True)
    np.testing.assert_allclose(ratio[mask], expected[mask], rtol=1e-6)
    assert (ratio[~mask] == 0).all()


def test_ratios_stay_within_0_and_1_and_dark_voxels_are_counted(tmp_path):
    signal = phantom()[0]
    signal[1, 1, 1, :2] = 0
    signal[1, 1, 2, :2] = 1e-3
    signal[1, 1, 3, :2] = -50
    signal[2, 2, 2, 4], signal[2, 2, 2, 5] = 1e4, -3
    scan = read_scan(write_acquisition(tmp_path, dwi=signal))
    assert np.argwhere(scan.dark()).tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 3]]
    ratio = scan.normalised()
    assert (ratio[scan.dark()] == 0).all()
    assert (ratio[2, 2, 2, 2], ratio[2, 2, 2, 3]) == (1, 0)
    assert ratio.min() == 0
    assert ratio.max() == 1


def test_each_file_is_remembered_by_its_digest(tmp_path):
    acquisition = write_acquisition(tmp_path, te="89 " * 14)
    first = read_scan(acquisition).sources
    assert sorted(first) == ["dwi.TE", "dwi.bval", "dwi.bvec", "dwi.nii.gz", "mask.nii.gz"]
    acquisition.bval.write_text(acquisition.bval.read_text() + "\n")
    again = read_scan(acquisition).sources
    assert {name for name in first if first[name] != again[name]} == {"dwi.bval"}


def test_files_of_one_name_in_different_folders_are_both_remembered(tmp_path):
    acquisition = write_acquisition(tmp_path / "a")
    mask = tmp_path / "masks" / "a" / "dwi.nii.gz"
    mask.parent.mkdir(parents=True)
    acquisition.mask.rename(mask)
    sources = read_scan(replace(acquisition, mask=mask)).sources
    assert sorted(sources) == ["dwi.bval", "dwi.bvec", "masks/a/dwi.nii.gz", f"{tmp_path.name}/a/dwi.nii.gz"]


def test_the_protocol_is_that_of_the_scan_and_needs_no_data(tmp_path):
    bvals = np.array([0.0, *[1000.0] * 11, 0.0, 0.0])
    directions = np.vstack([np.zeros(3), sphere(11), np.zeros((2, 3))])
    acquisition = write_acquisition(
        tmp_path, ((1, -1), (0, 1), (2, -1)), te="89 " * 12 + "68 89", bvals=bvals, directions=directions
    )
    protocol, scan = read_protocol(acquisition), read_scan(acquisition)
    assert (protocol.subject, protocol.platform, protocol.path) == ("sub-01", "ge_st", acquisition.dwi)
    assert protocol.grid.same_as(scan.grid, 0)
    assert protocol.stored.same_as(scan.stored, 0)
    np.testing.assert_array_equal(protocol.bvals, scan.bvals)
    np.testing.assert_array_equal(protocol.is_dwi, scan.is_dwi)
    np.testing.assert_array_equal(protocol.directions, scan.directions)
    assert np.flatnonzero(~protocol.keep).tolist() == [12]
    assert (protocol.te, protocol.tr, protocol.dropped) == (89, None, 1)
    acquisition.dwi.write_bytes(acquisition.dwi.read_bytes()[:-100])
    assert read_protocol(acquisition).grid.same_as(protocol.grid, 0)
    with pytest.raises(DataError, match="truncated"):
        read_scan(acquisition)


@pytest.mark.parametrize("axes", [3, 4])
def test_a_scalar_image_is_one_volume_without_a_direction(tmp_path, axes):
    acquisition = write_acquisition(tmp_path, ((0, -1), (2, 1), (1, 1)))
    image = nib.load(acquisition.dwi)
    data = image.get_fdata()[..., 0]
    write_nifti(acquisition.dwi, data if axes == 3 else data[..., None], image.affine)
    scalar = replace(acquisition, bval=None, bvec=None, te=20.0)
    scan, protocol = read_scan(scalar), read_protocol(scalar)
    np.testing.assert_array_equal(scan.signal[..., 0], phantom()[0][..., 0].astype(np.float32))
    np.testing.assert_array_equal(scan.b0(), scan.signal[..., 0])
    assert (scan.bvals.tolist(), scan.directions.tolist(), scan.te, protocol.te) == ([0], [[0, 0, 0]], 20, 20)
    assert scan.warnings == protocol.warnings == ()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 5, 6, 1, 3)])
def test_an_image_of_other_axes_is_no_scalar_image(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), AFFINE), tmp_path / "t1.nii")
    with pytest.raises(DataError, match=r"t1.nii has shape .* no gradient table"):
        read_scan(Acquisition("a", "t1", tmp_path / "t1.nii", None, None, None), auto_mask=True)


@pytest.mark.parametrize("te", [0.0, -3.0, np.nan])
def test_one_time_for_all_volumes_must_be_a_time(tmp_path, te):
    with pytest.raises(DataError, match="sub-01 ge_st has a TE or TR of"):
        read_protocol(replace(write_acquisition(tmp_path), te=te))


@pytest.mark.parametrize("te", ["89 " * 12 + "68 89", "0.089 " * 12 + "0.068 0.089"])
def test_volumes_of_another_echo_time_are_dropped(tmp_path, te):
    bvals = np.array([0.0, *[1000.0] * 11, 0.0, 0.0])
    directions = np.vstack([np.zeros(3), sphere(11), np.zeros((2, 3))])
    scan = read_scan(write_acquisition(tmp_path, te=te, tr="7200 " * 14, bvals=bvals, directions=directions))
    assert (scan.dropped, scan.signal.shape[3], len(scan.bvals), len(scan.directions)) == (1, 13, 13, 13)
    assert (scan.te, scan.tr) == (pytest.approx(89), 7200)
    np.testing.assert_array_equal(scan.signal, np.delete(phantom()[0], 12, axis=3).astype(np.float32))


@pytest.mark.parametrize(
    ("te", "words"),
    [
        ("89 " * 13, "13 values for 14 volumes"),
        ("89 " * 13 + "60", "split the acquisition"),
        ("60 60 " + "89 " * 12, "no b = 0 volume"),
        ("0 " * 14, "not above 0"),
    ],
)
def test_timings_that_do_not_fit_are_refused(tmp_path, te, words):
    with pytest.raises(DataError, match=words):
        read_scan(write_acquisition(tmp_path, te=te))


def faults():
    signal, bvals, directions, mask = phantom()
    full, shifted = np.ones(SHAPE, bool), AFFINE.copy()
    shifted[0, 3] += 1.5
    few = directions.copy()
    few[3:] = few[3] * np.where(np.arange(11) % 2, 1, -1)[:, None]
    return {
        "3-D": ({"dwi": signal[..., 0]}, "a 4-D image"),
        "b-values short": ({"bvals": bvals[:13], "directions": directions[:13]}, "13 b-values, .* 14 volumes"),
        "no b0": (
            {"bvals": np.full(14, 1000.0), "directions": np.vstack([directions[2:4], directions[2:]])},
            "no b = 0",
        ),
        "one direction": ({"directions": few}, "2 distinct directions in 12"),
        "mask shape": ({"mask": mask[:, :, :5]}, r"shape \(4, 5, 5\)"),
        "mask shifted": ({"mask_affine": shifted}, r"1\.50 mm away"),
        "mask 4-D": ({"mask": np.stack([mask] * 2, -1)}, r"shape \(4, 5, 6, 2\)"),
        "mask probability": ({"mask": mask * 0.6}, r"24 values other than 0 and 1 \(first 0\.6\)"),
        "mask empty": ({"mask": full * 0}, "selects 0 of 120"),
        "mask full": ({"mask": full}, "selects 120 of 120"),
    }


@pytest.mark.parametrize("fault", faults())
def test_files_that_do_not_fit_each_other_are_refused_by_name(tmp_path, fault):
    changes, words = faults()[fault]
    with pytest.raises(DataError, match=words) as error:
        read_scan(write_acquisition(tmp_path, **changes))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("mask", [phantom()[3][..., None], phantom()[3].astype(np.float32)], ids=["4-D", "float"])
def test_a_mask_of_one_volume_or_of_float_zeros_and_ones_is_taken(tmp_path, mask):
    np.testing.assert_array_equal(read_scan(write_acquisition(tmp_path, mask=mask)).mask, phantom()[3])


def spoilt(tmp_path, voxels):
    """An acquisition with NaN in places; our own writer refuses to make one."""
    acquisition = write_acquisition(tmp_path)
    image = nib.load(acquisition.dwi)
    data = image.get_fdata(dtype=np.float32)
    for voxel in voxels:
        data[voxel] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine, image.header), acquisition.dwi)
    return acquisition


def test_nan_in_the_mask_is_refused_with_count_and_place(tmp_path):
    with pytest.raises(DataError, match=r"2 NaN or infinite values inside the mask, the first at \[1, 2, 3, 4\]"):
        read_scan(spoilt(tmp_path, [(1, 2, 3, 4), (2, 2, 2, 0), (0, 0, 0, 0)]))


def test_nan_outside_the_mask_becomes_zero_and_is_counted(tmp_path):
    scan = read_scan(spoilt(tmp_path, [(0, 0, 0, 0), (0, 0, 0, 5)]))
    assert scan.cleared == 2
    assert scan.signal[0, 0, 0, 5] == 0
    assert np.isfinite(scan.signal).all()


def test_the_place_of_nan_is_that_in_the_file_where_volumes_are_dropped(tmp_path):
    acquisition = spoilt(tmp_path, [(1, 2, 3, 4)])
    (tmp_path / "dwi.TE").write_text("68 " + "89 " * 13)
    with pytest.raises(DataError, match=r"1 NaN .* the first at \[1, 2, 3, 4\]"):
        read_scan(replace(acquisition, te=tmp_path / "dwi.TE"))


def doubtful():
    signal, bvals, _, _ = phantom()
    nearly = bvals.copy()
    nearly[1] = 30
    one, most = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    one[1, 2, 3] = True
    most[0, 0, :3] = False
    big = np.zeros((40, 5, 6), bool)
    big[1, 2, 3:6] = True
    swapped = signal.copy()
    dark = int(np.argmin(signal[0, 0, 0]))
    swapped[..., [1, dark]] = signal[..., [dark, 1]]
    doubled = signal.copy()
    doubled[..., [9, 10]] = signal[..., [0, 0]]
    return {
        "nearly b0": ({"bvals": nearly}, [r"dwi.bval has b = 30 s/mm² for volume 1, and they count as b = 0"]),
        "tiny mask": (
            {"dwi": np.repeat(signal, 10, axis=0), "mask": big},
            [r"mask.nii.gz selects 3 of 1200 voxels \(0\.2%\)"],
        ),
        "huge mask": ({"mask": most}, [r"mask.nii.gz selects 117 of 120 voxels \(97\.5%\)"]),
        "swapped b-values": (
            {"dwi": swapped},
            [
                "^sub-01 ge_st has volume 1 labelled b = 0 but attenuated .* order of the b-values",
                f"^sub-01 ge_st has volume {dark} labelled diffusion-weighted but as bright as b = 0",
            ],
        ),
        "a b0 more": ({"dwi": doubled}, ["has volumes 9, 10 labelled diffusion-weighted but as bright"]),
    }


@pytest.mark.parametrize("case", doubtful())
def test_what_can_be_used_but_looks_odd_is_said_in_a_sentence(tmp_path, case):
    changes, words = doubtful()[case]
    found = read_scan(write_acquisition(tmp_path, **changes)).warnings
    assert len(found) == len(words)
    for sentence, word in zip(found, words, strict=True):
        assert re.search(word, sentence), sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_volumes_are_counted_as_kept_where_some_were_dropped(tmp_path):
    signal = phantom()[0]
    signal[..., 9] = signal[..., 0]
    acquisition = write_acquisition(tmp_path, dwi=signal, te="68 " + "89 " * 13)
    (found,) = read_scan(acquisition).warnings
    assert "has volume 8, not counting the 1 left out, labelled" in found


def test_without_a_mask_the_message_offers_to_make_one(tmp_path):
    acquisition = replace(write_acquisition(tmp_path), mask=None)
    with pytest.raises(DataError, match="--mask auto"):
        read_scan(acquisition)


def test_an_automatic_mask_finds_the_head_and_a_mask_file_wins_over_it(tmp_path):
    shape = (40, 40, 30)
    x, y, z = np.indices(shape)
    head = ((x - 20) / 15) ** 2 + ((y - 20) / 16) ** 2 + ((z - 15) / 12) ** 2 < 1
    signal = phantom()[0]
    coil = (x < 8) & (y < 8) & (z < 8) & ~head  # bright, and no part of the head
    hole = (np.abs(x - 20) < 4) & (np.abs(y - 20) < 4) & (np.abs(z - 15) < 4)
    data = np.where(((head & ~hole) | coil)[..., None], signal[0, 0, 0], 1.0) + np.random.default_rng(0).random(
        (*shape, 14)
    )
    by_hand = np.zeros(shape, bool)
    by_hand[18:22, 18:22, 13:17] = True
    acquisition = write_acquisition(tmp_path, dwi=data, mask=by_hand)
    made = read_scan(replace(acquisition, mask=None), auto_mask=True)
    assert 2 * (made.mask & head).sum() / (made.mask.sum() + head.sum()) > 0.9  # the median rounds edges
    assert not (made.mask & coil).any()
    assert made.mask[hole].all()
    assert "mask.nii.gz" not in made.sources
    np.testing.assert_array_equal(read_scan(acquisition, auto_mask=True).mask, by_hand)


def test_the_truth_is_read_with_the_table_and_mask_of_its_scan(tmp_path):
    acquisition = write_acquisition(tmp_path)
    assert truth_scan(acquisition) is None
    write_nifti(tmp_path / "truth.nii.gz", 2 * phantom()[0], AFFINE)
    scan, truth = read_scan(acquisition), truth_scan(replace(acquisition, truth=tmp_path / "truth.nii.gz"))
    np.testing.assert_array_equal(truth.signal, 2 * scan.signal)
    np.testing.assert_array_equal(truth.mask, scan.mask)
    assert "truth.nii.gz" in truth.sources


# One head, scanned twice: stored with determinants of opposite sign, moved by about 1.4 mm between the scans.
prisma = pytest.mark.skipif(
    not (REAL / "prisma_rescan").is_dir(), reason="HARMONET_REAL_DATA names no folder with prisma_rescan"
)
SLICES = slice(35, 52)


def prisma_scan(name):
    folder = REAL / "prisma_rescan" / name
    return read_scan(
        Acquisition(
            "head", name, folder / "dwi.nii.gz", folder / "dwi.bval", folder / "dwi.bvec", folder / "mask.nii.gz"
        )
    )


def tensor(scan, signs=(1, 1, 1)):
    """FA and main axis of the central slices, with the directions' axes mirrored at will."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    where = np.zeros_like(scan.mask)
    where[:, :, SLICES] = scan.mask[:, :, SLICES]
    table = gradient_table(scan.bvals, bvecs=scan.directions * signs, b0_threshold=50)
    fit = TensorModel(table, fit_method="OLS").fit(scan.signal, mask=where)
    return np.where(where, np.nan_to_num(fit.fa), 0), fit.directions[..., 0, :]


def coherence(fa, axis, threshold=0.4):
    """Share of white-matter voxels whose neighbour along the fibre points the same way (within 30 degrees)."""
    voxels = np.argwhere(fa > threshold)
    along = axis[fa > threshold]
    ahead = voxels + np.rint(along / np.abs(along).max(axis=1, keepdims=True)).astype(int)
    inside = ((ahead >= 0) & (ahead < fa.shape)).all(axis=1)
    here, there = tuple(voxels[inside].T), tuple(ahead[inside].T)
    same = np.abs((axis[here] * axis[there]).sum(axis=1)) > np.cos(np.pi / 6)
    return np.mean(same & (fa[there] > threshold))


@pytest.mark.real
@prisma
@pytest.mark.parametrize("name", ["scan1", "scan2"])
def test_real_fibres_continue_into_each_other_only_with_the_right_sign_of_x(name):
    scan = prisma_scan(name)
    assert coherence(*tensor(scan)) > coherence(*tensor(scan, (-1, 1, 1))) + 0.05


@pytest.mark.real
@prisma
def test_the_automatic_mask_of_a_real_head_is_the_one_that_was_made_by_hand_with_dipy():
    folder = REAL / "prisma_rescan" / "scan1"
    acquisition = Acquisition("head", "scan1", folder / "dwi.nii.gz", folder / "dwi.bval", folder / "dwi.bvec", None)
    made, given = read_scan(acquisition, auto_mask=True).mask, prisma_scan("scan1").mask
    assert 2 * (made & given).sum() / (made.sum() + given.sum()) > 0.99


@pytest.mark.real
@prisma
def test_two_real_scans_of_opposite_handedness_show_the_same_fibres():
    one, two = prisma_scan("scan1"), prisma_scan("scan2")
    stored = [np.linalg.det(scan.stored.affine[:3, :3]) for scan in (one, two)]
    assert stored[0] * stored[1] < 0
    (fa1, axis1), (fa2, axis2) = tensor(one), tensor(two)
    voxels = np.argwhere(fa1 > 0.5)
    there = np.linalg.inv(two.grid.affine) @ one.grid.affine @ np.c_[voxels, np.ones(len(voxels))].T
    other = np.rint(there[:3]).astype(int).T
    inside = ((other >= 0) & (other < fa2.shape)).all(axis=1)
    here, there = tuple(voxels[inside].T), tuple(other[inside].T)
    both = fa2[there] > 0.5
    agreement = np.abs((axis1[here] * axis2[there]).sum(axis=1))[both].mean()
    assert agreement > 0.95  # 0.97 as read, 0.67 where one table has x the wrong way round
