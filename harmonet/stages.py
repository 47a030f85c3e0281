"""What a model gives: stages, dicts from platform to prediction, some with a variance."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Gaussian(NamedTuple):
    """What a network with uncertainty gives in place of a tensor: mean and variance, each (B, C, X, Y, Z)."""

    mean: Tensor
    variance: Tensor


class Members(tuple[Tensor | Gaussian, ...]):
    """What several networks of one platform give in place of a tensor: the prediction of each."""


Prediction = Tensor | Gaussian | Members


class Stage(dict[str, Tensor]):
    """Platform to its prediction (B, C, X, Y, Z); to its variance, where it has one, in `variances`.

    Where a platform has several networks, the prediction is the first one's, and `members` has those of all.

    >>> import torch
    >>> stage = Stage()
    >>> stage.add("a", Gaussian(torch.zeros(1), torch.ones(1)))
    >>> stage["a"], stage.variances["a"]
    (tensor([0.]), tensor([1.]))
    """

    def __init__(self, predictions: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(predictions or {})
        self.variances: dict[str, Tensor] = {}
        self.members: dict[str, list[Tensor]] = {}

    def add(self, platform: str, prediction: Prediction) -> None:
        """Take what a network gave for a platform."""
        if isinstance(prediction, Members):
            self.members[platform] = [p.mean if isinstance(p, Gaussian) else p for p in prediction]
            self.add(platform, prediction[0])
        elif isinstance(prediction, Gaussian):
            self[platform], self.variances[platform] = prediction
        else:
            self[platform] = prediction
