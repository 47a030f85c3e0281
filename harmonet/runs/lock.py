"""One training in one folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harmonet.errors import OutputError

LOCK = ".lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the run folder, which is made where it is missing; a killed holder's lock is free again.

    Raises:
        OutputError: Another process trains there, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise OutputError(f"another process trains in {out}: wait for it to end, or choose another folder.") from None
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another place.") from None
    try:
        yield
    finally:
        lock.release()
