"""Every random state that a layer can draw from, so that a resumed training draws what it would have drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Begin all generators anew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """All states, of tensors, numbers and tuples alone."""
    name, keys, *rest = tuple(np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (name, torch.as_tensor(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Go on from what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Afterwards all generators go on as if nothing had been drawn inside."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
