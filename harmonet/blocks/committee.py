"""Several networks of one platform in the place of one."""

from collections.abc import Sequence

from torch import Tensor, nn

from harmonet.stages import Members


class Committee(nn.Module):
    """Networks that predict the same platform, side by side; a fusion that takes all of them reads each.

    >>> import torch
    >>> [tuple(y.shape) for y in Committee([nn.Conv3d(2, 3, 1), nn.Conv3d(2, 3, 1)])(torch.zeros(1, 2, 1, 1, 1))]
    [(1, 3, 1, 1, 1), (1, 3, 1, 1, 1)]
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(one for network in networks for one in members_of(network))

    def forward(self, x: Tensor) -> Members:
        """(B, C, X, Y, Z) to each member's prediction."""
        return Members(network(x) for network in self.members)


def members_of(network: nn.Module) -> list[nn.Module]:
    """The networks of a committee, or the one network that stands alone."""
    return list(network.members) if isinstance(network, Committee) else [network]
