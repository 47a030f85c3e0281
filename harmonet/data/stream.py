"""The bytes of a file, inflated where they are compressed, with every checksum compared."""

import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from harmonet.errors import DataError
from harmonet.files import AGAIN, check_readable

CHUNK = 1 << 20  # bytes handed over per step, at most
READ = 1 << 16  # bytes read per step: what is left of them after a gzip member is copied, and bgzip has many members
GZIP = 31  # zlib's word for a gzip wrapper: it compares CRC and length itself
MAX_PADDING = 512  # zero bytes after the gzip stream: some tools fill a block


def pieces(path: Path, digest: Any, step: int = CHUNK) -> Generator[bytes, None, None]:
    """The content of a file in pieces of at most `step` bytes; it ends without error only if every checksum was right.

    Several gzip streams one after another are one file, as `bgzip` and `pigz -i` write them.

    Args:
        path: The file; compressed if its name ends in `.gz`, and only then.
        digest: A hash that is updated with the bytes on disk as they are read.
        step: Largest piece in bytes.

    Raises:
        DataError: The file cannot be read, is damaged, or is compressed against its name.
    """
    check_readable(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            if zipped != (path.suffix.lower() == ".gz"):
                found = "is gzip inside" if zipped else "is not gzip inside"
                raise DataError(f"{path} {found}, against its name: {AGAIN}, or rename it.")
            file.seek(0)
            if zipped:
                yield from _inflated(_chunks(file, digest, READ), path, step)
            else:
                yield from _chunks(file, digest, step)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {AGAIN}.") from error


def _chunks(file: BinaryIO, digest: Any, size: int) -> Iterator[bytes]:
    while chunk := file.read(size):
        digest.update(chunk)
        yield chunk


def _inflated(chunks: Iterator[bytes], path: Path, step: int) -> Iterator[bytes]:
    rest = next(chunks, b"")
    while rest.startswith(b"\x1f"):
        member = zlib.decompressobj(GZIP)
        while not member.eof:
            try:
                piece = member.decompress(rest, step)
            except zlib.error as error:
                raise DataError(f"{path} is damaged ({error}): {AGAIN}.") from None
            yield piece
            rest = member.unconsumed_tail
            if not (rest or member.eof):
                rest = next(chunks, b"")
                if not rest:
                    raise DataError(f"{path} is truncated (the gzip stream does not end): {AGAIN}.")
        rest = member.unused_data or next(chunks, b"")
    padding = 0
    while rest:
        padding += len(rest)
        if padding > MAX_PADDING or rest.strip(b"\0"):
            raise DataError(f"{path} is damaged (data after the end of the gzip stream): {AGAIN}.")
        rest = next(chunks, b"")
