"""One subject on one platform, read, checked and turned to the same axes as every other scan.

Everything here is in closest-canonical axis order (axes that point most nearly to right, anterior, superior):
two storage orders of one brain, paired by voxel index, correlate with 0.0003.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import (
    B0_MAX,
    check_gradients,
    distinct_directions,
    read_bvals,
    read_bvecs,
    read_numbers,
    to_world,
)
from harmonet.data.nifti import Image, read_nifti
from harmonet.errors import DataError
from harmonet.platforms import Grid

Mask = NDArray[np.bool_]
Volume = NDArray[Any]
ORIENTATIONS: Any = nib.orientations  # Any: nibabel's functions carry no types

MIN_DIRECTIONS = 6  # fewer determine not even a tensor
FULL = 0.999  # a mask of this much of the grid masks nothing
DARK = 0.01  # of the mask's median b0: below it a signal ratio is noise over noise


class _Protocol(NamedTuple):
    """What the tables say of each volume, and which volumes to keep."""

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    keep: Mask
    te: NDArray[np.float64] | None
    tr: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Scan:
    """One subject on one platform, in closest-canonical axes.

    Attributes:
        subject, platform: Their names.
        signal: (X, Y, Z, N) as scanned.
        bvals: (N,) in s/mm².
        directions: (N, 3) unit vectors in world axes (RAS+), zero for b = 0.
        mask: (X, Y, Z), the brain.
        grid: The voxels of `signal`.
        stored: The voxels of the file.
        te, tr: Echo and repetition time in ms, None where not given.
        sources: SHA-256 of each file that was read, by file name.
        dropped: How many volumes were left out because TE or TR differ from the diffusion-weighted ones'.
        cleared: How many NaN or infinite values outside the mask were set to 0.
    """

    subject: str
    platform: str
    signal: NDArray[np.float32]
    bvals: NDArray[np.float64]
    directions: NDArray[np.float64]
    mask: Mask
    grid: Grid
    stored: Grid
    te: float | None = None
    tr: float | None = None
    sources: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    cleared: int = 0

    @property
    def is_dwi(self) -> Mask:
        """(N,) true for diffusion-weighted volumes."""
        return self.bvals > B0_MAX

    def b0(self) -> NDArray[np.float32]:
        """(X, Y, Z) mean of the b = 0 volumes."""
        mean: NDArray[np.float32] = np.compress(~self.is_dwi, self.signal, axis=-1).mean(axis=-1)
        return mean

    @cached_property
    def darkest(self) -> float:
        """b0 at or below which no ratio can be formed: 1 % of its median in the mask, at least 0."""
        return max(0.0, DARK * float(np.median(self.b0()[self.mask])))

    def dark(self) -> Mask:
        """(X, Y, Z) true in the mask where b0 is so low that no ratio can be formed."""
        return np.asarray(self.mask & (self.b0() <= self.darkest))

    def normalised(self) -> NDArray[np.float32]:
        """(X, Y, Z, D) diffusion-weighted signal over b0, within [0, 1]; 0 off the mask and where `dark`."""
        usable = self.mask & ~self.dark()
        b0 = self.b0()
        scale = np.divide(1, b0, out=np.zeros_like(b0), where=usable)
        ratio = np.compress(self.is_dwi, self.signal, axis=-1)  # a copy, channels last in memory too
        ratio *= scale[..., None]
        return np.clip(ratio, 0, 1, out=ratio)

    def rows(self, voxels: NDArray[np.int_], volumes: Mask, *, normalised: bool) -> NDArray[np.float32]:
        """(V, N) signal of some voxels, given by their index in the flattened mask, in the chosen volumes.

        Normalised: over b0, within [0, 1], and 0 where `dark`.
        """
        signal = self.signal.reshape(-1, self.signal.shape[-1])[voxels]
        rows = np.compress(volumes, signal, axis=-1)
        if not normalised:
            return rows
        b0 = np.compress(~self.is_dwi, signal, axis=-1).mean(axis=-1)
        usable = b0 > self.darkest
        rows *= np.divide(1, b0, out=np.zeros_like(b0), where=usable)[:, None]
        return np.clip(rows, 0, 1, out=rows)

    def to_stored(self, volume: Volume) -> Volume:
        """(X', Y', Z'[, C]) the volume in the axis order of the file, to go with `stored.affine`."""
        canonical = np.array([[0, 1], [1, 1], [2, 1]])
        return _turned(volume, ORIENTATIONS.ornt_transform(canonical, _orientation(self.stored)))


def read_scan(acquisition: Acquisition, *, auto_mask: bool = False) -> Scan:
    """The scan in these files, checked.

    Args:
        acquisition: Where the files lie.
        auto_mask: Make a mask with dipy's `median_otsu` where there is none; a mask file always wins.

    Raises:
        DataError: A file is missing, damaged, or does not fit the others.
    """
    image = read_nifti(acquisition.dwi)
    bvals, bvecs, keep, te, tr = _protocol(acquisition, image)
    data = image.data if image.data.ndim == 4 else image.data[..., None]
    signal = data if keep.all() else data[..., keep]
    mask, digests = _mask(acquisition, image, signal[..., bvals[keep] <= B0_MAX], auto_mask)
    signal, cleared = _finite(signal, mask, image.path)
    stored = Grid(_three(mask.shape), image.affine)
    turns = _orientation(stored)
    given = (acquisition.bval, acquisition.bvec, acquisition.te, acquisition.tr)
    tables = [path for path in given if isinstance(path, Path)]
    return Scan(
        subject=acquisition.subject,
        platform=acquisition.platform,
        signal=_turned(signal, turns),
        bvals=bvals[keep],
        directions=to_world(bvecs[keep], image.affine),
        mask=_turned(mask, turns),
        grid=_canonical(stored),
        stored=stored,
        te=None if te is None else float(te[keep][0]),
        tr=None if tr is None else float(tr[keep][0]),
        sources={
            image.path.name: image.sha256,
            **digests,
            **{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tables},
        },
        dropped=int((~keep).sum()),
        cleared=cleared,
    )


def _protocol(acquisition: Acquisition, image: Image) -> _Protocol:
    """The gradient table and timing of an image, checked; a scalar image is one volume at b = 0."""
    shape = image.data.shape
    if acquisition.bval is None or acquisition.bvec is None:
        if shape[3:] not in ((), (1,)):
            raise DataError(f"{image.path} has shape {shape} and no gradient table: give its bval and bvec.")
        return _Protocol(np.zeros(1), np.zeros((1, 3)), np.ones(1, dtype=bool), None, None)
    if len(shape) != 4:
        raise DataError(f"{image.path} has shape {shape}: a 4-D image, one volume per b-value, is needed.")
    n = shape[3]
    bvals = read_bvals(acquisition.bval)
    if len(bvals) != n:
        raise DataError(f"{acquisition.bval} has {len(bvals)} b-values, {image.path} has {n} volumes: find its own.")
    bvecs = check_gradients(bvals, read_bvecs(acquisition.bvec, n), acquisition.bvec)
    te = _times(acquisition.te, n, seconds_below=1)
    tr = _times(acquisition.tr, n, seconds_below=100)
    keep = _alike(te, bvals, acquisition.te) & _alike(tr, bvals, acquisition.tr)
    _check_protocol(bvals[keep], bvecs[keep], acquisition)
    return _Protocol(bvals, bvecs, keep, te, tr)


def truth_scan(acquisition: Acquisition) -> Scan | None:
    """The noise-free signal of a simulated acquisition, with its table and mask; None where there is none."""
    if acquisition.truth is None:
        return None
    return read_scan(replace(acquisition, dwi=acquisition.truth, truth=None))


def _check_protocol(bvals: NDArray[np.float64], bvecs: NDArray[np.float64], acquisition: Acquisition) -> None:
    if not (bvals <= B0_MAX).any():
        raise DataError(
            f"{acquisition.bval} has no b = 0 volume (lowest b {bvals.min():g} s/mm²): at least one volume "
            f"with b <= {B0_MAX:g} is needed to divide by."
        )
    if (found := distinct_directions(bvecs)) < MIN_DIRECTIONS:
        raise DataError(
            f"{acquisition.bvec} has {found} distinct directions in {int((bvals > B0_MAX).sum())} "
            f"diffusion-weighted volumes: at least {MIN_DIRECTIONS} are needed."
        )


def _times(path: Path | float | None, n: int, seconds_below: float) -> NDArray[np.float64] | None:
    """(n,) times in ms; values in a file so small that they can only be seconds are turned into ms."""
    if path is None:
        return None
    if not isinstance(path, Path):
        return np.full(n, float(path))
    times = np.array([value for row in read_numbers(path) for value in row])
    if len(times) != n:
        raise DataError(f"{path} has {len(times)} values for {n} volumes: one per volume is needed.")
    if not (np.isfinite(times) & (times > 0)).all():
        raise DataError(f"{path} has values that are not above 0: times in ms are needed.")
    return times * 1000 if times.max() < seconds_below else times


def _alike(times: NDArray[np.float64] | None, bvals: NDArray[np.float64], path: Path | float | None) -> Mask:
    """(N,) true for volumes timed as the diffusion-weighted ones: another TE or TR weights b0 otherwise."""
    if times is None or not (bvals > B0_MAX).any():
        return np.ones(len(bvals), dtype=bool)
    found = times[bvals > B0_MAX]
    if np.ptp(found) > 0.01 * found[0]:
        raise DataError(
            f"{path} gives diffusion-weighted volumes {found.min():g} to {found.max():g} ms: "
            "split the acquisition into one per timing."
        )
    return np.asarray(np.abs(times - found[0]) <= 0.01 * found[0])


def _mask(acquisition: Acquisition, image: Image, b0s: Volume, auto: bool) -> tuple[Mask, dict[str, str]]:
    """The mask in stored axes, and the digest of its file if it has one."""
    name = f"{acquisition.subject} {acquisition.platform}"
    if acquisition.mask is not None:
        found = read_nifti(acquisition.mask)
        mask = _checked_mask(found, image)
        where, digests = str(found.path), {found.path.name: found.sha256}
    elif auto:
        mask = _brain(np.nan_to_num(b0s.mean(axis=-1), nan=0, posinf=0, neginf=0))
        where, digests = f"the automatic mask of {name}", {}
    else:
        raise DataError(f"{name} has no mask beside {image.path}: add mask.nii.gz, or make one with `--mask auto`.")
    share = mask.mean()
    if not 0 < share < FULL:
        raise DataError(f"{where} selects {int(mask.sum())} of {mask.size} voxels: a mask of the brain is needed.")
    return mask, digests


def _checked_mask(found: Image, image: Image) -> Mask:
    values = found.data[..., 0] if found.data.ndim == 4 and found.data.shape[3] == 1 else found.data
    grid, expected = values.shape, image.data.shape[:3]
    if grid != expected:
        raise DataError(f"{found.path} has shape {grid}, {image.path} has {expected}: resample the mask to the image.")
    if not Grid(_three(grid), found.affine).same_as(Grid(_three(expected), image.affine), tolerance=0.05):
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in expected], [1], indexing="ij")).reshape(4, -1)
        apart = np.linalg.norm(((found.affine - image.affine) @ corners)[:3], axis=0).max()
        raise DataError(
            f"{found.path} lies up to {apart:.2f} mm away from {image.path} (their affines differ): "
            "resample the mask to the image."
        )
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise DataError(
            f"{found.path} has {wrong.size} values other than 0 and 1 (first {wrong[0]:g}): "
            "choose a threshold and binarise it."
        )
    return np.asarray(values == 1)


