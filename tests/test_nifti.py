"""Reading and writing NIfTI: what is read is what was written, and damage is never read as data."""

import gzip
import math
import os
import re
import struct
import tracemalloc
import zlib
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest

from harmonet.data.nifti import read_header, read_nifti, write_nifti
from harmonet.data.stream import READ
from harmonet.errors import DataError, OutputError
from harmonet.files import write_atomically

AFFINE = np.array([[-2.4, 0.1, 0, 90], [0.1, 2.4, 0, -120], [0, 0, 2.4, -70], [0, 0, 0, 1]])
DIM, DATATYPE, BITPIX, VOX_OFFSET, SLOPE, INTER, QFORM_CODE, SFORM_CODE, SROW, MAGIC = (
    40, 70, 72, 108, 112, 116, 252, 254, 280, 344,
)  # fmt: skip


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype(np.float32)


def raw(values, affine=AFFINE, dtype=np.float32):
    """The bytes of a plain .nii file as nibabel writes it."""
    image = nib.Nifti1Image(np.asarray(values, dtype), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    return bytearray(image.to_bytes())


def patched(content, offset, form, *numbers):
    content = bytearray(content)
    struct.pack_into(form, content, offset, *numbers)
    return content


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_written_reads_back_equal(tmp_path, values, suffix):
    path = tmp_path / f"a{suffix}"
    write_nifti(path, values, AFFINE)
    image = read_nifti(path)
    assert image.data.dtype == np.float32
    np.testing.assert_array_equal(image.data, values)
    np.testing.assert_array_equal(image.affine, AFFINE.astype(np.float32))
    assert list(tmp_path.iterdir()) == [path]


def test_nibabel_reads_the_same_values_and_finds_a_plain_header(tmp_path, values):
    write_nifti(tmp_path / "a.nii.gz", values, AFFINE, description="harmonet prediction")
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    header = image.header
    assert (image.get_data_dtype(), image.dataobj.slope, image.dataobj.inter) == (np.float32, 1, 0)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert header["descrip"].item() == b"harmonet prediction"
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=0.01)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks_are_stored_as_bytes(tmp_path, dtype):
    mask = np.zeros((3, 3, 3), dtype)
    mask[1, 2, 0] = 1
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    assert nib.load(tmp_path / "m.nii.gz").get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_nifti(tmp_path / "m.nii.gz").data, mask)


def test_the_same_image_gives_the_same_bytes_under_any_name(tmp_path, values):
    write_nifti(tmp_path / "a.nii.gz", values, AFFINE)
    write_nifti(tmp_path / "b.nii.gz", np.asfortranarray(values).astype(np.float64), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert read_nifti(tmp_path / "a.nii.gz").sha256 == read_nifti(tmp_path / "b.nii.gz").sha256


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_no_finite_float32_are_not_written(tmp_path, bad):
    data = np.zeros((2, 2, 2))
    data[1, 1, 1] = bad
    with pytest.raises(OutputError, match="1 NaN or infinite"):
        write_nifti(tmp_path / "a.nii.gz", data, AFFINE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "affine", "words"),
    [
        ("a.img", (2, 2, 2), AFFINE, "end in .nii"),
        ("a.nii", (2, 2), AFFINE, r"shape \(2, 2\)"),
        ("a.nii", (2, 0, 2), AFFINE, r"shape \(2, 0, 2\)"),
        ("a.nii", (2, 2, 2), np.eye(3), "affine"),
        ("a.nii", (2, 2, 2), np.diag([1, 1, 0, 1]), "affine"),
        ("no/folder/a.nii", (2, 2, 2), AFFINE, "cannot be written"),
    ],
)
def test_what_is_no_image_is_not_written(tmp_path, name, shape, affine, words):
    with pytest.raises(OutputError, match=words):
        write_nifti(tmp_path / name, np.zeros(shape), affine)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_integers_with_a_slope_are_read_scaled(tmp_path):
    numbers = np.arange(24).reshape(2, 3, 4)
    content = patched(raw(numbers, dtype=np.int16), SLOPE, "<2f", 0.5, -3)
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").data, (numbers * 0.5 - 3).astype(np.float32))


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_a_slope_of_nothing_means_unscaled(tmp_path, slope):
    content = patched(raw(np.full((2, 2, 2), 7), dtype=np.int16), SLOPE, "<f", slope)
    (tmp_path / "a.nii").write_bytes(content)
    assert (read_nifti(tmp_path / "a.nii").data == 7).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("kind", ["little", "big", "nifti2"])
