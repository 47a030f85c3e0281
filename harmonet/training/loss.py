"""The terms of the loss, one for each stage and each platform that it predicts, and what layers add to it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harmonet.losses.gaussian import SquaredError
from harmonet.losses.weighting import Term

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # prediction, truth, inside, variance
Stages = Sequence[Mapping[str, Tensor]]

MSE = SquaredError({})


def loss_terms(
    stages: Stages,
    targets: Mapping[str, Tensor],
    inside: Mapping[str, Tensor],
    loss: Loss = MSE,
    platforms: Collection[str] | None = None,
) -> dict[Term, Tensor]:
    """One term for each stage and platform that it predicts, each the mean over what the batch has.

    A platform of which the batch has no voxel has no term: a 0 would look like a perfect prediction.

    Args:
        stages: What a model gave.
        targets: Platform to (B, C, X, Y, Z).
        inside: Platform to (B, 1, X, Y, Z), 1 in the mask; 0 throughout a patch whose subject lacks the platform.
        loss: Of one prediction; `mse` by default, which takes the likelihood of a prediction with a variance.
        platforms: Those that have a term; where None, those of which the batch has a voxel.
    """
    if platforms is None:
        platforms = [platform for platform, mask in inside.items() if mask.any()]
    return {
        (number, platform): loss(
            prediction, targets[platform], inside[platform], getattr(stage, "variances", {}).get(platform)
        )
        for number, stage in enumerate(stages)
        for platform, prediction in stage.items()
        if platform in platforms
    }


def penalty(model: nn.Module, layers: Sequence[Any] | None = None) -> Tensor:
    """What layers add to twice the negative log-likelihood of all training data, such as a divergence from a prior.

    Args:
        model: All of it.
        layers: What `penalised` finds in it, for whoever asks at every step.
    """
    zero = torch.zeros((), device=next(model.parameters(), torch.zeros(())).device)
    return 2 * sum((layer.penalty() for layer in (penalised(model) if layers is None else layers)), zero)


def penalised(model: nn.Module) -> list[Any]:
    """The layers that have something to add: a method `penalty()`, in nats."""
    return [layer for layer in model.modules() if hasattr(layer, "penalty")]
