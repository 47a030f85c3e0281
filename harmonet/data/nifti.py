"""NIfTI files: read with every byte accounted for, written so that they read back equal.

nibabel stops before the gzip checksum, so most flipped bits in a `.nii.gz` load silently, and a file of 55
bytes can make it allocate gigabytes. Here the file is inflated within limits, its checksum and size are
compared, and nibabel only interprets the header.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmonet.errors import DataError, OutputError
from harmonet.files import AGAIN, check_readable, free_memory, write_atomically

FloatImage = NDArray[np.float32]
NIFTI1: Any = nib.Nifti1Header  # Any: nibabel's methods carry no types
NIFTI2: Any = nib.Nifti2Header
HeaderDataError = nib.spatialimages.HeaderDataError

CHUNK = 1 << 20  # bytes inflated per step
HEADER = 540  # bytes: enough for NIfTI-1 (348) and NIfTI-2
MAX_DEFLATE_RATIO = 1032  # no deflate stream grows by more (zlib's technical details)
MAX_PADDING = 512  # zero bytes after the gzip stream: some tools fill a block


@dataclass(frozen=True, eq=False)
class Image:
    """An image as it lies on disk.

    Attributes:
        path: Where it was read.
        data: Scaled values, float32, axes in on-disk order.
        affine: (4, 4), voxel indices to mm in RAS+.
        sha256: Of the file's bytes.
    """

    path: Path
    data: FloatImage
    affine: NDArray[np.float64]
    sha256: str


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the numbers lie in the (inflated) file and how to read them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Bytes that the whole file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def memory(self) -> int:
        """Bytes needed at least: the file's own, or its values as float32."""
        return max(self.size, 4 * math.prod(self.shape))


def read_nifti(path: Path, *, max_bytes: int | None = None) -> Image:
    """The image in a `.nii` or `.nii.gz` file, checked to its last byte.

    Args:
        path: The file.
        max_bytes: Largest accepted size in memory; half of the free memory where not given.

    Raises:
        DataError: The file is missing, damaged, too large, no NIfTI, complex, or its affine is unusable.
    """
    check_readable(path)
    limit = free_memory() // 2 if max_bytes is None else max_bytes
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            _check_suffix(path, zipped)
            pieces = _inflated(file, digest, path) if zipped else _plain(file, digest)
            body, layout = _gather(pieces, path, limit, zipped)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {AGAIN}.") from error
    values = np.frombuffer(body, layout.dtype, math.prod(layout.shape), layout.offset)
    data = _scaled(values.reshape(layout.shape, order="F"), layout.slope, layout.inter)
    return Image(path, data, layout.affine, digest.hexdigest())


def _check_suffix(path: Path, zipped: bool) -> None:
    if zipped != (path.suffix.lower() == ".gz"):
        found = "is gzip inside" if zipped else "is not gzip inside"
        raise DataError(f"{path} {found}, against its name: {AGAIN}, or rename it.")


def _plain(file: BinaryIO, digest: Any) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        digest.update(piece)
        yield piece


def _inflated(file: BinaryIO, digest: Any, path: Path) -> Iterator[bytes]:
    """Inflated pieces of at most CHUNK bytes; ends without error only if the checksum was right."""
    inflater = zlib.decompressobj(31)  # 31: gzip wrapper, so zlib itself compares CRC and length
    padding = 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        while not inflater.eof:
            try:
                piece = inflater.decompress(chunk, CHUNK)
            except zlib.error as error:
                raise DataError(f"{path} is damaged ({error}): {AGAIN}.") from None
            yield piece
            chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if not chunk and len(piece) < CHUNK:  # a full piece may have more output behind it
                break
        padding += len(chunk)
        if padding > MAX_PADDING or chunk.strip(b"\0"):
            raise DataError(f"{path} is damaged (data after the end of the gzip stream): {AGAIN}.")
    if not inflater.eof:
        raise DataError(f"{path} is truncated (the gzip stream does not end): {AGAIN}.")


