"""Damaged bytes: what was written is read, or one sentence says why not; never other values, never a traceback.

`HARMONET_FUZZ=10000` tries that many mutations instead of a few hundred.
"""

import os
import struct
import zlib
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from harmonet.build import recipe_of
from harmonet.data.gradients import check_gradients, read_bvals, read_bvecs, shells
from harmonet.data.nifti import read_header, read_nifti
from harmonet.errors import HarmonetError
from harmonet.platforms import preset
from harmonet.recipe import Recipe, read_recipe, to_toml

TRIES = int(os.environ.get("HARMONET_FUZZ", "500")) // 5  # for each kind of file
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 2, 5], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 900, size=(9, 8, 7, 3)).astype(np.int16)
HEADER = 352  # bytes before the voxels of a plain .nii


def image():
    found = nib.Nifti1Image(VOXELS, AFFINE)
    found.set_qform(AFFINE, 1)
    return found.to_bytes()


def zipped():
    """In two gzip streams, so that the place where one ends is hit too."""
    content, out = image(), b""
    for part in (content[:2000], content[2000:]):
        packed = zlib.compressobj(6, wbits=31)
        out += packed.compress(part) + packed.flush()
    return out


def table():
    rng = np.random.default_rng(1)
    bvecs = rng.normal(size=(3, 8))
    bvecs /= np.linalg.norm(bvecs, axis=0)
    return "\n".join(" ".join(f"{value:.6f}" for value in row) for row in bvecs).encode() + b"\n"


def mutated(content, rng, end=None):
    """The content with one to three places changed, all before `end`: bits, bytes, lengths or order."""
    end = len(content) if end is None else end
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        a, b = sorted(int(place) for place in rng.integers(0, min(end, len(content)) + 1, size=2))
        b = min(b, a + int(rng.choice([1, 4, 64, 512])))
        part = content[a:b]
        kind = rng.choice(["flip", "byte", "cut", "drop", "insert", "repeat", "swap", "zero"])
        if kind == "flip" and part:
            content = content[:a] + bytes([part[0] ^ 1 << int(rng.integers(8))]) + content[a + 1 :]
        elif kind == "byte" and part:
            content = content[:a] + bytes([int(rng.choice([0, 10, 45, 46, 48, 95, 127, 255]))]) + content[a + 1 :]
        elif kind == "cut":
            content = content[:a]
        elif kind == "drop":
            content = content[:a] + content[b:]
        elif kind == "insert":
            content = content[:a] + rng.bytes(int(rng.integers(1, 20))) + content[a:]
        elif kind == "repeat":
            content = content[:b] + part + content[b:]
        elif kind == "swap" and 2 * b - a <= end:
            content = content[:a] + content[b : 2 * b - a] + part + content[2 * b - a :]
        elif kind == "zero":
            content = content[:a] + bytes(len(part)) + content[b:]
    return content


def same_image(path):
    """The values and place as written; the header alone must say the same or refuse too."""
    found = read_nifti(path, max_bytes=10**8)
    header = read_header(path, max_bytes=10**8)
    assert header.shape == found.data.shape
    np.testing.assert_array_equal(header.affine, found.affine)
    return np.array_equal(found.data, VOXELS) and np.array_equal(found.affine, AFFINE)


def fit_image(path):
    """A plain .nii has no checksum: another header is another image. It must be one, of a finite place and size."""
    found = read_nifti(path, max_bytes=10**8)
    assert np.isfinite(found.affine).all()
    assert found.data.dtype == np.float32
    assert found.data.size * found.header.dtype.itemsize + found.header.offset == path.stat().st_size
    return True


def fit_bvals(path):
    """A table has no checksum: another digit is another b-value. It must be one."""
    bvals = read_bvals(path)
    return bvals.ndim == 1 and np.isfinite(bvals).all() and (bvals >= 0).all() and np.isfinite(shells(bvals)).all()


def fit_bvecs(path):
    """As with b-values; what is used of the table is finite and of unit length."""
    cleaned = check_gradients(np.full(8, 1000.0), read_bvecs(path, 8), path)
    return np.allclose(np.linalg.norm(cleaned, axis=1), 1)


def fit_recipe(path):
    """Another digit is another recipe, too; it must be one that writes itself down again."""
    recipe = read_recipe(path)
    return isinstance(recipe, Recipe) and bool(to_toml(recipe))


def recipe():
    singles = {"prisma_st": ["diqt"], "connectom_st": ["shresnet"], "connectom_sa": ["diqt"]}
    return to_toml(recipe_of(preset("cdmri2017"), singles, fusion="msp")).encode()


FILES = {
    "image.nii.gz": (zipped, None, same_image),
    "image.nii": (image, HEADER, fit_image),
    "dwi.bval": (lambda: b"0 5 1000 1000 1005 995 3000 1e3\n", None, fit_bvals),
    "dwi.bvec": (table, None, fit_bvecs),
    "recipe.toml": (recipe, None, fit_recipe),
}


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_read_as_something_else_or_ends_in_a_traceback(tmp_path, name, record_property):
    make, end, read = FILES[name]
    good, path, rng = make(), tmp_path / name, np.random.default_rng(7)
    path.write_bytes(good)
    assert read(path)
    outcomes = Counter()
    for number in range(TRIES):
        content = mutated(good, rng, end)
        path.write_bytes(content)
        try:
            assert read(path), f"mutation {number} was read as something else"
            outcomes["harmless" if content == good or read is same_image else "another"] += 1
        except HarmonetError as error:
            message = str(error)
            assert "\n" not in message, f"mutation {number}: {message!r}"
            assert message.isprintable(), f"mutation {number}: {message!r}"
            assert name in message, f"mutation {number}: {message!r}"
            outcomes["refused"] += 1
    record_property("outcomes", str(dict(outcomes)))
    print(name, dict(outcomes))
    assert outcomes["refused"] > 0.3 * TRIES


@pytest.mark.parametrize("size", [-1, 1])
def test_a_plain_image_of_another_length_is_refused(tmp_path, size):
    path, content = tmp_path / "image.nii", image()
    path.write_bytes(content[:size] if size < 0 else content + bytes(size))
    with pytest.raises(HarmonetError, match=r"truncated|holds more"):
        read_nifti(path)
    path.write_bytes(content[:42] + struct.pack("<h", 10) + content[44:])
    with pytest.raises(HarmonetError, match="truncated"):
        read_nifti(path)
