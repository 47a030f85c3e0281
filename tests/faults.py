"""A corpus of faults: each spoils one acquisition's folder, or a data set, in the way of its name."""

import gzip
import shutil
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from harmonet.data.gradients import read_bvals, read_bvecs, write_gradients
from harmonet.data.simulate import spread_directions


@dataclass(frozen=True)
class Fault:
    """What is done to a folder, and what the doctor must say of it.

    Attributes:
        plant: Spoils the acquisition in a folder.
        level, check: Those of the finding.
        words: A pattern in its sentence.
        file: The file that it names, in the folder; None where it names another or none.
        also: Checks that speak up as well, as they should.
    """

    plant: object
    level: str
    check: str
    words: str
    file: str | None = None
    also: tuple[str, ...] = ()


def put(path, content):
    """Writes a file anew; what was there may be a link to what others use."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def image(folder, change, name="dwi.nii.gz"):
    """Changes an image: `change(values, affine)` returns new values, or works in place."""
    loaded = nib.load(folder / name)
    values, affine = loaded.get_fdata(dtype=np.float32), loaded.affine.copy()
    changed = change(values, affine)
    (folder / name).unlink()
    nib.save(nib.Nifti1Image(values if changed is None else changed, affine), folder / name)


def header(folder, change, name="dwi.nii.gz"):
    """Changes fields of a header in place."""
    content = bytearray(gzip.decompress((folder / name).read_bytes()))
    fields = nib.Nifti1Header(bytes(content[:348]), check=False)
    change(fields)
    content[:348] = fields.binaryblock
    put(folder / name, gzip.compress(bytes(content), 1))


def table(folder, change):
    """Changes b-values (N,) and b-vectors (N, 3)."""
    bvals = read_bvals(folder / "dwi.bval")
    bvecs = read_bvecs(folder / "dwi.bvec", len(bvals))
    changed = change(bvals, bvecs) or (bvals, bvecs)
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", *changed)


def numbers(folder, change, name="dwi.bval"):
    """Changes the words of a table."""
    words = (folder / name).read_text().split()
    put(folder / name, " ".join(change(words)) + "\n")


def flip_a_bit(folder):
    content = bytearray((folder / "dwi.nii.gz").read_bytes())
    content[len(content) // 2] ^= 4
    put(folder / "dwi.nii.gz", bytes(content))


def as_annex_link(folder):
    (folder / "dwi.nii.gz").unlink()
    (folder / "dwi.nii.gz").symlink_to("../../../.git/annex/objects/SHA256E-s1--0.nii.gz")


def nan_at(inside):
    def plant(folder):
        x, y, z = np.argwhere((nib.load(folder / "mask.nii.gz").get_fdata() == 1) == inside)[0]

        def change(values, _):
            values[x, y, z, 3] = np.nan

        image(folder, change)

    return plant


def moved(mm, names=("dwi.nii.gz", "mask.nii.gz")):
    def change(_, affine):
        affine[:3, 3] += mm

    def plant(folder):
        for name in names:
            image(folder, change, name)

    return plant


def without_content(values, _):
    values[..., 9] = 0


def few_voxels(values, _):
    inside = np.argwhere(values)[:20]
    values[:] = 0
    values[tuple(inside.T)] = 1


def turned(folder, degrees=5.0):
    """As if the head was not scanned parallel to the source: the image's axes turn about z, its centre stays."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for name in ("dwi.nii.gz", "mask.nii.gz"):

        def change(values, affine):
            centre = (affine @ np.append((np.array(values.shape[:3]) - 1) / 2, 1))[:3]
            affine[:] = turn @ affine
            affine[:3, 3] += centre - turn[:3, :3] @ centre

        image(folder, change, name)


