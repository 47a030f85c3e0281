"""Variational Gaussian dropout: noise whose strength is learnt."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

# Minus the divergence from the log-uniform prior, up to a constant, in A = sigma² (Kingma et al. 2015, appendix C).
CUBIC = (1.16145124, -1.50204118, 0.58629921)
FIRST_RHO = 1e-4  # sigma starts at softplus of this, 0.69


class VariationalDropout(nn.Module):
    """Multiplies each value by 1 + sigma e, e standard normal, while training; passes it on unchanged otherwise.

    One sigma per channel, at most 1, learnt with the weights (Kingma et al. 2015, doi:10.48550/arXiv.1506.02557; as
    Tanno et al. 2017, doi:10.1007/978-3-319-66182-7_70, use it).

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((channels,), FIRST_RHO))
        self._voxels = 1  # that share one sigma: those of the last patch seen

    @property
    def sigma(self) -> Tensor:
        """(C,) strength of the noise."""
        return softplus(self.rho).clamp(max=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        self._voxels = x[0, 0].numel()
        if not self.training:
            return x
        return self.noisy(x, torch.randn_like(x))

    def noisy(self, x: Tensor, noise: Tensor) -> Tensor:
        """`x` with noise of this layer's strength; `noise` is standard normal and broadcasts to x."""
        return x * (1 + self.sigma[:, None, None, None] * noise)

    def penalty(self) -> Tensor:
        """Divergence of the posterior from the log-uniform prior in nats, up to a constant."""
        a = self.sigma**2
        first, second, third = CUBIC
        return -self._voxels * (0.5 * a.log() + first * a + second * a**2 + third * a**3).sum()
