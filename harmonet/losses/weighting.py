"""What a weighting is: it says how much each term of the loss counts."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

Term = tuple[int, str]  # stage, platform


class Weighting(nn.Module):
    """Weighs the terms of a loss, one for each stage and platform.

    A subclass says in `forward` what each term that a batch has weighs. Whatever it remembers is in buffers and
    parameters, so that a resumed training goes on as it would have; parameters are trained with the model. Weights of
    all terms sum to their number, so that the learning rate keeps its meaning; a weight that is learned need not.

    Attributes:
        terms: (stage, platform) of each term, in the order of the state's entries.
        takes_negative: Whether terms may be negative, as a likelihood can be.
        reads_gradients: Whether it is told the norm of each term's gradient, which costs a backward pass for each.
    """

    takes_negative: ClassVar[bool] = False
    reads_gradients: ClassVar[bool] = False

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)

    def forward(self, losses: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
        """Weight of each term; called once per step.

        Args:
            losses: The terms that the batch has, scalars without a gradient; a platform that no subject of the batch
                has is not among them.
        """
        raise NotImplementedError(f"{type(self).__name__} weighs nothing: define forward(self, losses).")

    def addition(self, losses: Mapping[Term, Tensor]) -> Tensor | None:
        """What is added to the weighted sum so that learned weights do not vanish; nothing by default."""
        return None

    def gradients_seen(self, losses: Mapping[Term, Tensor], norms: Mapping[Term, Tensor]) -> None:
        """Take the norms of the gradients of unweighted terms, where `reads_gradients`; called before `forward`."""

    def epoch_ends(self, means: Mapping[Term, float]) -> None:
        """Take the mean of each term over an epoch; terms that no batch had are not among them."""

    def places(self, losses: Mapping[Term, object]) -> Tensor:
        """Where the terms stand among all, as indices into the state."""
        return torch.tensor([self.terms.index(term) for term in losses], dtype=torch.long)
