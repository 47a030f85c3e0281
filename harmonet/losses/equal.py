"""Every term weighs the same."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harmonet.losses.weighting import Term, Weighting


class Equal(Weighting):
    """Weight 1 for each term."""

    takes_negative = True

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """1 for each term."""
        return {term: torch.ones_like(loss) for term, loss in losses.items()}
