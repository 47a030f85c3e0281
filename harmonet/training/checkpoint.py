"""Checkpoints that survive a kill, a full disk and a flipped bit; loaded without executing anything.

A checkpoint is written aside, synced and renamed; the one before is kept. Its first line holds the digest of the rest,
since torch reads damaged weights without a word.
"""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harmonet.errors import OutputError, RunError
from harmonet.files import sweep_partial, write_whole

NEXT, LAST, BEFORE = "next.pt", "last.pt", "before.pt"
MAGIC = b"harmonet checkpoint 1 "


class Checkpoints:
    """The last two states of one training.

    Args:
        folder: Where they lie; made when the first is written.
        say: Told what people should know, such as that a damaged one was passed over.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self._say = folder, say
        self._damaged: list[Path] = []

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors, numbers, strings, lists and dicts; at any instant one whole state is on disk.

        Raises:
            OutputError: The place cannot be written; the last state is still there.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest().encode()
        fresh, last = self.folder / NEXT, self.folder / LAST
        try:
            for path in self._damaged:  # not to be taken for a state again; kept for whoever wants to know why
                path.replace(path.with_suffix(".bad"))
            self._damaged = []
            write_whole(fresh, MAGIC + digest + b"\n" + content)
            if last.exists():
                last.replace(self.folder / BEFORE)
            fresh.replace(last)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written ({error.strerror}): choose another place.") from error

    def load(self) -> dict[str, Any] | None:
        """The newest whole state; None where nothing was saved.

        Raises:
            RunError: Every state is damaged.
        """
        sweep_partial(self.folder)
        damaged: list[str] = []
        self._damaged = []
        for name in (NEXT, LAST, BEFORE):  # the first is there after a kill between the renames
            path = self.folder / name
            if not path.exists():
                continue
            try:
                state = _read(path)
            except ValueError as error:
                damaged.append(f"{path} ({error})")
                self._damaged.append(path)
                continue
            if damaged:
                self._say(f"checkpoint {' and '.join(damaged)} is damaged: training goes on from the one before")
            return state
        if damaged:
            raise RunError(
                f"no checkpoint is whole, damaged are {' and '.join(damaged)}: delete {self.folder} to train that part "
                "again."
            )
        return None


def _read(path: Path) -> dict[str, Any]:
    """The state in a file; ValueError says what is wrong with it."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:  # such as a failing disk's
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    if not head.startswith(MAGIC):
        raise ValueError("it does not begin as one")
    if hashlib.sha256(content).hexdigest().encode() != head.removeprefix(MAGIC):
        raise ValueError("its digest does not match")
    # Explicit, since an environment variable can turn the default off, and then a pickle could run code.
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than data, and could run code") from None
    return state
