"""The loss: mean squared error, summed over stages and platforms."""

from collections.abc import Mapping, Sequence

from torch import Tensor

Term = tuple[int, str]  # stage, platform


def masked_mse(prediction: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Mean over channels and over the voxels inside the mask; 0 where there are none.

    The paper does not say how voxels outside the brain count; leaving them out is our choice.

    Args:
        prediction, truth: (B, C, X, Y, Z).
        inside: (B, 1, X, Y, Z), 1 inside and 0 outside.

    >>> import torch
    >>> one = torch.ones(1, 2, 1, 1, 2)
    >>> masked_mse(one, 3 * one, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2))
    tensor(4.)
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    squares = (prediction - truth).square() * inside
    return squares.sum() / (inside.sum() * truth.shape[1]).clamp(min=1)


def loss_terms(
    stages: Sequence[Mapping[str, Tensor]], targets: Mapping[str, Tensor], inside: Mapping[str, Tensor]
) -> dict[Term, Tensor]:
    """One error for each stage and platform that it predicts; the loss is their sum (equal weights are our choice)."""
    return {
        (number, platform): masked_mse(prediction, targets[platform], inside[platform])
        for number, stage in enumerate(stages)
        for platform, prediction in stage.items()
    }
