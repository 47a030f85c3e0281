"""Dynamic weight average (Liu et al. 2019, doi:10.1109/CVPR.2019.00197)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harmonet.errors import RecipeError
from harmonet.losses.weighting import Term, Weighting


class DynamicWeightAverage(Weighting):
    """Terms that fell least from one epoch to the next weigh most.

    K softmax(r / temperature) over the K terms, r the mean of the last epoch over that of the one before; 1 until two
    epochs have ended. A term that an epoch lacks keeps its means.

    Args:
        terms: The terms.
        temperature: The higher, the more alike; the paper's is 2.
    """

    last: Tensor
    before: Tensor

    def __init__(self, terms: Sequence[Term], temperature: float = 2.0) -> None:
        super().__init__(terms)
        if not temperature > 0:
            raise RecipeError(f"weighting dwa was given temperature {temperature}: give a number above 0.")
        self.temperature = temperature
        self.register_buffer("last", torch.full((len(terms),), torch.nan))
        self.register_buffer("before", torch.full((len(terms),), torch.nan))

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """The epoch's weight of each term."""
        ratios = torch.where(self.before > 0, self.last / self.before, 1.0).nan_to_num(nan=1.0)
        weights = len(self.terms) * torch.softmax(ratios / self.temperature, dim=0)
        return {term: weights[at] for at, term in zip(self.places(losses), losses, strict=True)}

    def epoch_ends(self, means: Mapping[Term, float]) -> None:
        """Remember the means of the last two epochs."""
        for at, mean in zip(self.places(means).tolist(), means.values(), strict=True):
            self.before[at], self.last[at] = self.last[at].clone(), mean
