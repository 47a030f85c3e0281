"""Represented volumes kept on disk: what was read and fitted once is opened the next time.

An entry is a folder named by the digest of what it was made of: the bytes of the input files, the settings and the
version of the code. It is filled aside and renamed, so that it is there whole or not at all, and its arrays are held
against their digests, because a file of zeros opens as readily as one of channels. Nothing depends on the cache:
what cannot be kept stays in memory, and is said.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import Gradients
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, OutputError
from harmonet.files import AGAIN, check_readable, sha256
from harmonet.platforms import Grid

CACHE_FORMAT = 1  # raise it where reading or representing gives other channels than before, or an entry looks otherwise
CHANNELS, MASK, ENTRY = "channels.npy", "mask.npy", "entry.json"
INPUTS = ("dwi", "bval", "bvec", "mask", "te", "tr")
OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{32}\.partial")  # the user may keep other things there
STALE = 24 * 3600.0  # seconds: what is still being filled after this long belongs to no living process
FAULTS = (OSError, ValueError, KeyError, TypeError)  # all that opening a damaged entry can raise
REMEDY = "free space there, or set HARMONET_CACHE to another folder or to `off`"


def cache_folder(data_root: Path) -> Path | None:
    """Where volumes are cached, None for nowhere.

    The folder is HARMONET_CACHE (`off` for none), else `harmonet` in XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        OutputError: It lies in the data set, which is never written to, or there is no home folder.
    """
    given, xdg = os.environ.get("HARMONET_CACHE", ""), Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given == "off":
        return None
    try:
        caches = xdg if xdg.is_absolute() else Path("~/.cache").expanduser()  # relative ones count as not set (XDG)
        folder = (Path(given).expanduser() if given else caches / "harmonet").absolute()
    except RuntimeError as error:
        raise OutputError(f"the cache has no place ({error}): set HARMONET_CACHE to a folder or to `off`.") from None
    if folder.resolve().is_relative_to(data_root.resolve()):
        raise OutputError(
            f"the cache {folder} lies in the data set {data_root}, which is never written to: "
            "set HARMONET_CACHE to a folder outside or to `off`."
        )
    return folder


def digests(acquisition: Acquisition) -> dict[str, str]:
    """SHA-256 of the bytes of every input file, by what it is: dwi, bval, bvec, mask, te, tr.

    Raises:
        DataError: A file cannot be read.
    """
    found = {}
    for part in INPUTS:
        path = getattr(acquisition, part)
        if isinstance(path, Path):
            check_readable(path)
            try:
                found[part] = sha256(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}): {AGAIN}.") from error
    return found


class Cache:
    """Represented volumes in a folder, keyed by content and settings; several processes may share it.

    Args:
        folder: Where entries lie; made when there is something to keep.
        say: Takes a sentence where an entry was damaged or cannot be kept.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._say = say
        self._verified: set[str] = set()

    def volume(self, acquisition: Acquisition, settings: Mapping[str, Any], make: Callable[[], Volume]) -> Volume:
        """The volume of an acquisition, read-only and memory-mapped; made and kept where it is not there yet.

        Args:
            acquisition: Its files; their bytes count, their names do not.
            settings: Whatever else the channels follow from, as JSON can hold it: the representation's name and
                options, shells, automatic mask.
            make: Reads and represents the acquisition.

        Raises:
            DataError: An input file cannot be read.
        """
        origin = _origin(acquisition, settings)
        entry = self.folder / hashlib.sha256(_canonical(origin)).hexdigest()
        if os.path.lexists(entry):
            try:
                return self._open(entry)
            except FAULTS as error:
                self._say(f"{entry} cannot be used ({_reason(error)}): {acquisition.name} is read again.")
                self._discard(entry)
        made = make()
        try:
            if digests(acquisition) != origin["files"]:
                raise OutputError("its files changed while they were read: leave them alone during a run.")
            self._keep(entry, made, origin)
            return self._open(entry)
        except OutputError as error:
            self._say(f"{acquisition.name} stays in memory, not in the cache: {error}")
        except FAULTS as error:  # of another process's entry, or the disk's
            self._say(f"{acquisition.name} stays in memory, {entry} cannot be opened ({_reason(error)}): {REMEDY}.")
        return _read_only(made)

    def size(self) -> int:
        """Bytes of all entries, those being made included."""
        total = 0
        for folder in self._folders():
            for path in folder.glob("*"):
                with suppress(OSError):  # another process may be renaming it
                    total += path.stat().st_size
        return total

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]
        except OSError:
            return []

    def _open(self, entry: Path) -> Volume:
        """The volume in an entry; raises one of FAULTS where it is damaged."""
        content = json.loads((entry / ENTRY).read_bytes())
        facts = content["entry"]
        if hashlib.sha256(_canonical(facts)).hexdigest() != content["sha256"]:
            raise ValueError(f"{ENTRY} differs from its digest")
        if entry.name not in self._verified:
            for name, digest in facts["sha256"].items():
                if sha256(entry / name) != digest:
                    raise ValueError(f"{name} differs from its digest")
        # Plain views: numpy's memmap class costs time in every gather.
        channels = np.asarray(np.lib.format.open_memmap(entry / CHANNELS, mode="r"))
        mask = np.asarray(np.lib.format.open_memmap(entry / MASK, mode="r"))
        x, y, z, c = facts["shape"]
        if (channels.shape, mask.shape) != ((x, y, z, c), (x, y, z)):
            raise ValueError(f"its arrays have shapes {channels.shape} and {mask.shape}, not {(x, y, z, c)}")
        if not (channels.dtype == np.float32 and mask.dtype == np.bool_):
            raise ValueError(f"its arrays hold {channels.dtype} and {mask.dtype}")
        self._verified.add(entry.name)
        table = Gradients(np.array(facts["bvals"]), np.array(facts["directions"]).reshape(-1, 3))
        return Volume(channels, mask, Grid((x, y, z), np.array(facts["affine"])), table, tuple(facts["notes"]))

    def _keep(self, entry: Path, volume: Volume, origin: Mapping[str, Any]) -> None:
        """Make an entry, unless another process was first: then that one stays."""
        aside = self._aside(entry)
        try:
            aside.mkdir(parents=True)
            self._sweep()
            np.save(aside / CHANNELS, np.ascontiguousarray(volume.channels, dtype=np.float32))
            np.save(aside / MASK, np.ascontiguousarray(volume.mask, dtype=np.bool_))
            facts = {
                "shape": volume.channels.shape,
                "affine": volume.grid.affine.tolist(),
                "bvals": volume.gradients.bvals.tolist(),
                "directions": volume.gradients.directions.tolist(),
                "notes": volume.notes,
                "sha256": {name: sha256(aside / name) for name in (CHANNELS, MASK)},
                "origin": origin,
            }
            # The affine decides where voxels lie, so this file is held against a digest too.
            content = {"entry": facts, "sha256": hashlib.sha256(_canonical(facts)).hexdigest()}
            (aside / ENTRY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            try:
                aside.rename(entry)
            except OSError:
                if not entry.is_dir():
                    raise
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written ({_reason(error)}): {REMEDY}.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _aside(self, entry: Path) -> Path:
        return self.folder / f".{entry.name}.{uuid4().hex}.partial"

    def _discard(self, entry: Path) -> None:
        """Take a damaged entry away in one step, so that nobody sees half of it."""
        aside = self._aside(entry)
        with suppress(OSError):  # where it cannot go, the new one cannot come: that is said then
            entry.rename(aside)
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()

    def _sweep(self) -> None:
        """Remove what killed processes left half-made."""
        for path in self._folders():
            with suppress(OSError):
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > STALE:
                    shutil.rmtree(path, ignore_errors=True)


def _origin(acquisition: Acquisition, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that the channels follow from."""
    times = {"te": acquisition.te, "tr": acquisition.tr}
    return {
        "format": CACHE_FORMAT,
        "harmonet": version("harmonet"),
        "files": digests(acquisition),
        "times": {name: time for name, time in times.items() if not isinstance(time, Path)},
        "settings": dict(settings),
    }


def _canonical(content: Mapping[str, Any]) -> bytes:
    """The same bytes for the same content, whatever the order of its keys."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _read_only(volume: Volume) -> Volume:
    """The same volume, protected as one from the cache is."""
    channels, mask = volume.channels.view(), volume.mask.view()
    channels.flags.writeable = mask.flags.writeable = False
    return replace(volume, channels=channels, mask=mask)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
