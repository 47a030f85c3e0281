"""Random loss weighting (Lin et al. 2022), the control that any learned weighting must beat."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from harmonet.errors import RecipeError
from harmonet.losses.weighting import Term, Weighting


class RandomWeights(Weighting):
    """The softmax of normal numbers that are drawn anew in each step, times the number of terms that the batch has.

    Draws follow from the seed and the number of steps alone, so that a resumed training draws the same.

    Args:
        terms: The terms.
        seed: Of the draws.
    """

    takes_negative = True
    steps: Tensor

    def __init__(self, terms: Sequence[Term], seed: int = 0) -> None:
        super().__init__(terms)
        if seed < 0:
            raise RecipeError(f"weighting random was given seed {seed}: give 0 or more.")
        self.seed = seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """The step's weight of each term."""
        self.steps += 1
        draws = np.random.default_rng([self.seed, int(self.steps)]).standard_normal(len(self.terms))
        drawn = torch.as_tensor(draws, dtype=torch.float32)[self.places(losses)]
        weights = len(losses) * torch.softmax(drawn, dim=0)
        return {term: weight.to(loss) for weight, (term, loss) in zip(weights, losses.items(), strict=True)}
