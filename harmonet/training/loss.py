"""The loss: mean squared error or likelihood, summed over stages and platforms."""

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


def masked_likelihood(mean: Tensor, variance: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Twice the negative log-likelihood of a Gaussian but for a constant, averaged as `masked_mse` is.

    (y - mean)^2 / variance + log variance, as in heteroscedastic image quality transfer (Tanno et al. 2017,
    doi:10.1007/978-3-319-66182-7_70).

    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1, 1)
    >>> masked_likelihood(0 * one, one, 2 * one, one)
    tensor(4.)
    """
    return masked_mse(mean / variance.sqrt(), truth / variance.sqrt(), inside) + masked_mean(variance.log(), inside)


def masked_mean(values: Tensor, inside: Tensor) -> Tensor:
    """Mean over channels and over the voxels inside the mask; 0 where there are none."""
    return (values * inside).sum() / (inside.sum() * values.shape[1]).clamp(min=1)


def loss_terms(
    stages: Sequence[Mapping[str, Tensor]], targets: Mapping[str, Tensor], inside: Mapping[str, Tensor]
) -> dict[Term, Tensor]:
    """One term for each stage and platform that it predicts; the loss is their sum (equal weights are our choice).

    A prediction with a variance is judged by its likelihood, one without by its squared error.
    """
    terms = error_terms(stages, targets, inside)
    for number, stage in enumerate(stages):
        for platform, variance in getattr(stage, "variances", {}).items():
            mean = stage[platform]
            terms[number, platform] = masked_likelihood(mean, variance, targets[platform], inside[platform])
    return terms


def error_terms(
    stages: Sequence[Mapping[str, Tensor]], targets: Mapping[str, Tensor], inside: Mapping[str, Tensor]
) -> dict[Term, Tensor]:
    """The mean squared error of each stage and platform that it predicts."""
    return {
        (number, platform): masked_mse(prediction, targets[platform], inside[platform])
        for number, stage in enumerate(stages)
        for platform, prediction in stage.items()
    }
