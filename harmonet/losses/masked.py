"""Means over the voxels inside a mask, and the two errors that every comparison uses."""

from torch import Tensor


def masked_mean(values: Tensor, inside: Tensor) -> Tensor:
    """Mean over channels and over the voxels inside the mask; 0 where there are none.

    The paper does not say how voxels outside the brain count; leaving them out is our choice.

    Args:
        values: (B, C, X, Y, Z).
        inside: (B, 1, X, Y, Z), 1 inside and 0 outside.
    """
    return (values * inside).sum() / (inside.sum() * values.shape[1]).clamp(min=1)


def masked_mse(prediction: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Mean squared error over channels and over the voxels inside the mask; 0 where there are none.

    Args:
        prediction, truth: (B, C, X, Y, Z).
        inside: (B, 1, X, Y, Z), 1 inside and 0 outside.

    >>> import torch
    >>> one = torch.ones(1, 2, 1, 1, 2)
    >>> masked_mse(one, 3 * one, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2))
    tensor(4.)
    """
    refuse_other_shape(prediction, truth)
    return masked_mean((prediction - truth).square(), inside)


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


def refuse_other_shape(prediction: Tensor, truth: Tensor) -> None:
    """Refuse shapes that would broadcast to something that nobody meant."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