def dark_part(values, _):
    inside = np.argwhere(values[..., 0] > np.median(values[..., 0]))
    values[tuple(inside[:: len(inside) // 100].T)] = 0


def handed(fields):
    qform = nib.affines.from_matvec(np.diag([-1.0, 1, 1]), np.zeros(3)) @ fields.get_sform()
    fields.set_qform(qform, code=1)


def apart(fields):
    affine = fields.get_sform()
    affine[2, 3] += 3
    fields.set_qform(affine, code=1)


def swapped(bvals, bvecs):
    """b = 0 and a direction change places, as in a table that was sorted and an image that was not."""
    bvals[[0, 5]], bvecs[[0, 5]] = bvals[[5, 0]], bvecs[[5, 0]]


def few_directions(bvals, bvecs):
    weighted = np.flatnonzero(bvals > 0)
    bvecs[weighted] = bvecs[weighted[np.arange(len(weighted)) % 12]]


def clustered(bvals, bvecs):
    weighted = np.flatnonzero(bvals > 0)
    cone = spread_directions(len(weighted), 0) * (0.35, 0.35, 1)
    bvecs[weighted] = cone / np.linalg.norm(cone, axis=1, keepdims=True)


def other_te(folder):
    numbers(folder, lambda words: ["120", *words[1:]], "dwi.TE")


# One acquisition each.
FAULTS = {
    "a flipped bit": Fault(flip_a_bit, "error", "voxels", "is damaged.*copy it again", "dwi.nii.gz"),
    "a truncated image": Fault(
        lambda f: put(f / "dwi.nii.gz", (f / "dwi.nii.gz").read_bytes()[:-99]),
        *("error", "voxels", "is truncated", "dwi.nii.gz"),
    ),
    "an annex link without content": Fault(as_annex_link, "error", "header", "datalad get", "dwi.nii.gz"),
    "an LFS pointer": Fault(
        lambda f: put(f / "dwi.nii.gz", "version https://git-lfs.github.com/spec/v1\n"),
        *("error", "header", "git lfs pull", "dwi.nii.gz"),
    ),
    "a web page": Fault(
        lambda f: put(f / "dwi.nii.gz", "<!DOCTYPE html>"), "error", "header", "is a web page", "dwi.nii.gz"
    ),
    "an impossible size": Fault(
        lambda f: header(f, lambda fields: fields["dim"].__setitem__(slice(1, 4), 4000)),
        *("error", "header", "cannot hold", "dwi.nii.gz"),
    ),
    "a qform of opposite handedness": Fault(
        lambda f: header(f, handed), "error", "header", "opposite handedness", "dwi.nii.gz"
    ),
    "a qform elsewhere": Fault(
        lambda f: header(f, apart), "warning", "header", "3.00 mm apart.*sform is used", "dwi.nii.gz"
    ),
    "NaN in the mask": Fault(nan_at(True), "error", "voxels", "1 NaN .* inside the mask", "dwi.nii.gz"),
    "NaN outside the mask": Fault(nan_at(False), "note", "voxels", "1 NaN .* outside the mask", "dwi.nii.gz"),
    "no mask": Fault(lambda f: (f / "mask.nii.gz").unlink(), "error", "mask", "has no mask.*--mask auto"),
    "an empty mask": Fault(
        lambda f: image(f, lambda values, _: values * 0, "mask.nii.gz"),
        *("error", "mask", "selects 0 of", "mask.nii.gz"),
    ),
    "a mask of a few voxels": Fault(
        lambda f: image(f, few_voxels, "mask.nii.gz"),
        *("warning", "mask", "selects 20 of .*more than 1 %", "mask.nii.gz"),
    ),
    "a mask of probabilities": Fault(
        lambda f: image(f, lambda values, _: values * 0.4, "mask.nii.gz"),
        *("error", "mask", r"first 0\.4.*choose a threshold", "mask.nii.gz"),
    ),
    "a mask of another size": Fault(
        lambda f: image(f, lambda values, _: values[1:], "mask.nii.gz"),
        *("error", "mask", "resample the mask", "mask.nii.gz"),
    ),
    "a mask elsewhere": Fault(moved([0, 0, 5], ["mask.nii.gz"]), "error", "mask", "5.00 mm away", "mask.nii.gz"),
    "too few b-values": Fault(
        lambda f: numbers(f, lambda words: words[:-1]), "error", "table", "b-values.*volumes", "dwi.bval"
    ),
    "b-values in ms/um2": Fault(
        lambda f: numbers(f, lambda words: [str(float(word) / 1000) for word in words]),
        *("error", "table", "multiply them by 1000", "dwi.bval"),
    ),
    "a b-value of NaN": Fault(
        lambda f: numbers(f, lambda words: ["nan", *words[1:]]),
        "error",
        "table",
        "b-value nan for volume 0",
        "dwi.bval",
    ),
    "no b = 0": Fault(lambda f: numbers(f, lambda words: ["1200" for _ in words]), "error", "table", "", "dwi.bvec"),
    "a b-vector that is no unit vector": Fault(
        lambda f: table(f, lambda bvals, bvecs: bvecs.__setitem__(7, bvecs[7] * 0.8)),
        *("error", "table", "length 0.8 for volume 7", "dwi.bvec"),
    ),
    "b-values in another order": Fault(
        lambda f: table(f, swapped), "warning", "table", "labelled b = 0 but attenuated"
    ),
    "b-values that only look like 0": Fault(
        lambda f: table(f, lambda bvals, _: bvals.__setitem__(0, 45)), "warning", "table", "b = 45", "dwi.bval"
    ),
    "an image without its b-values": Fault(
        lambda f: (f / "dwi.bval").unlink(), "error", "layout", r"dwi\.bval is missing", None, ("missing", "split")
    ),
    "12 directions": Fault(
        lambda f: table(f, few_directions),
        *("warning", "directions", "has 12 distinct directions.*use order 2", "dwi.bvec"),
    ),
    "directions in a cone": Fault(
        lambda f: table(f, clustered), "warning", "directions", "condition number.*use order", "dwi.bvec"
    ),
    "an echo time of another image": Fault(
        lambda f: numbers(f, lambda words: words[:-1], "dwi.TE"), "error", "timing", "values for", "dwi.TE"
    ),
    "a b = 0 of another echo time": Fault(other_te, "note", "timing", "volume 0 left out, as TE or TR"),
    "a volume without content": Fault(
        lambda f: image(f, without_content),
        *("warning", "constant", "same value in every voxel.*in volume 9", "dwi.nii.gz"),
    ),
    "voxels without signal": Fault(
        lambda f: image(f, dark_part), "warning", "dark", "too dark at b = 0", "mask.nii.gz"
    ),
    "another shell than the other subjects": Fault(
        lambda f: numbers(f, lambda words: [word.replace("1200", "1500") for word in words]),
        *("error", "platform", "b-values of the shells is .* for sim03", "dwi.nii.gz"),
    ),
    "grids half a voxel apart": Fault(moved([1.2, 0, 0]), "warning", "grid", "centres 1.20 mm apart", "dwi.nii.gz"),
    "oblique grids": Fault(turned, "warning", "grid", "axes 5.0° apart", "dwi.nii.gz"),
    "a field of view that misses a part": Fault(
        moved([0, 0, 12.0]), "warning", "grid", r"holds \d\d% of the source's mask", "dwi.nii.gz"
    ),
    "another place in the world": Fault(moved([500, 0, 0]), "error", "grid", "check both affines", "dwi.nii.gz"),
}


def rename(root, old, new):
    (root / old).rename(root / new)


def other_shell(root):
    for folder in root.glob("*/prisma/st"):
        numbers(folder, lambda words: [word.replace("1200", "3000") for word in words])


def finer(root):
    """Every prisma_st as if it had been scanned with voxels of 1.25 mm."""

    def change(_, affine):
        affine[:3, :3] *= 1.25 / 2.4

    for path in [*root.glob("*/prisma/st/dwi.nii.gz"), *root.glob("*/prisma/st/mask.nii.gz")]:
        image(path.parent, change, path.name)


# A data set each.
SET_FAULTS = {
    "a subject who lacks a platform": Fault(
        lambda r: shutil.rmtree(r / "sim02" / "prisma"), "warning", "missing", "sim02 lacks prisma_st", None, ("split",)
    ),
    "a subject under two names": Fault(
        lambda r: shutil.copytree(r / "sim02", r / "sim09"), "error", "duplicate", "sim02.* and .*sim09.* same voxels"
    ),
    "a name with a blank": Fault(
        lambda r: rename(r, "sim02", "sim 02"), "error", "layout", "not a plain name", None, ("split",)
    ),
    "names alike but for case": Fault(
        lambda r: rename(r, "sim02", "SIM01"), "error", "layout", "alike but for case", None
    ),
    "facts that are not JSON": Fault(lambda r: put(r / "dataset.json", "{"), "error", "layout", "is not JSON", None),
    "nothing at all": Fault(
        lambda r: [shutil.rmtree(folder) for folder in r.glob("sim*")], "error", "layout", "holds no acquisition"
    ),
    "two subjects": Fault(lambda r: shutil.rmtree(r / "sim02"), "warning", "split", "at least one each for training"),
    "no shared shell": Fault(other_shell, "error", "shell", "prisma_st has shells at b = 3000 .* ge_st at 1200"),
    "a ratio that is not whole": Fault(finer, "warning", "grid", "voxel ratio 1.92"),
    "no source": Fault(
        lambda r: [(f / "ge").rename(f / "gee") for f in r.glob("sim*")],
        *("error", "source", "no platform 'ge_st'.*Did you mean gee_st", None),
    ),
}
