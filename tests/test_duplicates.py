"""Copies are found whatever was done to their names, headers and compression; what is not a copy is not."""

import gzip
import itertools
import os
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from harmonet.data.acquisition import Acquisition
from harmonet.data.duplicates import WINDOW, duplicates, fingerprint
from harmonet.data.nifti import write_nifti
from harmonet.errors import DataError

SHAPE = (12, 11, 10, 9)


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stored(values, kind=nib.Nifti1Image, order="<"):
    """The bytes of a `.nii` file."""
    image = kind(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    if order == ">":
        header = image.header.as_byteswapped(">")
        image = kind(values.astype(values.dtype.newbyteorder(">")), image.affine, header)
    return image.to_bytes()


def zipped(content, level=6, members=1):
    """gzip at this level, as one stream or several one after another, as pigz and bgzip write."""
    cuts = np.linspace(0, len(content), members + 1).astype(int)
    return b"".join(gzip.compress(content[a:b], level) for a, b in itertools.pairwise(cuts))


@pytest.fixture
def heads(tmp_path):
    """Makes acquisitions of these file contents; `a`, `b`, `c` ... by name."""

    def make(*contents):
        made = []
        for name, content in zip("abcdefg", contents, strict=False):
            path = tmp_path / f"{name}.nii.gz"
            path.write_bytes(content)
            made.append(Acquisition(name, "ge_st", path, None, None, None))
        return made

    return make


def names(pairs):
    return [(one.subject, other.subject) for one, other in pairs]


@pytest.mark.parametrize(
    "copy",
    [
        stored(noise()),
        zipped(stored(noise()), 0),
        zipped(stored(noise()), 1),
        zipped(stored(noise()), 9),
        zipped(stored(noise()), members=5),
        stored(noise(), nib.Nifti2Image),
        zipped(stored(noise(), nib.Nifti2Image)),
        stored(noise()) + bytes(100),
    ],
    ids=["plain", "level 0", "level 1", "level 9", "several members", "NIfTI-2", "NIfTI-2 zipped", "bytes behind it"],
)
def test_a_copy_is_found_however_it_is_packed(heads, copy):
    made = heads(zipped(stored(noise())), copy, zipped(stored(noise(1))))
    assert len({fingerprint(one.dwi) for one in made[:2]}) == 1
    assert names(duplicates(made)) == [("a", "b")]


def test_a_copy_whose_header_was_edited_is_found(heads):
    content = bytearray(stored(noise()))
    content[148:228] = b"anonymised".ljust(80, b"\0")  # descrip
    struct.pack_into("<f", content, 292, -77.0)  # srow_x: elsewhere in the world
    assert names(duplicates(heads(stored(noise()), bytes(content)))) == [("a", "b")]


def test_a_copy_with_extensions_before_its_voxels_is_found(heads):
    content = bytearray(stored(noise()))
    struct.pack_into("<f", content, 108, 352 + 64)  # vox_offset
    moved = bytes(content[:352]) + bytes(64) + bytes(content[352:])
    assert names(duplicates(heads(stored(noise()), zipped(moved)))) == [("a", "b")]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_big_endian_headers_are_read(heads, kind):
    big = stored(noise(), kind, ">")
    assert names(duplicates(heads(big, zipped(big), stored(noise(), kind)))) == [("a", "b")]


@pytest.mark.parametrize(
    "other",
    [
        noise(1),
        noise().reshape((11, 12, 10, 9), order="F"),  # the same bytes
        noise()[..., :8],
        np.where(np.arange(noise().size).reshape(SHAPE) == 0, 1, noise()).astype(np.float32),
    ],
    ids=["other noise", "other shape", "a volume less", "one voxel"],
)
def test_what_differs_is_no_copy(heads, other):
    assert duplicates(heads(stored(noise()), stored(other))) == []


def big(last, fill=1.0):
    """An image that is constant over the whole window of the fingerprint, but for its last voxel."""
    values = np.full((64, 64, 64, 6), fill, dtype=np.float32)
    assert values.nbytes > WINDOW
    values[-1, -1, -1, -1] = last
    return zipped(stored(values), 1)


def test_images_that_begin_alike_are_compared_to_their_last_voxel(heads):
    made = heads(big(4), big(2), big(4), big(3))
    assert len({fingerprint(one.dwi) for one in made}) == 1
    assert names(duplicates(made)) == [("a", "c")]


def test_an_empty_margin_is_no_fingerprint(heads):
    made = heads(big(4, fill=0), big(2, fill=0), big(4, fill=0))
    one, other, copy = (fingerprint(acquisition.dwi) for acquisition in made)
    assert one == copy != other
    assert names(duplicates(made)) == [("a", "c")]


def test_images_of_nothing_but_zeros_are_the_same(heads):
    assert names(duplicates(heads(big(0, fill=0), big(0, fill=0), big(4, fill=0)))) == [("a", "b")]


def test_several_copies_are_all_paired_in_the_order_given(heads):
    a, b = stored(noise()), stored(noise(1))
    assert names(duplicates(heads(a, b, a, b, a))) == [("a", "c"), ("a", "e"), ("c", "e"), ("b", "d")]


def test_one_file_under_two_names_is_found(heads, tmp_path):
    (one,) = heads(stored(noise()))
    for number, link in enumerate((os.link, os.symlink)):
        path = tmp_path / f"link{number}.nii"
        link(one.dwi, path)
        other = Acquisition("b", "prisma_st", path, None, None, None)
        assert duplicates([one, other]) == [(one, other)]


def test_what_this_package_writes_is_found(tmp_path):
    made = [Acquisition(n, "ge_st", tmp_path / f"{n}", None, None, None) for n in ("a.nii", "b.nii.gz", "c.nii")]
    for acquisition, seed in zip(made, (0, 0, 1), strict=True):
        write_nifti(acquisition.dwi, noise(seed), np.eye(4))
    assert duplicates(made) == [(made[0], made[1])]


def patched(offset, form, *numbers):
    content = bytearray(stored(noise()))
    struct.pack_into(form, content, offset, *numbers)
    return bytes(content)


GOOD = stored(noise())
UNREADABLE = {
    "empty": b"",
    "no NIfTI": b"not an image" * 100,
    "short": GOOD[:200],
    "voxels cut": GOOD[:1000],
    "gzip cut": zipped(GOOD)[:3000],
    "gzip damaged": zipped(GOOD)[:10] + b"\xff" * 100 + zipped(GOOD)[110:],
    "gzip of nothing": zipped(b""),
    "no axes": patched(40, "<h", 0),
    "eight axes": patched(40, "<h", 8),
    "a negative size": patched(42, "<h", -12),
    "a huge size": patched(42, "<4h", 32767, 32767, 32767, 32767),
    "no bits": patched(72, "<h", 0),
    "negative bits": patched(72, "<h", -32),
    "voxels in the header": patched(108, "<f", 0),
    "voxels nowhere": patched(108, "<f", float("nan")),
    "voxels at infinity": patched(108, "<f", float("inf")),
    "voxels far away": patched(108, "<f", 1e30),
    "voxels past the end": patched(108, "<f", 1e9),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_image_is_named_and_left_to_the_reader(heads, name):
    made = heads(UNREADABLE[name], GOOD, UNREADABLE[name], GOOD)
    with pytest.raises(DataError, match=r"a\.nii\.gz"):
        fingerprint(made[0].dwi)
    assert names(duplicates(made)) == [("b", "d")]


def test_a_missing_image_and_a_folder_are_left_to_the_reader(heads, tmp_path):
    made = heads(GOOD, GOOD)
    gone = [Acquisition(n, "ge_st", tmp_path / n, None, None, None) for n in ("gone", ".")]
    assert names(duplicates([*gone, *made])) == [("a", "b")]


def test_images_that_are_damaged_behind_the_window_are_left_to_the_reader(heads):
    whole = big(1)
    made = heads(whole, whole[:-100], whole)
    assert len({fingerprint(one.dwi) for one in made}) == 1
    assert names(duplicates(made)) == [("a", "c")]


def test_memory_stays_far_below_the_size_of_the_images(heads):
    made = heads(big(1), big(1))
    tracemalloc.start()
    try:
        assert len(duplicates(made)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64**3 * 6 * 4 / 4


def test_images_that_begin_differently_are_inflated_no_further(heads, monkeypatch):
    made = heads(big(4), big(4, fill=2), big(4, fill=3))
    read = []
    inflate = gzip.GzipFile.read

    def count(self, size=-1):
        piece = inflate(self, size)
        read.append(len(piece))
        return piece

    monkeypatch.setattr(gzip.GzipFile, "read", count)
    assert duplicates(made) == []
    assert 0 < sum(read) <= len(made) * (WINDOW + 2 * 540)
