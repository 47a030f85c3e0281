"""The way between standardised channels and raw ones, for networks that compute with SH energies."""

import torch
from torch import Tensor, nn


class RawUnits(nn.Module):
    """Means and standard deviations of source and target channels, as buffers that are saved with the weights.

    Networks see channels that are standardised one by one; energies of an SH order mean something in raw units only.
    Until `set` is called raw and standardised are the same.

    Args:
        channels: Channels of the source, and of the target.
    """

    source_mean: Tensor
    source_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for side in ("source", "target"):
            self.register_buffer(f"{side}_mean", torch.zeros(channels))
            self.register_buffer(f"{side}_std", torch.ones(channels))

    def set(self, source_mean: Tensor, source_std: Tensor, target_mean: Tensor, target_std: Tensor) -> None:
        """Take the statistics, each of one number per channel."""
        self.source_mean.copy_(source_mean)
        self.source_std.copy_(source_std)
        self.target_mean.copy_(target_mean)
        self.target_std.copy_(target_std)

    def of_source(self, x: Tensor) -> Tensor:
        """Standardised source channels (B, C, X, Y, Z) in raw units."""
        return x * _over_channels(self.source_std) + _over_channels(self.source_mean)

    def standardise_target(self, y: Tensor) -> Tensor:
        """Target channels (B, C, X, Y, Z) in raw units, standardised."""
        return (y - _over_channels(self.target_mean)) / _over_channels(self.target_std)


def _over_channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
