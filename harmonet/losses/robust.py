"""Losses that grow more slowly than the square, for targets with outliers such as misaligned edges."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import huber_loss

from harmonet.errors import RecipeError
from harmonet.losses.masked import masked_mean, refuse_other_shape


class AbsoluteError:
    """Mean absolute error.

    Args:
        groups: Not read.
    """

    def __init__(self, groups: Mapping[str, slice]) -> None: ...

    def __call__(self, prediction: Tensor, truth: Tensor, inside: Tensor, variance: Tensor | None) -> Tensor:
        """Scalar, over the voxels inside."""
        refuse_variance("l1", variance)
        refuse_other_shape(prediction, truth)
        return masked_mean((prediction - truth).abs(), inside)


class Huber:
    """Squared near 0 and linear beyond `delta` (Huber 1964, doi:10.1214/aoms/1177703732), on the square's scale.

    Args:
        groups: Not read.
        delta: Where the one becomes the other, in standardised units.
    """

    def __init__(self, groups: Mapping[str, slice], delta: float = 1.0) -> None:
        if not delta > 0:
            raise RecipeError(f"loss huber was given delta {delta}: give a number above 0.")
        self.delta = delta

    def __call__(self, prediction: Tensor, truth: Tensor, inside: Tensor, variance: Tensor | None) -> Tensor:
        """Scalar, over the voxels inside."""
        refuse_variance("huber", variance)
        refuse_other_shape(prediction, truth)
        return 2 * masked_mean(huber_loss(prediction, truth, reduction="none", delta=self.delta), inside)


def refuse_variance(name: str, variance: Tensor | None) -> None:
    """Refuse a prediction with a variance, which this loss would leave untrained."""
    if variance is not None:
        raise RecipeError(
            f"loss {name} was given a network that predicts its variance, which it cannot train: "
            "use mse, heteroscedastic or by_order."
        )