def test_every_usual_kind_of_file_is_read_as_nibabel_reads_it(tmp_path, dtype, kind):
    numbers = np.arange(120).reshape(5, 4, 3, 2).astype(dtype)
    header = nib.Nifti1Header(endianness=">") if kind == "big" else None
    image = (nib.Nifti2Image if kind == "nifti2" else nib.Nifti1Image)(numbers, AFFINE, header)
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").data, numbers)


def test_without_an_sform_the_qform_places_the_image(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), None)
    image.set_qform(np.diag([-2.0, 2, 2, 1]), 1)
    image.set_sform(None, 0)
    content = patched(image.to_bytes(), SFORM_CODE, "<h", 0)
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").affine, np.diag([-2.0, 2, 2, 1]))


def test_a_few_zero_bytes_after_the_stream_are_padding(tmp_path, values):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw(values)) + bytes(12))
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").data, values)


def singular():
    return np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)


def header_faults():
    content = raw(np.ones((4, 4, 4, 3)))
    rows = [0.0, np.nan, 0, 0]
    flipped = (2.4, -0.1, 0, 0, 0.1, 2.4, 0, 0, 0, 0, 2.4, 0)
    return {
        "web page": (b"<!DOCTYPE html><html>" + bytes(400), "web page"),
        "git-LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "git-annex pointer": (b"/annex/objects/SHA256E-s1--0.nii.gz\n", "datalad get"),
        "empty": (b"", "empty"),
        "text": (b"hello" * 200, "not a NIfTI image"),
        "gzip in .nii": (gzip.compress(content), "is gzip inside"),
        "cut header": (content[:300], "not a NIfTI image"),
        "cut": (content[:-1], "truncated"),
        "longer": (content + b"x", "holds more"),
        "magic": (patched(content, MAGIC, "4s", b"nope"), "not a NIfTI image"),
        "pair": (patched(content, MAGIC, "4s", b"ni1\0"), "hdr/.img pair"),
        "size of header": (patched(content, 0, "<i", 347), "not a NIfTI image"),
        "dropped dimension": (patched(content, DIM, "<h", 3), "holds more"),
        "no dimension": (patched(content, DIM, "<h", 0), "each must be 1 or more"),
        "zero size": (patched(content, DIM + 2, "<h", 0), "each must be 1 or more"),
        "negative size": (patched(content, DIM + 2, "<h", -4), "each must be 1 or more"),
        "bits": (patched(content, BITPIX, "<h", 16), "contradicts itself"),
        "offset": (patched(content, VOX_OFFSET, "<f", 12), "contradicts itself"),
        "offset NaN": (patched(content, VOX_OFFSET, "<f", np.nan), "contradicts itself"),
        "data type": (patched(content, DATATYPE, "<h", 77), "unknown data type"),
        "complex": (raw(np.ones((2, 2, 2)), dtype=np.complex64), "real numbers"),
        "scl_inter": (patched(content, SLOPE, "<2f", 1, np.nan), "scl_inter"),
        "NaN in sform": (patched(content, SROW, "<4f", *rows), "affine with NaN"),
        "voxel size 0": (patched(content, SROW, "<12f", *(0,) * 12), "zero axis"),
        "singular": (patched(content, SROW, "<12f", *singular()[:3].ravel()), "singular"),
        "no codes": (patched(content, QFORM_CODE, "<2h", 0, 0), "place in the world"),
        "handedness": (patched(content, SROW, "<12f", *flipped), "opposite handedness"),
    }


@pytest.mark.parametrize("read", [read_nifti, read_header])
@pytest.mark.parametrize("fault", header_faults())
def test_each_fault_of_a_plain_file_has_its_own_sentence(tmp_path, fault, read):
    content, words = header_faults()[fault]
    path = tmp_path / "bad.nii"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (3, 3, 3)])
def test_the_header_alone_says_what_the_image_turns_out_to_be(tmp_path, shape, suffix):
    path = tmp_path / f"a{suffix}"
    write_nifti(path, np.ones(shape), AFFINE)
    header, image = read_header(path), read_nifti(path)
    assert (header.path, header.shape, header.dtype) == (path, shape, np.float32)
    assert header.size == 352 + 4 * math.prod(shape)
    np.testing.assert_array_equal(header.affine, image.affine)
    assert image.data.shape == shape
    assert header.warnings == image.header.warnings == ()


