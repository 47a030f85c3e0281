"""An error for each SH order, weighted."""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from harmonet.errors import NotFoundError, RecipeError, nearest
from harmonet.losses.masked import masked_likelihood, masked_mean, masked_mse, refuse_other_shape

LEAST = 1e-3  # variance in standardised units squared: a batch of hardly any signal must not outweigh all others
WORDS = ("equal", "falling", "inverse_variance")
FALL = 1 / 3  # from each even order to the next, about as the square of simulated signal falls


def order_of(group: str) -> int:
    """The SH order in the name of a group; 0 for one that names none.

    >>> order_of("b = 1000, l = 4"), order_of("intensity")
    (4, 0)
    """
    found = re.search(r"l = (\d+)$", group)
    return int(found[1]) if found else 0


class ByOrder:
    """Weighted mean over SH orders of each order's mean squared error (likelihood, where there is a variance).

    Under `mse` an order counts as often as it has coefficients (1, 5, 9, 13): the high orders, mostly noise, make up
    most of the loss.

    Args:
        groups: Name of an order, such as `l = 2`, to its channels.
        weights: `equal`, each order alike; `falling`, each even order a third of the one before, since signal falls and
            noise does not; `inverse_variance`, each order's error over the variance of the truth in
            the batch's voxels inside; or a table from order to weight, 1 where absent. Weights are divided by their
            sum, so that the loss stays on the scale of `mse`; by `inverse_variance` it is relative to the variance.
    """

    def __init__(
        self,
        groups: Mapping[str, slice],
        weights: Literal["equal", "falling", "inverse_variance"] | Mapping[str, float] = "equal",
    ) -> None:
        if not groups:
            raise RecipeError("loss by_order weighs groups of channels, found none: pass the representation's groups.")
        self.groups, self.relative = dict(groups), weights == "inverse_variance"
        table = weights if isinstance(weights, Mapping) else {}
        if not isinstance(weights, Mapping) and weights not in WORDS:
            raise RecipeError(
                f"loss by_order was given weights {weights!r}: use {', '.join(WORDS)}, or a table from order to weight."
            )
        if weights == "falling":
            table = {name: FALL ** (order_of(name) / 2) for name in groups}
        for name, weight in table.items():
            if name not in groups:
                raise NotFoundError(f"loss by_order was given a weight for {name!r}. {nearest(name, groups)}")
            if not weight >= 0:
                raise RecipeError(f"loss by_order was given weight {weight} for {name!r}: give 0 or more.")
        chosen = {name: float(table.get(name, 1.0)) for name in groups}
        if not sum(chosen.values()):
            raise RecipeError("loss by_order was given weights that are all 0: give one order a weight above 0.")
        self.weights = {name: weight / sum(chosen.values()) for name, weight in chosen.items()}

    def __call__(self, prediction: Tensor, truth: Tensor, inside: Tensor, variance: Tensor | None) -> Tensor:
        """Scalar, over the voxels inside."""
        refuse_other_shape(prediction, truth)
        total = prediction.new_zeros(())
        for name, at in self.groups.items():
            own = truth[:, at]
            if variance is None:
                error = masked_mse(prediction[:, at], own, inside)
            else:
                error = masked_likelihood(prediction[:, at], variance[:, at], own, inside)
            if self.relative:
                mean = (own * inside).sum(dim=(0, 2, 3, 4), keepdim=True) / inside.sum().clamp(min=1)
                error = error / masked_mean((own - mean).square(), inside).clamp(min=LEAST)
            total = total + self.weights[name] * error
        return total
