"""What a NIfTI header says, refused where it contradicts itself or the file: nothing here reads or allocates data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError
from harmonet.files import AGAIN

Affine = NDArray[np.float64]
NIFTI1: Any = nib.Nifti1Header  # Any: nibabel's methods carry no types
NIFTI2: Any = nib.Nifti2Header
HeaderDataError = nib.spatialimages.HeaderDataError

BYTES = 540  # enough for NIfTI-1 (348) and NIfTI-2
MAX_DEFLATE_RATIO = 1032  # no deflate stream grows by more (zlib's technical details)
DIFFER = 0.1  # mm between qform and sform over the grid: less is how a quaternion is rounded


@dataclass(frozen=True, eq=False)
class Header:
    """Where the numbers of an image lie in its (inflated) file, how to read them and where they are in the world.

    Attributes:
        path: The file.
        shape: Sizes of its axes, as on disk.
        dtype: Type of its numbers, with their byte order.
        affine: (4, 4), voxel indices to mm in RAS+.
        offset: Bytes before the first number.
        slope, inter: A value is slope * number + inter.
        codes: Of qform and sform: which space the affine leads to, such as 1 for the scanner's and 4 for MNI's; 0 for
            one that is not set. Where the two differ, the sform's twice, since it is used alone.
        warnings: Sentences on what can be read but may not be what is meant.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Affine
    offset: int
    slope: float
    inter: float
    codes: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that the whole (inflated) file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def memory(self) -> int:
        """Bytes needed at least: the file's own, or its values as float32."""
        return max(self.size, 4 * math.prod(self.shape))


def interpret(head: bytes, path: Path) -> Header:
    """What the first `BYTES` bytes of an (inflated) file say.

    Raises:
        DataError: They are no NIfTI header, or it contradicts itself, or its affine is unusable.
    """
    header = _header(head, path)
    dim = [int(d) for d in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise DataError(f"{path} has sizes {dim[1:]}, each must be 1 or more: {AGAIN}.")
    shape = tuple(dim[1 : dim[0] + 1])
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        raise DataError(f"{path} has unknown data type {header['datatype']}: save it as float32.") from None
    if dtype.kind not in "iuf":
        raise DataError(f"{path} holds {dtype} values, real numbers are needed: save magnitudes as float32.")
    offset = float(header["vox_offset"])
    if header["bitpix"] != 8 * dtype.itemsize or not offset.is_integer() or offset < len(header.binaryblock):
        raise DataError(
            f"{path} has a header that contradicts itself (data type {dtype}, {header['bitpix']} bits, "
            f"offset {offset:g}): {AGAIN}."
        )
    try:
        # None where the slope is 0 or not finite: the standard says unscaled
        slope, inter = header.get_slope_inter()
    except HeaderDataError:
        raise DataError(f"{path} has scl_inter {header['scl_inter']}: set it to 0.") from None
    slope, inter = (1.0 if slope is None else float(slope)), (0.0 if inter is None else float(inter))
    affine, warnings = _affine(header, shape, path)
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    codes = (sform if warnings else qform, sform)
    return Header(path, shape, dtype, affine, int(offset), slope, inter, codes, warnings)


def check_room(header: Header, zipped: bool, limit: int) -> None:
    """Nothing, where the file can hold what its header declares and memory can; judged before any is taken.

    Args:
        header: What the file declares.
        zipped: Whether the file is compressed.
        limit: Bytes that may be taken.

    Raises:
        DataError: With both sizes.
    """
    path, on_disk = header.path, header.path.stat().st_size
    if header.size > on_disk * (MAX_DEFLATE_RATIO if zipped else 1):
        kind = "damaged" if zipped else "truncated"
        raise DataError(f"{path} is {kind}: its {on_disk} bytes cannot hold {_bytes(header.size)} declared: {AGAIN}.")
    if not zipped and on_disk > header.size:
        raise excess(header)
    if header.memory > limit:
        raise DataError(
            f"{path} needs {_bytes(header.memory)} of memory, the limit is {_bytes(limit)}: "
            "crop the image or use a machine with more memory."
        )


def excess(header: Header) -> DataError:
    """The error for a file that holds more than its header declares."""
    return DataError(
        f"{header.path} is damaged: it holds more than the {header.size} bytes that its header declares: {AGAIN}."
    )


def farthest(a: Affine, b: Affine, shape: Sequence[int]) -> float:
    """Largest distance in mm between the places that two affines give to the corners of a grid.

    >>> farthest(np.eye(4), np.diag([1.0, 1.0, 1.1, 1.0]), (11, 11, 11))
    1.0
    """
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in (*shape, 1, 1)[:3]], [1], indexing="ij")).reshape(4, -1)
    return round(float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max()), 6)


def _header(head: bytes, path: Path) -> Any:
    for kind, size, single, pair in ((NIFTI1, 348, b"n+1", b"ni1"), (NIFTI2, 540, b"n+2", b"ni2")):
        sizeof_hdr = (size.to_bytes(4, "little"), size.to_bytes(4, "big"))
        if len(head) < size or head[:4] not in sizeof_hdr:
            continue
        header = kind(head[:size], check=False)
        magic = bytes(header["magic"].item())[:3]
        if magic == pair:
            raise DataError(f"{path} is one half of an .hdr/.img pair: convert it to a single .nii.gz.")
        if magic == single:
            return header
    raise DataError(f"{path} is not a NIfTI image (no NIfTI header inside): check what it is, or {AGAIN}.")


def _affine(header: Any, shape: tuple[int, ...], path: Path) -> tuple[Affine, tuple[str, ...]]:
    """The sform where set, else the qform; and a warning where both are set and differ."""
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # the standard reads 0 as 1, nibabel does not
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            candidates = [header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]]
    except (HeaderDataError, ValueError) as error:
        raise DataError(f"{path} has an unusable qform ({error}): write its geometry anew.") from None
    affines = [np.asarray(affine, dtype=np.float64) for affine in candidates if affine is not None]
    if not affines:
        raise DataError(
            f"{path} says nothing about its place in the world (qform and sform codes are 0): "
            "convert it again from DICOM, or set the sform."
        )
    for affine in affines:
        if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
            raise DataError(f"{path} has an affine with NaN, infinity or a zero axis: write its sform anew.")
        if abs(_handedness(affine)) < 1e-3:
            raise DataError(f"{path} has a singular affine (axes in one plane): write its sform anew.")
    if len({_handedness(affine) > 0 for affine in affines}) > 1:
        # b-vectors are read by the affine's handedness: choosing one silently would mirror the directions
        raise DataError(
            f"{path} has a qform and an sform of opposite handedness: find out which is right and copy it "
            "over the other (`fslorient -copysform2qform` or `-copyqform2sform`)."
        )
    apart = farthest(affines[0], affines[-1], shape)
    if apart <= DIFFER:
        return affines[0], ()
    return affines[0], (
        f"{path} has a qform and an sform up to {apart:.2f} mm apart over the grid, and the sform is used: if the "
        "qform is right, copy it over the sform (`fslorient -copyqform2sform`).",
    )


def _handedness(affine: Affine) -> float:
    """Determinant of the axes' unit vectors: 1 or -1 where they are orthogonal."""
    return float(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n} bytes"