def test_the_header_is_read_from_the_first_bytes_alone(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, np.random.default_rng(0).normal(size=(100, 100, 100)), AFFINE)
    path.write_bytes(path.read_bytes()[:1_000_000])
    tracemalloc.start()
    try:
        assert read_header(path).shape == (100, 100, 100)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    with pytest.raises(DataError, match="truncated"):
        read_nifti(path)


def two_places(shift):
    """A file whose qform lies `shift` mm beside its sform."""
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), AFFINE)
    beside = AFFINE.copy()
    beside[2, 3] += shift
    image.set_sform(AFFINE, 3)
    image.set_qform(beside, 1)
    return image.to_bytes()


def test_a_qform_beside_the_sform_is_said_and_the_sform_is_used(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(two_places(0.5))
    header = read_header(path)
    assert re.fullmatch(
        rf"{path} has a qform and an sform up to 0\.5\d mm apart .* the sform is used: .*\.", *header.warnings
    )
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-5)
    assert header.codes == (3, 3)  # the sform's, whose affine is written again, and not the qform's
    path.write_bytes(two_places(0.05))
    assert (read_header(path).warnings, read_header(path).codes) == ((), (1, 3))


def gzip_faults():
    content = bytes(raw(np.random.default_rng(1).normal(size=(8, 8, 8, 4))))
    good = gzip.compress(content)
    bomb = patched(content[:352], DIM, "<5h", 4, 1000, 1000, 1000, 1)
    swollen = content + bytes(3 << 20)
    return {
        "half": (good[: len(good) // 2], "truncated"),
        "almost all": (good[: int(len(good) * 0.999)], "truncated"),
        "no trailer": (good[:-8], "truncated"),
        "half a trailer": (good[:-4], "truncated"),
        "wrong checksum": (good[:-8] + bytes(4) + good[-4:], "damaged"),
        "wrong length": (good[:-4] + bytes(4), "damaged"),
        "garbage behind": (good + b"garbage", "after the end"),
        "much padding": (good + bytes(5000), "after the end"),
        "two files": (good + good, "holds more"),
        "not gzip": (content, "is not gzip inside"),
        "declares too much": (gzip.compress(bomb), "cannot hold 4.0 GB"),
        "declares too little": (gzip.compress(swollen), "holds more"),
        "cut before compression": (gzip.compress(content[:-4]), "truncated"),
    }


@pytest.mark.parametrize("fault", gzip_faults())
def test_each_fault_of_a_compressed_file_has_its_own_sentence(tmp_path, fault):
    content, words = gzip_faults()[fault]
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_nifti(path)
    assert str(path) in str(error.value)


def test_garbage_that_starts_on_a_read_boundary_is_noticed(tmp_path):
    plain = raw(np.ones((1000, 1000, 1)), dtype=np.uint8)
    path = tmp_path / "a.nii.gz"
    for offset in range(48_000, 49_000):  # stored, not deflated: the length can be chosen to the byte
        content = patched(plain[:352], VOX_OFFSET, "<f", offset) + bytes(offset - 352) + plain[352:]
        packed = zlib.compressobj(0, wbits=31)
        stream = packed.compress(content) + packed.flush()
        if len(stream) == 16 * READ:
            break
    assert len(stream) == 16 * READ
    path.write_bytes(stream)
    assert (read_nifti(path).data == 1).all()
    path.write_bytes(stream + b"garbage")
    with pytest.raises(DataError, match="after the end"):
        read_nifti(path)


def members(content, *places):
    """Gzip streams one after another, as `bgzip` and `pigz -i` write them."""
    cuts = [0, *places, len(content)]
    return [gzip.compress(bytes(content[a:b])) for a, b in pairwise(cuts)]


@pytest.mark.parametrize("places", [(300,), (348, 352, 400), (100, 100, 500), tuple(range(64, 800, 64))])
def test_several_gzip_streams_are_one_file(tmp_path, values, places):
    path = tmp_path / "a.nii.gz"
    streams = members(raw(values), *places)
    path.write_bytes(b"".join([*streams, gzip.compress(b"")]))  # the empty one is how bgzip marks the end
    np.testing.assert_array_equal(read_nifti(path).data, values)
    assert read_header(path).shape == values.shape
    for index, stream in enumerate(streams):
        for name, damaged in {
            "checksum": stream[:-8] + bytes([stream[-8] ^ 1]) + stream[-7:],
            "garbage": stream + b"garbage",
            "missing": b"",
            "padding": stream + bytes(4),
        }.items():
            path.write_bytes(b"".join([*streams[:index], damaged, *streams[index + 1 :]]))
            last_padded = name == "padding" and index == len(streams) - 1
            empty = name == "missing" and len(stream) == len(gzip.compress(b""))
            if last_padded or empty:
                np.testing.assert_array_equal(read_nifti(path).data, values)
            else:
                with pytest.raises(DataError, match=r"damaged|truncated|not a NIfTI"):
                    read_nifti(path)


def test_a_stream_that_ends_where_a_read_ends_is_followed_by_the_next(tmp_path):
    content = bytes(raw(np.random.default_rng(0).integers(0, 256, size=(60, 60, 60)), dtype=np.uint8))
    path = tmp_path / "a.nii.gz"
    for cut in range(READ - 200, READ):
        packed = zlib.compressobj(0, wbits=31)
        first = packed.compress(content[:cut]) + packed.flush()
        if len(first) == READ:
            break
    assert len(first) == READ
    path.write_bytes(first + gzip.compress(content[cut:]))
    assert read_nifti(path).data.sum() == np.frombuffer(content[352:], np.uint8).sum()
    path.write_bytes(first + b"\x1f" + bytes(100))
    with pytest.raises(DataError, match="damaged"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("target", "words"), [("../.git/annex/objects/x", "datalad get"), ("elsewhere", "mend the link")]
)
def test_a_link_to_nothing_says_what_to_do(tmp_path, target, words):
    (tmp_path / "a.nii.gz").symlink_to(target)
    with pytest.raises(DataError, match=words):
        read_nifti(tmp_path / "a.nii.gz")


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_nifti(tmp_path / "b.nii.gz")


def test_a_tiny_file_that_declares_gigabytes_is_refused_before_memory_is_taken(tmp_path):
    head = patched(raw(np.ones((1, 1, 1))), DIM, "<4h", 3, 1000, 1000, 1000)[:352]
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(head)))
    tracemalloc.start()
    try:
        for read in (read_nifti, read_header):
            with pytest.raises(DataError, match=r"4\.0 GB"):
                read(tmp_path / "bomb.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_an_image_over_the_limit_is_refused_with_both_sizes(tmp_path, values):
    write_nifti(tmp_path / "a.nii.gz", values, AFFINE)
    need = 352 + values.nbytes
    with pytest.raises(DataError, match=f"needs {need} bytes of memory, the limit is {need - 1} bytes"):
        read_nifti(tmp_path / "a.nii.gz", max_bytes=need - 1)
    assert read_nifti(tmp_path / "a.nii.gz", max_bytes=need).data.shape == values.shape


def test_the_limit_counts_the_float32_values_that_bytes_become(tmp_path):
    write_nifti(tmp_path / "m.nii.gz", np.ones((10, 10, 10), bool), AFFINE)
    with pytest.raises(DataError, match="needs 4000 bytes"):
        read_nifti(tmp_path / "m.nii.gz", max_bytes=3999)


def test_no_flipped_bit_and_no_cut_is_read_as_other_data(tmp_path):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 900, size=(12, 12, 12)).astype(np.float32)
    path = tmp_path / "a.nii.gz"
    write_nifti(path, values, AFFINE)
    good = path.read_bytes()
    silent = refused = 0
    for flip in rng.choice(8 * len(good), size=400, replace=False):
        damaged = bytearray(good)
        damaged[flip // 8] ^= 1 << (flip % 8)
        path.write_bytes(damaged)
        try:
            silent += not np.array_equal(read_nifti(path).data, values)
        except DataError:
            refused += 1
    assert silent == 0
    assert refused > 380  # the rest hit the gzip header's time, flags or system byte, which carry no data
    for cut in rng.integers(0, len(good), size=100):
        path.write_bytes(good[:cut])
        with pytest.raises(DataError):
            read_nifti(path)


def test_no_header_makes_the_reader_fail_in_another_way(tmp_path):
    rng = np.random.default_rng(4)
    good = raw(np.ones((4, 4, 4, 2)), dtype=np.int16)
    path = tmp_path / "a.nii"
    refused = 0
    for _ in range(500):
        content = bytearray(good)
        for place in rng.integers(0, 352, size=rng.integers(1, 6)):
            content[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        path.write_bytes(content)
        try:
            read_nifti(path, max_bytes=10**8)
        except DataError:
            refused += 1
    assert 100 < refused < 500


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path, values):
    write_nifti(tmp_path / "a.nii.gz", values, AFFINE)
    (tmp_path / "a.nii.gz").chmod(0)
    with pytest.raises(DataError, match="permissions"):
        read_nifti(tmp_path / "a.nii.gz")
