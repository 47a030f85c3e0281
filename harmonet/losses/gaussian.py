"""Squared error, and the Gaussian likelihood where a network predicts its variance."""

from collections.abc import Mapping

from torch import Tensor

from harmonet.errors import RecipeError
from harmonet.losses.masked import masked_likelihood, masked_mse


class SquaredError:
    """Mean squared error; the likelihood for a prediction with a variance, which nothing else would train.

    Args:
        groups: Not read.
    """

    def __init__(self, groups: Mapping[str, slice]) -> None: ...

    def __call__(self, prediction: Tensor, truth: Tensor, inside: Tensor, variance: Tensor | None) -> Tensor:
        """Scalar, over the voxels inside."""
        if variance is None:
            return masked_mse(prediction, truth, inside)
        return masked_likelihood(prediction, variance, truth, inside)


class Heteroscedastic:
    """Twice the negative log-likelihood of a Gaussian whose variance the network predicts for each voxel.

    A prediction without a variance has variance 1, which makes this its squared error: stages of a fusion, say.

    Args:
        groups: Not read.
        floor: Least variance that counts, in standardised units squared: one that a network sends to 0 would make
            the loss fall without end.
    """

    def __init__(self, groups: Mapping[str, slice], floor: float = 1e-4) -> None:
        if not floor > 0:
            raise RecipeError(f"loss heteroscedastic was given floor {floor}: give a variance above 0.")
        self.floor = floor

    def __call__(self, prediction: Tensor, truth: Tensor, inside: Tensor, variance: Tensor | None) -> Tensor:
        """Scalar, over the voxels inside."""
        if variance is None:
            return masked_mse(prediction, truth, inside)
        return masked_likelihood(prediction, variance.clamp(min=self.floor), truth, inside)
