"""NIfTI files: read with every byte accounted for, written so that they read back equal.

nibabel stops before the gzip checksum, so most flipped bits in a `.nii.gz` load silently, and a file of 55
bytes can make it allocate gigabytes. Here the file is inflated within limits, its checksum and size are
compared, and nibabel only interprets the header.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harmonet.data.header import BYTES, NIFTI1, Header, check_room, excess, interpret
from harmonet.data.numbers import FloatImage, Numbers
from harmonet.data.stream import pieces
from harmonet.errors import DataError, OutputError
from harmonet.files import AGAIN, free_memory, write_atomically


@dataclass(frozen=True, eq=False)
class Image:
    """An image as it lies on disk.

    Attributes:
        header: What its header says.
        numbers: What the file holds, in its own type and axes.
        sha256: Of the file's bytes.
    """

    header: Header
    numbers: Numbers
    sha256: str

    @property
    def path(self) -> Path:
        """Where it was read."""
        return self.header.path

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel indices to mm in RAS+."""
        return self.header.affine

    @cached_property
    def data(self) -> FloatImage:
        """Scaled values, float32, axes in on-disk order."""
        return self.numbers.values()


def read_header(path: Path, *, max_bytes: int | None = None) -> Header:
    """What the header of a `.nii` or `.nii.gz` file says, with every check that needs no data: about a millisecond.

    Args:
        path: The file.
        max_bytes: Largest accepted size in memory; half of the free memory where not given.

    Raises:
        DataError: As `read_nifti` does, but for damage behind the header.
    """
    with closing(pieces(path, hashlib.sha256(), BYTES)) as content:
        return _judged(_head(content), path, max_bytes)


def read_nifti(path: Path, *, max_bytes: int | None = None) -> Image:
    """The image in a `.nii` or `.nii.gz` file, checked to its last byte.

    Args:
        path: The file.
        max_bytes: Largest accepted size in memory; half of the free memory where not given.

    Raises:
        DataError: The file is missing, damaged, too large, no NIfTI, complex, or its affine is unusable.
    """
    digest = hashlib.sha256()
    with closing(pieces(path, digest)) as content:
        head = _head(content)
        header = _judged(head, path, max_bytes)
        body = _whole(head, content, header)
    numbers = np.frombuffer(body, header.dtype, math.prod(header.shape), header.offset)
    stored = numbers.reshape(header.shape, order="F")
    return Image(header, Numbers(stored, header.slope, header.inter), digest.hexdigest())


def _head(content: Iterator[bytes]) -> bytes:
    """The first pieces, as many as hold a header."""
    head = b""
    for piece in content:
        head += piece
        if len(head) >= BYTES:
            break
    return head


def _judged(head: bytes, path: Path, max_bytes: int | None) -> Header:
    """What the header says, once the file and the memory are known to have room for it."""
    header = interpret(head[:BYTES], path)
    limit = free_memory() // 2 if max_bytes is None else max_bytes
    check_room(header, zipped=path.suffix.lower() == ".gz", limit=limit)
    return header


def _whole(head: bytes, content: Iterator[bytes], header: Header) -> bytearray:
    """The whole file inflated: no more and no less than its header declares."""
    if len(head) > header.size:
        raise excess(header)
    body = bytearray(header.size)
    body[: len(head)] = head
    filled = len(head)
    for piece in content:
        if filled + len(piece) > header.size:
            raise excess(header)
        body[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled < header.size:
        raise DataError(f"{header.path} is truncated: {filled} of {header.size} bytes are there: {AGAIN}.")
    return body


def write_nifti(
    path: Path,
    data: ArrayLike,
    affine: ArrayLike,
    *,
    description: str = "harmonet",
    codes: tuple[int, int] = (1, 1),
) -> None:
    """Writes a NIfTI-1 file that holds exactly these values: float32, or uint8 for bool and uint8.

    The header is built, never inherited: a prediction saved through an input's int16 header is rescaled. The
    same arguments give the same bytes, and the file appears complete or not at all.

    Args:
        path: `.nii` or `.nii.gz`; an existing file is replaced.
        data: (X, Y, Z) or (X, Y, Z, C).
        affine: (4, 4), voxel indices to mm in RAS+.
        description: At most 79 ASCII characters, kept in the header.
        codes: Of qform and sform, as in `Header`; the affine is in both, whatever their codes.

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
    header.set_sform(matrix, code=codes[1])
    header.set_qform(matrix, code=codes[0])
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
