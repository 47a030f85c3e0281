"""The same image under two names: a subject who was copied would train and test.

Only voxels count, as they lie in the file after its header: a copy that was zipped, renamed or given another header
is still found. First a fingerprint of the beginning is compared, then everything.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import nibabel as nib

from harmonet.data.acquisition import Acquisition
from harmonet.errors import DataError
from harmonet.files import AGAIN, check_readable

WINDOW = 4 << 20  # bytes of voxels in a fingerprint: a volume of b = 0 or more, a few milliseconds to inflate
CHUNK = 1 << 18  # bytes read at once
FARTHEST = 1 << 30  # bytes: voxels that begin later are not there
HEADERS: Any = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by size; Any: nibabel's classes carry no types


class _Voxels(NamedTuple):
    """Voxels of an image as a stream that stands at the first of them."""

    stream: BinaryIO
    shape: tuple[int, ...]
    size: int  # bytes


def duplicates(acquisitions: Iterable[Acquisition]) -> list[tuple[Acquisition, Acquisition]]:
    """Pairs of acquisitions whose images hold the same voxels.

    Images that begin alike are compared to their last byte, in bounded memory. An image that cannot be read is in no
    pair: to say so is the reader's task.
    """
    pairs: list[tuple[Acquisition, Acquisition]] = []
    for suspects in _alike(acquisitions, fingerprint):
        for same in _alike(suspects, _whole):
            pairs += combinations(same, 2)
    return pairs


def fingerprint(path: Path) -> str:
    """SHA-256 over the shape and the first voxels; zipped or not, how well and by whom makes no difference.

    It ends 4 MB after the first that is not 0, for the empty margin of a skull-stripped head is like any other's.

    Raises:
        DataError: The file is missing, damaged up to there, or no NIfTI.
    """
    return _digest(path, WINDOW)


def _whole(path: Path) -> str:
    return _digest(path, math.inf)


def _alike(acquisitions: Iterable[Acquisition], mark: Callable[[Path], Hashable]) -> list[list[Acquisition]]:
    """Groups of two or more that have the same mark."""
    groups: dict[Hashable, list[Acquisition]] = {}
    for acquisition in acquisitions:
        try:
            groups.setdefault(mark(acquisition.dwi), []).append(acquisition)
        except DataError:
            continue  # whoever reads it names it
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: Path, most: float) -> str:
    """SHA-256 over the shape and the voxels, to the end or to `most` bytes from the first chunk that is not all 0."""
    with _voxels(path) as voxels:
        digest = hashlib.sha256(repr(voxels.shape).encode())
        left, seen = voxels.size, 0
        while left and seen < most:
            piece = voxels.stream.read(min(CHUNK, left))
            if not piece:
                raise DataError(f"{path} is truncated, {left} bytes of its voxels are missing: {AGAIN}.")
            digest.update(piece)
            left -= len(piece)
            if seen or piece.count(0) < len(piece):
                seen += len(piece)
    return digest.hexdigest()


@contextmanager
def _voxels(path: Path) -> Iterator[_Voxels]:
    """The voxels of a `.nii` or `.nii.gz` file; what its bytes are decides, not its name."""
    check_readable(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
            shape, size, offset = _header(stream.read(max(HEADERS)), path)
            stream.seek(offset)
            yield _Voxels(stream, shape, size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): {AGAIN}.") from None


def _header(head: bytes, path: Path) -> tuple[tuple[int, ...], int, int]:
    """Shape, bytes of voxels and where they begin."""
    for size, kind in HEADERS.items():
        if len(head) >= size and size in (int.from_bytes(head[:4], order) for order in ("little", "big")):
            header = kind(head[:size], check=False)
            rank = int(header["dim"][0])
            shape = tuple(int(n) for n in header["dim"][1 : rank + 1])
            offset, bits = float(header["vox_offset"]), int(header["bitpix"])
            if 1 <= rank <= 7 and min(shape) >= 1 and bits >= 1 and size <= offset < FARTHEST:
                return shape, math.prod(shape) * bits // 8, int(offset)
    raise DataError(f"{path} is not a NIfTI image (no usable header inside): check what it is, or {AGAIN}.")
