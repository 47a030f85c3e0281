"""Gradients that are numbers, and no longer than allowed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from harmonet.model import Model


def broken_parts(model: Model, parameters: Sequence[nn.Parameter], clip: float) -> str:
    """The parts whose gradient is not finite, in words; nothing where all are, and then they are clipped.

    Args:
        model: Its parts are named.
        parameters: All that are trained: the model's, and what the loss learns.
        clip: Largest norm of their gradients together; 0 for any.
    """
    norm: Any = nn.utils.get_total_norm(_gradients(parameters))
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
    if math.isfinite(norm):
        if clip:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return ""
    parts = dict(model.singles.items()) | {f"the fusion for {t}": f for t, f in model.fusions.items()}
    finite = {name: all(g.isfinite().all() for g in _gradients(part.parameters())) for name, part in parts.items()}
    return ", ".join(name for name, whole in finite.items() if not whole) or "the weighting"


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
