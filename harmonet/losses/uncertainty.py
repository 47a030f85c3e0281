"""Weights learned as the noise of each term (Kendall et al. 2018, doi:10.1109/CVPR.2018.00781)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harmonet.losses.weighting import Term, Weighting


class Uncertainty(Weighting):
    """Each term L over a variance that is learned with the model: exp(-s) L + s, s = log variance.

    That is the paper's L / (2 sigma^2) + log sigma, doubled, so that a term weighs 1 at the start (s = 0): our choice.
    The term `s` of a platform that a batch lacks is left out with it.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__(terms)
        self.log_variances = nn.Parameter(torch.zeros(len(terms)))

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """exp(-s) of each term, with a gradient to s."""
        weights = (-self.log_variances).exp()
        return {term: weights[at] for at, term in zip(self.places(losses), losses, strict=True)}

    def addition(self, losses: Mapping[Term, Tensor]) -> Tensor:
        """The sum of s over the terms."""
        return self.log_variances[self.places(losses)].sum()