def _brain(b0: Volume) -> Mask:
    """The largest piece of dipy's `median_otsu` mask, without holes."""
    from dipy.segment.mask import median_otsu
    from scipy import ndimage

    _, rough = median_otsu(b0, median_radius=3, numpass=2)  # four passes of radius 4, the default, take 10 s
    labels, count = ndimage.label(rough)
    if count > 1:
        rough = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(rough), dtype=bool)


def _finite(signal: NDArray[np.float32], mask: Mask, path: Path) -> tuple[NDArray[np.float32], int]:
    """The signal with 0 for what is not finite outside the mask, and how many values that were."""
    bad = ~np.isfinite(signal)
    count = int(bad.sum())
    if not count:
        return signal, 0
    inside = np.argwhere(bad & mask[..., None])
    if len(inside):
        first = ", ".join(str(int(i)) for i in inside[0])
        raise DataError(
            f"{path} has {len(inside)} NaN or infinite values inside the mask, the first at [{first}] "
            "(x, y, z, volume): mend them or take those voxels out of the mask."
        )
    return np.where(bad, np.float32(0), signal), count


def _orientation(grid: Grid) -> NDArray[np.float64]:
    return np.asarray(ORIENTATIONS.io_orientation(grid.affine), dtype=np.float64)


def _turned(volume: Volume, turns: NDArray[np.float64]) -> Volume:
    return np.ascontiguousarray(ORIENTATIONS.apply_orientation(volume, turns))


def _canonical(stored: Grid) -> Grid:
    turns = _orientation(stored)
    shape = [0, 0, 0]
    for size, axis in zip(stored.shape, turns[:, 0], strict=True):
        shape[int(axis)] = size
    affine = stored.affine @ ORIENTATIONS.inv_ornt_aff(turns, stored.shape)
    return Grid(_three(tuple(shape)), affine)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = shape
    return x, y, z
