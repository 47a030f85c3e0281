"""Files that are there whole or not at all: what cannot be read is told apart, what is written is complete."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harmonet.errors import DataError, OutputError

PARTIAL = ".*.partial"  # what a killed process leaves of a file or folder that it was writing
AGAIN = "copy it again from its source"
MEMORY_GROUPS = {  # controllers of a group to where it is mounted and what its files are called: version 2, version 1
    "": ("", "memory.max", "memory.current"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that takes the place of `path` once it is complete and on disk, and never before.

    Raises:
        OutputError: The place cannot be written; what was there is still there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with aside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written ({reason}): free space there or choose another place.") from error


def _sync(folder: Path) -> None:
    """Bring a renaming to disk; not every system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep_partial(folder: Path) -> None:
    """Remove what killed processes left half-written; only for a folder that nobody else writes to."""
    for aside in folder.glob(PARTIAL):
        aside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write the content, so that at any instant the old or the new file is there; folders are made as needed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be made ({error.strerror}): choose another place.") from error
    write_atomically(path, lambda file: file.write(content))


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, which takes the place of `out` at the end; on failure nothing is left of it.

    Raises:
        OutputError: The place cannot be written; what was there is still there.
    """
    fresh = out.with_name(f".{out.name}.{os.getpid()}.partial")
    stale = out.with_name(f".{out.name}.{os.getpid()}.replaced")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            out.rename(stale)
        fresh.rename(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): free space or choose another place.") from error
    finally:
        if stale.exists() and not out.exists():
            stale.rename(out)  # the last step failed: what was there comes back
        for folder in (fresh, stale):
            shutil.rmtree(folder, ignore_errors=True)


def foreign_in(folder: Path, parts: Iterable[str]) -> str | None:
    """The first name in a folder that is none of `parts`: what must not be deleted with them."""
    return min({path.name for path in folder.iterdir()} - set(parts), default=None)


def sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_apart(paths: Sequence[Path]) -> list[str]:
    """A name for each of several files: its own, and as many of its folders as tell it from the others.

    >>> told_apart([Path("a/dwi.nii"), Path("b/mask.nii"), Path("b/dwi.nii")])
    ['a/dwi.nii', 'mask.nii', 'b/dwi.nii']
    """

    def name(path: Path) -> str:
        others = [other for other in paths if other != path]
        for depth in range(1, len(path.parts)):
            tail = path.parts[-depth:]
            if all(other.parts[-depth:] != tail for other in others):
                return "/".join(tail)
        return path.as_posix()

    return [name(path) for path in paths]


def check_readable(path: Path) -> None:
    """Nothing, where `path` holds content; the commonest ways of holding none are told apart.

    Raises:
        DataError: Missing, empty, a folder, a git-annex or git-LFS pointer, or a web page.
    """
    if path.is_symlink() and not path.exists():
        target = str(path.readlink())
        if "annex/objects" in target:
            raise DataError(f"{path} is a git-annex link without content: run `datalad get {path}`.")
        raise DataError(f"{path} is a link to {target}, which does not exist: mend the link.")
    if path.is_dir():
        raise DataError(f"{path} is a folder, a file was expected: name the file in it.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the name.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): check its permissions.") from error
    if not head:
        raise DataError(f"{path} is empty (0 bytes): {AGAIN}.")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a git-LFS pointer without content: run `git lfs pull`.")
    if head.startswith(b"/annex/objects"):
        raise DataError(f"{path} is a git-annex pointer without content: run `datalad get {path}`.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path} is a web page, not data: download the file itself.")


def free_memory() -> int:
    """Bytes of memory that can be taken without swapping, as far as the system and the control group tell."""
    return min(_free_in_system(), *_free_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _free_in_system() -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30


def _free_in_groups(membership: Path, root: Path) -> list[int]:
    """Bytes left in each of the control groups that hold this process, where they are limited (a container, a job).

    Args:
        membership: Says which groups those are.
        root: Where the groups are mounted.
    """
    found: list[int] = []
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in MEMORY_GROUPS:
                folder, limit, usage = MEMORY_GROUPS[controllers]
                parts = Path(group.lstrip("/")).parts
                for depth in range(len(parts) + 1):
                    found += _free_in_group(root.joinpath(folder, *parts[:depth]), limit, usage)
    return found or [sys.maxsize]


def _free_in_group(folder: Path, limit: str, usage: str) -> list[int]:
    with suppress(OSError, ValueError):  # no such group, or its limit is "max"
        most, taken = (int((folder / name).read_text()) for name in (limit, usage))
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # What files have left in memory counts as used, but is given back when it is needed.
        cached = sum(int(value) for name, value in lines if name in ("active_file", "inactive_file"))
        return [max(0, most - taken + cached)]
    return []
