"""Every term in units of its own residual variance."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harmonet.errors import RecipeError
from harmonet.losses.weighting import Term, Weighting

LEAST = 1e-12


class InverseVariance(Weighting):
    """Weights proportional to one over a running mean of each term.

    Under `mse` a term is the variance of its residuals, so each is divided by that variance, as in weighted least
    squares. Dividing by the variance of the targets themselves would change nothing: standardised targets have 1.

    Args:
        terms: The terms.
        memory: Share of the running mean that a step keeps. Until 1 / (1 - memory) steps have been seen, it is the
            plain mean of all.
    """

    means: Tensor
    seen: Tensor

    def __init__(self, terms: Sequence[Term], memory: float = 0.99) -> None:
        super().__init__(terms)
        if not 0 <= memory < 1:
            raise RecipeError(f"weighting variance was given memory {memory}: give a number from 0 to below 1.")
        self.memory = memory
        self.register_buffer("means", torch.ones(len(terms)))
        self.register_buffer("seen", torch.zeros(len(terms)))

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """One over the running means; the weights of the terms seen so far have mean 1."""
        at = self.places(losses)
        now = torch.stack([loss.detach() for loss in losses.values()]).to(self.means)
        self.seen[at] += 1
        self.means[at] += (1 / self.seen[at]).clamp(min=1 - self.memory) * (now - self.means[at])
        inverse = 1 / self.means.clamp(min=LEAST)
        weights = inverse / inverse[self.seen > 0].mean()
        return {term: weights[place] for place, term in zip(at, losses, strict=True)}