def _gather(pieces: Iterator[bytes], path: Path, limit: int, zipped: bool) -> tuple[bytearray, _Layout]:
    """The whole file inflated, and what its header says: judged before memory is taken for the rest."""
    head = bytearray()
    for piece in pieces:
        head += piece
        if len(head) >= HEADER:
            break
    layout = _layout(bytes(head[:HEADER]), path)
    on_disk = path.stat().st_size
    if layout.size > on_disk * (MAX_DEFLATE_RATIO if zipped else 1):
        kind = "damaged" if zipped else "truncated"
        raise DataError(f"{path} is {kind}: its {on_disk} bytes cannot hold {_bytes(layout.size)} declared: {AGAIN}.")
    if layout.memory > limit:
        raise DataError(
            f"{path} needs {_bytes(layout.memory)} of memory, the limit is {_bytes(limit)}: "
            "crop the image or use a machine with more memory."
        )
    if len(head) > layout.size:
        raise _excess(path, layout)
    body = bytearray(layout.size)
    body[: len(head)] = head
    filled = len(head)
    for piece in pieces:
        if filled + len(piece) > layout.size:
            raise _excess(path, layout)
        body[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled < layout.size:
        raise DataError(f"{path} is truncated: {filled} of {layout.size} bytes are there: {AGAIN}.")
    return body, layout


def _excess(path: Path, layout: _Layout) -> DataError:
    return DataError(
        f"{path} is damaged: it holds more than the {layout.size} bytes that its header declares: {AGAIN}."
    )


def _layout(head: bytes, path: Path) -> _Layout:
    """What the header says, or a DataError where it contradicts itself."""
    header = _header(head, path)
    dim = [int(d) for d in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise DataError(f"{path} has sizes {dim[1:]}, each must be 1 or more: {AGAIN}.")
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
    return _Layout(tuple(dim[1 : dim[0] + 1]), dtype, int(offset), slope, inter, _affine(header, path))


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


def _affine(header: Any, path: Path) -> NDArray[np.float64]:
    """The sform where set, else the qform."""
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
    return affines[0]


def _handedness(affine: NDArray[np.float64]) -> float:
    """Determinant of the axes' unit vectors: 1 or -1 where they are orthogonal."""
    return float(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))


def _scaled(values: NDArray[Any], slope: float, inter: float) -> FloatImage:
    # What is no float32 becomes infinite; the caller counts those where they matter.
    with np.errstate(over="ignore", invalid="ignore"):
        if (slope, inter) == (1.0, 0.0):
            return values.astype(np.float32, copy=False)
        scaled = np.empty(values.shape, np.float32, order="F")
        for index in range(values.shape[-1]):  # by volume: float64 of everything would take twice the memory
            scaled[..., index] = values[..., index] * slope + inter
        return scaled


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n} bytes"


def write_nifti(path: Path, data: ArrayLike, affine: ArrayLike, *, description: str = "harmonet") -> None:
    """Writes a NIfTI-1 file that holds exactly these values: float32, or uint8 for bool and uint8.

    The header is built, never inherited: a prediction saved through an input's int16 header is rescaled. The
    same arguments give the same bytes, and the file appears complete or not at all.

    Args:
        path: `.nii` or `.nii.gz`; an existing file is replaced.
        data: (X, Y, Z) or (X, Y, Z, C).
        affine: (4, 4), voxel indices to mm in RAS+.
        description: At most 79 ASCII characters, kept in the header.

    Raises:
        OutputError: Values are not finite as float32, the shape is no image, or the place cannot be written.
    """
    values = np.asarray(data)
    with np.errstate(over="ignore"):
        values = values.astype("u1" if values.dtype in (np.bool_, np.uint8) else "<f4")
    matrix = np.asarray(affine, dtype=np.float64)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError(f"{path} should be an image: let its name end in .nii or .nii.gz.")
    if values.ndim not in (3, 4) or 0 in values.shape or max(values.shape) > 32767:
        raise OutputError(f"{path} cannot hold an array of shape {values.shape}: give 3 or 4 axes.")
    if bad := values.size - int(np.isfinite(values).sum()):
        raise OutputError(f"{path} would hold {bad} NaN or infinite values: nothing was written.")
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix[:3, :3]) == 0:
        raise OutputError(f"{path} needs a finite, invertible (4, 4) affine: found {matrix.tolist()}.")
    header = NIFTI1(endianness="<")  # the same bytes on every machine
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header.set_sform(matrix, code=1)
    header.set_qform(matrix, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["descrip"] = description.encode("ascii", "replace")[:79]
    volumes = values if values.ndim == 4 else values[..., None]

    def write(file: BinaryIO) -> None:
        # No time or name in the gzip header: the same bytes every time. Level 1: noise hardly shrinks more.
        zipped = zlib.compressobj(1, wbits=31) if path.suffix == ".gz" else None
        head = header.binaryblock + bytes(4)  # 4 bytes: no extensions
        for piece in (head, *(volumes[..., c] for c in range(volumes.shape[3]))):
            content = piece if isinstance(piece, bytes) else piece.tobytes(order="F")
            file.write(zipped.compress(content) if zipped else content)
        file.write(zipped.flush() if zipped else b"")

    write_atomically(path, write)
