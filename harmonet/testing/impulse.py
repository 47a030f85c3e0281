"""Where a network's prediction lies on its source, measured with a change at one voxel."""

import torch
from torch import Tensor, nn

from harmonet.testing.harness import evaluated, seeded, stir, tensors


def response(network: nn.Module, channels: int, edge: int = 11, draws: int = 4) -> Tensor:
    """How strongly each target voxel (t, t, t) answers to a change at the central voxel of the source patch.

    The network's kernels are made symmetric and the patch uniform, so that the response of a centred network is
    symmetric too, wherever its rectifiers cut, and a shift by half a voxel shows. What has no symmetric kernels (a
    sub-pixel shuffle, factors per voxel) is only so on average: add up several networks.

    Args:
        network: Its weights are changed.
        channels: In.
        edge: Of the source patch, voxels.
        draws: Patches and changes that are added up.
    """
    stir(network)
    with torch.no_grad():
        for kernel in (parameter for parameter in network.parameters() if parameter.ndim == 5):
            for axis in (2, 3, 4):
                kernel.copy_((kernel + kernel.flip(axis)) / 2)
    x = torch.randn(draws, channels, 1, 1, 1).repeat(1, 1, edge, edge, edge)
    changed = x.clone()
    changed[:, :, edge // 2, edge // 2, edge // 2] += torch.randn(draws, channels)
    before = evaluated(network, lambda m: tensors(seeded(m, x.clone())))
    after = evaluated(network, lambda m: tensors(seeded(m, changed)))
    return (after[0] - before[0]).abs().sum((0, 1))


def shift(strength: Tensor) -> list[float]:
    """Voxels from the middle of the patch to the centre of a response (t, t, t), along x, y and z."""
    places = torch.arange(len(strength)) - (len(strength) - 1) / 2
    profiles = (strength.sum(others) for others in ((1, 2), (0, 2), (0, 1)))
    return [float((profile * places).sum() / profile.sum()) for profile in profiles]
