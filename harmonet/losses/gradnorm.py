"""Gradient normalisation (Chen et al. 2018, doi:10.48550/arXiv.1711.02257)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harmonet.errors import RecipeError
from harmonet.losses.weighting import Term, Weighting

LEAST = 1e-12


class GradNorm(Weighting):
    """Weights that bring the gradients of all terms to one size, larger for terms that train more slowly.

    The weighted norm G = w |gradient| of each term is drawn to mean(G) r^alpha, where r is the term over its first
    value, divided by the mean of that over the terms. Published: that aim, and that weights are rescaled after each
    step. Our choice: the gradient is taken over all trained parameters, since composed networks have no last layer
    that all terms share; the step is taken on log w, whose gradient is divided by mean(G), so that weights stay
    positive and `rate` means the same at every scale of the loss.

    Args:
        terms: The terms.
        alpha: How strongly slow terms are favoured.
        rate: Length of a step.
    """

    reads_gradients = True
    weights: Tensor
    first: Tensor

    def __init__(self, terms: Sequence[Term], alpha: float = 1.5, rate: float = 0.025) -> None:
        super().__init__(terms)
        if not rate > 0:
            raise RecipeError(f"weighting gradnorm was given rate {rate}: give a number above 0.")
        self.alpha, self.rate = alpha, rate
        self.register_buffer("weights", torch.ones(len(terms)))
        self.register_buffer("first", torch.full((len(terms),), torch.nan))

    def gradients_seen(self, losses: Mapping[Term, Tensor], norms: Mapping[Term, Tensor]) -> None:
        """One step on the weights of the terms that the batch has; their sum stays."""
        at = self.places(losses)
        now = torch.stack([loss.detach() for loss in losses.values()]).to(self.weights)
        self.first[at] = torch.where(self.first[at].isnan(), now, self.first[at])
        pace = now / self.first[at].clamp(min=LEAST)
        pace = pace / pace.mean().clamp(min=LEAST)
        weights = self.weights[at]
        size = weights * torch.stack([norms[term] for term in losses]).to(self.weights)
        mean = size.mean().clamp(min=LEAST)
        moved = weights * torch.exp(-self.rate * torch.sign(size - mean * pace**self.alpha) * size / mean)
        self.weights[at] = moved * weights.sum() / moved.sum()

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """The weight of each term."""
        return {term: self.weights[at] for at, term in zip(self.places(losses), losses, strict=True)}
