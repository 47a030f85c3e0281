"""Batches as tensors, and the passes over one batch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harmonet.data.patches import Batch


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass takes of a batch.

    Attributes:
        source: (B, C, n, n, n).
        targets: Platform to (B, C, t, t, t).
        inside: Platform to (B, 1, t, t, t), 1 in the mask.
        whole: Platform to the number of voxels in the masks of the whole batch.
    """

    source: Tensor
    targets: dict[str, Tensor]
    inside: dict[str, Tensor]
    whole: dict[str, Tensor]


def passes(batch: Batch, number: int, device: torch.device) -> Iterator[Pass]:
    """A batch in so many parts."""
    x, targets, inside = to_tensors(batch, device)
    whole = {platform: mask.sum() for platform, mask in inside.items()}
    size = math.ceil(len(x) / number)
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        yield Pass(x[part], {p: y[part] for p, y in targets.items()}, {p: m[part] for p, m in inside.items()}, whole)


def to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Source, targets and masks as (B, C, X, Y, Z), without a copy on the CPU."""

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(array, device=device).movedim(-1, 1)

    return (
        tensor(batch.source),
        {platform: tensor(array) for platform, array in batch.targets.items()},
        {platform: tensor(array[..., None]).float() for platform, array in batch.inside.items()},
    )
