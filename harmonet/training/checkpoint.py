"""Checkpoints that survive a kill: written aside, synced, renamed; loaded without executing anything."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from harmonet.errors import RunError
from harmonet.files import write_whole


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, strings, lists and dicts."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        RunError: The file is damaged, or holds more than data.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"checkpoint {path} is damaged ({first_line}): delete it to train that part again.") from None
    return state
