"""The mean of several networks for one platform: the control for what more networks alone are worth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harmonet.fusion import Fusion, Run
from harmonet.stages import Gaussian, Members, Prediction, Stage


class Ensemble(Fusion):
    """The mean of all networks that predict the target, such as one network trained from several seeds.

    Published (Lakshminarayanan et al. 2017, doi:10.48550/arXiv.1612.01474): the members are trained apart from random
    weights, and where each gives a mean and a variance, the answer has the mean and variance of their equal mixture.
    Our choice: members may be different networks; where one of them gives no variance, the answer has none.
    The first stage is the first member alone. Nothing here is trained, so members are not trained on together.
    """

    default_taps = "none"
    takes_all = True
    in_unison = False

    @property
    def reads(self) -> list[str]:
        """The target alone: an ensemble knows nothing of the other platforms."""
        return [self.target]

    def stages(self, x: Tensor, run: Run) -> Sequence[Stage]:
        """The first member's prediction, then that of all."""
        prediction, _ = run(self.target, x)
        first, last = Stage(), Stage()
        first.add(self.target, prediction)
        last.add(self.target, mixture(prediction) if isinstance(prediction, Members) else prediction)
        return [first, last]


def mixture(members: Members) -> Prediction:
    """The mean of predictions, each (B, C, X, Y, Z); with the variance of their mixture where each has one.

    >>> one, three = torch.tensor([1.0]), torch.tensor([3.0])
    >>> mixture(Members((Gaussian(one, one), Gaussian(three, one))))
    Gaussian(mean=tensor([2.]), variance=tensor([2.]))
    """
    means = torch.stack([member.mean if isinstance(member, Gaussian) else member for member in members])
    variances = [member.variance for member in members if isinstance(member, Gaussian)]
    if len(variances) < len(members):
        return means.mean(0)
    return Gaussian(means.mean(0), torch.stack(variances).mean(0) + means.var(0, correction=0))
