"""Validation: the error of each stage and platform on the patches of the validation subjects."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor

from harmonet.data.patches import PatchFeed
from harmonet.losses.masked import refuse_other_shape
from harmonet.losses.weighting import Term
from harmonet.model import Model
from harmonet.training.batches import to_tensors
from harmonet.training.engine import ALONE, Engine


@torch.no_grad()
def validate(model: Model, feed: PatchFeed, batch_size: int, engine: Engine = ALONE) -> dict[Term, Tensor]:
    """Mean squared error (C,) of each stage and platform, standardised, each voxel of the masks counted once.

    Args:
        model: Put into evaluation mode.
        feed: The patches.
        batch_size: Patches of one pass.
        engine: The processes among which the batches are shared.
    """
    model.eval()
    batches = feed.batches(0, batch_size)
    # Sharded weights are gathered in every pass, and a process without a batch would know no stage: then all take all.
    shared = not engine.shard and feed.steps(batch_size) >= engine.ranks
    sums: dict[Term, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=engine.device))
    voxels: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=engine.device))
    for batch in islice(batches, engine.rank, None, engine.ranks) if shared else batches:
        x, targets, inside = to_tensors(batch, engine.device)
        for platform, mask in inside.items():
            voxels[platform] = voxels[platform] + mask.sum()
        for number, stage in enumerate(model(x)):
            for platform, prediction in stage.items():
                refuse_other_shape(prediction, targets[platform])
                squares = (prediction - targets[platform]).square() * inside[platform]
                sums[number, platform] = sums[number, platform] + squares.sum((0, 2, 3, 4), dtype=torch.float64)
    together = engine if shared else ALONE
    counts = {platform: together.sum(voxels[platform]).clamp(min=1) for platform in sorted(voxels)}
    return {term: (together.sum(sums[term]) / counts[term[1]]).cpu() for term in sorted(sums)}


def mean_of_answers(errors: Mapping[Term, Tensor]) -> float:
    """Mean, over the platforms of the last stage, of the error there: what a composition is chosen by.

    >>> mean_of_answers({(0, "a"): torch.tensor([4.0]), (0, "b"): torch.tensor([1.0]), (1, "a"): torch.tensor([3.0])})
    3.0
    """
    last = max(stage for stage, _ in errors)
    found = [float(error.mean()) for (stage, _), error in errors.items() if stage == last]
    return sum(found) / len(found)


def by_group(errors: Mapping[Term, Tensor], groups: Mapping[str, slice]) -> dict[str, dict[str, float]]:
    """Stage and platform to the error of each group of channels, such as `l = 2`."""
    return {
        f"{stage}/{platform}": {name: float(error[channels].mean()) for name, channels in groups.items()}
        for (stage, platform), error in errors.items()
    }


def alphas(model: Model) -> float | None:
    """The fusion's alpha, where it has one."""
    values = [float(buffer) for name, buffer in model.named_buffers() if name.endswith(".alpha")]
    return max(values) if values else None
